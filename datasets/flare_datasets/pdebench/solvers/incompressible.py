"""Incompressible flow in a box under a force, with particles that it carries, on a staggered grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer, check_number
from flare_datasets.pdebench.solvers.two_d_generation import (
    GridConfig,
    check_positive,
    cosine_field,
)
from flare_datasets.pdebench.solvers.two_d_generation import (
    generate as generate,
)
from flare_datasets.pdebench.solvers.two_d_grids import (
    Modes,
    Times,
    cell_centres,
    checked_field,
    checked_frames,
    cosine_modes,
    even_step,
    from_modes,
    mirrored,
    sides_of_faces,
    sine_modes,
    sine_modes_between,
    to_modes,
)

WALLS = ("no-slip", "free-slip")
_BOUNDS = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class IncompressibleConfig(GridConfig):
    r"""What to draw: flow in the unit square that starts at random and is driven by a random force.

    Velocity and force are Gaussian random fields, sums of cosines of up to `num_waves` half waves a side whose mean
    square is proportional to $|k|^{\text{power}}$. The velocity is multiplied by $\sin \pi x \sin \pi y$, so that it is
    0 at walls, and made free of divergence. Particles start at $e^{g/2}$, $g$ drawn as the force, with a standard
    deviation of 1. All are the same at every resolution.

    Args:
        num_samples: N.
        resolution: cells along each side; 512 in PDEBench.
        seed: same seed, same samples.
        num_frames: T, evenly from 0 to `end_time`.
        end_time: time of the last frame.
        viscosity: kinematic.
        velocity_scale: standard deviation of the velocity, before it is brought to 0 at walls.
        velocity_power: of its spectrum.
        force_scale: standard deviation of the force.
        force_power: of its spectrum.
        num_waves: most half waves a side.
        walls: see `solve_incompressible`.
        cfl: see `solve_incompressible`.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults. Domain, walls, viscosity and end follow PDEBench, which keeps 1,000 frames at 512 × 512
    cells. Its random fields have a "smoothness" of 1 and a "scale" of 0.4 in the velocity, of 3 and 0.15 in the force;
    powers and scales here are a reading of those numbers, and how particles start is this library's choice.
    """

    pde: ClassVar[str] = "incompressible"
    bounds: ClassVar[tuple[float, float]] = _BOUNDS
    at_once: ClassVar[int] = 4

    num_frames: int = 101
    end_time: float = 5.0
    viscosity: float = 0.01
    velocity_scale: float = 0.4
    velocity_power: float = -1.0
    force_scale: float = 0.15
    force_power: float = -3.0
    num_waves: int = 16
    walls: str = "no-slip"
    cfl: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_frames", self.num_frames, 2)
        for name in ("end_time", "viscosity"):
            check_positive(name, getattr(self, name))
        for name in ("velocity_scale", "force_scale"):
            check_number(name, getattr(self, name), 0.0, 1e30)
        if self.velocity_scale == 0.0 and self.force_scale == 0.0:
            raise ConfigError("`velocity_scale` and `force_scale` are both 0, which leaves the flow at rest: raise one")
        for name in ("velocity_power", "force_power"):
            check_number(name, getattr(self, name), -20.0, 0.0)
        check_integer("num_waves", self.num_waves, 1, 63)
        _check_walls(self.walls)
        check_positive("cfl", self.cfl, 0.5)

    @property
    def times(self) -> np.ndarray:
        """Times of the frames `[T]`."""
        return np.linspace(0.0, self.end_time, self.num_frames)

    def solve(self, numbers: Sequence[int], place: torch.device) -> tuple[Tensor, Tensor]:
        """Draw samples and solve for them, on a device."""
        drawn = [draw_start(self, i) for i in numbers]
        velocity, particles, force = (torch.stack(parts).to(place) for parts in zip(*drawn, strict=True))
        frames = solve_incompressible(
            velocity,
            particles,
            force,
            self.times,
            cell_size=1.0 / self.resolution,
            viscosity=self.viscosity,
            walls=self.walls,
            cfl=self.cfl,
        )
        return frames, force


def draw_start(config: IncompressibleConfig, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Velocity `[X, Y, 2]`, not yet free of divergence, particles `[X, Y]` and force `[X, Y, 2]` of a sample."""
    rng = config.rng(index)

    def field(power: float, scale: float) -> Tensor:
        def amplitude(k: np.ndarray) -> np.ndarray:
            inside = k <= config.num_waves
            inside[0, 0] = False
            square = np.where(inside, k**power, 0.0)
            return scale * np.sqrt(square / square.sum())

        return cosine_field(rng, config.resolution, amplitude)

    window = torch.sin(math.pi * cell_centres(config.resolution, *_BOUNDS))
    velocity = [field(config.velocity_power, config.velocity_scale) * window[:, None] * window for _ in range(2)]
    particles = torch.exp(0.5 * field(config.force_power, 1.0))
    force = [field(config.force_power, config.force_scale) for _ in range(2)]
    return torch.stack(velocity, dim=-1), particles, torch.stack(force, dim=-1)


def solve_incompressible(
    velocity: Tensor,
    particles: Tensor,
    force: Tensor,
    times: Times,
    *,
    cell_size: float,
    viscosity: float,
    walls: str = "no-slip",
    cfl: float = 0.25,
) -> Tensor:
    r"""Solve incompressible flow in a closed box, and carry particles along.

    $$\partial_t v + v \cdot \nabla v = -\nabla p + \nu \Delta v + f, \qquad \nabla \cdot v = 0, \qquad
      \partial_t c + \nabla \cdot (v c) = 0$$

    Velocities live at the faces of cells. Advection is central and conserves momentum, in Heun's
    steps; viscosity is that of Crank and Nicolson; the pressure's increment makes velocities free of divergence to
    rounding. Particles go with limited linear reconstruction and the same steps: their sum is conserved to rounding,
    and they stay positive. Second order in space and time where the solution is smooth. Linear systems are solved
    exactly, by sines and cosines.

    Args:
        velocity: at the cell centres at first `[B, X, Y, 2]`. It is averaged to faces and made free of divergence; its
            part into the walls is dropped.
        particles: how many there are in the cells `[B, X, Y]`.
        force: f at the cell centres `[B, X, Y, 2]`, constant in time.
        times: of the frames `[T]`; the first is that of `velocity`.
        cell_size: side of a cell, in both directions.
        viscosity: ν.
        walls: "no-slip" holds the fluid at walls, "free-slip" lets it slide along them.
        cfl: largest share of a cell that the fluid crosses in a step, of each sample by itself.

    Returns:
        Velocity and particles at the cell centres `[B, X, Y, T, 3]`, float64; velocities are averages of both faces.

    Raises:
        ConfigError: an argument is out of range, or the flow grew without bound.

    Good values: `cfl=0.25`, and cells so small that speed · cell size / ν is below about 2: no other dissipation damps
    what the grid cannot resolve.

    Source: arXiv 2210.07182 for the problem; Harlow and Welch, 1965, for the grid; Van Kan, 1986, for the pressure.
    """
    frames_at = checked_frames(times)
    flow = IncompressibleFlow(
        velocity, particles, force, cell_size=cell_size, viscosity=viscosity, walls=walls, cfl=cfl
    )
    frames = [flow.at_centres()]
    for start, end in zip(frames_at, frames_at[1:], strict=False):
        flow.advance(end - start)
        frames.append(flow.at_centres())
    return torch.stack(frames, dim=-2)


class IncompressibleFlow:
    """The flow of `solve_incompressible` as it is at one time; arguments and errors as there.

    Attributes:
        u: velocity along x at the faces across x `[B, X + 1, Y]`.
        v: velocity along y at the faces across y `[B, X, Y + 1]`.
        particles: in the cells `[B, X, Y]`.
        pressure: at the cell centres `[B, X, Y]`, without mean.
    """

    def __init__(
        self,
        velocity: Tensor,
        particles: Tensor,
        force: Tensor,
        *,
        cell_size: float,
        viscosity: float,
        walls: str = "no-slip",
        cfl: float = 0.25,
    ):
        velocity = checked_field("velocity", velocity, (None, None, None, 2))
        shape, device = tuple(velocity.shape[:3]), velocity.device
        self.particles = checked_field("particles", particles, shape)
        force = checked_field("force", force, (*shape, 2))
        check_positive("cell_size", cell_size)
        check_positive("viscosity", viscosity)
        _check_walls(walls)
        check_positive("cfl", cfl, 0.5)
        self._size, self._viscosity, self._cfl = cell_size, viscosity, cfl
        _, num_x, num_y = shape
        along = sine_modes if walls == "no-slip" else cosine_modes
        self._for_u = _Helmholtz(sine_modes_between(num_x, device), along(num_y, device), shape, cell_size)
        self._for_v = _Helmholtz(along(num_x, device), sine_modes_between(num_y, device), shape, cell_size)
        self._for_pressure = _Helmholtz(cosine_modes(num_x, device), cosine_modes(num_y, device), shape, cell_size)
        self._force_u, self._force_v = _between(force[..., 0]), _between(force[..., 1].mT).mT
        self._strongest = force.norm(dim=-1).amax((1, 2))
        self.pressure = torch.zeros_like(self.particles)
        self.u, self.v, _ = self._project(_between(velocity[..., 0]), _between(velocity[..., 1].mT).mT)

    def at_centres(self) -> Tensor:
        """Velocity and particles `[B, X, Y, 3]`."""
        u, v = 0.5 * (self.u[:, 1:] + self.u[:, :-1]), 0.5 * (self.v[:, :, 1:] + self.v[:, :, :-1])
        return torch.stack([u, v, self.particles], dim=-1)

    def divergence(self) -> Tensor:
        """Of the velocity in each cell `[B, X, Y]`."""
        return (self.u.diff(dim=1) + self.v.diff(dim=2)) / self._size

    def advance(self, duration: float) -> None:
        """Go on for this long."""
        left = self.particles.new_full((len(self.particles),), duration)
        while (left > 0).any():
            step = even_step(left, self._longest_step())
            before = self.u, self.v, self.particles, self.pressure
            after = self._heun(step[:, None, None])
            moving = (left > 0)[:, None, None]  # a sample that has arrived must not change, not even by rounding
            self.u, self.v, self.particles, self.pressure = (
                torch.where(moving, new, old) for new, old in zip(after, before, strict=True)
            )
            left = left - step
        if not torch.isfinite(self.u).all():
            raise ConfigError(f"the flow grew without bound with `cfl={self._cfl:g}`: lower it, or make cells smaller")

    def _longest_step(self) -> Tensor:
        """Within which the fluid crosses `cfl` cells, even as the force speeds it up `[B]`."""
        u, v = self.u.abs(), self.v.abs()
        speed = (torch.maximum(u[:, 1:], u[:, :-1]) + torch.maximum(v[:, :, 1:], v[:, :, :-1])).amax((1, 2))
        way = self._cfl * self._size
        return 2.0 * way / (speed + torch.sqrt(speed**2 + 4.0 * way * self._strongest)).clamp(min=1e-300)

    def _heun(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        safe = torch.where(step > 0, step, 1.0)
        push = _push(self.u, self.v, self._size)
        carried = self._carried(self.particles, self.u, self.v)
        u, v, lift = self._viscous(step, push, self.pressure)
        pressure = self.pressure + lift / safe
        particles = self.particles + step * carried
        later = _push(u, v, self._size)
        push = 0.5 * (push[0] + later[0]), 0.5 * (push[1] + later[1])
        particles = 0.5 * (self.particles + particles + step * self._carried(particles, u, v))
        u, v, lift = self._viscous(step, push, pressure)
        return u, v, particles, pressure + lift / safe

    def _viscous(self, step: Tensor, push: tuple[Tensor, ...], pressure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A step from the velocity at hand with this push and pressure, free of divergence."""
        slope_x, slope_y = pressure.diff(dim=1) / self._size, pressure.diff(dim=2) / self._size
        rate = 0.5 * self._viscosity * step
        u = self._for_u.crank_nicolson(self.u[:, 1:-1], step * (push[0] + self._force_u - slope_x), rate)
        v = self._for_v.crank_nicolson(self.v[:, :, 1:-1], step * (push[1] + self._force_v - slope_y), rate)
        return self._project(u, v)

    def _project(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocities at all faces, free of divergence, and the potential whose gradient was taken off."""
        u, v = torch.nn.functional.pad(u, (0, 0, 1, 1)), torch.nn.functional.pad(v, (1, 1))
        potential = self._for_pressure.inverse((u.diff(dim=1) + v.diff(dim=2)) / self._size)
        u[:, 1:-1] -= potential.diff(dim=1) / self._size
        v[:, :, 1:-1] -= potential.diff(dim=2) / self._size
        return u, v, potential

    def _carried(self, particles: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Change of the particles in time."""
        return _inflow(particles, u, self._size) + _inflow(particles.mT, v.mT, self._size).mT


class _Helmholtz:
    """The Laplacian of second differences, diagonal in products of modes."""

    def __init__(self, x: Modes, y: Modes, shape: tuple[int, ...], cell_size: float):
        self._x, self._y = x, y
        self._eigenvalues = x.differences(cell_size, shape[1])[:, None] + y.differences(cell_size, shape[2])

    def crank_nicolson(self, values: Tensor, added: Tensor, rate: Tensor) -> Tensor:
        """Solve (1 − rate Δ) new = (1 + rate Δ) values + added."""
        values, added = to_modes(values, self._x, self._y), to_modes(added, self._x, self._y)
        damping = rate * self._eigenvalues
        return from_modes(((1.0 - damping) * values + added) / (1.0 + damping), self._x, self._y)

    def inverse(self, values: Tensor) -> Tensor:
        """Solve Δ new = values, both without mean."""
        found = to_modes(values, self._x, self._y) / -self._eigenvalues.clamp(min=1e-300)
        found[:, 0, 0] = 0.0
        return from_modes(found, self._x, self._y)


def _push(u: Tensor, v: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Change of both velocities in time by advection, at the faces that are no walls."""
    return _push_along_x(u, v, size), _push_along_x(v.mT, u.mT, size).mT


def _push_along_x(u: Tensor, v: Tensor, size: float) -> Tensor:
    centre = 0.5 * (u[:, 1:] + u[:, :-1])
    across = 0.5 * (v[:, 1:] + v[:, :-1])  # at corners; 0 at walls, where u does not matter
    corner = torch.nn.functional.pad(0.5 * (u[:, 1:-1, 1:] + u[:, 1:-1, :-1]), (1, 1))
    return -((centre * centre).diff(dim=1) + (corner * across).diff(dim=2)) / size


def _inflow(values: Tensor, u: Tensor, size: float) -> Tensor:
    """What flows into each cell through its faces across X, for a cell of volume 1."""
    below, above = sides_of_faces(mirrored(values))
    return -(u * torch.where(u > 0, below, above)).diff(dim=1) / size


def _between(values: Tensor) -> Tensor:
    """Averages at the faces between cells along X `[B, X − 1, Y]`."""
    return 0.5 * (values[:, 1:] + values[:, :-1])


def _check_walls(walls: str) -> None:
    if walls not in WALLS:
        raise ConfigError(f"`walls` must be one of {WALLS}, got {walls!r}")
