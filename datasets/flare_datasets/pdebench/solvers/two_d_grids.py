"""Square cells, cosine and sine modes on them, and time steps that each sample of a batch takes by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError

Times = Sequence[float] | np.ndarray | Tensor


@dataclass(frozen=True)
class Modes:
    """Orthonormal modes along one axis.

    Attributes:
        matrix: `[K, X]`, a mode a row.
        numbers: `[K]` half waves along the axis.
    """

    matrix: Tensor
    numbers: Tensor

    def wave_numbers(self, length: float) -> Tensor:
        r"""`[K]` $\pi k / L$ of an axis of this length."""
        return self.numbers * (math.pi / length)

    def differences(self, cell_size: float, num_cells: int) -> Tensor:
        r"""`[K]` eigenvalues of minus the second difference, $(2/h)^2 \sin^2(\pi k / 2n)$."""
        return (2.0 / cell_size * torch.sin(self.numbers * (0.5 * math.pi / num_cells))) ** 2


def cosine_modes(num_cells: int, device: torch.device) -> Modes:
    """Modes at cell centres whose slope is 0 at both ends."""
    k, i = _numbers(0, num_cells, device), _numbers(0, num_cells, device)
    matrix = math.sqrt(2.0 / num_cells) * torch.cos(math.pi / num_cells * k[:, None] * (i + 0.5))
    matrix[0] = 1.0 / math.sqrt(num_cells)
    return Modes(matrix, k)


def sine_modes(num_cells: int, device: torch.device) -> Modes:
    """Modes at cell centres that are 0 at both ends, half a cell away."""
    k, i = _numbers(1, num_cells + 1, device), _numbers(0, num_cells, device)
    matrix = math.sqrt(2.0 / num_cells) * torch.sin(math.pi / num_cells * k[:, None] * (i + 0.5))
    matrix[-1] /= math.sqrt(2.0)
    return Modes(matrix, k)


def sine_modes_between(num_cells: int, device: torch.device) -> Modes:
    """Modes at the faces between cells that are 0 at both ends."""
    k = _numbers(1, num_cells, device)
    return Modes(math.sqrt(2.0 / num_cells) * torch.sin(math.pi / num_cells * k[:, None] * k), k)


def to_modes(values: Tensor, x: Modes, y: Modes) -> Tensor:
    """Coefficients `[..., K, L]` of values `[..., X, Y]`."""
    return x.matrix @ values @ y.matrix.T


def from_modes(coefficients: Tensor, x: Modes, y: Modes) -> Tensor:
    """Values `[..., X, Y]` of coefficients `[..., K, L]`."""
    return x.matrix.T @ coefficients @ y.matrix


def cell_centres(num_cells: int, low: float, high: float) -> Tensor:
    """Centres of equal cells `[X]`, float64."""
    return low + (high - low) / num_cells * (_numbers(0, num_cells, torch.device("cpu")) + 0.5)


def even_step(left: Tensor, longest: Tensor) -> Tensor:
    """A step of each sample: what is `left` to its next frame `[B]` in equal parts not above `longest` `[B]`.

    The last step is exactly what is left, and a sample that has arrived takes steps of 0.
    """
    return left / torch.ceil(left / longest).clamp(min=1.0)


def mirrored(values: Tensor, sign: float = 1.0) -> Tensor:
    """Two cells more at both ends of X: mirror images, times `sign`, `[B, X + 4, Y]`."""
    return torch.cat([sign * values[:, :2].flip(1), values, sign * values[:, -2:].flip(1)], dim=1)


def sides_of_faces(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values below and above the X + 1 faces across X `[B, X + 1, Y]`, of cells with two more at both ends.

    Linear in each cell with the monotonised central slope: values at faces stay between those of neighbours.
    """
    steps = values.diff(dim=1)
    below, above = steps[:, :-1], steps[:, 1:]
    half = 0.5 * _minmod(0.5 * (below + above), 2.0 * _minmod(below, above))
    inner = values[:, 1:-1]
    return (inner + half)[:, :-1], (inner - half)[:, 1:]


def checked_field(name: str, values: Tensor, shape: Sequence[int | None], least: int = 2) -> Tensor:
    """The field as float64.

    Raises:
        ConfigError: its shape is another (None takes any size, of at least `least`), or a value is not finite.
    """
    right = values.ndim == len(shape) and all(
        size == wanted if wanted is not None else size >= (1 if axis == 0 else least)
        for axis, (size, wanted) in enumerate(zip(values.shape, shape, strict=True))
    )
    if not right:
        listed = ", ".join("any" if size is None else str(size) for size in shape)
        raise ConfigError(f"`{name}` must have shape [{listed}], with {least} cells or more, got {list(values.shape)}")
    values = values.to(torch.float64)
    if not torch.isfinite(values).all():
        raise ConfigError(f"`{name}` holds NaN or infinite values")
    return values


def checked_frames(times: Times) -> list[float]:
    """Times of frames, the first of them the initial one.

    Raises:
        ConfigError: they do not increase.
    """
    found = [float(time) for time in times]
    if not found or not all(a < b for a, b in zip(found, found[1:], strict=False)) or not math.isfinite(sum(found)):
        raise ConfigError(f"`times` must be finite and increase from frame to frame, got {found[:4]} …")
    return found


def _numbers(start: int, stop: int, device: torch.device) -> Tensor:
    return torch.arange(start, stop, dtype=torch.float64, device=device)


def _minmod(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of two slopes, and 0 where they differ in sign."""
    return 0.5 * (a.sign() + b.sign()) * torch.minimum(a.abs(), b.abs())
