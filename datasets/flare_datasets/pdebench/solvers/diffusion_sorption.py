"""Diffusion with sorption: a retardation that depends on the concentration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError, FlareConnectError
from flare_datasets.config import check_integer, check_number, check_range
from flare_datasets.pdebench.solvers.one_d_config import OneDConfig, check_states, checked_times
from flare_datasets.pdebench.solvers.one_d_tridiagonal import solve_tridiagonal

_GAMMA = 1 - math.sqrt(0.5)
_LEAST = 1e-30  # the retardation is infinite at 0
_HALVINGS = 10
_MOST_ITERATIONS = 50


@dataclass(frozen=True, kw_only=True)
class Sorption:
    r"""A porous medium: $m(u) = u + B u^{n_f}$ is what it holds, $R = m'(u)$ its retardation.

    $B = \frac{1 - \phi}{\phi} \rho_s k_f$: Freundlich's isotherm.

    Args:
        diffusivity: $D$.
        porosity: $\phi$.
        density: $\rho_s$ of the grains.
        exponent: $n_f$; with 1, the equation is linear.
        coefficient: $k_f$.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults, those of PDEBench.
    """

    diffusivity: float = 5e-4
    porosity: float = 0.29
    density: float = 2880.0
    exponent: float = 0.874
    coefficient: float = 3.5e-4

    def __post_init__(self) -> None:
        check_number("diffusivity", self.diffusivity, 1e-12, 1e6)
        check_number("porosity", self.porosity, 1e-6, 1.0)
        check_number("density", self.density, 0.0, 1e9)
        check_number("exponent", self.exponent, 0.1, 2.0)
        check_number("coefficient", self.coefficient, 0.0, 1e9)

    @property
    def capacity(self) -> float:
        """$B$."""
        return (1 - self.porosity) / self.porosity * self.density * self.coefficient

    def held(self, u: Tensor) -> Tensor:
        """$m(u)$."""
        return u + self.capacity * u**self.exponent

    def retardation(self, u: Tensor) -> Tensor:
        """$R(u)$."""
        return 1 + self.capacity * self.exponent * u ** (self.exponent - 1)


@dataclass(frozen=True)
class SorptionSolution:
    """Concentration, and what went through the ends; float64."""

    u: Tensor
    """`[N, X, T]`."""
    inflow: Tensor
    """Held substance that came in at the left end up to each frame `[N, T]`."""
    outflow: Tensor
    """Held substance that left at the right end up to each frame `[N, T]`."""


def solve_diffusion_sorption(
    initial: Tensor, medium: Sorption, times: Any, *, steps_per_frame: int = 4
) -> SorptionSolution:
    r"""Solve $R(u) u_t = D u_{xx}$ on (0, 1), in the form $m(u)_t = D u_{xx}$ that keeps what is held.

    $u = 1$ at the left end. At the right one the benchmark has a Cauchy condition; here it is $u = -D u_x$: what comes
    there is washed away at unit speed. With $u = D u_x$ the substance would grow without bound.

    Finite volumes and SDIRK2, both of order 2, with Newton's method; the mass is kept to rounding. The first frame is
    reached in steps that grow from a 4,000th of it, since the left end jumps.

    Args:
        initial: concentrations at the centres of the cells `[N, X]`, float64, not negative.
        medium: the constants.
        times: times of the frames `[T]`, the first that of `initial`.
        steps_per_frame: steps from each frame to the next.

    Raises:
        ConfigError: a setting is out of range, or `initial` is negative.
        FlareConnectError: Newton's method failed.

    Good values: frames 5 apart, up to 500: the front reaches the middle.

    Source: arXiv 2210.07182; Alexander (1977), SIAM J. Numer. Anal. 14, for SDIRK2.
    """
    check_states(initial=initial)
    check_integer("steps_per_frame", steps_per_frame, 1, 1_000_000)
    times = checked_times(times)
    if bool((initial < 0).any()):
        raise ConfigError(f"`initial` must not be negative, got {float(initial.min()):g}: it is a concentration")
    width = 1.0 / initial.shape[1]
    solver = _Implicit(medium, width, initial)
    frames, moved = [initial], [torch.zeros_like(initial[:, :2])]
    u, held = initial, medium.held(initial)
    for before, after in zip(times, times[1:], strict=False):
        total = moved[-1]
        for step in _steps(after - before, steps_per_frame, first=before == times[0]):
            first = solver.find(held, _GAMMA * step, u)
            flux = (1 - _GAMMA) * solver.flux(first)
            middle = held - step / width * flux.diff(dim=1)
            u = solver.find(middle, _GAMMA * step, first)
            flux = flux + _GAMMA * solver.flux(u)
            held = held - step / width * flux.diff(dim=1)
            total = total + step * flux[:, [0, -1]]
        frames.append(u)
        moved.append(total)
    through = torch.stack(moved, dim=-1)
    return SorptionSolution(torch.stack(frames, dim=-1), through[:, 0], through[:, 1])


class _Implicit:
    """Solves `m(u) = held + step D u_xx` in all cells of all samples."""

    def __init__(self, medium: Sorption, width: float, like: Tensor):
        self._medium, self._width = medium, width
        inner, left = medium.diffusivity / width, 2 * medium.diffusivity / width
        # Between cells; from the left end over half a cell; over half a cell, then through the right end.
        self._conduct = torch.full((like.shape[1] + 1,), inner, dtype=like.dtype, device=like.device)
        self._conduct[0], self._conduct[-1] = left, left / (1 + left)

    def flux(self, u: Tensor) -> Tensor:
        """To the right through every face `[N, X + 1]`."""
        outside = torch.ones_like(u[:, :1]), torch.zeros_like(u[:, :1])
        return -self._conduct * torch.cat([outside[0], u, outside[1]], dim=1).diff(dim=1)

    def find(self, held: Tensor, step: float, guess: Tensor) -> Tensor:
        share = step / self._width
        lower, upper = -share * self._conduct[:-1], -share * self._conduct[1:]
        u = guess.clamp(min=_LEAST)
        for _ in range(_MOST_ITERATIONS):
            residual = self._medium.held(u) + share * self.flux(u).diff(dim=1) - held
            change = solve_tridiagonal(lower, self._medium.retardation(u) - lower - upper, upper, residual)
            u = (u - change).clamp(min=_LEAST)
            if float(change.abs().max()) < 1e-12:
                return u
        raise FlareConnectError(
            f"Newton's method did not converge in {_MOST_ITERATIONS} steps; raise `steps_per_frame`, or use milder "
            "constants"
        )


def _steps(whole: float, count: int, *, first: bool) -> Iterator[float]:
    spans = [whole / 2**_HALVINGS, *(whole / 2**j for j in range(_HALVINGS, 0, -1))] if first else [whole]
    for span in spans:
        yield from [span / count] * count


@dataclass(frozen=True, kw_only=True)
class DiffusionSorptionConfig(OneDConfig):
    """What to draw: even concentrations that a medium starts with.

    Args:
        initial: (least, most) concentration at the beginning, the same in all cells of a sample.
        medium: the constants.
        steps_per_frame: see `solve_diffusion_sorption`.
        num_samples: N, 10,000 at most.
        num_points: X, centres of equal cells on (0, 1).
        num_frames: T, from time 0 to `end_time`.
        end_time: of the last frame.
        seed: same seed, same samples.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults, those of the published file but for its 10,000 samples.
    """

    pde: ClassVar[str] = "diffusion_sorption"

    initial: tuple[float, float] = (0.0, 0.2)
    medium: Sorption = Sorption()
    steps_per_frame: int = 4
    num_frames: int = 101
    end_time: float = 500.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("initial", self.initial, 0.0, 1.0)
        check_integer("steps_per_frame", self.steps_per_frame, 1, 1_000_000)
        if not isinstance(self.medium, Sorption):
            raise ConfigError(f"`medium` must be a `Sorption`, got {self.medium!r}")

    @property
    def attributes(self) -> dict[str, float]:
        """None: published files carry none."""
        return {}

    def solve(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Draw samples and solve for them: `[N, X, T, 1]`."""
        drawn = [np.random.default_rng([self.seed, i]).uniform(*self.initial) for i in indices]
        values = torch.as_tensor(drawn, dtype=torch.float64, device=device)
        initial = values[:, None].expand(-1, self.num_points)
        return solve_diffusion_sorption(initial, self.medium, self.times, steps_per_frame=self.steps_per_frame).u[
            ..., None
        ]
