"""Fisher's equation on a circle: diffusion and logistic growth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flare_datasets.config import check_number
from flare_datasets.pdebench.solvers.advection import WaveConfig
from flare_datasets.pdebench.solvers.one_d_config import check_states, checked_times
from flare_datasets.pdebench.solvers.one_d_exponential import ExponentialStep

_HALVINGS = 12


def solve_reaction_diffusion(
    initial: Tensor, nu: float, rho: float, times: Any, *, length: float = 1.0, max_growth: float = 0.05
) -> Tensor:
    r"""Solve $u_t = \nu u_{xx} + \rho u (1 - u)$ on a circle.

    Fourier series in space, ETDRK4 in time: spectral order in space, 4 in time, diffusion exact. The first frame is
    reached in steps that grow from a 16,000th of it, since rough initial states are smoothed within such times.

    Args:
        initial: values at the points `[N, X]`, float64.
        nu: diffusivity $\nu \ge 0$.
        rho: rate of growth $\rho \ge 0$.
        times: times of the frames `[T]`, the first that of `initial`.
        length: of the circle.
        max_growth: $\rho$ times the step, at most.

    Returns:
        `[N, X, T]`, float64.

    Raises:
        ConfigError: a setting is out of range.

    Good values: `initial` from 0 to 1. Below 0 the equation itself blows up, and a jump in `initial` swings below 0 for
    about as long as diffusion needs to cross a cell: take `nu` 0.01 or more with jumps.

    Source: arXiv 2210.07182; `ExponentialStep`.
    """
    check_states(initial=initial)
    check_number("nu", nu, 0.0, 1e6)
    check_number("rho", rho, 0.0, 1e6)
    check_number("length", length, 1e-6, 1e6)
    check_number("max_growth", max_growth, 1e-6, 1.0)
    times = checked_times(times)
    size = initial.shape[1]
    k = 2 * math.pi / length * torch.arange(size // 2 + 1, dtype=torch.float64, device=initial.device)
    linear = -nu * k**2

    def slope(spectrum: Tensor) -> Tensor:
        u = torch.fft.irfft(spectrum, n=size)
        return rho * torch.fft.rfft(u * (1 - u))

    u, frames = torch.fft.rfft(initial), [initial]
    for before, after in zip(times, times[1:], strict=False):
        for span in _spans(after - before, first=before == times[0]):
            count = max(4, math.ceil(span * rho / max_growth))
            step = ExponentialStep(linear, span / count)
            for _ in range(count):
                u = step(u, slope)
        frames.append(torch.fft.irfft(u, n=size))
    return torch.stack(frames, dim=-1)


def _spans(whole: float, *, first: bool) -> Iterator[float]:
    """Lengths of the pieces of a frame: each twice as long as all before it in the first, else one."""
    if not first:
        yield whole
        return
    yield whole / 2**_HALVINGS
    for j in range(_HALVINGS, 0, -1):
        yield whole / 2**j


@dataclass(frozen=True, kw_only=True)
class ReactionDiffusionConfig(WaveConfig):
    """What to draw: absolute values of random waves, divided by their largest, that diffuse and grow.

    Args:
        nu: diffusivity, `Nu` of the file.
        rho: rate of growth.
        num_samples: N.
        num_points: X, centres of equal cells on (0, 1).
        num_frames: T, from time 0 to `end_time`.
        end_time: of the last frame.
        seed: same seed, same samples.
        num_waves: sines in a sum.
        max_number: largest number of periods in the domain.
        fold_probability: must be 1: every sample is an absolute value.
        window_probability: share of samples that are 0 outside of a window.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults are those of the published files, but for their 10,000 samples; nu 0.5 to 5, rho 1 to 10.
    """

    pde: ClassVar[str] = "reaction_diffusion"

    nu: float
    rho: float
    num_frames: int = 101
    end_time: float = 1.0
    fold_probability: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("nu", self.nu, 0.01, 1e3)
        check_number("rho", self.rho, 0.0, 1e3)
        check_number("fold_probability", self.fold_probability, 1.0, 1.0)

    @property
    def attributes(self) -> dict[str, float]:
        """Diffusivity and rate of growth."""
        return {"Nu": self.nu, "rho": self.rho}

    def solve(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Draw samples and solve for them: `[N, X, T, 1]`."""
        initial = self.draw(indices, device)(torch.as_tensor(self.points, device=device)).abs()
        initial = initial / initial.amax(dim=1, keepdim=True)
        return solve_reaction_diffusion(initial, self.nu, self.rho, self.times)[..., None]
