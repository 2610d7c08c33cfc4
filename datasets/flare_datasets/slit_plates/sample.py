"""One sample: slits drawn, plate meshed, heat flow or elasticity solved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from flare_datasets.generation import as_mesh
from flare_datasets.meshing import element_width
from flare_datasets.slit_plates.config import SlitPlateConfig
from flare_datasets.slit_plates.elasticity import solve_elasticity
from flare_datasets.slit_plates.geometry import Array
from flare_datasets.slit_plates.heat import solve_heat
from flare_datasets.slit_plates.layouts import draw_slits
from flare_datasets.slit_plates.meshing import PlateMesh, mesh_plate
from flare_datasets.workers import Drawn, draw_with_retries

if TYPE_CHECKING:  # torch takes seconds and half a gigabyte to load, in every worker, which have no use for it
    from flare_connect.mesh import Mesh

Fields = dict[str, Array]

_SHARED_UNITS = {"pos": "plate side", "num_slits": "1", "opening": "plate side"}
UNITS = {
    "heat": {
        "source": "power / area",
        "temperature": "power / conductivity",
        "flux": "power / length",
        "flux_magnitude": "power / length",
        "temperatures": "power / conductivity",
        "sources": "plate side, plate side, plate side, power",
        **_SHARED_UNITS,
    },
    "elasticity": {
        "displacement": "plate side",
        "stress": "unit of youngs_modulus",
        "von_mises": "unit of youngs_modulus",
        "traction": "unit of youngs_modulus",
        **_SHARED_UNITS,
    },
}


def generate_sample(config: SlitPlateConfig, index: int) -> Mesh:
    r"""Draw, mesh and solve sample `index`; depends on the configuration and the index alone.

    Heat: $-\Delta T = f$, $T$ held left and right, no flux through the other sides and the slits. Elasticity:
    $\nabla \cdot \sigma = 0$, $u = 0$ left, $\sigma n = t$ right, no traction at the other sides and the slits.

    Returns:
        A mesh of triangles with node sets `left`, `right`, `bottom`, `top` and `slits` (both lips, and tips).

        `point_data` (float32) of heat: `source [N]` (heat per area), `temperature [N]`, `flux [N, 2]`,
        `flux_magnitude [N]`; of elasticity: `displacement [N, 2]`, `stress [N, 3]` (xx, yy, xy), `von_mises [N]`.

        `global_data` (float32) of both: `num_slits [1]`, `opening [1]`; of heat: `temperatures [2]` (left, right),
        `sources [4 S]` (x, y, standard deviation and power of each; zeros beyond those there are; absent where
        `config.num_sources` allows none); of elasticity: `traction [2]`. Lengths in plate sides.

    Raises:
        ConfigError: there is no such index.
        MeshError: five draws in a row could not be meshed and solved; the message gives each cause.
        ImportError: gmsh or scikit-fem is not installed.
    """
    return as_mesh(draw_sample(config, index)[0], UNITS[config.physics])


def draw_sample(config: SlitPlateConfig, index: int) -> Drawn:
    """The sample as numpy arrays, by argument of `Mesh.from_arrays`; and why earlier draws of it were given up."""
    return draw_with_retries(_attempt, config, index)


def _attempt(config: SlitPlateConfig, index: int, attempt: int) -> dict[str, Any]:
    split, _ = config.split_of(index)
    # Two streams, so that the plates are the same in both physics, whatever the loads take.
    shape, loads = (np.random.default_rng([*config.seed_of(index, attempt), stream]) for stream in (0, 1))
    drawn_nodes, num_nodes = config.draw_nodes(shape)
    cracked = bool(shape.random() < config.crack_probability)
    opening = float(shape.uniform(*config.opening)) * element_width(drawn_nodes)
    slits = draw_slits(config, shape, split, 0.0 if cracked else opening)
    mesh = mesh_plate(slits, num_nodes)
    point_data, global_data = (_heat if config.physics == "heat" else _elasticity)(config, loads, mesh)
    global_data |= {"num_slits": np.array([len(slits)]), "opening": np.array([slits[0].opening])}
    return {
        "pos": mesh.pos,
        "cells": {"triangle": mesh.triangles},
        "point_data": {name: values.astype(np.float32) for name, values in point_data.items()},
        "global_data": {name: values.astype(np.float32) for name, values in global_data.items()},
        "sets": {name: getattr(mesh, name) for name in ("left", "right", "bottom", "top", "slits")},
    }


def _heat(config: SlitPlateConfig, rng: np.random.Generator, mesh: PlateMesh) -> tuple[Fields, Fields]:
    left, right = rng.uniform(-config.temperature, config.temperature, 2)
    count = int(rng.integers(config.num_sources[0], config.num_sources[1] + 1))
    sources = np.zeros((config.num_sources[1], 4))
    for row in sources[:count]:
        width = rng.uniform(*config.source_width)
        row[:] = *rng.random(2), width, rng.uniform(-config.source_power, config.source_power)

    def source(points: Array) -> Array:
        total = np.zeros(points.shape[1:])
        for x, y, width, power in sources[:count]:
            squared = ((points[0] - x) ** 2 + (points[1] - y) ** 2) / width**2
            total += power / (2.0 * math.pi * width**2) * np.exp(-0.5 * squared)
        return total

    solution = solve_heat(mesh.pos, mesh.triangles, [(mesh.left, left), (mesh.right, right)], source)
    point_data = {
        "source": source(mesh.pos.T),
        "temperature": solution.temperature,
        "flux": solution.flux,
        "flux_magnitude": solution.flux_magnitude,
    }
    global_data = {"temperatures": np.array([left, right])}
    return point_data, global_data | ({"sources": sources.ravel()} if sources.size else {})


def _elasticity(config: SlitPlateConfig, rng: np.random.Generator, mesh: PlateMesh) -> tuple[Fields, Fields]:
    angle, size = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(*config.traction)
    traction = size * np.array([math.cos(angle), math.sin(angle)])
    solution = solve_elasticity(
        mesh.pos,
        mesh.triangles,
        [(mesh.left, "xy")],
        [(mesh.right, traction)],
        config.youngs_modulus,
        config.poisson_ratio,
    )
    point_data = {
        "displacement": solution.displacement,
        "stress": solution.stress,
        "von_mises": solution.von_mises,
    }
    return point_data, {"traction": traction}
