"""Moving rows between layouts with cheap backward passes.

Plain advanced indexing is right too, but on a GPU its backward sorts the indices and adds duplicates one after another,
which is slow where thousands of points read the row of their mesh.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .once import is_transformed
from .segments import Segments


def place(x: Float[Tensor, "N ..."], slots: Int[Tensor, " N"], size: int) -> Float[Tensor, "S ..."]:
    """Rows of `x` at their slots of a longer tensor, zeros elsewhere; no slot may occur twice."""
    return x.new_zeros(size, *x.shape[1:]).index_copy(0, slots, x)


def take(x: Float[Tensor, "S ..."], rows: Int[Tensor, " N"]) -> Float[Tensor, "N ..."]:
    """The named rows of `x`."""
    return x.index_select(0, rows)


def spread(x: Float[Tensor, "B ..."], segments: Segments) -> Float[Tensor, "N ..."]:
    """Each mesh's row of `x`, repeated for each of the mesh's points."""
    if segments.num_segments == 1:
        return x.expand(segments.num_rows, *x.shape[1:])
    return x.index_select(0, segments.batch)


def is_known_finite(x: Float[Tensor, "..."]) -> bool:
    """Whether all of `x` is finite, where looking costs little: on the CPU, and not where numbers are not there yet."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return False
    return bool(torch.isfinite(x.detach().sum(dtype=torch.float32 if x.dtype != torch.float64 else None)))
