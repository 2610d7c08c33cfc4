"""Polygons with more than four corners and polyhedra, as triangles, tetrahedra and the other simple cells.

A face with more than four corners is cut the same way by the two cells that share it: the cut depends on the face
alone. A polyhedron that is no simple cell gets a node at its centre, and a pyramid or tetrahedron on each face (or
piece of one), so that quadrilateral faces stay whole and fit a hexahedron on the other side.
"""

from dataclasses import dataclass, field

import numpy as np

from flare_connect.errors import MeshError


@dataclass
class Pieces:
    """Simple cells that stand for polygons or polyhedra.

    Attributes:
        cells: kind → nodes `[n, k]`; ids from N on are the added centres.
        rows: kind → which polygon or polyhedron each cell is a piece of `[n]`.
        centres: nodes whose mean each added centre is, one array for each.
    """

    cells: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    centres: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Loops:
    """Polygons of any size, one after the other: the faces of polyhedra.

    Attributes:
        nodes: corners of all polygons.
        offset: where each polygon starts in `nodes` `[F + 1]`.
        of: the polyhedron that each is a face of, ascending `[F]`.
        num: number of polyhedra.
    """

    nodes: np.ndarray
    offset: np.ndarray
    of: np.ndarray
    num: int

    @classmethod
    def none(cls) -> "Loops":
        """No polyhedra at all."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, np.zeros(1, dtype=np.int64), empty, 0)


def taken(offset: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of some rows of a ragged table are, row after row, and the offsets of the table they make."""
    sizes = offset[rows + 1] - offset[rows]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return np.repeat(offset[rows] - ends[:-1], sizes) + np.arange(ends[-1]), ends


def cut_polygons(points: np.ndarray, loops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts polygons of one size into triangles.

    A polygon is fanned out from its smallest node that sees all others (a node on the middle of a straight side is not
    seen from its ends); where none does, it loses one ear after the other. Where the loop starts and which way it runs
    does not matter.

    Args:
        points: positions `[N, dim]`.
        loops: corners in order `[n, c]`, c >= 3.

    Returns:
        Triangles `[n * (c - 2), 3]`, turning as their polygon does, and the row of `loops` that each is from.
    """
    num, size = loops.shape
    start = np.argmin(loops, axis=1)
    turned = np.take_along_axis(loops, (start[:, None] + np.arange(size)) % size, axis=1)
    # The cells on both sides see one loop from one corner in one direction, to the last rounding error.
    backward = turned[:, 1] > turned[:, -1]
    turned[backward, 1:] = turned[backward, :0:-1]
    fan = np.stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)], axis=1)
    triangles, left = turned[:, fan], np.arange(num)
    order = np.argsort(turned, axis=1, kind="stable")
    for tip in range(min(size, _TIPS)):
        places = (order[left, tip][:, None] + np.arange(size)) % size
        candidates = np.take_along_axis(turned[left], places, axis=1)[:, fan]
        good = _all_upright(points, candidates, _normals(points, turned[left]))
        triangles[left[good]] = candidates[good]
        left = left[~good]
        if not len(left):
            break
    for row in left.tolist():
        triangles[row] = _ears(points, turned[row])
    triangles[backward] = triangles[backward][..., ::-1]
    return triangles.reshape(-1, 3), np.repeat(np.arange(num), size - 2)


def cut_polyhedra(points: np.ndarray, polyhedra: list[list[np.ndarray]]) -> Pieces:
    """`cut_loops` for polyhedra that come as lists of faces, each face its corners in order."""
    faces = [np.asarray(face, dtype=np.int64).reshape(-1) for loops in polyhedra for face in loops]
    loops = Loops(
        np.concatenate([np.zeros(0, dtype=np.int64), *faces]),
        np.cumsum([0, *(len(face) for face in faces)]),
        np.repeat(np.arange(len(polyhedra)), [len(loops) for loops in polyhedra]),
        len(polyhedra),
    )
    return cut_loops(points, loops)


def cut_loops(points: np.ndarray, loops: Loops) -> Pieces:
    """Recognises tetrahedra, hexahedra, wedges and pyramids, and cuts other polyhedra around an added centre.

    The pieces fill a polyhedron exactly if the mean of its corners sees all of its faces from inside, as it does in
    convex ones; else some of them overlap.

    Args:
        points: positions `[N, 3]`.
        loops: the faces, all nodes of them in range.

    Returns:
        Kinds in order of first appearance, cells of each kind in the order of the polyhedra.

    Raises:
        MeshError: a polyhedron has fewer than four faces, or a face fewer than three corners.
    """
    sizes = np.diff(loops.offset)
    count = np.bincount(loops.of, minlength=loops.num)
    bad = count < 4
    bad[loops.of[sizes < 3]] = True
    if bad.any():
        row = int(np.argmax(bad))
        raise MeshError(f"polyhedron {row} has {count[row]} faces; it needs four or more, of three corners or more")
    triangles, quads = (np.bincount(loops.of[sizes == size], minlength=loops.num) for size in (3, 4))
    left = np.ones(loops.num, dtype=bool)
    cells: dict[str, list[np.ndarray]] = {}
    rows: dict[str, list[np.ndarray]] = {}

    def keep(kind: str, nodes: np.ndarray, of: np.ndarray) -> None:
        if len(of):
            cells.setdefault(kind, []).append(nodes)
            rows.setdefault(kind, []).append(of)

    first = np.cumsum(count) - count
    for kind, (corners, num_triangles, num_quads) in _SIMPLE.items():
        like = np.flatnonzero(
            (triangles == num_triangles) & (quads == num_quads) & (count == num_triangles + num_quads)
        )
        for start in range(0, len(like), _CHUNK):
            of = like[start : start + _CHUNK]
            faces = first[of][:, None] + np.arange(num_triangles + num_quads)
            nodes, good = _recognised(kind, corners, loops, faces)
            keep(kind, nodes[good], of[good])
            left[of[good]] = False
    centres, where = _centres(points, loops, left)
    top = len(points) - 1 + np.cumsum(left)
    others = np.flatnonzero(left[loops.of])
    for size in np.unique(sizes[others]).tolist():
        faces = others[sizes[others] == size]
        base, of = loops.nodes[loops.offset[faces][:, None] + np.arange(size)], loops.of[faces]
        if size > 4:
            base, part = cut_polygons(points, base)
            of = of[part]
        keep("pyramid" if size == 4 else "tetra", np.column_stack([base, top[of]]), of)
    out = Pieces(centres=centres)
    for kind in sorted(cells, key=lambda name: min(int(of.min()) for of in rows[name])):
        of = np.concatenate(rows[kind])
        order = np.argsort(of, kind="stable")
        out.cells[kind] = _upright(kind, where, np.concatenate(cells[kind])[order])
        out.rows[kind] = of[order]
    return out


_CHUNK = 1 << 15  # polyhedra at a time: keeps the tables of their edges inside some tens of megabytes
_SIMPLE = {"tetra": (3, 4, 0), "pyramid": (4, 4, 1), "wedge": (3, 2, 3), "hexahedron": (4, 0, 6)}
"""Kind → corners of its base, number of triangles and of quadrilaterals."""


def _recognised(kind: str, corners: int, loops: Loops, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes `[n, k]` of polyhedra with the faces of a simple cell, and which are one; orientation is left open.

    The base is the first face with so many corners; each corner of it has one neighbour above.
    """
    sizes = np.diff(loops.offset)[faces]
    faces = np.take_along_axis(faces, np.argsort(sizes != corners, axis=1, kind="stable"), axis=1)
    sizes = np.diff(loops.offset)[faces[0]]
    rings = [loops.nodes[loops.offset[faces[:, i]][:, None] + np.arange(size)] for i, size in enumerate(sizes.tolist())]
    here = np.concatenate(rings, axis=1)
    ahead = np.concatenate([np.roll(ring, -1, axis=1) for ring in rings], axis=1)
    edges, ends = np.concatenate([here, ahead], axis=1), np.concatenate([ahead, here], axis=1)
    base = rings[0]
    outside = (ends[:, :, None] != base[:, None, :]).all(2)
    good = np.ones(len(faces), dtype=bool)
    above = np.empty_like(base)
    for i in range(corners):
        up = (edges == base[:, i : i + 1]) & outside
        above[:, i] = np.where(up, ends, -1).max(1)
        good &= up.any(1) & (np.where(up, ends, above[:, i : i + 1]) == above[:, i : i + 1]).all(1)
    nodes = np.concatenate([base, above[:, :1] if kind in ("tetra", "pyramid") else above], axis=1)
    for ids in (nodes, here):
        good &= (np.diff(np.sort(ids, axis=1), axis=1) != 0).sum(1) + 1 == nodes.shape[1]
    return nodes, good


def _centres(points: np.ndarray, loops: Loops, left: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Corners of each polyhedron that is left, and all positions with their means at the end."""
    positions, offset = taken(loops.offset, np.flatnonzero(left[loops.of]))
    if not len(positions):
        return [], points
    of = np.repeat(loops.of[left[loops.of]], np.diff(offset))
    of, corners = np.divmod(np.unique(of * len(points) + loops.nodes[positions]), len(points))
    start = np.flatnonzero(np.diff(of, prepend=-1))
    count = np.diff(start, append=len(of))
    means = np.add.reduceat(points[corners].astype(float), start, axis=0) / count[:, None]
    return np.split(corners, start[1:]), np.concatenate([points, means])


def _normals(points: np.ndarray, loops: np.ndarray) -> np.ndarray:
    """Newell's normals `[n, 3]`, as long as twice the area."""
    corners = points[loops]
    corners = corners - corners[:, :1]
    if corners.shape[2] == 2:
        corners = np.pad(corners, ((0, 0), (0, 0), (0, 1)))
    return np.cross(corners, np.roll(corners, -1, axis=1)).sum(1)


def _all_upright(points: np.ndarray, triangles: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Whether all triangles `[n, t, 3]` of a polygon turn the way that the polygon does, and have an area `[n]`."""
    a, b, c = np.moveaxis(points[triangles], 2, 0)
    ahead, back = b - a, c - a
    if points.shape[1] == 2:
        turns = (ahead[..., 0] * back[..., 1] - ahead[..., 1] * back[..., 0]) * normals[:, None, 2]
    else:
        turns = np.einsum("ntd,nd->nt", np.cross(ahead, back), normals)
    return (turns > 1e-9 * np.einsum("nd,nd->n", normals, normals)[:, None]).all(1)


def _ears(points: np.ndarray, loop: np.ndarray) -> np.ndarray:
    """Triangles `[c - 2, 3]` of one loop, by cutting off the smallest ear again and again."""
    if len(loop) > _MANY:
        raise MeshError(f"a face that is not convex has {len(loop)} corners, more than {_MANY}; triangulate it first")
    normal = _normals(points, loop[None])[0]
    axes = np.delete(np.arange(3), np.argmax(np.abs(normal)))
    flat = points[:, axes] if points.shape[1] == 3 else points
    left = loop.copy()
    sign = 1.0 if _area(*(flat[loop] - flat[loop[0]]).T) >= 0 else -1.0
    triangles, tests = [], _TESTS * len(loop)
    while len(left) > 3 and tests > 0:
        before, after = np.roll(left, 1), np.roll(left, -1)
        (x0, y0), (x1, y1), (x2, y2) = (flat[ids].T for ids in (before, left, after))
        sizes = sign * ((x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0))
        for i in np.lexsort([left, sizes])[np.count_nonzero(sizes <= 0) :].tolist():
            corners = np.array([before[i], left[i], after[i]])
            tests -= 1
            if not _inside(flat[corners], flat[left[~np.isin(left, corners)]], sign):
                break
        else:  # corners on one line or a loop that crosses itself: no ear is good
            i = int(np.argmin(left))
        triangles.append([before[i], left[i], after[i]])
        left = np.delete(left, i)
    triangles += [[left[0], left[i], left[i + 1]] for i in range(1, len(left) - 1)]
    return np.array(triangles)


# bounds on the work that a damaged file can cause: corners of a face, tests for each of them, tips of fans
_MANY, _TESTS, _TIPS = 4096, 16, 16


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _inside(triangle: np.ndarray, others: np.ndarray, sign: float) -> bool:
    """Whether any other corner lies in the triangle or on its rim."""
    within = np.ones(len(others), dtype=bool)
    for p, q in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
        side = (q[0] - p[0]) * (others[:, 1] - p[1]) - (q[1] - p[1]) * (others[:, 0] - p[0])
        within &= sign * side >= 0
    return bool(within.any())


# the order that turns a cell of negative measure round
_TURN = {
    "tetra": (0, 2, 1, 3),
    "pyramid": (0, 3, 2, 1, 4),
    "wedge": (0, 2, 1, 3, 5, 4),
    "hexahedron": (0, 3, 2, 1, 4, 7, 6, 5),
}


def _upright(kind: str, points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    base = nodes[:, : {"tetra": 3, "wedge": 3}.get(kind, 4)]
    middle = points[nodes].mean(1) - points[base].mean(1)
    negative = np.einsum("nd,nd->n", _normals(points, base), middle) < 0
    nodes[negative] = nodes[negative][:, _TURN[kind]]
    return nodes
