"""Triangle meshes of perforated cells with matching opposite sides (gmsh)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import MeshError
from flare_datasets.unit_cells.geometry import Hole

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

_GRID = 160  # cells a side of the grid that carries the wanted edge length
_ON_SIDE = 1e-6  # OCC widens its bounding boxes by 1e-7
_COUNT_TOLERANCE = 0.07
_NUM_PASSES = 3


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


def mesh_cell(holes: Sequence[Hole], num_nodes: int) -> CellMesh:
    """Mesh the cell without `holes` with about `num_nodes` vertices; the same input gives the same bits.

    Edges are half as long at holes as away from them, a third of the solid between two holes, and 0.6 of the least
    radius of curvature at most; where `num_nodes` does not pay for that, everything is coarsened alike.

    Args:
        holes: disjoint holes, centres in the cell; they may cross its sides. May be empty.
        num_nodes: vertices aimed at, met within 15 % (typically 5 %).

    Raises:
        MeshError: gmsh made no usable mesh: opposite sides differ, the count is missed, or the solid is in pieces.
        ImportError: gmsh is not installed.
    """
    gmsh = _start_gmsh()
    gmsh.clear()
    gmsh.model.add("cell")
    try:
        side_curves, hole_curves = _build(gmsh, holes)
        sizing = _Sizing(holes, num_nodes)
        for _ in range(_NUM_PASSES):
            _generate(gmsh, sizing)
            mesh = _read(gmsh, side_curves, hole_curves)
            error = len(mesh.pos) / num_nodes - 1.0
            if abs(error) < _COUNT_TOLERANCE:
                break
            sizing.correct(len(mesh.pos))
        else:
            if abs(error) > 0.15:
                raise MeshError(f"gmsh made {len(mesh.pos)} nodes where {num_nodes} were asked for")
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


class _Sizing:
    """Wanted edge length on a grid: min(scale * shape, limit), `scale` set so that the mesh has the nodes asked for."""

    def __init__(self, holes: Sequence[Hole], num_nodes: int) -> None:
        axis = np.linspace(0.0, 1.0, _GRID + 1)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        # Two nearest holes of each point; their distances add up to the solid between them, also a little way inside.
        first, second = np.full(len(grid), np.inf), np.full(len(grid), np.inf)
        limit = np.full(len(grid), np.inf)
        for hole in holes:
            distance = hole.periodic_distance(grid)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
            limit = np.minimum(limit, 0.6 * hole.min_radius + 0.3 * np.maximum(distance, 0.0))
        self._limit = np.maximum(np.minimum(limit, (first + second) / 3.0), 5e-4)
        self._shape = np.clip(0.5 + 5.0 * first, 0.5, 1.0)
        self._solid = first > 0.0
        self._perimeter = 4.0 + sum(2.0 * math.pi * math.sqrt(0.5 * (h.a**2 + h.b**2)) for h in holes)
        self._wanted = num_nodes
        self._aim = float(num_nodes)
        self._fit()

    def edge_length(self) -> Array:
        """Wanted edge length `[(grid + 1) ** 2]`, x slowest."""
        return np.minimum(self._scale * self._shape, self._relax * self._limit)

    def correct(self, made: int) -> None:
        """Aim higher or lower, after a mesh of `made` nodes."""
        self._aim *= self._wanted / made
        self._fit()

    def _expected(self, scale: float, relax: float) -> float:
        length = np.minimum(scale * self._shape, relax * self._limit)[self._solid]
        density = np.mean(1.0 / length**2) * self._solid.mean()
        # Equilateral triangles, two a vertex; a vertex on the boundary has half a neighbourhood only.
        return float(2.0 / math.sqrt(3.0) * density + 0.5 * self._perimeter * np.sqrt(density))

    def _fit(self) -> None:
        self._relax = 1.0
        while self._expected(1.0, self._relax) > 0.7 * self._aim:  # the limits alone ask for too many nodes
            self._relax *= 1.1
        low, high = 1e-4, 1.0
        for _ in range(40):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._expected(middle, self._relax) > self._aim else (low, middle)
        self._scale = high


def _start_gmsh():  # type: ignore[no-untyped-def]  # gmsh has no types
    try:
        import gmsh
    except ImportError as error:
        raise ImportError("unit cells are meshed with gmsh: pip install 'flare-connect[generate]'") from error
    if not gmsh.isInitialized():
        gmsh.initialize(interruptible=False)  # leave Ctrl-C to Python
    for option, value in {
        "General.Terminal": 0,
        "General.NumThreads": 1,  # more threads are not repeatable
        "Mesh.MeshSizeExtendFromBoundary": 0,
        "Mesh.MeshSizeFromPoints": 0,
        "Mesh.MeshSizeFromCurvature": 0,
        "Mesh.Algorithm": 6,
        "Mesh.LcIntegrationPrecision": 1e-4,  # the default asks for the size 60,000 times along the curves of one cell
        "Mesh.RandomSeed": 1,
    }.items():
        gmsh.option.setNumber(option, value)
    return gmsh


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
    on = {tag: [_flat(box, axis, at) for axis in (0, 1) for at in (0.0, 1.0)] for tag, box in boxes.items()}
    for axis in (0, 1):
        low = [tag for tag in boxes if on[tag][2 * axis]]
        high = [tag for tag in boxes if on[tag][2 * axis + 1]]
        key = 1 - axis
        low.sort(key=lambda tag: boxes[tag][key])
        high.sort(key=lambda tag: boxes[tag][key])
        spans = [np.array([boxes[tag][[key, key + 2]] for tag in tags]).reshape(-1, 2) for tags in (low, high)]
        if len(low) != len(high) or not np.allclose(spans[0], spans[1], rtol=0.0, atol=_ON_SIDE):
            raise MeshError(f"opposite sides of the cell are cut differently: {len(low)} and {len(high)} curves")
        shift = np.eye(4)
        shift[axis, 3] = 1.0
        if low:
            gmsh.model.mesh.setPeriodic(1, high, low, shift.ravel().tolist())
    sides = [tag for tag in boxes if any(on[tag])]
    return sides, [tag for tag in boxes if not any(on[tag])]


def _flat(box: Array, axis: int, at: float) -> bool:
    return bool(abs(box[axis] - at) < _ON_SIDE and abs(box[axis + 2] - at) < _ON_SIDE)


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


def _generate(gmsh, sizing: _Sizing) -> None:  # type: ignore[no-untyped-def]
    gmsh.model.mesh.clear()
    size = sizing.edge_length().reshape(_GRID + 1, _GRID + 1)
    table = size.tolist()

    def edge_length(dim: int, tag: int, x: float, y: float, z: float, default: float) -> float:
        """Bilinear in the grid; plain floats, as it is called once or more a node."""
        u = min(max(x, 0.0), 1.0) * _GRID
        v = min(max(y, 0.0), 1.0) * _GRID
        i, j = min(int(u), _GRID - 1), min(int(v), _GRID - 1)
        u, v = u - i, v - j
        low, high = table[i], table[i + 1]
        return (1 - u) * ((1 - v) * low[j] + v * low[j + 1]) + u * ((1 - v) * high[j] + v * high[j + 1])

    gmsh.model.mesh.setSizeCallback(edge_length)
    try:
        gmsh.model.mesh.generate(2)
    finally:
        gmsh.model.mesh.removeSizeCallback()


def _read(gmsh, side_curves: list[int], hole_curves: list[int]) -> CellMesh:  # type: ignore[no-untyped-def]
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    _, corners = gmsh.model.mesh.getElementsByType(2)
    if len(corners) == 0:
        raise MeshError("gmsh made no triangles")
    tags, corners = np.asarray(tags, dtype=np.int64), np.asarray(corners, dtype=np.int64)
    used = np.zeros(int(tags.max()) + 1, dtype=bool)
    used[corners] = True
    keep = used[tags]
    number = np.full(len(used), -1, dtype=np.int64)
    number[tags[keep]] = np.arange(int(keep.sum()))
    pos = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3)[keep, :2].copy()

    def nodes_of(curves: list[int]) -> Ids:
        parts = [gmsh.model.mesh.getNodes(1, curve, includeBoundary=True)[0] for curve in curves]
        found = np.unique(np.concatenate(parts)).astype(np.int64) if parts else np.empty(0, dtype=np.int64)
        return np.sort(number[found])

    sides, holes = nodes_of(side_curves), nodes_of(hole_curves)
    periodic_pairs = _match_sides(pos, sides)
    triangles = number[corners].reshape(-1, 3)
    edge_a, edge_b = pos[triangles[:, 1]] - pos[triangles[:, 0]], pos[triangles[:, 2]] - pos[triangles[:, 0]]
    area = edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0]
    triangles[area < 0.0] = triangles[area < 0.0][:, ::-1]
    if np.abs(area).min() < 1e-12:
        raise MeshError(f"gmsh made a triangle of area {np.abs(area).min() / 2:.1e}")
    return CellMesh(pos, triangles, periodic_pairs, holes, sides)


def _match_sides(pos: Array, sides: Ids) -> Ids:
    """Snap the nodes of the sides onto them, in place, and pair opposite ones `[2, P]`."""
    on_side = pos[sides]
    near = np.abs(on_side - np.round(on_side)) < _ON_SIDE
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
