"""Triangle meshes of plates with slits; along a crack the nodes are doubled (gmsh)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare_connect.errors import MeshError
from flare_datasets.meshing import (
    ON_SIDE,
    Array,
    EdgeLength,
    Ids,
    curves_on_sides,
    element_width,
    grid_points,
    mesh_to_count,
    nodes_of,
    read_triangles,
    start_gmsh,
    turn_counterclockwise,
)
from flare_datasets.slit_plates.geometry import Slit


@dataclass(frozen=True)
class PlateMesh:
    """A meshed plate: `pos [N, 2]`, `triangles [E, 3]` (counter-clockwise), sorted node ids of sets.

    No triangle and no edge crosses a slit. Along a crack each place has two nodes, one for each lip; its tips are one.
    """

    pos: Array
    triangles: Ids
    left: Ids
    right: Ids
    bottom: Ids
    top: Ids
    slits: Ids


def mesh_plate(slits: Sequence[Slit], num_nodes: int) -> PlateMesh:
    """Mesh the plate with `slits` with about `num_nodes` vertices; the same input gives the same bits.

    Edges are a third as long at tips as far from them, and at most a third of the plate between two slits.

    Args:
        slits: slits that do not meet. May be empty.
        num_nodes: vertices aimed at, met within 15 % (typically 5 %).

    Raises:
        MeshError: gmsh made no usable mesh: slits meet, the count is missed, or the plate is in pieces.
        ImportError: gmsh is not installed.
    """
    gmsh = start_gmsh()
    gmsh.clear()
    gmsh.model.add("plate")
    try:
        _build(gmsh, slits)
        mesh = mesh_to_count(gmsh, edge_length(slits, num_nodes), lambda: _read(gmsh))
    finally:
        gmsh.clear()
    return mesh


def edge_length(slits: Sequence[Slit], num_nodes: int) -> EdgeLength:
    """Wanted edge length, see `mesh_plate`."""
    grid = grid_points()
    to_tip = np.full(len(grid), np.inf)
    first, second = np.full(len(grid), np.inf), np.full(len(grid), np.inf)
    solid = np.ones(len(grid), dtype=bool)
    for slit in slits:
        for tip in slit.tips:
            to_tip = np.minimum(to_tip, np.linalg.norm(grid - tip, axis=1))
        distance = slit.distance(grid)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
        solid &= distance >= 0.0
    width = element_width(num_nodes)
    return EdgeLength(
        shape=np.clip((to_tip + 3.0 * width) / (9.0 * width), 1.0 / 3.0, 1.0),
        limit=np.maximum((first + second) / 3.0, 1e-3),
        solid=solid,
        perimeter=4.0 + 2.0 * sum(slit.length for slit in slits),
        num_nodes=num_nodes,
    )


def _build(gmsh: Any, slits: Sequence[Slit]) -> None:
    """The square without the open slits, and with the cracks as curves in it."""
    occ = gmsh.model.occ
    square = (2, occ.addRectangle(0.0, 0.0, 0.0, 1.0, 1.0))
    opened = [slit for slit in slits if slit.opening > 0.0]
    if opened:
        occ.cut([square], [(2, _add_outline(occ, slit)) for slit in opened])
    surfaces = occ.getEntities(2)
    area = sum(occ.getMass(2, tag) for _, tag in surfaces)
    void = sum(slit.area for slit in opened)
    if len(surfaces) != 1 or abs(area + void - 1.0) > 1e-6:  # gmsh may never return from what it should not be
        raise MeshError(
            f"slits of area {void:.6f} were cut from the plate, but {area:.6f} are left of 1, in {len(surfaces)} "
            "pieces: slits meet, or one leaves the plate"
        )
    lines = [line for slit in slits if slit.opening == 0.0 for line in _add_lines(occ, slit)]
    if lines:
        occ.fragment(surfaces, [(1, line) for line in lines])
    occ.synchronize()


def _add_outline(occ: Any, slit: Slit) -> int:
    points = [occ.addPoint(x, y, 0.0) for x, y in slit.outline(beyond=True)]
    curves = [occ.addLine(a, b) for a, b in zip(points, [*points[1:], points[0]], strict=True)]
    return int(occ.addPlaneSurface([occ.addCurveLoop(curves)]))


def _add_lines(occ: Any, slit: Slit) -> list[int]:
    points = [occ.addPoint(x, y, 0.0) for x, y in slit.points]
    return [occ.addLine(a, b) for a, b in zip(points[:-1], points[1:], strict=True)]


def _read(gmsh: Any) -> PlateMesh:
    pos, triangles, number = read_triangles(gmsh)
    on_sides = curves_on_sides(gmsh)
    lips = [tag for tag, on in on_sides.items() if not any(on)]
    for curve in (tag for tag, on in on_sides.items() if any(on)):
        nodes = nodes_of(gmsh, [curve], number)
        near = np.abs(pos[nodes] - np.round(pos[nodes])) < ON_SIDE
        pos[nodes] = np.where(near, np.round(pos[nodes]), pos[nodes])
    turn_counterclockwise(pos, triangles)
    cuts = [np.asarray(gmsh.model.mesh.getElementsByType(1, tag)[1], dtype=np.int64) for tag in lips]
    edges = number[np.concatenate(cuts)].reshape(-1, 2) if cuts else np.empty((0, 2), dtype=np.int64)
    if (edges < 0).any():
        raise MeshError("gmsh meshed a slit without triangles beside it")
    triangles, original = split_along(triangles, edges, len(pos))
    pos = pos[original]
    on_lip = np.zeros(len(number), dtype=bool)
    on_lip[edges] = True
    return PlateMesh(
        pos,
        triangles,
        left=np.flatnonzero(pos[:, 0] == 0.0),
        right=np.flatnonzero(pos[:, 0] == 1.0),
        bottom=np.flatnonzero(pos[:, 1] == 0.0),
        top=np.flatnonzero(pos[:, 1] == 1.0),
        slits=np.flatnonzero(on_lip[original]),
    )


def split_along(triangles: Ids, edges: Ids, num_nodes: int) -> tuple[Ids, Ids]:
    """Open a mesh along edges: a node has a copy for each fan of triangles into which the edges part those around it.

    Args:
        triangles: `[E, 3]`; they use every node.
        edges: `[K, 2]`, of triangles; edges of the boundary change nothing.
        num_nodes: N.

    Returns:
        Triangles `[E, 3]`, and the old node of each new one `[N']`; the first N are the old ones.

    Raises:
        MeshError: the triangles fall into pieces.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    def key(pairs: Ids) -> Ids:
        return np.sort(pairs, axis=1) @ np.array([num_nodes, 1])

    # Corner 3 e + i of triangle e; two corners at one node are one where their triangles share an edge that stays.
    corner = np.arange(triangles.size).reshape(-1, 3)
    side = np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    ends = np.concatenate([corner[:, [i, (i + 1) % 3]] for i in range(3)])
    ends = np.where((side[:, 0] > side[:, 1])[:, None], ends[:, ::-1], ends)  # the smaller node first
    order = np.argsort(key(side), kind="stable")
    keys, ends = key(side)[order], ends[order]
    shared = (keys[1:] == keys[:-1]) & ~np.isin(keys[1:], key(edges))
    rows, cols = ends[:-1][shared].ravel(), ends[1:][shared].ravel()
    count = triangles.size
    fans, fan = connected_components(coo_matrix((np.ones(len(rows)), (rows, cols)), shape=(count,) * 2), directed=False)
    beside = ends[:, 0] // 3  # the triangle of each side
    across = coo_matrix((np.ones(shared.sum()), (beside[:-1][shared], beside[1:][shared])), shape=(count // 3,) * 2)
    if (pieces := connected_components(across, directed=False)[0]) != 1:
        raise MeshError(f"slits cut the plate into {pieces} pieces")

    node = np.empty(fans, dtype=np.int64)
    node[fan] = triangles.ravel()
    first = np.full(num_nodes, fans)
    np.minimum.at(first, node, np.arange(fans))
    extra = np.setdiff1d(np.arange(fans), first)
    new = np.empty(fans, dtype=np.int64)
    new[first] = np.arange(num_nodes)
    new[extra] = num_nodes + np.arange(len(extra))
    return new[fan].reshape(-1, 3), np.concatenate([np.arange(num_nodes), node[extra]])
