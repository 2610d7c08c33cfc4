"""Sums over the boundary and over the modes of regular grids, for all samples, channels and frames at once."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Fields = Float[Tensor, "..."]
"""`[…, X[, Y[, Z]]]`: the grid is the last axes."""


def boundary_sum(values: Fields, dim: int) -> tuple[Fields, int]:
    """Sum over the two ends, the four edges or the six faces of a grid `[…]`, and the number of points in it.

    A corner of a rectangle is on two edges and counts twice; in a box an edge counts twice and a corner three times.

    Args:
        values: `[…, X[, Y[, Z]]]`.
        dim: spatial axes, 1 to 3.
    """
    space = values.shape[-dim:]
    total, count = torch.zeros_like(values.flatten(-dim).sum(-1)), 0
    for axis in range(-dim, 0):
        others = math.prod(space) // space[axis]
        for end in (0, -1):
            total += values.select(axis, end).reshape(*total.shape, others).sum(-1)
            count += others
    return total, count


def shell_power(values: Fields, dim: int) -> Fields:
    r"""Power $|\hat d|^2$ of a grid's modes by wave number `[…, K]`; the domain has length 1.

    In one dimension each mode of the real transform is a shell of its own, 0 to X / 2. In two and three the modes with
    non-negative wave numbers below the Nyquist frequency are summed into the shells $\lfloor|k|\rfloor$, as many as
    lie whole within the grid's shortest axis.

    Args:
        values: `[…, X[, Y[, Z]]]`.
        dim: spatial axes, 1 to 3.
    """
    if dim == 1:
        return torch.fft.rfft(values).abs().square()
    space = values.shape[-dim:]
    modes = torch.fft.rfftn(values, dim=tuple(range(-dim, 0)))
    positive = [(size + 1) // 2 for size in space]
    modes = modes[(..., *(slice(size) for size in positive))]
    shells = _shells(positive).to(values.device)
    kept = shells < min(positive)
    power = modes.abs().square().flatten(-dim)[..., kept]
    out = power.new_zeros(*power.shape[:-1], min(positive))
    return out.index_add_(-1, shells[kept], power)


def _shells(sizes: Sequence[int]) -> Tensor:
    """floor(|k|) of each mode, in C order; from whole numbers, so that no root is rounded down by mistake."""
    axes = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    squares = torch.stack(axes).square().sum(0)
    shells = torch.arange(math.isqrt(int(squares.max())) + 1).square()
    return torch.searchsorted(shells, squares.flatten(), right=True) - 1
