"""The block that models are stacks of: global attention, message passing, a perceptron."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flare_connect.errors import ConfigError
from flare_kernels import EdgePlan, JointSegments, Segments

from .anchored import AnchoredFlare, Anchors
from .attention import FlareAttention
from .conditioning import AdaptiveNorm
from .mesh_conv import MeshConv
from .mlp import applied


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockInputs:
    """What every block of a model needs besides the points, computed once a batch.

    Attributes:
        segments: where each mesh starts.
        log_weights: log weight of each point in the gather.
        edge_index: directed edges; None without message passing.
        edge_attr: their features.
        plan: the edges sorted, for the fused kernel; None for message passing by PyG.
        tokens: conditioning tokens.
        token_segments: where each mesh's tokens start, or these joined with the points.
        anchors: where latents sit; only for anchored attention.
        condition: embedding of the per-mesh numbers.
        rank: latents to use; None for all.
        recompute: compute the insides of the perceptrons again in the backward pass instead of keeping them.
    """

    segments: Segments
    log_weights: Float[Tensor, " N"] | None = None
    edge_index: Int[Tensor, "2 Ne"] | None = None
    edge_attr: Float[Tensor, "Ne E"] | None = None
    plan: EdgePlan | None = None
    tokens: Float[Tensor, "Nt C"] | None = None
    token_segments: Segments | JointSegments | None = None
    anchors: Anchors | None = None
    condition: Float[Tensor, "B G"] | None = None
    rank: int | None = None
    recompute: bool = False


class HybridBlock(nn.Module):
    """A sum of parts, each of the normalised points: attention, message passing, perceptron.

    `x ← x + attention(norm x)`, then rounds of `x ← x + g·conv(norm x)`, `x ← x + mlp(norm x)`.

    The gates g start at zero in each channel: a block begins as pure attention and takes from the mesh what helps. With
    the attention off there are no gates, and the block is a message-passing block.

    Args:
        channels: C.
        attention: the global part, or None to switch it off.
        edge_features: width of the edge features, or 0 to switch message passing off.
        num_rounds: rounds of message passing.
        condition_features: width of the condition embedding, or 0.
        mlp_ratio: hidden width of the perceptron in units of C.

    Raises:
        ConfigError: if both parts are off.
    """

    def __init__(
        self,
        channels: int,
        *,
        attention: FlareAttention | None,
        edge_features: int = 0,
        num_rounds: int = 1,
        condition_features: int = 0,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if attention is None and not edge_features:
            raise ConfigError("a block needs attention or message passing; both are switched off")
        self.attention = attention
        self.norm = AdaptiveNorm(channels, condition_features) if attention is not None else None
        rounds = num_rounds if edge_features else 0
        self.conv_norms = nn.ModuleList(AdaptiveNorm(channels, condition_features) for _ in range(rounds))
        self.convs = nn.ModuleList(MeshConv(channels, edge_features) for _ in range(rounds))
        self.gates = nn.Parameter(torch.zeros(rounds, channels)) if attention is not None and rounds else None
        self.mlp_norm = AdaptiveNorm(channels, condition_features)
        hidden = int(mlp_ratio * channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "N C"], inputs: BlockInputs) -> Float[Tensor, "N C"]:
        """Apply the block to the packed points."""
        segments, condition = inputs.segments, inputs.condition
        if self.attention is not None and self.norm is not None:
            x = x + self._attended(self.attention, self.norm(x, segments, condition), inputs)
        for i, (norm, conv) in enumerate(zip(self.conv_norms, self.convs, strict=True)):
            if inputs.edge_index is None or inputs.edge_attr is None:
                raise ValueError("message passing needs `edge_index` and `edge_attr` in the block's inputs")
            received = conv(norm(x, segments, condition), inputs.edge_index, inputs.edge_attr, inputs.plan)
            x = x + (received if self.gates is None else self.gates[i] * received)
        return x + applied(self.mlp, self.mlp_norm(x, segments, condition), inputs.recompute)

    def _attended(self, attention: FlareAttention, h: Tensor, inputs: BlockInputs) -> Tensor:
        anchors = {"anchors": inputs.anchors} if isinstance(attention, AnchoredFlare) else {}
        y: Tensor = attention(
            h,
            inputs.segments,
            **anchors,
            log_weights=inputs.log_weights,
            tokens=inputs.tokens,
            token_segments=inputs.token_segments,
            rank=inputs.rank,
            recompute=inputs.recompute,
        )
        return y
