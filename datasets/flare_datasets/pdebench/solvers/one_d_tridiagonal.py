"""Tridiagonal systems, many at once, in a number of steps that grows with the logarithm of their size."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_tridiagonal(
    lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor, *, periodic: bool = False
) -> Tensor:
    """Solve `lower[i] x[i-1] + diagonal[i] x[i] + upper[i] x[i+1] = right[i]` by parallel cyclic reduction.

    Stable without pivots where the diagonal outweighs the rest, as in implicit diffusion.

    Args:
        lower: `[..., X]`; the first entry is of the last unknown in a periodic system, else unused.
        diagonal: `[..., X]`.
        upper: `[..., X]`; the last entry is of the first unknown in a periodic system, else unused.
        right: `[..., X]`.
        periodic: whether the unknowns are on a circle.

    Returns:
        `[..., X]`.

    Source: Hockney, Jesshope (1981), Parallel Computers; Sherman, Morrison (1950) for circles.
    """
    lower, diagonal, upper, right = torch.broadcast_tensors(lower, diagonal, upper, right)
    if not periodic:
        return _reduce(lower, diagonal, upper, right)
    # The corners are a product of two vectors, taken off the matrix and put back into the solution.
    corner, pivot = torch.zeros_like(right), -diagonal[..., :1]
    corner[..., :1], corner[..., -1:] = pivot, upper[..., -1:]
    diagonal = diagonal.clone()
    share = lower[..., :1] / pivot
    diagonal[..., :1] -= pivot
    diagonal[..., -1:] -= share * upper[..., -1:]
    lower2, diagonal2, upper2 = (torch.stack([c, c]) for c in (lower, diagonal, upper))
    x, y = _reduce(lower2, diagonal2, upper2, torch.stack([right, corner]))
    factor = (x[..., :1] + share * x[..., -1:]) / (1 + y[..., :1] + share * y[..., -1:])
    return x - factor * y


def _reduce(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    size, apart = right.shape[-1], 1
    lower, upper = lower.clone(), upper.clone()
    lower[..., 0], upper[..., -1] = 0, 0
    while apart < size:
        before, after = _neighbours(torch.stack([lower, diagonal, upper, right]), apart)
        down, up = -lower / before[1], -upper / after[1]
        diagonal = diagonal + down * before[2] + up * after[0]
        right = right + down * before[3] + up * after[3]
        lower, upper = down * before[0], up * after[2]
        apart *= 2
    return right / diagonal


def _neighbours(rows: Tensor, apart: int) -> tuple[Tensor, Tensor]:
    """Equations so far before and after each; beyond the ends x = 0."""
    blank = torch.zeros_like(rows[..., :apart])
    blank[1] = 1
    return torch.cat([blank, rows[..., :-apart]], dim=-1), torch.cat([rows[..., apart:], blank], dim=-1)
