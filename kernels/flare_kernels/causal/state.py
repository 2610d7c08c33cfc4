"""What latents remember of a sequence, and how states follow one another."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..merge import merge_partials
from ..segments import Segments


class LatentState(NamedTuple):
    """Everything that latents know of the past; of the same size however long that is.

    Attributes:
        lse: log of the summed weights that each latent has read; −inf where it has read nothing.
        z: mean of the values that it has read, by these weights.
    """

    lse: Float[Tensor, "B H M"]
    z: Float[Tensor, "B H M Dv"]

    @classmethod
    def empty(
        cls, batch: int, heads: int, latents: int, value_dim: int, device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "LatentState":  # fmt: skip
        """Of sequences that have not begun."""
        lse = torch.full((batch, heads, latents), -torch.inf, device=device, dtype=dtype)
        return cls(lse, torch.zeros(batch, heads, latents, value_dim, device=device, dtype=dtype))

    def then(self, later: "LatentState") -> "LatentState":
        """The state after both; exact, and associative."""
        z, lse = merge_partials((self.z, later.z), (self.lse, later.lse))
        return LatentState(lse, z)

    def of(self, sequences: slice) -> "LatentState":
        """The states of some sequences."""
        return LatentState(self.lse[sequences], self.z[sequences])


@dataclass(frozen=True)
class States:
    """All states of sequences: one before the first of its parts, and one after each.

    A sequence has a state more than parts, so its rows start later by one for each sequence before.

    Attributes:
        every: of all sequences, one after another.
        order: where the parts of each sequence are.
    """

    every: LatentState
    order: Segments

    @property
    def before(self) -> LatentState:
        """Of each part."""
        return self._picked(self._rows)

    @property
    def after(self) -> LatentState:
        """Of each part."""
        return self._picked(self._rows + 1)

    @property
    def last(self) -> LatentState:
        """Of each sequence."""
        ends = self.order.ptr[1:]
        return self._picked(ends + torch.arange(len(ends), device=ends.device))

    @property
    def _rows(self) -> Tensor:
        return torch.arange(self.order.num_rows, device=self.order.ptr.device) + self.order.batch

    def _picked(self, rows: Tensor) -> LatentState:
        return LatentState(self.every.lse.index_select(0, rows), self.every.z.index_select(0, rows))


def running(parts: LatentState, initial: LatentState, order: Segments, impl: str = "reference") -> States:
    """The states along sequences.

    Args:
        parts: what each of the T parts alone brings, those of a sequence one after another.
        initial: of each sequence.
        order: where the parts of each sequence are.
        impl: "triton", in float32, or "reference".
    """
    if impl == "triton":
        from ..triton_causal.autograd import latent_scan

        lse, z = latent_scan(*parts, *initial, order.ptr)
    else:
        lse, z = _one_by_one(parts, initial, order)
    return States(LatentState(lse, z), order)


def _one_by_one(parts: LatentState, initial: LatentState, order: Segments) -> tuple[Tensor, Tensor]:
    if order.is_uniform and order.num_rows:
        return _side_by_side(parts, initial, order)
    states = [parts.of(slice(0, 0))]  # so that parts are in the graph even where there are none
    for b, mine in enumerate(order.slices):
        states.append(initial.of(slice(b, b + 1)))
        for t in range(mine.start, mine.stop):
            states.append(states[-1].then(parts.of(slice(t, t + 1))))
    return torch.cat([state.lse for state in states]), torch.cat([state.z for state in states])


def _side_by_side(parts: LatentState, initial: LatentState, order: Segments) -> tuple[Tensor, Tensor]:
    """Of sequences equally long: a part of each at once, since on a GPU the number of kernels is what counts."""
    lse, z = (each.unflatten(0, (order.num_segments, order.width)).unbind(1) for each in parts)
    states = [initial]
    for part in map(LatentState, lse, z):
        states.append(states[-1].then(part))
    return (
        torch.stack([state.lse for state in states], 1).flatten(0, 1),
        torch.stack([state.z for state in states], 1).flatten(0, 1),
    )
