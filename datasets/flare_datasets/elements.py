"""What finite-element solutions on triangles share (scikit-fem): set-up, sides, values at vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import MeshError

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

_CORNERS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def import_skfem() -> Any:
    """scikit-fem.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import skfem
    except ImportError as error:
        raise ImportError("data sets are solved with scikit-fem: pip install 'flare-connect[generate]'") from error
    return skfem


def gradient_at_corners(basis: Any, coefficients: Array) -> tuple[Array, Array]:
    """Gradient `[(components,) 2, E, 3]` at the corners of each triangle, and the triangles' areas `[E]`."""
    skfem = import_skfem()
    at_corners = skfem.Basis(basis.mesh, basis.elem, quadrature=(_CORNERS, np.full(3, 1.0 / 6.0)))
    return np.asarray(at_corners.interpolate(coefficients).grad), at_corners.dx.sum(axis=1)


def average_at_vertices(values: Array, area: Array, vertex: Ids, num_vertices: int) -> Array:
    """Mean `[N, c]` over the triangles around each vertex, by area, of `values [c, E, 3]` at their corners.

    Args:
        values: one value a corner.
        area: of the triangles `[E]`.
        vertex: which vertex each corner belongs to `[E, 3]`.
        num_vertices: N.
    """
    weight = np.repeat(area[:, None], 3, axis=1)
    total = np.bincount(vertex.ravel(), weight.ravel(), num_vertices)
    sums = [np.bincount(vertex.ravel(), (weight * part).ravel(), num_vertices) for part in values]
    with np.errstate(invalid="ignore"):  # a vertex that stands for none
        return np.stack(sums, axis=1) / total[:, None]


def factorise(matrix: Any) -> Any:
    """Factor of a sparse symmetric positive definite matrix, with `solve`."""
    from scipy.sparse.linalg import splu

    return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def solve_held(matrix: Any, load: Array, held: NDArray[np.bool_], values: Array) -> Array:
    """Solution `[dofs]` of `matrix @ x = load` in the dofs that are not `held`; those that are have their `values`."""
    free = np.flatnonzero(~held)
    solution = np.where(held, values, 0.0)
    residual = load - matrix @ solution
    solution[free] = factorise(matrix[np.ix_(free, free)]).solve(residual[free])
    return solution


def side_edges(mesh: Any, nodes: Ids) -> Ids:
    """Boundary edges of a `skfem.MeshTri` that join two of `nodes`.

    Raises:
        MeshError: there is none.
    """
    marked = np.zeros(mesh.p.shape[1], dtype=bool)
    marked[nodes] = True
    boundary = mesh.boundary_facets()
    found = boundary[marked[mesh.facets[:, boundary]].all(axis=0)]
    if len(found) == 0:
        raise MeshError(f"no edge of the boundary joins two of the {len(nodes)} nodes given")
    return found


def check_held(mesh: Any, held: Ids) -> None:
    """Check that every vertex is joined to one that is held: else the problem is singular.

    Raises:
        MeshError: a piece of the mesh is free to float.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = mesh.p.shape[1]
    graph = coo_matrix((np.ones(mesh.facets.shape[1]), mesh.facets), shape=(count, count))
    pieces, piece = connected_components(graph, directed=False)
    floating = np.setdiff1d(np.arange(pieces), piece[held])
    if len(floating):
        sizes = np.bincount(piece)[floating]
        raise MeshError(
            f"{len(floating)} of {pieces} pieces of the plate are held nowhere (of {sizes.tolist()[:8]} vertices): the "
            "problem is singular; hold a node of each, or remove them"
        )
