"""The learned part of a surrogate: standardised numbers in, standardised numbers out, nothing but tensors between."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, cat, nn
from torch.utils.checkpoint import checkpoint

from flare_connect.nn import (
    AnchoredFlare,
    Anchors,
    BlockInputs,
    BoundaryConditioner,
    FlareAttention,
    HybridBlock,
    LoadBlock,
    LoadEntry,
    LoadReadout,
    ResidualMLP,
)
from flare_kernels import EdgePlan, JointSegments, Segments, spread

from .config import Architecture, Recompute


class Stack(nn.Module):
    """A stack of blocks, of which the backward pass may compute some again.

    Attributes:
        recompute: what the backward pass computes again instead of keeping it: "blocks" keeps the input of each block,
            for about a third more time; "layers" keeps, within the block in hand, only the input of each perceptron.
        stream: dtype of the points between blocks under autocast; None for that of the inputs.
    """

    recompute: Recompute = "nothing"
    stream: torch.dtype | None = None

    def _applied(self, block: Callable[..., Any], *args: Any) -> Any:
        """`block(*args)`; where the backward pass is to compute again, only the arguments are kept."""
        if self.recompute != "nothing" and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)
        return block(*args)

    def _dtype(self, x: Tensor) -> torch.dtype:
        """Of the points between blocks. They keep their precision under autocast, from the first block on."""
        return (self.stream if torch.is_autocast_enabled(x.device.type) else None) or x.dtype


class Trunk(Stack):
    """Encoder → hybrid blocks → decoder; what `torch.compile` sees of a model.

    Args:
        arch: sizes and switches.
        features: F, width of the node features.
        edge_features: E, width of the edge features; 0 without message passing.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        loads: L, loads at each node that go through apart from the rest; 0 for none.
        homogeneous: read out norms of the loads' answers too; see `LoadReadout`.
    """

    def __init__(
        self,
        arch: Architecture,
        *,
        features: int,
        edge_features: int,
        conditions: int,
        outputs: int,
        loads: int = 0,
        homogeneous: bool = False,
    ) -> None:
        super().__init__()
        # Node and condition meet in the encoder's hidden layers: products of the two (a load on a slanted boundary)
        # are learned there far sooner than through the modulation of later blocks.
        self.encode = ResidualMLP(features + conditions, 2 * arch.channels, arch.channels, num_layers=1)
        self.condition = ResidualMLP(conditions, arch.channels, arch.channels)
        self.tokens = BoundaryConditioner(features, arch.channels) if arch.boundary_tokens else None
        self.blocks = nn.ModuleList(block_of(arch, edge_features) for _ in range(arch.num_blocks))
        self.norm = nn.LayerNorm(arch.channels)
        self.decode = self.enter = self.answer = None
        self.load_blocks = nn.ModuleList()
        if loads:
            width = arch.load_channels or arch.channels
            self.enter = LoadEntry(arch.channels, loads, width)
            self.load_blocks.extend(
                LoadBlock(
                    arch.channels,
                    width,
                    attention_of(arch, value_channels=width),
                    edge_features=edge_features,
                    num_rounds=arch.load_rounds,
                    mlp_ratio=arch.mlp_ratio,
                )
                for _ in range(arch.num_blocks)
            )
            self.answer = LoadReadout(arch.channels, width, outputs, homogeneous=homogeneous)
        else:
            self.decode = nn.Linear(arch.channels, outputs)

    def forward(
        self,
        x: Float[Tensor, "N F"],
        condition: Float[Tensor, "B G"],
        *,
        segments: Segments,
        boundary_index: Int[Tensor, " Nb"] | None = None,
        joint: JointSegments | None = None,
        log_weights: Float[Tensor, " N"] | None = None,
        edge_index: Int[Tensor, "2 Ne"] | None = None,
        edge_attr: Float[Tensor, "Ne E"] | None = None,
        plan: EdgePlan | None = None,
        anchors: Anchors | None = None,
        loads: Float[Tensor, "N L"] | None = None,
        rank: int | None = None,
    ) -> Float[Tensor, "N Cout"]:
        """Outputs at the nodes.

        Args:
            x: node features.
            condition: per-mesh numbers.
            segments: where each mesh starts.
            boundary_index: nodes of the boundary, whose features become tokens.
            joint: the points joined with these tokens.
            log_weights: log weight of each node in the gather.
            edge_index: directed edges.
            edge_attr: their features.
            plan: the edges sorted, for fused message passing; None to do without.
            anchors: where latents sit; only for anchored attention.
            loads: at each node; only for a trunk that was made for them.
            rank: latents to use; None for all.
        """
        inputs = BlockInputs(
            segments=segments,
            log_weights=log_weights,
            edge_index=edge_index,
            edge_attr=edge_attr,
            plan=plan,
            tokens=None if self.tokens is None or boundary_index is None else self.tokens(x[boundary_index]),
            token_segments=joint,
            anchors=anchors,
            condition=self.condition(condition),
            rank=rank,
            recompute=self.recompute == "layers",
        )
        h = self.encode(cat([x, spread(condition, segments)], dim=1)).to(self._dtype(x))
        u = None
        if self.enter is not None and loads is not None:
            u = self.enter(loads, h).to(h.dtype)
        for i, block in enumerate(self.blocks):
            h = self._applied(block, h, inputs)
            if u is not None:
                u = self._applied(self.load_blocks[i], u, h, inputs)
        h = self.norm(h.to(x.dtype))
        if self.answer is not None and u is not None:
            answer: Tensor = self.answer(u, h)
            return answer
        assert self.decode is not None
        return self.decode(h)


def attention_of(arch: Architecture, *, value_channels: int | None = None) -> FlareAttention:
    """The attention of an architecture."""
    make = partial(AnchoredFlare, num_scales=arch.num_scales) if arch.num_scales else FlareAttention
    return make(
        arch.channels,
        num_heads=arch.num_heads,
        num_latents=arch.num_latents,
        queries=arch.queries,
        num_kv_layers=arch.num_kv_layers,
        qk_norm=arch.qk_norm,
        separate_decode=arch.separate_decode,
        value_channels=value_channels,
    )


def block_of(arch: Architecture, edge_features: int) -> HybridBlock:
    """A hybrid block of an architecture."""
    return HybridBlock(
        arch.channels,
        attention=attention_of(arch) if arch.attention else None,
        edge_features=edge_features,
        num_rounds=arch.num_rounds,
        condition_features=arch.channels,
        mlp_ratio=arch.mlp_ratio,
    )
