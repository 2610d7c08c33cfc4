"""Diffusion and reaction of two species after FitzHugh and Nagumo, by cosines and exponential time steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer, check_number
from flare_datasets.pdebench.solvers.two_d_generation import GridConfig, check_positive
from flare_datasets.pdebench.solvers.two_d_generation import generate as generate
from flare_datasets.pdebench.solvers.two_d_grids import (
    Times,
    checked_field,
    checked_frames,
    cosine_modes,
    from_modes,
    to_modes,
)

_BOUNDS = (-1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class DiffusionReactionConfig(GridConfig):
    """What to draw: two species on [-1, 1]² that start as noise.

    Every cell starts with normal numbers of its own, so that a finer grid is another sample, not the same one closer.

    Args:
        num_samples: N, 1,000 in PDEBench.
        resolution: cells along each side.
        seed: same seed, same samples.
        num_frames: T, evenly from 0 to `end_time`.
        end_time: time of the last frame.
        diffusion_u: diffusivity of the activator u.
        diffusion_v: diffusivity of the inhibitor v.
        k: constant of the reaction.
        longest_step: see `solve_diffusion_reaction`.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults, which follow PDEBench (arXiv 2210.07182).
    """

    pde: ClassVar[str] = "diffusion_reaction"
    bounds: ClassVar[tuple[float, float]] = _BOUNDS

    num_frames: int = 101
    end_time: float = 5.0
    diffusion_u: float = 1e-3
    diffusion_v: float = 5e-3
    k: float = 5e-3
    longest_step: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_samples", self.num_samples, 1, 10_000)
        check_integer("num_frames", self.num_frames, 2)
        for name in ("end_time", "diffusion_u", "diffusion_v", "longest_step"):
            check_positive(name, getattr(self, name))
        check_number("k", self.k, -1e30, 1e30)

    @property
    def times(self) -> np.ndarray:
        """Times of the frames `[T]`."""
        return np.linspace(0.0, self.end_time, self.num_frames)

    def solve(self, numbers: Sequence[int], place: torch.device) -> tuple[Tensor, None]:
        """Draw samples and solve for them, on a device."""
        n = self.resolution
        noise = np.stack([self.rng(i).standard_normal((n, n, 2)) for i in numbers])
        frames = solve_diffusion_reaction(
            torch.from_numpy(noise).to(place),
            self.times,
            cell_size=(_BOUNDS[1] - _BOUNDS[0]) / n,
            diffusion_u=self.diffusion_u,
            diffusion_v=self.diffusion_v,
            k=self.k,
            longest_step=self.longest_step,
        )
        return frames, None


def solve_diffusion_reaction(
    state: Tensor,
    times: Times,
    *,
    cell_size: float,
    diffusion_u: float = 1e-3,
    diffusion_v: float = 5e-3,
    k: float | None = 5e-3,
    longest_step: float = 0.01,
) -> Tensor:
    r"""Solve the diffusion–reaction system of FitzHugh and Nagumo; nothing flows through the boundary.

    $$\partial_t u = D_u \Delta u + u - u^3 - k - v, \qquad \partial_t v = D_v \Delta v + u - v$$

    Cosines in space, whose derivatives are exact: errors fall faster than any power of the cell size where the solution
    is smooth. Exponential Runge–Kutta steps of fourth order (ETDRK4): diffusion is exact, reaction of fourth order.

    Args:
        state: u and v at the cell centres `[B, X, Y, 2]`.
        times: of the frames `[T]`; the first is that of `state`.
        cell_size: side of a cell, in both directions.
        diffusion_u: $D_u$.
        diffusion_v: $D_v$.
        k: constant of the reaction; None leaves out the whole reaction, and diffuses.
        longest_step: time steps are equal parts of the time between two frames, not longer than this.

    Returns:
        `[B, X, Y, T, 2]`, float64.

    Raises:
        ConfigError: an argument is out of range, or the solution grew without bound.

    Good values: `longest_step=0.01`, which errs by 1e-5 where the start is normal noise; 0.05 errs by 0.01 there, and
    by 3e-7 where it is smooth.

    Source: arXiv 2210.07182 for the problem; Cox and Matthews, 2002, and Kassam and Trefethen, 2005, for the steps.
    """
    state = checked_field("state", state, (None, None, None, 2))
    frames_at = checked_frames(times)
    for name, value in (("cell_size", cell_size), ("diffusion_u", diffusion_u), ("diffusion_v", diffusion_v)):
        check_positive(name, value)
    check_positive("longest_step", longest_step)
    num_x, num_y = state.shape[1:3]
    x, y = cosine_modes(num_x, state.device), cosine_modes(num_y, state.device)
    waves = x.wave_numbers(num_x * cell_size)[:, None] ** 2 + y.wave_numbers(num_y * cell_size) ** 2
    decay = -torch.stack([diffusion_u * waves, diffusion_v * waves])

    def reaction(modes: Tensor) -> Tensor:
        if k is None:
            return torch.zeros_like(modes)
        u, v = from_modes(modes, x, y).unbind(1)
        return to_modes(torch.stack([u - u**3 - k - v, u - v], dim=1), x, y)

    now = to_modes(state.movedim(-1, 1), x, y)
    frames, steps = [state], _Steps(decay)
    for start, end in zip(frames_at, frames_at[1:], strict=False):
        count = math.ceil((end - start) / longest_step * (1.0 - 1e-12))
        steps.prepare((end - start) / count)
        for _ in range(count):
            now = steps.take(now, reaction)
        frames.append(from_modes(now, x, y).movedim(1, -1))
        if not torch.isfinite(frames[-1]).all():
            raise ConfigError(f"the solution grew without bound with `longest_step={longest_step:g}`: lower it")
    return torch.stack(frames, dim=-2)


class _Steps:
    """ETDRK4 for modes that decay by themselves; the weights are kept while the step stays the same."""

    def __init__(self, decay: Tensor):
        self._decay = decay
        self._step = 0.0

    def prepare(self, step: float) -> None:
        if math.isclose(step, self._step, rel_tol=1e-12):
            return
        self._step = step
        z = step * self._decay
        one, two, three = _phi(z)
        self._half, self._full = torch.exp(0.5 * z), torch.exp(z)
        self._to_half = 0.5 * step * _phi(0.5 * z)[0]
        self._first = step * (one - 3 * two + 4 * three)
        self._middle = step * (2 * two - 4 * three)
        self._last = step * (4 * three - two)

    def take(self, now: Tensor, reaction: Callable[[Tensor], Tensor]) -> Tensor:
        at_start = reaction(now)
        kept = self._half * now
        a = kept + self._to_half * at_start
        at_a = reaction(a)
        b = kept + self._to_half * at_a
        at_b = reaction(b)
        c = self._half * a + self._to_half * (2 * at_b - at_start)
        return self._full * now + self._first * at_start + self._middle * (at_a + at_b) + self._last * reaction(c)


def _phi(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(e^z − 1)/z and the two after it, for z ≤ 0: by a series near 0, where the formulas cancel."""
    near = z.abs() < 1.0
    safe = torch.where(near, -1.0, z)
    one = torch.expm1(safe) / safe
    two = (one - 1.0) / safe
    three = (two - 0.5) / safe
    small = torch.where(near, z, 0.0)
    found = []
    for order, far in ((1, one), (2, two), (3, three)):
        series, term = torch.zeros_like(z), torch.full_like(z, 1.0 / math.factorial(order))
        for n in range(1, 20):
            series = series + term
            term = term * small / (n + order)
        found.append(torch.where(near, series, far))
    return found[0], found[1], found[2]
