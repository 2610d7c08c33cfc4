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


def cut_polygons(points: np.ndarray, loops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts polygons of one size into triangles.

    Convex ones are fanned out from their smallest node, the others lose one ear after the other, in an order that
    depends on the corners and not on where the loop starts or which way it runs.

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
    triangles = turned[:, fan]
    for row in np.flatnonzero(~_convex(points, turned)):
        triangles[row] = _ears(points, turned[row])
    triangles[backward] = triangles[backward][..., ::-1]
    return triangles.reshape(-1, 3), np.repeat(np.arange(num), size - 2)


def cut_polyhedra(points: np.ndarray, polyhedra: list[list[np.ndarray]]) -> Pieces:
    """Recognises tetrahedra, hexahedra, wedges and pyramids, and cuts other polyhedra around an added centre.

    Args:
        points: positions `[N, 3]`.
        polyhedra: faces of each one, each face its corners in order.

    Raises:
        MeshError: a polyhedron has fewer than four faces, or a face fewer than three corners.
    """
    found: dict[str, tuple[list[np.ndarray], list[int]]] = {}
    out = Pieces()
    faces: dict[int, tuple[list[np.ndarray], list[int], list[int]]] = {}  # corners → loops, polyhedra, centres
    for row, loops in enumerate(polyhedra):
        if len(loops) < 4 or any(len(loop) < 3 for loop in loops):
            raise MeshError(f"polyhedron {row} has {len(loops)} faces; it needs four or more, of three corners or more")
        simple = _recognised(loops)
        if simple is not None:
            nodes, rows = found.setdefault(simple[0], ([], []))
            nodes.append(simple[1])
            rows.append(row)
            continue
        for loop in loops:
            of_size = faces.setdefault(len(loop), ([], [], []))
            for values, value in zip(of_size, (loop, row, len(points) + len(out.centres)), strict=True):
                values.append(value)
        out.centres.append(np.unique(np.concatenate(loops)))
    for size, (loops, rows, tops) in faces.items():
        base, of = np.stack(loops), np.arange(len(loops))
        if size > 4:
            base, of = cut_polygons(points, base)
        kind = "pyramid" if size == 4 else "tetra"
        nodes, of_rows = found.setdefault(kind, ([], []))
        nodes.extend(np.column_stack([base, np.array(tops)[of]]))
        of_rows.extend(np.array(rows)[of].tolist())
    where = np.concatenate([points, *(points[ids].mean(0, keepdims=True) for ids in out.centres)])
    for kind, (nodes, rows) in found.items():
        out.cells[kind] = _upright(kind, where, np.stack(nodes))
        out.rows[kind] = np.array(rows)
    return out


def _normals(points: np.ndarray, loops: np.ndarray) -> np.ndarray:
    """Newell's normals `[n, 3]`, as long as twice the area."""
    corners = points[loops]
    corners = corners - corners[:, :1]
    if corners.shape[2] == 2:
        corners = np.pad(corners, ((0, 0), (0, 0), (0, 1)))
    return np.cross(corners, np.roll(corners, -1, axis=1)).sum(1)


def _convex(points: np.ndarray, loops: np.ndarray) -> np.ndarray:
    """Whether each corner of each loop turns the way that the loop does `[n]`."""
    corners = points[loops]
    if corners.shape[2] == 2:
        corners = np.pad(corners, ((0, 0), (0, 0), (0, 1)))
    ahead = np.roll(corners, -1, axis=1) - corners
    turns = np.cross(np.roll(ahead, 1, axis=1), ahead)
    normals = _normals(points, loops)
    along = np.einsum("ncd,nd->nc", turns, normals)
    return (along >= -1e-9 * np.einsum("nd,nd->n", normals, normals)[:, None]).all(1)


def _ears(points: np.ndarray, loop: np.ndarray) -> np.ndarray:
    """Triangles `[c - 2, 3]` of one loop, by cutting off the smallest ear again and again."""
    normal = _normals(points, loop[None])[0]
    axes = np.delete(np.arange(3), np.argmax(np.abs(normal)))
    flat = points[:, axes] if points.shape[1] == 3 else points
    left = loop.tolist()
    area = _area(*flat[loop].T)
    sign = 1.0 if area >= 0 else -1.0
    triangles = []
    while len(left) > 3:
        best, least = None, np.inf
        order = sorted(range(len(left)), key=lambda i: left[i])
        for i in order:
            a, b, c = left[i - 1], left[i], left[(i + 1) % len(left)]
            size = sign * _cross(flat[a], flat[b], flat[c])
            others = flat[[n for n in left if n not in (a, b, c)]]
            if 0 < size < least and not _inside(flat[a], flat[b], flat[c], others, sign):
                best, least = i, size
        i = order[0] if best is None else best  # corners on one line or a loop that crosses itself: no ear is good
        triangles.append([left[i - 1], left[i], left[(i + 1) % len(left)]])
        del left[i]
    return np.array([*triangles, left])


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _inside(a: np.ndarray, b: np.ndarray, c: np.ndarray, others: np.ndarray, sign: float) -> bool:
    """Whether any other corner lies in the triangle or on its rim."""
    within = np.ones(len(others), dtype=bool)
    for p, q in ((a, b), (b, c), (c, a)):
        side = (q[0] - p[0]) * (others[:, 1] - p[1]) - (q[1] - p[1]) * (others[:, 0] - p[0])
        within &= sign * side >= 0
    return bool(within.any())


_SIMPLE = {  # corners of the faces, sorted: kind, corners of its base, nodes
    (3, 3, 3, 3): ("tetra", 3, 4),
    (3, 3, 3, 3, 4): ("pyramid", 4, 5),
    (3, 3, 4, 4, 4): ("wedge", 3, 6),
    (4, 4, 4, 4, 4, 4): ("hexahedron", 4, 8),
}


def _recognised(loops: list[np.ndarray]) -> tuple[str, np.ndarray] | None:
    """Kind and nodes of a polyhedron that is a simple cell; its orientation is left open."""
    shape = _SIMPLE.get(tuple(sorted(len(loop) for loop in loops)))
    if shape is None or len(np.unique(np.concatenate(loops))) != shape[2]:
        return None
    kind, corners, _ = shape
    base = next(loop for loop in loops if len(loop) == corners).tolist()
    up: dict[int, set[int]] = {node: set() for node in base}
    for loop in loops:
        for a, b in zip(loop.tolist(), np.roll(loop, -1).tolist(), strict=True):
            for node, other in ((a, b), (b, a)):
                if node in up and other not in up:
                    up[node].add(other)
    if any(len(tops) != 1 for tops in up.values()):
        return None
    above = [up[node].copy().pop() for node in base]
    if kind in ("tetra", "pyramid"):
        above = above[:1]
    elif len(set(above)) != corners:
        return None
    return kind, np.array(base + above)


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
