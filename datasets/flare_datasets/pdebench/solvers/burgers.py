"""Viscous Burgers on a circle: conservative, with or without shocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flare_datasets.config import check_number
from flare_datasets.pdebench.solvers.advection import WaveConfig
from flare_datasets.pdebench.solvers.one_d_config import check_states, checked_times
from flare_datasets.pdebench.solvers.one_d_exponential import ExponentialStep
from flare_datasets.pdebench.solvers.one_d_weno import weno_left, weno_right, with_ghosts


def solve_burgers(initial: Tensor, nu: float, times: Any, *, length: float = 1.0, courant: float = 0.4) -> Tensor:
    r"""Solve $u_t + (u^2/2)_x = \frac{\nu}{\pi} u_{xx}$ on a circle.

    The viscosity is $\nu / \pi$, as in the paper of PDEBench, and its files are named and numbered by $\nu$.

    Finite differences in flux form: WENO-Z of order 5 with Lax–Friedrichs splitting, a fourth-order second difference
    taken exactly in time, ETDRK4: order 4 in space and time where the solution is resolved; shocks narrower than a cell
    are spread over two or three. The mean is kept to rounding.

    Args:
        initial: values at the points `[N, X]`, float64.
        nu: $\nu \ge 0$.
        times: times of the frames `[T]`, the first that of `initial`.
        length: of the circle.
        courant: cells that the fastest wave crosses in a step, at most.

    Returns:
        `[N, X, T]`, float64.

    Raises:
        ConfigError: a setting is out of range.

    Good values: 1,024 points for waves of up to 8 periods. A shock of height $a$ is about $4 \nu / (\pi a)$ wide, less
    than one of 1,024 cells for $\nu = 0.001$.

    Source: arXiv 2210.07182; Jiang, Shu (1996), J. Comput. Phys. 126; `ExponentialStep`, `weno_left`.
    """
    check_states(initial=initial)
    check_number("nu", nu, 0.0, 1e6)
    check_number("length", length, 1e-6, 1e6)
    check_number("courant", courant, 1e-3, 1.0)
    times = checked_times(times)
    size = initial.shape[1]
    width = length / size
    linear = nu / math.pi * second_difference(size, width).to(initial.device)

    def slope(spectrum: Tensor) -> Tensor:
        return torch.fft.rfft(-_flux_difference(torch.fft.irfft(spectrum, n=size)) / width)

    u, frames = torch.fft.rfft(initial), [initial]
    for before, after in zip(times, times[1:], strict=False):
        # Speeds never grow, so steps chosen at the start of a frame hold to its end.
        fastest = frames[-1].abs().amax(dim=1, keepdim=True)
        counts = torch.ceil((after - before) * fastest / (courant * width)).clamp(min=1.0)
        step = ExponentialStep(linear, (after - before) / counts)
        for k in range(int(counts.max())):
            u = torch.where(k < counts, step(u, slope), u)
        frames.append(torch.fft.irfft(u, n=size))
    return torch.stack(frames, dim=-1)


def second_difference(size: int, width: float) -> Tensor:
    """Eigenvalues of the fourth-order second difference on a circle of `size` points, for `rfft` `[size//2 + 1]`."""
    sine = torch.sin(math.pi * torch.arange(size // 2 + 1, dtype=torch.float64) / size) ** 2
    return -4 * sine * (1 + sine / 3) / width**2


def _flux_difference(u: Tensor) -> Tensor:
    speed = u.abs().amax(dim=1, keepdim=True)
    flux, spread = u**2 / 4, speed * u / 2
    faces = weno_left(with_ghosts(flux + spread, periodic=True)) + weno_right(with_ghosts(flux - spread, periodic=True))
    # Both end faces are one: a bit's difference between them would add up in the mean.
    faces = torch.cat([faces[:, :-1], faces[:, :1]], dim=1)
    return faces.diff(dim=1)


@dataclass(frozen=True, kw_only=True)
class BurgersConfig(WaveConfig):
    r"""What to draw: random waves in Burgers' equation, viscosity $\nu / \pi$.

    Args:
        nu: $\nu$, `Nu` of the file.
        num_samples: N.
        num_points: X, centres of equal cells on (0, 1).
        num_frames: T, from time 0 to `end_time`.
        end_time: of the last frame.
        seed: same seed, same samples.
        num_waves: sines in a sum.
        max_number: largest number of periods in the domain.
        fold_probability: share of samples whose absolute value is taken.
        window_probability: share of samples that are 0 outside of a window.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults are those of the published files, but for their 10,000 samples; nu 0.001 to 4.
    """

    pde: ClassVar[str] = "burgers"

    nu: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("nu", self.nu, 0.0, 1e3)

    @property
    def attributes(self) -> dict[str, float]:
        r"""$\nu$."""
        return {"Nu": self.nu}

    def solve(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Draw samples and solve for them: `[N, X, T, 1]`."""
        initial = self.draw(indices, device)(torch.as_tensor(self.points, device=device))
        return solve_burgers(initial, self.nu, self.times)[..., None]
