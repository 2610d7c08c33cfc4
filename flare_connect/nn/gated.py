"""What FLARE layers along time share: the gates of what is written and of what is given out, and the state."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError
from flare_kernels import LatentState, Segments
from flare_kernels.segments import Ptr

from .latents import LatentLayer

Gate = Literal["sigmoid", "silu"]
_GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "silu": F.silu}


class CausalState(NamedTuple):
    """Everything that a layer knows of the past; of the same size however long that is.

    Attributes:
        latents: what latents have read of each sequence, in float32 (float64 for float64 tokens).
        seeds: the same of the seeds of adapted queries; None with fixed ones.
        recent: the last tokens of each sequence, for the convolution; None without.
    """

    latents: LatentState
    seeds: LatentState | None = None
    recent: Float[Tensor, "B W1 C"] | None = None


class GatedLayer(LatentLayer):
    """A FLARE layer with a state, a gate for what each point writes, `b = logsigmoid(x w)`, and one for the output.

    Args:
        channels: C, width of the points.
        output_gate: "sigmoid" or "silu" of a linear map of the points, or None for none.
        write_gate: whether points have a learned log-weight in the gather.
        options: of `LatentLayer`.

    Raises:
        ConfigError: if the numbers do not fit.
    """

    def __init__(self, channels: int, *, output_gate: Gate | None, write_gate: bool, **options: Any) -> None:
        super().__init__(channels, value_channels=None, **options)
        if output_gate is not None and output_gate not in _GATES:
            raise ConfigError(f"`output_gate` must be 'sigmoid', 'silu' or None, got {output_gate!r}")
        self.gate_kind = output_gate
        self.output_gate = nn.Linear(channels, channels) if output_gate is not None else None
        self.write_gate = None
        if write_gate:
            # All points weigh alike at first: one factor for all drops out of a softmax.
            self.write_gate = nn.Linear(channels, 1)
            nn.init.zeros_(self.write_gate.weight)
            nn.init.zeros_(self.write_gate.bias)

    def initial_state(self, num_sequences: int, *, rank: int | None = None) -> CausalState:
        """Of sequences that have not begun, where the weights are.

        Args:
            num_sequences: B.
            rank: latents that will be used; None for all.

        Raises:
            ValueError: if `rank` is not between 1 and M.
        """
        latents = self._checked_rank(rank) or self.num_latents
        dtype = torch.promote_types(self.latents.dtype, torch.float32)

        def empty() -> LatentState:
            sizes = num_sequences, self.num_heads, latents, self.head_dim
            return LatentState.empty(*sizes, device=self.latents.device, dtype=dtype)

        recent = None
        if self._num_recent:
            recent = self.latents.new_zeros(num_sequences, self._num_recent, self.num_heads * self.head_dim)
        return CausalState(empty(), None if self.seeds is None else empty(), recent)

    @property
    def _num_recent(self) -> int:
        """Tokens that are kept as they are."""
        return 0

    def _segments(self, name: str, ptr: Ptr, x: Tensor) -> Segments:
        """Where sequences or steps start, which must fit the points."""
        self._check_points(x)
        if ptr is None:
            return Segments.uniform(1, len(x), x.device)
        segments = ptr if isinstance(ptr, Segments) else Segments.from_ptr(ptr)
        if segments.num_rows != len(x):
            raise ValueError(f"`{name}` must end at N = {len(x)}, got {segments.num_rows}")
        return segments

    def _check_points(self, x: Tensor) -> None:
        channels = self.num_heads * self.head_dim
        if x.dim() != 2 or x.shape[1] != channels:
            raise ValueError(f"`x` must be [N, {channels}], got {list(x.shape)}")

    def _rank_with(self, state: CausalState | None, rank: int | None, num_sequences: int) -> int | None:
        """The latents to use: those of the state, which must be one of this layer for these sequences."""
        rank = self._checked_rank(rank)
        if state is None:
            return rank
        for name, used in (("seeds", self.seeds is not None), ("recent", self._num_recent > 0)):
            if (getattr(state, name) is not None) != used:
                raise ValueError(
                    f"the state has {'no' if used else 'a'} part `{name}`, this layer needs "
                    f"{'one' if used else 'none'}: give a state of this layer, or of one with the same options"
                )
        held = state.latents.lse.shape[-1]
        if not 1 <= held <= self.num_latents or rank not in (None, held):
            raise ValueError(
                f"the state holds {held} latents, `rank` is {rank} and `num_latents` {self.num_latents}: a sequence "
                "goes on with the rank that it began with"
            )
        wanted = (num_sequences, self.num_heads, held, self.head_dim)
        for part in (state.latents, state.seeds):
            if part is not None and (tuple(part.z.shape) != wanted or tuple(part.lse.shape) != wanted[:-1]):
                raise ValueError(
                    f"the state must have `lse` {list(wanted[:-1])} and `z` {list(wanted)}, got "
                    f"{list(part.lse.shape)} and {list(part.z.shape)}"
                )
        tokens = (num_sequences, self._num_recent, self.num_heads * self.head_dim)
        if state.recent is not None and tuple(state.recent.shape) != tokens:
            raise ValueError(f"the state must have `recent` {list(tokens)}, got {list(state.recent.shape)}")
        return held

    def _write_weights(self, x: Tensor, log_weights: Tensor | None = None) -> Float[Tensor, " N"] | None:
        """Log-weights of the points in the gather: as given, and as learned."""
        if log_weights is not None and log_weights.shape != x.shape[:1]:
            raise ValueError(f"`log_weights` must be [{len(x)}], one a point, got {list(log_weights.shape)}")
        if self.write_gate is None:
            return log_weights
        raw = self.write_gate(x).squeeze(-1)
        learned = F.logsigmoid(raw.to(torch.promote_types(raw.dtype, torch.float32)))
        return learned if log_weights is None else learned + log_weights

    def _given_out(self, x: Tensor, y: Float[Tensor, "N H D"]) -> Float[Tensor, "N C"]:
        """What the layer gives of what points have read."""
        mixed = y.flatten(-2)
        if self.output_gate is not None and self.gate_kind is not None:
            mixed = mixed * _GATES[self.gate_kind](self.output_gate(x))
        out: Tensor = self.output(mixed)
        return out
