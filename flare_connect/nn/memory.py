"""What a mesh remembers of the steps before, as a part of a block."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_kernels import Segments

from .anchored import Anchors
from .block_causal import BlockCausalFlare
from .conditioning import AdaptiveNorm
from .gated import CausalState


class MemoryBlock(nn.Module):
    """`x ← x + g·attention(norm x)` along time steps.

    The gates g start at zero in each channel: a block begins without a past and takes from it what helps.

    Args:
        channels: C.
        attention: along the steps.
        condition_features: width of the condition embedding, or 0.
    """

    def __init__(self, channels: int, attention: BlockCausalFlare, *, condition_features: int = 0) -> None:
        super().__init__()
        self.attention = attention
        self.norm = AdaptiveNorm(channels, condition_features)
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Float[Tensor, "N C"],
        steps: Segments,
        sequences: Segments,
        *,
        anchors: Anchors | None = None,
        log_weights: Float[Tensor, " N"] | None = None,
        condition: Float[Tensor, "T G"] | None = None,
        state: CausalState | None = None,
        rank: int | None = None,
        recompute: bool = False,
    ) -> tuple[Float[Tensor, "N C"], CausalState]:
        """Apply the block to the points of all steps.

        Args:
            x: points, packed: the steps of a sequence one after another, then the next sequence.
            steps: where each step starts in the points.
            sequences: where each sequence starts in the steps.
            anchors: where latents sit; only for anchored attention.
            log_weights: log weight of each point in the gather.
            condition: embedding of the numbers of each step.
            state: what is known before the first steps.
            rank: latents to use; None for all.
            recompute: as in `BlockCausalFlare`.

        Returns:
            The points, and what is known after the last steps.
        """
        y, after = self.attention(
            self.norm(x, steps, condition), steps, sequences=sequences, anchors=anchors, log_weights=log_weights,
            state=state, return_state=True, rank=rank, recompute=recompute,
        )  # fmt: skip
        return x + self.gate * y, after
