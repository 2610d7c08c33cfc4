"""One sample: holes drawn, channel meshed, flow stepped from frame to frame."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flare_connect.errors import MeshError
from flare_datasets.generation import as_mesh
from flare_datasets.holed_channels.config import HoledChannelConfig
from flare_datasets.holed_channels.flow import COURANT, FlowSolver
from flare_datasets.holed_channels.geometry import Array
from flare_datasets.holed_channels.layouts import LENGTH, draw_holes
from flare_datasets.holed_channels.meshing import ChannelMesh, mesh_channel
from flare_datasets.holed_channels.operators import Operators
from flare_datasets.workers import Drawn, draw_with_retries

if TYPE_CHECKING:  # torch takes seconds and half a gigabyte to load, in every worker, which have no use for it
    from flare_connect.mesh import Mesh

UNITS = {
    "pos": "channel height",
    "velocity": "mean speed at the inlet",
    "temperature": "1",
    "reynolds": "1",
    "viscosity": "channel height · mean speed at the inlet",
    "num_holes": "1",
}
STEP = 2.0**-12
"""What is kept of a field is a multiple of this: as much as a model can tell, and a file half as large."""

_MOST_REFINEMENTS = 3  # each with two thirds of the time step


def generate_sample(config: HoledChannelConfig, index: int) -> Mesh:
    r"""Draw, mesh and solve sample `index`; depends on the configuration and the index alone.

    $\partial_t u + u \cdot \nabla u = -\nabla p + \nu \Delta u$, $\nabla \cdot u = 0$ and
    $\partial_t T + u \cdot \nabla T = \kappa \Delta T$ with $u = (6 y (1 - y), 0)$, $T = 0$ at the inlet, $u = 0$ on
    walls and holes, $T$ given on each hole.

    Returns:
        A mesh of triangles with node sets `inlet`, `outlet`, `walls` and `holes`; `point_data` (float32, in steps of
        `STEP`) `velocity [N, T, 2]` and `temperature [N, T]`; `global_data` (float32) `reynolds [1]`, `viscosity [1]`
        and `num_holes [1]`.

    Raises:
        ConfigError: there is no such index.
        MeshError: five draws in a row could not be meshed and solved; the message gives each cause.
        ImportError: gmsh or scikit-fem is not installed.
    """
    return as_mesh(draw_sample(config, index)[0], UNITS)


def draw_sample(config: HoledChannelConfig, index: int) -> Drawn:
    """The sample as numpy arrays, by argument of `Mesh.from_arrays`; and why earlier draws of it were given up."""
    return draw_with_retries(_attempt, config, index)


def _attempt(config: HoledChannelConfig, index: int, attempt: int) -> dict[str, Any]:
    split, _ = config.split_of(index)
    # Two streams: another flow does not change the channel.
    shape, flow = (np.random.default_rng([*config.seed_of(index, attempt), stream]) for stream in (0, 1))
    _, num_nodes = config.draw_nodes(shape)
    holes = draw_holes(config, shape, split)
    mesh = mesh_channel(holes, num_nodes)
    least, most = config.reynolds
    reynolds = float(least * (most / least) ** flow.random())
    velocity, temperature = frames(config, flow, mesh, 1.0 / reynolds)
    return {
        "pos": mesh.pos,
        "cells": {"triangle": mesh.triangles},
        "point_data": {"velocity": _rounded(velocity), "temperature": _rounded(temperature)},
        "global_data": {
            name: np.array([value], dtype=np.float32)
            for name, value in {"reynolds": reynolds, "viscosity": 1.0 / reynolds, "num_holes": len(holes)}.items()
        },
        "sets": {name: getattr(mesh, name) for name in ("inlet", "outlet", "walls", "holes")},
    }


def frames(
    config: HoledChannelConfig, rng: np.random.Generator, mesh: ChannelMesh, viscosity: float
) -> tuple[Array, Array]:
    """Velocity `[N, T, 2]` and temperature `[N, T]` at the vertices.

    Args:
        config: frames, and what is drawn.
        rng: source of temperatures and eddies.
        mesh: a channel.
        viscosity: of the fluid.

    Raises:
        MeshError: the flow stays too fast for ever shorter steps.
    """
    holes = [f"hole {i}" for i in range(len(mesh.hole_nodes))]
    sets = {"inlet": mesh.inlet, "walls": mesh.walls, **dict(zip(holes, mesh.hole_nodes, strict=True))}
    operators = Operators.of(mesh.pos, mesh.triangles, sets, mesh.outlet)
    held, cold = np.zeros((2, len(operators.places)), dtype=bool)
    given, temperature = np.zeros((len(held), 2)), np.zeros(len(held))
    for nodes in operators.edges.values():
        held[nodes] = True
    y = operators.places[operators.edges["inlet"], 1]
    given[operators.edges["inlet"], 0] = 6.0 * y * (1.0 - y)
    whirl, warmth = _eddies(config, rng, operators.places)
    temperature += warmth
    cold[operators.edges["inlet"]] = True
    temperature[operators.edges["inlet"]] = 0.0
    for name in holes:
        cold[operators.edges[name]] = True
        temperature[operators.edges[name]] = rng.uniform(-config.temperature, config.temperature)

    solver_of = partial(
        FlowSolver, operators, viscosity=viscosity, diffusivity=viscosity / config.prandtl,
        held=np.stack([held, held], axis=1), held_temperature=cold,
    )  # fmt: skip
    start = solver_of(time_step=config.time_step)
    velocity = np.where(start.held, given, start.stokes(given) + whirl)
    substeps = math.ceil(start.courant(velocity) / COURANT)
    for _ in range(_MOST_REFINEMENTS):
        try:
            return _stepped(config, solver_of(time_step=config.time_step / substeps), velocity, temperature, substeps)
        except MeshError as error:
            cause, substeps = error, math.ceil(1.5 * substeps)
    raise cause


def _stepped(
    config: HoledChannelConfig, solver: FlowSolver, velocity: Array, temperature: Array, substeps: int
) -> tuple[Array, Array]:
    flow, vertices = solver.steps(velocity, temperature), solver.operators.vertices
    before = max(1, round(config.spin_up / config.time_step)) * substeps  # at least one: it removes the divergence
    kept = []
    for count in range(before + (config.num_frames - 1) * substeps):
        now = next(flow)
        if count + 1 >= before and (count + 1 - before) % substeps == 0:
            kept.append(np.column_stack([now.velocity, now.temperature])[vertices])
    found = np.stack(kept, axis=1)
    return found[..., :2], found[..., 2]


def _eddies(config: HoledChannelConfig, rng: np.random.Generator, places: Array) -> tuple[Array, Array]:
    """Velocity `[n, 2]` and temperature `[n]` of Gaussian eddies."""
    velocity, temperature = np.zeros_like(places), np.zeros(len(places))
    for _ in range(int(rng.integers(config.num_eddies[0], config.num_eddies[1] + 1))):
        middle = rng.uniform([0.1, 0.1], [0.8 * LENGTH, 0.9])
        width, speed = rng.uniform(*config.eddy_width), rng.uniform(*config.eddy_speed)
        turn, warmth = rng.choice([-1.0, 1.0]), rng.uniform(-config.temperature, config.temperature)
        away = (places - middle) / width
        bell = np.exp(0.5 - 0.5 * (away**2).sum(axis=1))
        velocity += turn * speed * bell[:, None] * np.stack([-away[:, 1], away[:, 0]], axis=1)
        temperature += warmth * math.exp(-0.5) * bell
    return velocity, temperature


def _rounded(values: Array) -> Array:
    return np.asarray((np.round(values / STEP) * STEP).astype(np.float32))
