"""Plane-strain elasticity of a plate with quadratic elements: displacement, and stress at the vertices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flare_connect.errors import ConfigError
from flare_datasets.elements import (
    Array,
    Ids,
    average_at_vertices,
    check_held,
    gradient_at_corners,
    import_skfem,
    side_edges,
    solve_held,
)
from flare_datasets.plane_strain import corner_stress, plane_strain_stiffness, stiffness_matrix, von_mises

_AXES = {"x": (0,), "y": (1,), "xy": (0, 1)}


@dataclass(frozen=True)
class ElasticSolution:
    """Fields at the N mesh vertices; stress in the unit of Young's modulus."""

    displacement: Array
    """`[N, 2]`."""
    stress: Array
    """`[N, 3]` xx, yy, xy, averaged over the triangles around a vertex."""
    von_mises: Array
    """`[N]` of `stress` with the plane-strain zz part."""
    energy: float
    """Strain energy, per unit of thickness."""


def solve_elasticity(
    pos: ArrayLike,
    triangles: ArrayLike,
    held: Sequence[tuple[Ids, str]],
    tractions: Sequence[tuple[Ids, ArrayLike]],
    youngs_modulus: float = 1.0,
    poisson_ratio: float = 0.3,
) -> ElasticSolution:
    r"""Solve $\nabla \cdot \sigma = 0$, $\sigma = C : \varepsilon(u)$ with tractions at parts of the boundary.

    $C$ is isotropic in plane strain. The boundary that is neither held nor loaded is free of traction; the lips of a
    slit do not feel each other, and go through each other where they are pressed together.

    Args:
        pos: vertices `[N, 2]`.
        triangles: vertex ids `[E, 3]`; triangles that share an edge are joined, whatever the places of their vertices.
        held: vertices of a part of the boundary, or single ones, and which displacements are zero there: "x", "y" or
            "xy".
        tractions: vertices of a part of the boundary, and the force on it per length `[2]`.
        youngs_modulus: $E$.
        poisson_ratio: $\nu$, below 0.5.

    Raises:
        MeshError: a loaded part has no edge on the boundary, or a piece of the plate is held nowhere.
        ConfigError: material or traction out of range, nothing is held in x or in y, or another word in `held`.
        ImportError: scikit-fem is not installed.

    Good values: 5,000 vertices; stress at the tip of a slit is infinite, and what is there depends on the mesh.
    """
    tensor = plane_strain_stiffness(youngs_modulus, poisson_ratio)
    _check(held, tractions)
    skfem = import_skfem()
    points = np.asarray(pos, dtype=np.float64)
    mesh = skfem.MeshTri(points.T.copy(), np.asarray(triangles, dtype=np.int64).T.copy())
    check_held(mesh, np.concatenate([nodes for nodes, _ in held]))
    basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=2)
    fixed = np.zeros(basis.N, dtype=bool)
    for nodes, word in held:
        for axis in _AXES[word]:
            fixed[basis.nodal_dofs[axis, nodes]] = True
            if len(nodes) > 1:
                fixed[basis.facet_dofs[axis, side_edges(mesh, nodes)]] = True
    load = np.zeros(basis.N)
    for nodes, traction in tractions:
        load += _load(basis, side_edges(mesh, nodes), np.asarray(traction, dtype=np.float64))
    matrix = stiffness_matrix(basis, tensor)
    coefficients = solve_held(matrix, load, fixed, np.zeros(basis.N))
    gradient, area = gradient_at_corners(basis, coefficients)
    stress = average_at_vertices(corner_stress(tensor, gradient), area, mesh.t.T, len(points))
    return ElasticSolution(
        displacement=coefficients[basis.nodal_dofs].T,
        stress=stress,
        von_mises=von_mises(stress, poisson_ratio),
        energy=0.5 * float(coefficients @ (matrix @ coefficients)),
    )


def _check(held: Sequence[tuple[Ids, str]], tractions: Sequence[tuple[Ids, ArrayLike]]) -> None:
    words = [word for _, word in held]
    if not set(words) <= set(_AXES):
        raise ConfigError(f"`held` must say 'x', 'y' or 'xy' for each part, got {words}")
    if {axis for word in words for axis in word} != {"x", "y"}:
        raise ConfigError(f"`held` must hold the plate in x and in y, got {words}: it would float")
    for _, traction in tractions:
        value = np.asarray(traction, dtype=np.float64)
        if value.shape != (2,) or not np.isfinite(value).all():
            raise ConfigError(f"`tractions` must be two finite numbers each, got {traction!r}")


def _load(basis: Any, edges: Ids, traction: Array) -> Array:
    skfem = import_skfem()

    @skfem.LinearForm  # type: ignore[untyped-decorator,unused-ignore]
    def work(v: Any, _: Any) -> Any:
        return traction[0] * v[0] + traction[1] * v[1]

    return np.asarray(work.assemble(skfem.FacetBasis(basis.mesh, basis.elem, facets=edges, intorder=2)))
