"""What each solver is asked: problems whose answer is known, on ever finer grids, and what it has to keep.

Not advection, whose solver moves the initial state: that is the exact solution itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flare_datasets.pdebench.solvers.burgers import solve_burgers
from flare_datasets.pdebench.solvers.compressible_1d import solve_compressible
from flare_datasets.pdebench.solvers.darcy import DarcyConfig, conductances, draw_coefficient, outflow, solve_darcy
from flare_datasets.pdebench.solvers.diffusion_reaction import solve_diffusion_reaction
from flare_datasets.pdebench.solvers.diffusion_sorption import Sorption, solve_diffusion_sorption
from flare_datasets.pdebench.solvers.exact import (
    centres,
    cole_hopf,
    drifting_vortex,
    forced_eddy,
    logistic,
    smooth_darcy,
    sorption_series,
    stoker,
    taylor_green,
)
from flare_datasets.pdebench.solvers.incompressible import (
    IncompressibleConfig,
    IncompressibleFlow,
    draw_start,
    solve_incompressible,
)
from flare_datasets.pdebench.solvers.one_d_riemann import solve_riemann
from flare_datasets.pdebench.solvers.one_d_waves import draw_waves
from flare_datasets.pdebench.solvers.reaction_diffusion import solve_reaction_diffusion
from flare_datasets.pdebench.solvers.shallow_water import solve_shallow_water

TAU = 2 * math.pi
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """A problem with a known answer.

    Attributes:
        solver: family of PDEBench.
        problem: what is solved, and against what.
        refined: what the sizes count; each is `factor` times as fine as the one before.
        error: "mean" or "largest".
        sizes: from coarse to fine.
        of: the error at a size.
        factor: of refinement.
    """

    solver: str
    problem: str
    refined: str = "cells a side"
    error: str = "mean"
    sizes: Sequence[int]
    of: Callable[[int], float]
    factor: int = 2


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Something that does not change.

    Attributes:
        solver: family of PDEBench.
        problem: in what.
        what: is kept.
        drift: the largest change, relative to the largest value.
    """

    solver: str
    problem: str
    what: str
    drift: Callable[[], float]


def mean(x: Tensor) -> float:
    """Of the size of all values."""
    return float(x.abs().mean())


def largest(x: Tensor) -> float:
    """Likewise."""
    return float(x.abs().max())


def drift(totals: Tensor) -> float:
    """Of totals [..., T] over time."""
    return largest(totals - totals[..., :1]) / max(largest(totals), 1e-300)


# One dimension


def _burgers(n: int) -> float:
    viscosity = 0.02
    u = solve_burgers(cole_hopf(centres(n), 0.0, viscosity)[None], math.pi * viscosity, [0.0, 0.5])
    return mean(u[0, :, -1] - cole_hopf(centres(n), 0.5, viscosity))


def _shocks() -> float:
    waves = draw_waves([(0, i) for i in range(8)], CPU)(centres(256))
    u = solve_burgers(waves, 0.001, torch.linspace(0, 2, 11, dtype=torch.float64))
    return drift(u.mean(1)) * largest(u.mean(1)) / largest(u)


def _growth(steps: int) -> float:
    start = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64)[:, None].expand(-1, 16)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    u = solve_reaction_diffusion(start, 0.5, 5.0, times, max_growth=1.25 / steps)
    return largest(u - logistic(start, 5.0, times))


def _heat(n: int) -> float:
    x = centres(n)
    u = solve_reaction_diffusion((0.5 + 0.3 * torch.sin(3 * TAU * x))[None], 0.02, 0.0, [0.0, 0.7])
    return largest(u[0, :, -1] - 0.5 - 0.3 * math.exp(-0.02 * (3 * TAU) ** 2 * 0.7) * torch.sin(3 * TAU * x))


def _sorption(n: int) -> float:
    medium = Sorption(diffusivity=0.1, exponent=1.0)
    start = torch.full((1, n), 0.1, dtype=torch.float64)
    u = solve_diffusion_sorption(start, medium, [0.0, 2.0, 4.0, 6.0], steps_per_frame=n // 8).u
    return mean(u[0, :, -1] - sorption_series(centres(n), 6.0, 0.1, medium))


def _sorption_balance() -> float:
    medium, start = Sorption(), torch.tensor([[0.0], [0.1]], dtype=torch.float64).expand(-1, 128)
    times = torch.linspace(0, 500, 11, dtype=torch.float64)
    found = solve_diffusion_sorption(start, medium, times, steps_per_frame=4)
    held = medium.held(found.u).mean(dim=1)
    return largest(held - held[:, :1] - found.inflow + found.outflow) / largest(held)


def _tube(n: int) -> float:
    left, right, x = (1.0, 0.0, 1.0), (0.125, 0.0, 0.1), centres(n)
    start = [torch.where(x < 0.5, a, b).to(torch.float64)[None] for a, b in zip(left, right, strict=True)]
    found = solve_compressible(*start, [0.0, 0.2], gamma=1.4, boundary="trans")[0, :, -1, 0]
    return mean(found - torch.from_numpy(solve_riemann(left, right, (x.numpy() - 0.5) / 0.2)[0]))


def _density(n: int) -> float:
    def average(moved: float) -> Tensor:  # over cells
        return 1 + 0.3 * torch.sin(TAU * (centres(n) - moved)) * math.sin(math.pi / n) / (math.pi / n)

    even = torch.ones(1, n, dtype=torch.float64)
    found = solve_compressible(average(0.0)[None], 0.7 * even, even, [0.0, 1.0])
    return mean(found[0, :, -1, 0] - average(0.7))


def _viscous() -> Tensor:
    x = centres(128)[None]
    return solve_compressible(
        1 + 0.2 * torch.sin(TAU * x), 0.3 * torch.sin(2 * TAU * x + 0.5), 1 + 0.1 * torch.cos(TAU * x),
        [0.0, 0.1, 0.2], eta=0.05, zeta=0.05,
    )  # fmt: skip


def _mass() -> float:
    return drift(_viscous()[..., 0].mean(1))


def _energy() -> float:
    density, pressure, velocity = _viscous().unbind(-1)
    return drift((1.5 * pressure + density * velocity**2 / 2).mean(1))


# Two dimensions


def _darcy(n: int) -> float:
    a, source, exact = smooth_darcy(n)
    return largest(solve_darcy(a, source) - exact)


def _darcy_balance() -> float:
    config = DarcyConfig(num_samples=3, resolution=64)
    a = torch.stack([draw_coefficient(config, i) for i in range(3)])
    u = solve_darcy(a, 1.0, tolerance=1e-12)
    return largest(outflow(u, *conductances(a)) * 64**2 - 1)


def _bumps(n: int) -> Tensor:
    """Smooth, and without slope at the sides in any odd derivative."""
    x = math.pi / 2 * (centres(n, -1, 1) + 1)
    u = torch.exp(torch.cos(2 * x[:, None]) + torch.cos(x) - 2)
    return torch.stack([u, 0.5 - u], dim=-1)[None]


def _reaction_steps(steps: int) -> float:
    def at(count: int) -> Tensor:
        return solve_diffusion_reaction(_bumps(16), [0, 0.8], cell_size=1 / 8, longest_step=0.8 / count)[..., -1, :]

    return largest(at(steps) - at(1024))


def _reaction_cells(n: int) -> float:
    def on(cells: int) -> Tensor:
        return solve_diffusion_reaction(_bumps(cells), [0, 0.5], cell_size=2 / cells, longest_step=0.05)[0, :, :, -1]

    # Every centre of a coarse grid is one of a grid an odd number of times as fine.
    ratio = 108 // n
    return largest(on(n) - on(108)[ratio // 2 :: ratio, ratio // 2 :: ratio])


def _species() -> float:
    state = torch.randn(2, 32, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frames = solve_diffusion_reaction(state, [0, 5.0], cell_size=0.1, k=None)
    return largest(frames.mean((1, 2)).diff(dim=-2)) / largest(state)


def _dam(n: int) -> float:
    x = centres(n, -2.5, 2.5)
    depth = torch.where(x < 0, 2.0, 1.0).to(torch.float64)[:, None].expand(n, 3)
    state = torch.stack([depth, 0 * depth, 0 * depth], dim=-1)[None]
    return mean(solve_shallow_water(state, [0.0, 1.0], cell_size=5 / n)[0, :, 1, -1, 0] - stoker(x, 1.0))


def _vortex(n: int) -> float:
    frame = solve_shallow_water(drifting_vortex(n, 0.0), [0.0, 0.5], cell_size=4 / n)[..., -1, :]
    return mean((frame - drifting_vortex(n, 0.5))[..., 0])


def _water() -> float:
    x = centres(64, -2.5, 2.5)
    depth = torch.where(torch.hypot(x[:, None], x) < 1.5, 2.0, 1.0).to(torch.float64)
    state = torch.stack([depth, 0 * depth, 0 * depth], dim=-1)[None]
    frames = solve_shallow_water(state, torch.linspace(0, 6, 4), cell_size=5 / 64, boundary="walls")
    return drift(frames[..., 0].sum((1, 2)))


def _taylor_green(n: int) -> float:
    velocity, stream = taylor_green(n)
    frame = solve_incompressible(
        velocity, 1 + stream**2, 0 * velocity, [0.0, 0.5], cell_size=1 / n, viscosity=0.05, walls="free-slip"
    )[..., -1, :2]
    return largest(frame - velocity * math.exp(-2 * math.pi**2 * 0.05 * 0.5))


def _eddy(n: int) -> float:
    velocity, force = forced_eddy(n, 0.1)
    arguments: tuple[Any, ...] = (velocity, torch.ones(1, n, n), force, [0.0, 0.2])
    return largest(solve_incompressible(*arguments, cell_size=1 / n, viscosity=0.1, cfl=0.5)[..., -1, :2] - velocity)


def _stirred() -> tuple[IncompressibleFlow, Tensor]:
    config = IncompressibleConfig(num_samples=2, resolution=64)
    starts = [draw_start(config, i) for i in range(2)]
    velocity, particles, force = (torch.stack(part) for part in zip(*starts, strict=True))
    flow = IncompressibleFlow(velocity, particles, force, cell_size=1 / 64, viscosity=0.01)
    flow.advance(1.0)
    return flow, particles


def _particles() -> float:
    flow, before = _stirred()
    return largest(flow.particles.sum((1, 2)) / before.sum((1, 2)) - 1)


def _divergence() -> float:
    flow, _ = _stirred()
    return largest(flow.divergence()) / 64 / largest(flow.at_centres()[..., :2])


CONVERGENCE = (
    Convergence(solver="burgers", problem="a wave of Cole and Hopf", sizes=(32, 64, 128, 256, 512), of=_burgers),
    Convergence(solver="reaction_diffusion", problem="logistic growth", refined="steps a frame", error="largest",
                sizes=(8, 16, 32, 64, 128), of=_growth),
    Convergence(solver="reaction_diffusion", problem="heat that fades", error="largest", sizes=(16, 32), of=_heat),
    Convergence(solver="diffusion_sorption", problem="linear sorption, its series", sizes=(16, 32, 64, 128, 256),
                of=_sorption),
    Convergence(solver="compressible_1d", problem="Sod's tube, the exact density", sizes=(50, 100, 200, 400, 800),
                of=_tube),
    Convergence(solver="compressible_1d", problem="a smooth density, carried", sizes=(16, 32, 64, 128), of=_density),
    Convergence(solver="darcy", problem="a made solution", error="largest", sizes=(16, 32, 64, 128, 256), of=_darcy),
    Convergence(solver="diffusion_reaction", problem="smooth bumps, against 1,024 steps", refined="steps",
                error="largest", sizes=(8, 16, 32, 64), of=_reaction_steps),
    Convergence(solver="diffusion_reaction", problem="smooth bumps, against 108 cells", error="largest",
                sizes=(4, 12, 36), of=_reaction_cells, factor=3),
    Convergence(solver="shallow_water", problem="Stoker's dam break, depth", sizes=(50, 100, 200, 400), of=_dam),
    Convergence(solver="shallow_water", problem="a vortex that drifts, depth", sizes=(24, 48, 96, 192), of=_vortex),
    Convergence(solver="incompressible", problem="the vortex of Taylor and Green", error="largest",
                sizes=(16, 32, 64, 128), of=_taylor_green),
    Convergence(solver="incompressible", problem="an eddy within walls, kept by a force", error="largest",
                sizes=(16, 32, 64), of=_eddy),
)  # fmt: skip
KEPT = (
    Kept(solver="burgers", problem="eight waves with shocks", what="mean", drift=_shocks),
    Kept(solver="diffusion_sorption", problem="the medium of the benchmark", what="mass less inflow plus outflow",
         drift=_sorption_balance),
    Kept(solver="compressible_1d", problem="viscous flow, periodic", what="mass", drift=_mass),
    Kept(solver="compressible_1d", problem="viscous flow, periodic", what="energy", drift=_energy),
    Kept(solver="darcy", problem="random patches", what="outflow of each cell less its source", drift=_darcy_balance),
    Kept(solver="diffusion_reaction", problem="noise, no reaction", what="means of both species", drift=_species),
    Kept(solver="shallow_water", problem="a column within walls", what="mass", drift=_water),
    Kept(solver="incompressible", problem="stirred for a second", what="particles", drift=_particles),
    Kept(solver="incompressible", problem="stirred for a second", what="divergence, 0, times cell size over speed",
         drift=_divergence),
)  # fmt: skip
