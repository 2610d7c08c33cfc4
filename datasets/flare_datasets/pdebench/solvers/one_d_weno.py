"""Fifth-order values at the faces of cells, without new extrema at jumps."""

from __future__ import annotations

import torch
from torch import Tensor

GHOSTS = 3
"""Cells needed beyond either end."""


def with_ghosts(values: Tensor, *, periodic: bool) -> Tensor:
    """Three cells more at either end of the last axis: those of the other end, or copies of the end itself."""
    if periodic:
        return torch.cat([values[..., -GHOSTS:], values, values[..., :GHOSTS]], dim=-1)
    first, last = (end.expand(*values.shape[:-1], GHOSTS) for end in (values[..., :1], values[..., -1:]))
    return torch.cat([first, values, last], dim=-1)


def weno_left(padded: Tensor) -> Tensor:
    """Values at the X+1 faces from cell averages `[..., X + 6]`, seen from the left.

    WENO-Z: three parabolas, weighted by how smooth they are; order 5 where all are.

    Source: Borges, Carmona, Costa, Don (2008), J. Comput. Phys. 227.
    """
    n = padded.shape[-1] - 2 * GHOSTS + 1
    a, b, c, d, e = (padded[..., i : i + n] for i in range(5))
    parabolas = ((2 * a - 7 * b + 11 * c) / 6, (-b + 5 * c + 2 * d) / 6, (2 * c + 5 * d - e) / 6)
    roughness = (
        13 / 12 * (a - 2 * b + c) ** 2 + (a - 4 * b + 3 * c) ** 2 / 4,
        13 / 12 * (b - 2 * c + d) ** 2 + (b - d) ** 2 / 4,
        13 / 12 * (c - 2 * d + e) ** 2 + (3 * c - 4 * d + e) ** 2 / 4,
    )
    tau = (roughness[0] - roughness[2]).abs()
    weights = [w * (1 + (tau / (r + 1e-40)) ** 2) for w, r in zip((0.1, 0.6, 0.3), roughness, strict=True)]
    return sum(w * q for w, q in zip(weights, parabolas, strict=True)) / (weights[0] + weights[1] + weights[2])


def weno_right(padded: Tensor) -> Tensor:
    """As `weno_left`, seen from the right."""
    return weno_left(padded.flip(-1)).flip(-1)
