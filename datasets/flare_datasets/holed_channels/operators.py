"""Finite elements of a flow as sparse matrices: values and slopes at points of integration, and their products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flare_datasets.elements import Array, Ids, import_skfem, side_edges

_ORDER = 5  # a quadratic, times the slope of one, times a quadratic


@dataclass(frozen=True)
class Operators:
    """Quadratic elements (n nodes, those of the mesh and the middles of edges) with linear ones for pressure (N nodes).

    Points of integration are Q in the triangles, and R on the edges of the outlet.
    """

    places: Array
    """`[n, 2]` of the quadratic nodes."""
    vertices: Ids
    """`[N]` which of them are the vertices of the mesh."""
    values: Any
    """`[Q, n]` sparse: from nodes to points."""
    slopes: tuple[Any, Any]
    """`[Q, n]` sparse: derivatives along x and y."""
    loads: Any
    """`[n, Q]` sparse: integrals against each node, from values at points."""
    reference_slopes: tuple[Array, Array]
    """`[Q, 2]` each: x and y components of the rows of the inverse Jacobian; a speed through them is one in triangles
    a unit wide."""
    mass: Any
    """`[n, n]`."""
    stiffness: Any
    """`[n, n]`, of the Laplacian."""
    divergence: tuple[Any, Any]
    """`[N, n]`, of each component, against the pressure's elements."""
    outlet_values: Any
    """`[R, n]` sparse: from nodes to points on the outlet."""
    outlet_weights: Array
    """`[R]`."""
    outlet_normals: Array
    """`[R, 2]` outward."""
    edges: dict[str, Ids]
    """Set of vertices → quadratic nodes on the boundary edges that join two of them."""

    @classmethod
    def of(cls, pos: ArrayLike, triangles: ArrayLike, sets: dict[str, Ids], outlet: Ids | None) -> Operators:
        """Operators of a mesh.

        Args:
            pos: vertices `[N, 2]`.
            triangles: vertex ids `[E, 3]`, counter-clockwise.
            sets: parts of the boundary by their vertices.
            outlet: vertices of the part that is open; None if there is none.

        Raises:
            MeshError: a part has no edge on the boundary.
            ImportError: scikit-fem is not installed.
        """
        from scipy.sparse import csr_matrix, diags

        skfem = import_skfem()
        points = np.asarray(pos, dtype=np.float64)
        mesh = skfem.MeshTri(points.T.copy(), np.asarray(triangles, dtype=np.int64).T.copy())
        basis = skfem.Basis(mesh, skfem.ElementTriP2(), intorder=_ORDER)
        linear = skfem.Basis(mesh, skfem.ElementTriP1(), quadrature=basis.quadrature)
        values, pressure = _matrix(basis), _matrix(linear)
        slopes = _matrix(basis, 0), _matrix(basis, 1)
        weighted = diags(np.asarray(basis.dx).ravel())
        inverse = np.asarray(mesh.mapping().invDF(basis.quadrature[0]))
        rows = tuple(np.ascontiguousarray(inverse[i].reshape(2, -1).T) for i in (0, 1))
        if outlet is None:
            at_outlet, outlet_weights, normals = csr_matrix((0, basis.N)), np.empty(0), np.empty((0, 2))
        else:
            side = skfem.FacetBasis(mesh, skfem.ElementTriP2(), facets=side_edges(mesh, outlet), intorder=_ORDER)
            at_outlet, outlet_weights = _matrix(side), np.asarray(side.dx).ravel()
            normals = np.asarray(side.normals).reshape(2, -1).T
        return cls(
            places=np.asarray(basis.doflocs).T,
            vertices=np.asarray(basis.nodal_dofs[0]),
            values=values,
            slopes=slopes,
            loads=(values.T @ weighted).tocsr(),
            reference_slopes=(rows[0], rows[1]),
            mass=(values.T @ weighted @ values).tocsr(),
            stiffness=sum(slope.T @ weighted @ slope for slope in slopes).tocsr(),
            divergence=((pressure.T @ weighted @ slopes[0]).tocsr(), (pressure.T @ weighted @ slopes[1]).tocsr()),
            outlet_values=at_outlet,
            outlet_weights=outlet_weights,
            outlet_normals=normals,
            edges={name: np.asarray(basis.get_dofs(side_edges(mesh, nodes)).all()) for name, nodes in sets.items()},
        )


def _matrix(basis: Any, axis: int | None = None) -> Any:
    """Values of the basis at its points of integration, or derivatives along an axis, as a sparse matrix."""
    from scipy.sparse import csr_matrix

    shape = basis.dx.shape
    parts = []
    for i in range(basis.Nbfun):
        shown = basis.basis[i][0]
        found = np.asarray(shown) if axis is None else shown.grad[axis]
        parts.append(np.broadcast_to(found, shape).ravel())
    rows = np.tile(np.arange(shape[0] * shape[1]), basis.Nbfun)
    columns = np.concatenate([np.repeat(basis.element_dofs[i], shape[1]) for i in range(basis.Nbfun)])
    return csr_matrix((np.concatenate(parts), (rows, columns)), shape=(shape[0] * shape[1], basis.N))
