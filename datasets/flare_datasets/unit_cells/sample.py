"""One sample: holes drawn, cell meshed, elasticity solved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flare_datasets.generation import as_mesh
from flare_datasets.unit_cells.config import UnitCellConfig
from flare_datasets.unit_cells.elasticity import solve
from flare_datasets.unit_cells.layouts import draw_layout, draw_spots
from flare_datasets.unit_cells.meshing import mesh_cell
from flare_datasets.workers import Drawn, draw_with_retries

if TYPE_CHECKING:  # torch takes seconds and half a gigabyte to load, in every worker, which have no use for it
    from flare_connect.mesh import Mesh

UNITS = {
    "pos": "cell side",
    "displacement": "cell side",
    "fluctuation": "cell side",
    "stress": "unit of youngs_modulus",
    "von_mises": "unit of youngs_modulus",
    "macro_strain": "1",
    "num_holes": "1",
    "porosity": "1",
    "effective_stress": "unit of youngs_modulus",
}


def generate_sample(config: UnitCellConfig, index: int) -> Mesh:
    r"""Draw, mesh and solve sample `index`; depends on the configuration and the index alone.

    $\nabla \cdot \sigma = 0$, $\sigma = C : \varepsilon(u)$, $u = \bar E x + w$, $w$ periodic, $\sigma n = 0$ at holes.

    Returns:
        A mesh of triangles with node sets `holes` and `sides` and its periodic pairs. `point_data` (float32):
        `displacement [N, 2]` (total), `fluctuation [N, 2]` (its periodic part, of zero mean), `stress [N, 3]`
        (xx, yy, xy), `von_mises [N]`. `global_data` (float32): `macro_strain [3]` (exx, eyy, exy; the tensor's
        shear, half of gamma_xy), `num_holes [1]`, `porosity [1]` (areas of the drawn holes), `effective_stress [3]`
        (xx, yy, xy, averaged over the whole cell). Lengths in cell sides, stresses in the unit of
        `config.youngs_modulus`.

    Raises:
        ConfigError: there is no such index.
        MeshError: five draws in a row could not be meshed and solved; the message gives each cause.
        ImportError: gmsh or scikit-fem is not installed.
    """
    return as_mesh(draw_sample(config, index)[0], UNITS)


def draw_sample(config: UnitCellConfig, index: int) -> Drawn:
    """The sample as numpy arrays, by argument of `Mesh.from_arrays`; and why earlier draws of it were given up."""
    return draw_with_retries(_attempt, config, index)


def _attempt(config: UnitCellConfig, index: int, attempt: int) -> dict[str, Any]:
    split, _ = config.split_of(index)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed_of(index, attempt)))
    holes = draw_layout(config, rng, split)
    _, num_nodes = config.draw_nodes(rng)
    # Even on the sphere of the strains' Frobenius norm, in which exy counts twice.
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    strain = config.strain_amplitude * direction * [1.0, 1.0, np.sqrt(0.5)]

    mesh = mesh_cell(holes, num_nodes, *config.draw_grading(rng), draw_spots(config, rng))
    solution = solve(mesh.pos, mesh.triangles, mesh.periodic_pairs, strain, config.youngs_modulus, config.poisson_ratio)
    point_data = {
        "displacement": solution.displacement,
        "fluctuation": solution.fluctuation,
        "stress": solution.stress,
        "von_mises": solution.von_mises,
    }
    global_data = {
        "macro_strain": strain,
        "num_holes": np.array([len(holes)]),
        "porosity": np.array([sum(hole.area for hole in holes)]),
        "effective_stress": solution.effective_stress,
    }
    return {
        "pos": mesh.pos,
        "cells": {"triangle": mesh.triangles},
        "point_data": {name: values.astype(np.float32) for name, values in point_data.items()},
        "global_data": {name: values.astype(np.float32) for name, values in global_data.items()},
        "sets": {"holes": mesh.holes, "sides": mesh.sides},
        "periodic_pairs": mesh.periodic_pairs,
    }
