"""Triangle meshes of perforated cells with matching opposite sides (gmsh)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flare_connect.errors import MeshError
from flare_datasets.meshing import (
    ON_SIDE,
    Array,
    EdgeLength,
    Ids,
    curves_on_sides,
    grid_points,
    mesh_to_count,
    nodes_of,
    read_triangles,
    start_gmsh,
    turn_counterclockwise,
)
from flare_datasets.unit_cells.geometry import FineSpot, Hole


@dataclass(frozen=True)
class CellMesh:
    """A meshed cell: `pos [N, 2]`, `triangles [E, 3]` (counter-clockwise), `periodic_pairs [2, P]`, node ids of sets.

    `periodic_pairs[0]` holds nodes of the left and bottom side, `periodic_pairs[1]` the node one cell further to the
    right or above; the coordinates across differ by 0 or 1 exactly. A corner stands in a pair of each direction.
    """

    pos: Array
    triangles: Ids
    periodic_pairs: Ids
    holes: Ids
    sides: Ids


def mesh_cell(
    holes: Sequence[Hole], num_nodes: int, grading: float = 0.5, reach: float = 0.1, spots: Sequence[FineSpot] = ()
) -> CellMesh:
    """Mesh the cell without `holes` with about `num_nodes` vertices; the same input gives the same bits.

    Edges are shorter at holes than away from them, a third of the solid between two holes, and 0.6 of the least
    radius of curvature at most; where `num_nodes` does not pay for that, everything is coarsened alike.

    Args:
        holes: disjoint holes, centres in the cell; they may cross its sides. May be empty.
        num_nodes: vertices aimed at, met within 15 % (typically 5 %).
        grading: edge length at holes over that away from them.
        reach: distance from a hole over which edges grow, in cell sides.
        spots: where edges are shorter besides.

    Raises:
        MeshError: gmsh made no usable mesh: opposite sides differ, the count is missed, or the solid is in pieces.
        ImportError: gmsh is not installed.
    """
    gmsh = start_gmsh()
    gmsh.clear()
    gmsh.model.add("cell")
    try:
        side_curves, hole_curves = _build(gmsh, holes)
        wanted = edge_length(holes, num_nodes, grading, reach, spots)
        mesh = mesh_to_count(gmsh, wanted, lambda: _read(gmsh, side_curves, hole_curves))
    finally:
        gmsh.clear()
    if num_components(mesh) != 1:
        raise MeshError("the solid of the cell is in several pieces: holes touch")
    return mesh


def num_components(mesh: CellMesh) -> int:
    """Connected pieces of the solid on the torus: over the mesh's edges and across its periodic pairs."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    t = mesh.triangles
    rows = np.concatenate([t[:, 0], t[:, 1], mesh.periodic_pairs[0]])
    cols = np.concatenate([t[:, 1], t[:, 2], mesh.periodic_pairs[1]])
    graph = coo_matrix((np.ones(len(rows)), (rows, cols)), shape=(len(mesh.pos),) * 2)
    return int(connected_components(graph, directed=False)[0])


def edge_length(
    holes: Sequence[Hole], num_nodes: int, grading: float = 0.5, reach: float = 0.1, spots: Sequence[FineSpot] = ()
) -> EdgeLength:
    """Wanted edge length, see `mesh_cell`."""
    grid = grid_points()
    # Two nearest holes of each point; their distances add up to the solid between them, also a little way inside.
    first, second = np.full(len(grid), np.inf), np.full(len(grid), np.inf)
    limit = np.full(len(grid), np.inf)
    for hole in holes:
        distance = hole.periodic_distance(grid)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
        limit = np.minimum(limit, 0.6 * hole.min_radius + 0.3 * np.maximum(distance, 0.0))
    shape = np.clip(grading + (1.0 - grading) / reach * first, grading, 1.0)
    for spot in spots:
        shape = shape * spot.shape(grid)
    return EdgeLength(
        shape=shape,
        limit=np.maximum(np.minimum(limit, (first + second) / 3.0), 5e-4),
        solid=first > 0.0,
        perimeter=4.0 + sum(2.0 * math.pi * math.sqrt(0.5 * (h.a**2 + h.b**2)) for h in holes),
        num_nodes=num_nodes,
    )


def _build(gmsh, holes: Sequence[Hole]) -> tuple[list[int], list[int]]:  # type: ignore[no-untyped-def]
    """Cut the holes and their images out of the square; curve tags of (sides, holes), opposite sides tied."""
    occ = gmsh.model.occ
    square = (2, occ.addRectangle(0.0, 0.0, 0.0, 1.0, 1.0))
    tools = [(2, _add_hole(occ, hole, dx, dy)) for hole in holes for dx, dy in _images(hole)]
    if tools:
        occ.cut([square], tools)
    area = sum(occ.getMass(2, tag) for _, tag in occ.getEntities(2))
    void = sum(hole.area for hole in holes)
    if abs(area + void - 1.0) > 1e-6:  # gmsh may never return from a geometry that is not what it should be
        raise MeshError(f"holes of area {void:.6f} were cut from the cell, but {area:.6f} are left of 1")
    occ.synchronize()

    boxes = {tag: np.array(gmsh.model.getBoundingBox(1, tag))[[0, 1, 3, 4]] for _, tag in gmsh.model.getEntities(1)}
    on = curves_on_sides(gmsh)
    for axis in (0, 1):
        low = [tag for tag in boxes if on[tag][2 * axis]]
        high = [tag for tag in boxes if on[tag][2 * axis + 1]]
        key = 1 - axis
        low.sort(key=lambda tag: boxes[tag][key])
        high.sort(key=lambda tag: boxes[tag][key])
        spans = [np.array([boxes[tag][[key, key + 2]] for tag in tags]).reshape(-1, 2) for tags in (low, high)]
        if len(low) != len(high) or not np.allclose(spans[0], spans[1], rtol=0.0, atol=ON_SIDE):
            raise MeshError(f"opposite sides of the cell are cut differently: {len(low)} and {len(high)} curves")
        shift = np.eye(4)
        shift[axis, 3] = 1.0
        if low:
            gmsh.model.mesh.setPeriodic(1, high, low, shift.ravel().tolist())
    sides = [tag for tag in boxes if any(on[tag])]
    return sides, [tag for tag in boxes if not any(on[tag])]


def _images(hole: Hole) -> list[tuple[int, int]]:
    """Shifts of the images of `hole` that meet the cell."""
    outline = hole.outline(0.01)
    low, high = outline.min(axis=0), outline.max(axis=0)
    shifts = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    return [s for s in shifts if np.all(high + s > 0.0) and np.all(low + s < 1.0)]


def _add_hole(occ, hole: Hole, dx: int, dy: int) -> int:  # type: ignore[no-untyped-def]
    x, y = hole.x + dx, hole.y + dy
    if hole.shape != "slot":
        tag = int(occ.addDisk(x, y, 0.0, hole.a, hole.b))
    else:
        s, b = hole.a - hole.b, hole.b
        # A half circle from its ends and centre is ambiguous: quarters are not.
        ring = ((s, -b), (s + b, 0.0), (s, b), (-s, b), (-s - b, 0.0), (-s, -b))
        p = [occ.addPoint(x + u, y + v, 0.0) for u, v in ring]
        right, left = (occ.addPoint(x + u, y, 0.0) for u in (s, -s))
        curves = [
            occ.addCircleArc(p[0], right, p[1]),
            occ.addCircleArc(p[1], right, p[2]),
            occ.addLine(p[2], p[3]),
            occ.addCircleArc(p[3], left, p[4]),
            occ.addCircleArc(p[4], left, p[5]),
            occ.addLine(p[5], p[0]),
        ]
        tag = int(occ.addPlaneSurface([occ.addCurveLoop(curves)]))
        occ.remove([(0, right), (0, left)])
    occ.rotate([(2, tag)], x, y, 0.0, 0.0, 0.0, 1.0, hole.angle)
    return tag


def _read(gmsh, side_curves: list[int], hole_curves: list[int]) -> CellMesh:  # type: ignore[no-untyped-def]
    pos, triangles, number = read_triangles(gmsh)
    sides, holes = nodes_of(gmsh, side_curves, number), nodes_of(gmsh, hole_curves, number)
    periodic_pairs = _match_sides(pos, sides)
    turn_counterclockwise(pos, triangles)
    return CellMesh(pos, triangles, periodic_pairs, holes, sides)


def _match_sides(pos: Array, sides: Ids) -> Ids:
    """Snap the nodes of the sides onto them, in place, and pair opposite ones `[2, P]`."""
    on_side = pos[sides]
    near = np.abs(on_side - np.round(on_side)) < ON_SIDE
    pos[sides] = np.where(near, np.round(on_side), on_side)
    pairs = []
    for axis in (0, 1):
        low = sides[pos[sides, axis] == 0.0]
        high = sides[pos[sides, axis] == 1.0]
        low, high = low[np.argsort(pos[low, 1 - axis])], high[np.argsort(pos[high, 1 - axis])]
        same = len(low) == len(high) and np.abs(pos[low, 1 - axis] - pos[high, 1 - axis]).max(initial=0.0) < 1e-9
        if not same:
            raise MeshError(f"gmsh meshed opposite sides differently: {len(low)} and {len(high)} nodes")
        pos[high, 1 - axis] = pos[low, 1 - axis]
        pairs.append(np.stack([low, high]))
    return np.concatenate(pairs, axis=1)
