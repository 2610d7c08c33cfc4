"""Opposite sides of a periodic cell made one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import MeshError

Ids = NDArray[np.int64]


def torus_classes(mesh: Any, pairs: Ids) -> tuple[Ids, Ids, list[float]]:
    """Which vertices and facets are one on the torus.

    Args:
        mesh: a `skfem.MeshTri`.
        pairs: `[2, P]`, vertex of the left or bottom side, and the vertex one period further.

    Returns:
        A representative of each vertex `[N]`, one of each facet, and the periods found (x, y).

    Raises:
        MeshError: the pairs do not match opposite sides edge by edge, or the solid is in pieces on the torus.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    num_vertices, pos = mesh.p.shape[1], mesh.p.T
    _, label = connected_components(
        coo_matrix((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(num_vertices,) * 2), directed=False
    )
    first = np.full(label.max() + 1, num_vertices)
    np.minimum.at(first, label, np.arange(num_vertices))
    rows = np.concatenate([mesh.facets[0], first[label[mesh.facets[0]]]])
    cols = np.concatenate([mesh.facets[1], first[label[mesh.facets[1]]]])
    joined = np.concatenate([np.stack([rows, cols]), np.stack([np.arange(num_vertices), first[label]])], axis=1)
    pieces, piece = connected_components(
        coo_matrix((np.ones(joined.shape[1]), joined), shape=(num_vertices,) * 2), directed=False
    )
    if pieces != 1:
        sizes = np.bincount(piece)
        raise MeshError(f"the solid is in {pieces} pieces (of {sizes.tolist()[:8]} vertices): the problem is singular")

    facet_class = np.arange(mesh.facets.shape[1])
    ends = np.sort(mesh.facets, axis=0)
    find = {(int(a), int(b)): i for i, (a, b) in enumerate(ends.T)}
    boundary = mesh.boundary_facets()
    offset = pos[pairs[1]] - pos[pairs[0]]
    periods = []
    for axis in (0, 1):
        along = np.abs(offset[:, axis]) > 1e-6 * np.ptp(pos)
        if not along.any():
            raise MeshError(f"`periodic_pairs` must tie the sides of both directions, but none runs along axis {axis}")
        step = offset[along]
        if np.ptp(step, axis=0).max() > 1e-9 or abs(step[0, 1 - axis]) > 1e-9:
            raise MeshError(
                "`periodic_pairs` must run from the left or bottom side to the vertex one period further; offsets "
                f"along axis {axis} range from {step.min(axis=0).tolist()} to {step.max(axis=0).tolist()}"
            )
        periods.append(float(step[0, axis]))
        across = np.full(num_vertices, -1)
        across[pairs[0, along]] = pairs[1, along]
        for facet in boundary[(across[mesh.facets[:, boundary]] >= 0).all(axis=0)]:
            a, b = sorted(across[mesh.facets[:, facet]].tolist())
            if (a, b) not in find:
                raise MeshError(
                    f"vertices {mesh.facets[:, facet].tolist()} of a side have an edge, their partners have none"
                )
            facet_class[find[a, b]] = facet
    return first[label], facet_class, periods
