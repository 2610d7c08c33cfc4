"""Steady heat conduction on a plate with quadratic elements: temperature, and heat flux at the vertices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class HeatSolution:
    """Fields at the N mesh vertices, of a plate with conductivity 1."""

    temperature: Array
    """`[N]`."""
    flux: Array
    """`[N, 2]` minus the gradient of the temperature, averaged over the triangles around a vertex."""
    flux_magnitude: Array
    """`[N]` of `flux`."""
    dissipation: float
    r"""$\int |\nabla T|^2$."""


def solve_heat(
    pos: ArrayLike,
    triangles: ArrayLike,
    held: Sequence[tuple[Ids, float]],
    source: Callable[[Array], Array] | None = None,
) -> HeatSolution:
    r"""Solve $-\Delta T = f$ with temperatures held at parts of the boundary; the rest of it is insulated.

    Args:
        pos: vertices `[N, 2]`.
        triangles: vertex ids `[E, 3]`; triangles that share an edge conduct, whatever the places of their vertices.
        held: vertices of a part of the boundary and their temperature, for each part that is held.
        source: heat per area, of points `[2, ...]`; none by default.

    Raises:
        MeshError: a part has no edge on the boundary, or a piece of the plate is held nowhere.
        ConfigError: nothing is held, or a temperature is not finite.
        ImportError: scikit-fem is not installed.

    Good values: 5,000 vertices; flux at the tip of a slit is infinite, and what is there depends on the mesh.
    """
    if not held or not all(np.isfinite(value) for _, value in held):
        raise ConfigError(f"`held` must name parts of the boundary with finite temperatures, got {held!r}")
    skfem = import_skfem()
    points = np.asarray(pos, dtype=np.float64)
    mesh = skfem.MeshTri(points.T.copy(), np.asarray(triangles, dtype=np.int64).T.copy())
    check_held(mesh, np.concatenate([nodes for nodes, _ in held]))
    basis = skfem.Basis(mesh, skfem.ElementTriP2(), intorder=2)
    fixed, values = np.zeros(basis.N, dtype=bool), np.zeros(basis.N)
    for nodes, value in held:
        dofs = np.concatenate([basis.nodal_dofs[0, nodes], basis.facet_dofs[0, side_edges(mesh, nodes)]])
        fixed[dofs], values[dofs] = True, value

    @skfem.BilinearForm  # type: ignore[untyped-decorator,unused-ignore]
    def conduction(u: Any, v: Any, _: Any) -> Any:
        return u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1]

    matrix = conduction.assemble(basis).tocsr()
    temperature = solve_held(matrix, _load(basis, source), fixed, values)
    gradient, area = gradient_at_corners(basis, temperature)
    flux = -average_at_vertices(gradient, area, mesh.t.T, len(points))
    return HeatSolution(
        temperature=temperature[basis.nodal_dofs[0]],
        flux=flux,
        flux_magnitude=np.linalg.norm(flux, axis=1),
        dissipation=float(temperature @ (matrix @ temperature)),
    )


def _load(basis: Any, source: Callable[[Array], Array] | None) -> Array:
    if source is None:
        return np.zeros(basis.N)
    skfem = import_skfem()

    @skfem.LinearForm  # type: ignore[untyped-decorator,unused-ignore]
    def power(v: Any, w: Any) -> Any:
        return source(np.asarray(w.x)) * v

    return np.asarray(power.assemble(skfem.Basis(basis.mesh, basis.elem, intorder=5)), dtype=np.float64)
