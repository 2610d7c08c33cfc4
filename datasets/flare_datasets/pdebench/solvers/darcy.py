"""Steady Darcy flow through two materials, by finite volumes and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError
from flare_datasets.config import check_number
from flare_datasets.pdebench.solvers.two_d_generation import (
    GridConfig,
    check_positive,
    cosine_field,
)
from flare_datasets.pdebench.solvers.two_d_generation import (
    generate as generate,
)
from flare_datasets.pdebench.solvers.two_d_grids import checked_field, from_modes, sine_modes, to_modes

_BOUNDS = (0.0, 1.0)
_MOST_STEPS = 5_000
_Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class DarcyConfig(GridConfig):
    r"""What to draw: the unit square of two materials, fed evenly.

    The coefficient is the first of `values` where a Gaussian random field of covariance $(-\Delta + \tau^2)^{-\alpha}$
    is below 0, the second elsewhere. The field has 64 cosines along each side and no mean, and is the same at every
    resolution.

    Args:
        num_samples: N, 10,000 in PDEBench.
        resolution: cells along each side.
        seed: same seed, same samples.
        beta: the source; solutions are proportional to it. PDEBench has 0.01, 0.1, 1, 10 and 100.
        values: both values of the coefficient.
        tau: $\tau$: structures wider than about $1/\tau$ of a side are suppressed.
        alpha: $\alpha$: larger ones make smoother edges.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults. The equation and beta follow PDEBench (arXiv 2210.07182); `values` and the random field,
    of the kind of arXiv 2010.08895, are this library's choice.
    """

    pde: ClassVar[str] = "darcy"
    bounds: ClassVar[tuple[float, float]] = _BOUNDS
    at_once: ClassVar[int] = 64

    beta: float = 1.0
    values: tuple[float, float] = (0.1, 1.0)
    tau: float = 3.0
    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta)
        if isinstance(self.values, list):  # from JSON or YAML
            object.__setattr__(self, "values", tuple(self.values))
        if not isinstance(self.values, tuple) or len(self.values) != 2:
            raise ConfigError(f"`values` must be two numbers, got {self.values!r}")
        for value in self.values:
            check_positive("values", value)
        check_number("tau", self.tau, 0.0, 1e3)
        check_number("alpha", self.alpha, 1.0, 10.0)

    def solve(self, numbers: Sequence[int], place: torch.device) -> tuple[Tensor, Tensor]:
        """Draw samples and solve for them, on a device."""
        coefficient = torch.stack([draw_coefficient(self, i) for i in numbers])
        solution = solve_darcy(coefficient.to(place), self.beta)
        return solution[..., None, None], coefficient[..., None]

    @property
    def parameters(self) -> dict[str, float]:
        """Beta."""
        return {"beta": self.beta}


def draw_coefficient(config: DarcyConfig, index: int) -> Tensor:
    """The coefficient of a sample at the cell centres `[X, Y]`, float64."""
    power = -0.5 * config.alpha
    field = cosine_field(config.rng(index), config.resolution, lambda k: ((np.pi * k) ** 2 + config.tau**2) ** power)
    low, high = torch.tensor(config.values, dtype=torch.float64)  # bare numbers would be rounded to float32
    return torch.where(field < 0, low, high)


def solve_darcy(coefficient: Tensor, source: float | Tensor, *, tolerance: float = 1e-10) -> Tensor:
    r"""Solve steady Darcy flow on a rectangle of unit height whose boundary is held at 0.

    $$-\nabla \cdot (a \nabla u) = f, \qquad u = 0 \text{ on the boundary}$$

    Cells of finite volume with the harmonic mean of $a$ at faces, second order where $a$ is smooth; what flows out
    through the boundary is what the source gives, to the tolerance. Conjugate gradients, preconditioned by the exact
    inverse for constant $a$: the number of iterations depends on the contrast of $a$ and not on the cells.

    Args:
        coefficient: $a$ at the cell centres `[B, X, Y]`, above 0; cells are squares of side 1/Y.
        source: $f$, one number or at the cell centres `[B, X, Y]`.
        tolerance: the residual over the source, both in the mean square, at which a sample is solved.

    Returns:
        $u$ at the cell centres `[B, X, Y]`, float64.

    Raises:
        ConfigError: an argument is out of range, or 5,000 iterations were not enough.

    Good values: `tolerance=1e-10`; with a contrast of 10 about 40 iterations.

    Source: arXiv 2210.07182 for the problem.
    """
    a = checked_field("coefficient", coefficient, (None, None, None))
    if not (a > 0).all():
        raise ConfigError(f"`coefficient` must be above 0 everywhere, got {a.min():g}")
    check_positive("tolerance", tolerance, 1.0)
    if isinstance(source, Tensor):
        f = checked_field("source", source, tuple(a.shape)).to(a.device)
    else:
        check_number("source", source, -1e30, 1e30)
        f = torch.full_like(a, source)
    num_x, num_y = a.shape[1:]
    cell_size = 1.0 / num_y
    x, y = sine_modes(num_x, a.device), sine_modes(num_y, a.device)
    eigenvalues = x.differences(cell_size, num_x)[:, None] + y.differences(cell_size, num_y)
    across_x, across_y = conductances(a)

    def apply(u: Tensor) -> Tensor:
        return outflow(u, across_x, across_y) / cell_size**2

    def precondition(r: Tensor) -> Tensor:
        return from_modes(to_modes(r, x, y) / eigenvalues, x, y)

    return _conjugate_gradients(apply, precondition, f, tolerance)


def conductances(coefficient: Tensor) -> tuple[Tensor, Tensor]:
    """Flow through a face for a unit difference: `[B, X + 1, Y]` across x and `[B, X, Y + 1]` across y.

    Harmonic means of both cells; at the boundary, half a cell away, twice the coefficient.
    """

    def along_x(a: Tensor) -> Tensor:
        inner = 2.0 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
        return torch.cat([2.0 * a[:, :1], inner, 2.0 * a[:, -1:]], dim=1)

    return along_x(coefficient), along_x(coefficient.mT).mT


def outflow(u: Tensor, across_x: Tensor, across_y: Tensor) -> Tensor:
    """What flows out of each cell `[B, X, Y]`."""
    padded = torch.nn.functional.pad(u, (1, 1, 1, 1))
    flow_x = -across_x * padded[:, :, 1:-1].diff(dim=1)
    flow_y = -across_y * padded[:, 1:-1].diff(dim=2)
    return flow_x.diff(dim=1) + flow_y.diff(dim=2)


def _conjugate_gradients(apply: _Map, precondition: _Map, f: Tensor, tolerance: float) -> Tensor:
    """Solve a batch; a sample that is solved stays as it is, so that none depends on the others."""
    u = torch.zeros_like(f)
    residual, goal = f, tolerance * _norm(f)
    direction = z = precondition(residual)
    weight = _dot(residual, z)
    for _ in range(_MOST_STEPS):
        active = _norm(residual) > goal
        if not active.any():
            return u
        image = apply(direction)
        length = torch.where(active, weight / torch.where(active, _dot(direction, image), 1.0), 0.0)
        u = u + length * direction
        residual = residual - length * image
        z = precondition(residual)
        found = _dot(residual, z)
        direction = z + torch.where(active, found / torch.where(active, weight, 1.0), 0.0) * direction
        weight = found
    raise ConfigError(
        f"conjugate gradients did not reach `tolerance={tolerance:g}` in {_MOST_STEPS} steps: allow more, or lower the "
        "contrast of `coefficient`"
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
