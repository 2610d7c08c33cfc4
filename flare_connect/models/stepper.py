"""The learned part of a rollout: frames in, the change to the next frame out."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn.functional import layer_norm

from flare_connect.nn import (
    Anchors,
    BlockCausalFlare,
    BlockInputs,
    BoundaryConditioner,
    CausalState,
    LoadBlock,
    LoadEntry,
    LoadReadout,
    MemoryBlock,
    ResidualMLP,
)
from flare_kernels import spread

from .config import Architecture
from .trunk import Stack, attention_of, block_of
from .unrolled import Unrolled


class Stepper(Stack):
    """Encoder → blocks → decoder, where a block is a hybrid block within each step and a memory across the steps.

    Beside the points h goes a stream that carries the frames, in which every layer is linear: differences along the
    mesh with weights that follow from h. The change is what both say.

    Args:
        arch: sizes and switches.
        features: F, width of the node features, those of the frames included.
        frames: Vk, the last of these, which are frames.
        edge_features: E, width of the edge features; 0 without message passing.
        conditions: G, per-mesh numbers.
        outputs: V, columns of a frame.
        memory: whether there are memories.
        differences: rounds of differences of a block; 0 for no stream.
        attended: whether the stream goes through attention too.
    """

    def __init__(
        self, arch: Architecture, *, features: int, frames: int, edge_features: int, conditions: int, outputs: int,
        memory: bool, differences: int, attended: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_frames = frames
        self.encode = ResidualMLP(features + conditions, 2 * arch.channels, arch.channels, num_layers=1)
        self.condition = ResidualMLP(conditions, arch.channels, arch.channels)
        self.tokens = BoundaryConditioner(features, arch.channels) if arch.boundary_tokens else None
        self.blocks = nn.ModuleList(block_of(arch, edge_features) for _ in range(arch.num_blocks))
        self.memories = nn.ModuleList()
        if memory:
            self.memories.extend(_memory_of(arch) for _ in range(arch.num_blocks))
        self.norm = nn.LayerNorm(arch.channels)
        self.decode = nn.Linear(arch.channels, outputs)
        self.enter = self.answer = None
        self.streams = nn.ModuleList()
        if differences:
            self.enter = LoadEntry(arch.channels, frames, arch.channels)
            self.streams.extend(
                LoadBlock(
                    arch.channels, arch.channels,
                    attention_of(arch, value_channels=arch.channels) if attended else None,
                    edge_features=edge_features, num_rounds=differences, mlp_ratio=arch.mlp_ratio,
                )
                for _ in range(arch.num_blocks)
            )  # fmt: skip
            self.answer = LoadReadout(arch.channels, arch.channels, outputs, homogeneous=False)

    def forward(
        self,
        x: Float[Tensor, "TN F"],
        condition: Float[Tensor, "B G"],
        unrolled: Unrolled,
        *,
        anchors: Anchors | None = None,
        state: tuple[CausalState, ...] | None = None,
        rank: int | None = None,
    ) -> tuple[Float[Tensor, "TN V"], tuple[CausalState, ...]]:
        """Changes at the points, and what memories hold after the last step.

        Args:
            x: features of the points.
            condition: per-mesh numbers.
            unrolled: where the points are.
            anchors: where latents sit; only for anchored attention.
            state: what memories held before.
            rank: latents to use; None for all.
        """
        steps, sequences = unrolled.steps, unrolled.sequences
        embedded = self.condition(condition).index_select(0, sequences.batch)
        at = unrolled.tokens
        inputs = BlockInputs(
            segments=steps,
            log_weights=unrolled.log_weights,
            edge_index=unrolled.edge_index,
            edge_attr=unrolled.edge_attr,
            plan=unrolled.plan,
            tokens=None if self.tokens is None or at is None else self.tokens(x.index_select(0, at)),
            token_segments=unrolled.joint,
            anchors=anchors,
            condition=embedded,
            rank=rank,
            recompute=self.recompute == "layers",
        )
        h = self.encode(cat([x, spread(condition.index_select(0, sequences.batch), steps)], dim=1)).to(self._dtype(x))
        u = None
        if self.enter is not None:
            # Normalised, so that the stream grows as the frames do and not as their square: a rollout that errs once
            # would leave all bounds within a few steps.
            steered = layer_norm(h.to(x.dtype), h.shape[1:])
            u = self.enter(x[:, x.shape[1] - self.num_frames :], steered).to(h.dtype)
        after = []
        for i, block in enumerate(self.blocks):
            h = self._applied(block, h, inputs)
            if u is not None:
                u = self._applied(self.streams[i], u, h, inputs)
            if len(self.memories):
                remember = partial(
                    self._remembered, i, unrolled, anchors=anchors, condition=embedded, rank=rank,
                    state=None if state is None else state[i],
                )  # fmt: skip
                h, held = self._applied(remember, h)
                after.append(held)
        h = self.norm(h.to(x.dtype))
        change = self.decode(h)
        return change if u is None or self.answer is None else change + self.answer(u, h), tuple(after)

    def _remembered(
        self, i: int, unrolled: Unrolled, h: Tensor, *, anchors: Anchors | None, condition: Tensor, rank: int | None,
        state: CausalState | None,
    ) -> tuple[Tensor, CausalState]:  # fmt: skip
        y, held = self.memories[i](
            h, unrolled.steps, unrolled.sequences, anchors=anchors, log_weights=unrolled.log_weights,
            condition=condition, state=state, rank=rank, recompute=self.recompute == "layers",
        )  # fmt: skip
        return y.to(h.dtype), held


def _memory_of(arch: Architecture) -> MemoryBlock:
    attention = BlockCausalFlare(
        arch.channels, num_heads=arch.num_heads, num_latents=arch.num_latents, queries=arch.queries,
        num_kv_layers=arch.num_kv_layers, num_scales=arch.num_scales, fading=True,
    )  # fmt: skip
    return MemoryBlock(arch.channels, attention, condition_features=arch.channels)
