"""Shallow water over a flat bed: the radial dam break of PDEBench, by finite volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer, check_range
from flare_datasets.pdebench.solvers.two_d_generation import GridConfig, check_positive
from flare_datasets.pdebench.solvers.two_d_generation import generate as generate
from flare_datasets.pdebench.solvers.two_d_grids import (
    Times,
    cell_centres,
    checked_field,
    checked_frames,
    even_step,
    mirrored,
    sides_of_faces,
)

BOUNDARIES = ("outflow", "walls")
_BOUNDS = (-2.5, 2.5)
_DRY = 1e-12
"""Depth below which water is taken to be at rest."""


@dataclass(frozen=True, kw_only=True)
class ShallowWaterConfig(GridConfig):
    """What to draw: a round column of water that collapses, on [-2.5, 2.5]².

    Args:
        num_samples: N, 1,000 in PDEBench.
        resolution: cells along each side.
        seed: same seed, same samples.
        num_frames: T, evenly from 0 to `end_time`.
        end_time: time of the last frame.
        radius: (least, most) radius of the column, drawn evenly.
        inner_depth: depth of the column; a cell belongs to it where its centre does.
        outer_depth: depth around it.
        gravity: its acceleration.
        boundary: "outflow" or "walls". With the other defaults no wave reaches the boundary by time 1.
        cfl: see `solve_shallow_water`.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults, which follow PDEBench (arXiv 2210.07182) but for two that could not be compared: the
    range of `radius`, and `boundary`, which does not matter by time 1.
    """

    pde: ClassVar[str] = "shallow_water"
    bounds: ClassVar[tuple[float, float]] = _BOUNDS

    num_frames: int = 101
    end_time: float = 1.0
    radius: tuple[float, float] = (0.3, 0.7)
    inner_depth: float = 2.0
    outer_depth: float = 1.0
    gravity: float = 1.0
    boundary: str = "outflow"
    cfl: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_samples", self.num_samples, 1, 10_000)
        check_integer("num_frames", self.num_frames, 2)
        for name in ("end_time", "inner_depth", "outer_depth", "gravity"):
            check_positive(name, getattr(self, name))
        if isinstance(self.radius, list):  # from JSON or YAML
            object.__setattr__(self, "radius", tuple(self.radius))
        check_range("radius", self.radius, 0.0, _BOUNDS[1])
        _check_boundary(self.boundary)
        check_positive("cfl", self.cfl, 0.5)

    @property
    def times(self) -> np.ndarray:
        """Times of the frames `[T]`."""
        return np.linspace(0.0, self.end_time, self.num_frames)

    def solve(self, numbers: Sequence[int], place: torch.device) -> tuple[Tensor, None]:
        """Draw samples and solve for them, on a device."""
        x = cell_centres(self.resolution, *_BOUNDS)
        distance = torch.hypot(x[:, None], x)
        size = (_BOUNDS[1] - _BOUNDS[0]) / self.resolution
        inner, outer = torch.tensor([self.inner_depth, self.outer_depth], dtype=torch.float64)
        radii = [self.rng(i).uniform(*self.radius) for i in numbers]
        inside = distance < torch.tensor(radii, dtype=torch.float64)[:, None, None]
        state = torch.zeros(*inside.shape, 3, dtype=torch.float64)
        state[..., 0] = torch.where(inside, inner, outer)
        frames = solve_shallow_water(
            state.to(place),
            self.times,
            cell_size=size,
            gravity=self.gravity,
            boundary=self.boundary,
            cfl=self.cfl,
        )
        return frames[..., :1], None


def solve_shallow_water(
    state: Tensor,
    times: Times,
    *,
    cell_size: float,
    gravity: float = 1.0,
    boundary: str = "outflow",
    cfl: float = 0.2,
) -> Tensor:
    r"""Solve the shallow water equations over a flat bed.

    $$\partial_t h + \nabla \cdot (h v) = 0, \qquad
      \partial_t (h v) + \nabla \cdot (h v \otimes v) + \nabla\, g h^2 / 2 = 0$$

    Finite volumes: depth and velocity are reconstructed linearly with the monotonised central limiter, fluxes are those
    of Harten, Lax and van Leer with the contact restored (momentum along a face goes with the water), time steps are
    Heun's, strong-stability-preserving. Second order where the solution is smooth, first order at shocks. Mass is
    conserved to rounding within walls, and depth stays positive while a wave crosses at most a quarter of a cell.

    Args:
        state: depth and both momenta at the cells `[B, X, Y, 3]`.
        times: of the frames `[T]`; the first is that of `state`.
        cell_size: side of a cell, in both directions.
        gravity: g.
        boundary: "outflow" lets waves out, "walls" reflects them.
        cfl: largest share of a cell that the fastest wave crosses in a step, of each sample by itself.

    Returns:
        `[B, X, Y, T, 3]`, float64.

    Raises:
        ConfigError: an argument is out of range, or a depth became negative.

    Good values: `cfl=0.2`; up to 0.45 where no bed is nearly dry.

    Source: arXiv 2210.07182 for the problem; Toro, Shock-Capturing Methods for Free-Surface Shallow Flows, 2001.
    """
    state = checked_field("state", state, (None, None, None, 3))
    if (state[..., 0] < 0).any():
        raise ConfigError(f"`state` has a depth of {state[..., 0].min():g}; depths must not be negative")
    frames_at = checked_frames(times)
    check_positive("cell_size", cell_size)
    check_positive("gravity", gravity)
    _check_boundary(boundary)
    check_positive("cfl", cfl, 0.5)
    wall = boundary == "walls"
    now = state.movedim(-1, 1)
    frames = [now]
    for start, end in zip(frames_at, frames_at[1:], strict=False):
        left = now.new_full((len(now),), end - start)
        while (left > 0).any():
            rate, speed = _rate(now, cell_size, gravity, wall)
            step = even_step(left, cfl * cell_size / speed)
            dt = step[:, None, None, None]
            guess = now + dt * rate
            now = 0.5 * (now + guess + dt * _rate(guess, cell_size, gravity, wall)[0])
            left = left - step
            if not (now[:, 0] >= 0).all():
                raise ConfigError(f"a depth became negative or NaN with `cfl={cfl:g}`: lower it; 0.2 is safe")
        frames.append(now)
    return torch.stack(frames, dim=-1).permute(0, 2, 3, 4, 1)


def _rate(state: Tensor, size: float, gravity: float, wall: bool) -> tuple[Tensor, Tensor]:
    """Change of the state in time `[B, 3, X, Y]`, and the fastest wave at any face `[B]`."""
    h = state[:, 0]
    wet = h > _DRY
    velocity = torch.where(wet[:, None], state[:, 1:] / torch.where(wet, h, 1.0)[:, None], 0.0)
    along_x, speed_x = _differences(h, velocity[:, 0], velocity[:, 1], gravity, wall)
    along_y, speed_y = _differences(h.mT, velocity[:, 1].mT, velocity[:, 0].mT, gravity, wall)
    depth, normal, across = (part.mT for part in along_y)
    change = (along_x[0] + depth, along_x[1] + across, along_x[2] + normal)
    return torch.stack(change, dim=1) / -size, torch.maximum(speed_x, speed_y).clamp(min=1e-300)


def _differences(h: Tensor, u: Tensor, v: Tensor, gravity: float, wall: bool) -> tuple[tuple[Tensor, ...], Tensor]:
    """Differences along X of the fluxes of depth and of momentum along and across, and the fastest wave `[B]`."""
    # Mirror images of the same sign let waves out: nothing changes across the boundary.
    padded = (mirrored(h), mirrored(u, -1.0 if wall else 1.0), mirrored(v))
    (h_l, h_r), (u_l, u_r), (v_l, v_r) = (sides_of_faces(values) for values in padded)
    c_l, c_r = (gravity * h_l).sqrt(), (gravity * h_r).sqrt()
    lowest = torch.minimum(u_l - c_l, u_r - c_r).clamp(max=0.0)
    highest = torch.maximum(u_l + c_l, u_r + c_r).clamp(min=0.0)
    gap = (highest - lowest).clamp(min=1e-300)
    # Written so that both parts cancel exactly at a wall, and each has one sign: depth stays positive.
    depth = (highest * h_l * (u_l - lowest) + lowest * h_r * (highest - u_r)) / gap
    push_l, push_r = h_l * u_l * u_l + 0.5 * gravity * h_l * h_l, h_r * u_r * u_r + 0.5 * gravity * h_r * h_r
    normal = (highest * push_l - lowest * push_r + highest * lowest * (h_r * u_r - h_l * u_l)) / gap
    across = depth * torch.where(depth > 0, v_l, v_r)
    fastest = torch.maximum(highest, -lowest).amax(dim=(-2, -1))
    return tuple(flux.diff(dim=-2) for flux in (depth, normal, across)), fastest


def _check_boundary(boundary: str) -> None:
    if boundary not in BOUNDARIES:
        raise ConfigError(f"`boundary` must be one of {BOUNDARIES}, got {boundary!r}")
