"""What a mesh remembers of the steps before: block-causal attention in which the past fades."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError
from flare_kernels import LatentState, Segments

from .anchored import Anchors
from .block_causal import BlockCausalFlare
from .conditioning import AdaptiveNorm
from .gated import CausalState


class MemoryBlock(nn.Module):
    """`x ← x + g·attention(norm x)` along time steps, of which each weighs `e^λ` times the one before.

    A running softmax knows of no order: without λ the first step would count as much as the last. The gates g start at
    zero in each channel, so that a block begins without a past and takes from it what helps.

    Args:
        channels: C.
        attention: along the steps.
        steps_back: 1/λ at first, learned: how many steps back count.
        condition_features: width of the condition embedding, or 0.

    Raises:
        ConfigError: if `steps_back` is not positive.

    Good values: from 1 to 32 steps back, another in each block.
    """

    def __init__(
        self, channels: int, attention: BlockCausalFlare, *, steps_back: float, condition_features: int = 0
    ) -> None:
        super().__init__()
        if not steps_back > 0:
            raise ConfigError(f"`steps_back` must be positive, got {steps_back}")
        self.attention = attention
        self.norm = AdaptiveNorm(channels, condition_features)
        self.gate = nn.Parameter(torch.zeros(channels))
        self.raw_fading = nn.Parameter(torch.tensor(math.log(math.expm1(1 / steps_back))))

    @property
    def fading(self) -> Float[Tensor, ""]:
        """λ."""
        return F.softplus(self.raw_fading)

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
        # Weights are told from the last step of the call before, where a state's log-sum-exp has its zero.
        age = torch.arange(1, steps.num_segments + 1, device=x.device) - sequences.ptr[:-1][sequences.batch]
        weights = (self.fading * age)[steps.batch]
        y, after = self.attention(
            self.norm(x, steps, condition),
            steps,
            sequences=sequences,
            anchors=anchors,
            log_weights=weights if log_weights is None else weights + log_weights,
            state=state,
            return_state=True,
            rank=rank,
            recompute=recompute,
        )
        passed = self.fading * (sequences.ptr[1:] - sequences.ptr[:-1])[:, None, None]
        return x + self.gate * y, CausalState(
            LatentState(after.latents.lse - passed, after.latents.z),
            None if after.seeds is None else LatentState(after.seeds.lse - passed, after.seeds.z),
        )
