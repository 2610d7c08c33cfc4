"""Measures, normals, distances and cell quality: arrays in, arrays out, no loop over cells.

Curved quadratic cells count as the linear pieces between their nodes, which is exact where sides are straight.
"""

from collections.abc import Mapping

import numpy as np
from scipy.spatial import cKDTree

from flare_connect.mesh.cells import CELL_KINDS, CellKind
from flare_connect.mesh.connectivity import Boundary, kind_of, topological_dim

_CHUNK = 1 << 18  # simplices at a time: keeps intermediate arrays inside a few tens of megabytes


def signed_measure(pos: np.ndarray, cells: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns cell kind → measure `[n]`, negative for inverted cells where cell and space have the same dimension."""
    return {name: _simplex_measures(pos, nodes, kind_of(name), total=True) for name, nodes in cells.items()}


def orientation(pos: np.ndarray, cells: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns cell kind → -1 for inverted cells, else 1 `[n]`; for the highest-dimensional cells only."""
    top = topological_dim(cells)
    return {
        name: np.where(_simplex_measures(pos, nodes, kind_of(name), total=True) < 0, -1, 1)
        for name, nodes in cells.items()
        if kind_of(name).dim == top
    }


def node_volume(pos: np.ndarray, cells: Mapping[str, np.ndarray]) -> np.ndarray:
    """Shares the measure of the highest-dimensional cells out to their nodes `[N]`; the sum is the total measure.

    Each simplex that fills a cell gives equal parts to its vertices. Parts that would be negative, as in strongly
    distorted cells, are set to zero and the cell's other parts scaled to keep its measure.
    """
    top = topological_dim(cells)
    volume = np.zeros(len(pos))
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim != top:
            continue
        rows = max(1, _CHUNK // len(kind.simplices))
        for start in range(0, len(nodes), rows):
            block = nodes[start : start + rows]
            share = _simplex_measures(pos, block, kind) @ kind.shares
            total = share.sum(1)
            share *= np.where(total < 0, -1.0, 1.0)[:, None]
            if (share < 0).any():
                np.maximum(share, 0, out=share)
                share *= (np.abs(total) / np.maximum(share.sum(1), np.finfo(float).tiny))[:, None]
            volume += np.bincount(block.reshape(-1), weights=share.reshape(-1), minlength=len(pos))
    return volume


def facet_vectors(pos: np.ndarray, nodes: np.ndarray, kind: CellKind) -> np.ndarray:
    """Returns the part of each facet's area vector that falls to each of its nodes `[F, k, dim]`.

    A facet's area vector is its unit normal times its measure: a surface in 3-D by the right-hand rule, an edge in
    2-D turned to the right of its direction.
    """
    points = _with_virtual(pos, nodes, kind)[:, kind.simplices]  # [F, s, d + 1, dim]
    if kind.dim == 1:
        along = points[..., 1, :] - points[..., 0, :]
        vectors = np.stack([along[..., 1], -along[..., 0]], axis=-1)
    else:
        vectors = np.cross(points[..., 1, :] - points[..., 0, :], points[..., 2, :] - points[..., 0, :]) / 2
    return np.einsum("fsd,sk->fkd", vectors, kind.shares)


def boundary_normals(
    pos: np.ndarray, cells: Mapping[str, np.ndarray], boundary: Boundary, part_of: np.ndarray | None = None
) -> np.ndarray:
    """Returns unit outward normals at the boundary nodes `[Nb, dim]`, in the order of `boundary.node_ids()`.

    Where the facets at a node cancel (a thin sheet seen from both sides) the largest facet decides. `part_of [N]`
    marks nodes: only facets between marked nodes count then, and a node without such a facet has normal zero.
    """
    ids = boundary.node_ids()
    dim = pos.shape[1]
    names = list(cells)
    owners, vectors = [], []
    for facet_kind, nodes in boundary.nodes.items():
        kind = CELL_KINDS[facet_kind]
        if kind.dim == dim - 1:
            part = facet_vectors(pos, nodes, kind)
        else:
            part = np.empty((*nodes.shape, dim))
            for index in np.unique(boundary.owner_kind[facet_kind]):
                rows = boundary.owner_kind[facet_kind] == index
                cell = cells[names[index]][boundary.owner[facet_kind][rows]]
                part[rows] = _embedded_vectors(pos, nodes[rows], kind, cell, kind_of(names[index]))
        counts = slice(None) if part_of is None else part_of[nodes].all(1)
        owners.append(nodes[counts].reshape(-1))
        vectors.append(part[counts].reshape(-1, dim))
    if not owners:
        return np.zeros((0, dim))
    where = np.searchsorted(ids, np.concatenate(owners))
    vector = np.concatenate(vectors)
    normal = np.stack([np.bincount(where, weights=v, minlength=len(ids)) for v in vector.T], axis=1)
    size = np.linalg.norm(vector, axis=1)
    length = np.linalg.norm(normal, axis=1)
    largest = np.zeros(len(ids))
    np.maximum.at(largest, where, size)
    for i in np.flatnonzero((length <= 1e-9 * largest) & (largest > 0)):
        rows = np.flatnonzero(where == i)
        normal[i] = vector[rows[np.argmax(size[rows])]]
        length[i] = np.linalg.norm(normal[i])
    return normal / np.where(length > 0, length, 1.0)[:, None]


def distance_to(pos: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Returns each node's straight-line distance to the nearest of some nodes `[N]`; infinite if there are none."""
    if not len(nodes):
        return np.full(len(pos), np.inf)
    return cKDTree(pos[nodes]).query(pos)[0]


def num_inverted(pos: np.ndarray, cells: Mapping[str, np.ndarray], measure: Mapping[str, np.ndarray]) -> int:
    """Counts the cells of negative measure, or of none beside the size of their bounding box."""
    count = 0
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim == 0:
            continue
        corners = pos[nodes[:, : kind.num_corners]]
        size = np.linalg.norm(corners.max(1) - corners.min(1), axis=1)
        count += int((measure[name] <= 1e-12 * size**kind.dim).sum())
    return count


def _with_virtual(pos: np.ndarray, nodes: np.ndarray, kind: CellKind) -> np.ndarray:
    points = pos[nodes]
    if len(kind.virtual):
        points = np.concatenate([points, np.einsum("vk,nkd->nvd", kind.virtual, points)], axis=1)
    return points


def _simplex_measures(pos: np.ndarray, nodes: np.ndarray, kind: CellKind, *, total: bool = False) -> np.ndarray:
    """Signed measure of the simplices that fill each cell `[n, s]`, or with `total` of the cells themselves `[n]`.

    A surface in 3-D has no sign of its own: its simplices are measured against the cell's mean normal.
    """
    rows = max(1, _CHUNK // len(kind.simplices))
    parts = []
    for start in range(0, max(len(nodes), 1), rows):
        points = _with_virtual(pos, nodes[start : start + rows], kind)
        first = points[:, kind.simplices[:, 0]]
        sides = [points[:, kind.simplices[:, i]] - first for i in range(1, kind.dim + 1)]
        measure = _measure(sides, pos.shape[1], len(points), kind)
        parts.append(measure @ kind.weights if total else measure)
    return np.concatenate(parts)


def _measure(sides: list[np.ndarray], dim: int, num: int, kind: CellKind) -> np.ndarray:
    if kind.dim == 0:
        return np.ones((num, len(kind.simplices)))
    if kind.dim == 1:
        return np.linalg.norm(sides[0], axis=-1)
    if dim == 2:
        u, v = sides
        return (u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]) / 2
    cross = _cross(sides[0], sides[1])
    if kind.dim == 3:
        return np.einsum("nsd,nsd->ns", cross, sides[2]) / 6
    mean = np.einsum("nsd,s->nd", cross, kind.weights)
    sign = np.where(np.einsum("nsd,nd->ns", cross, mean) < 0, -1.0, 1.0)
    return sign * np.linalg.norm(cross, axis=-1) / 2


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # np.cross spends most of its time on moving axes
    out = np.empty_like(u)
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        np.multiply(u[..., j], v[..., k], out=out[..., i])
        out[..., i] -= u[..., k] * v[..., j]
    return out


def _embedded_vectors(
    pos: np.ndarray, facets: np.ndarray, facet_kind: CellKind, cells: np.ndarray, cell_kind: CellKind
) -> np.ndarray:
    """As `facet_vectors`, for facets of cells of lower dimension than space: they point away, inside the cell."""
    if facet_kind.dim == 0:
        away = pos[facets] - pos[cells].mean(1, keepdims=True)
        return away / np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), np.finfo(float).tiny)
    normal = facet_vectors(pos, cells, cell_kind).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1), np.finfo(float).tiny)[:, None]
    points = pos[facets][:, facet_kind.simplices]
    along = points[..., 1, :] - points[..., 0, :]
    vectors = _cross(along, np.broadcast_to(normal[:, None], along.shape))
    return np.einsum("fsd,sk->fkd", vectors, facet_kind.shares)


# local corner → its neighbours along the edges, in positive order, and the value at an ideal corner
_FRAMES: dict[str, tuple[tuple[tuple[int, ...], ...], float]] = {
    "quad": (((0, 1, 3), (1, 2, 0), (2, 3, 1), (3, 0, 2)), 1.0),
    "hexahedron": (
        (
            (0, 1, 3, 4),
            (1, 2, 0, 5),
            (2, 3, 1, 6),
            (3, 0, 2, 7),
            (4, 7, 5, 0),
            (5, 4, 6, 1),
            (6, 5, 7, 2),
            (7, 6, 4, 3),
        ),
        1.0,
    ),
    "wedge": (
        ((0, 1, 2, 3), (1, 2, 0, 4), (2, 0, 1, 5), (3, 5, 4, 0), (4, 3, 5, 1), (5, 4, 3, 2)),
        float(np.sqrt(0.75)),
    ),
    "pyramid": (((0, 1, 3, 4), (1, 2, 0, 4), (2, 3, 1, 4), (3, 0, 2, 4)), float(np.sqrt(0.5))),
}


def cell_quality(pos: np.ndarray, cells: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns cell kind → shape quality of the corner cell `[n]` in [0, 1].

    Mean ratio for simplices (1 for equilateral ones), smallest scaled Jacobian at a corner for the others, relative
    to the ideal cell. Inverted and collapsed cells have 0.
    """
    return {name: _quality(pos, nodes, kind_of(name)) for name, nodes in cells.items()}


def _quality(pos: np.ndarray, nodes: np.ndarray, kind: CellKind) -> np.ndarray:
    corner_kind = CELL_KINDS[kind.corners]
    nodes = nodes[:, : kind.num_corners]
    if kind.dim == 0:
        return np.ones(len(nodes))
    if kind.corners in _FRAMES:
        value = _scaled_jacobian(pos, nodes, kind)
    else:
        measure = _simplex_measures(pos, nodes, corner_kind, total=True)
        sides = pos[nodes[:, corner_kind.edges[:, 0]]] - pos[nodes[:, corner_kind.edges[:, 1]]]
        squares = np.maximum((sides**2).sum((1, 2)), np.finfo(float).tiny)
        if kind.dim == 1:
            value = measure / np.sqrt(squares)
        elif kind.dim == 2:
            value = 4 * np.sqrt(3.0) * measure / squares
        else:
            value = 12 * np.cbrt(3 * measure) ** 2 * np.sign(measure) / squares
    return np.clip(value, 0.0, 1.0)


def _scaled_jacobian(pos: np.ndarray, nodes: np.ndarray, kind: CellKind) -> np.ndarray:
    frames, ideal = _FRAMES[kind.corners]
    if kind.dim == 2 and pos.shape[1] == 3:
        points = pos[nodes]
        mean = _cross(points[:, 2] - points[:, 0], points[:, 3] - points[:, 1])
    lowest = np.full(len(nodes), np.inf)
    for corner, *neighbours in frames:
        sides = [pos[nodes[:, n]] - pos[nodes[:, corner]] for n in neighbours]
        size = np.prod([np.linalg.norm(side, axis=1) for side in sides], axis=0)
        if kind.dim == 3:
            value = np.einsum("nd,nd->n", _cross(sides[0], sides[1]), sides[2])
        elif pos.shape[1] == 2:
            value = sides[0][:, 0] * sides[1][:, 1] - sides[0][:, 1] * sides[1][:, 0]
        else:
            normal = _cross(sides[0], sides[1])
            value = np.linalg.norm(normal, axis=1) * np.where(np.einsum("nd,nd->n", normal, mean) < 0, -1.0, 1.0)
        lowest = np.minimum(lowest, np.where(size > 0, value / np.where(size > 0, size, 1.0), 0.0))
    return lowest / ideal
