"""Meshes for the tests: one cell of each kind, structured grids in every kind."""

import itertools

import numpy as np

from flare_connect.mesh import Mesh

CORNERS = {
    "vertex": [[0, 0, 0]],
    "line": [[0, 0, 0], [1, 0, 0]],
    "triangle": [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
    "quad": [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]],
    "tetra": [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "hexahedron": [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
    "wedge": [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]],
    "pyramid": [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]],
}
MEASURES = {
    "vertex": 1.0,
    "line": 1.0,
    "triangle": 0.5,
    "quad": 1.0,
    "tetra": 1 / 6,
    "hexahedron": 1.0,
    "wedge": 0.5,
    "pyramid": 1 / 3,
}
# written out here from VTK's documentation, independently of the package: corners whose mean each further node is
_HEX_MIDS = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
_HEX_FACES = [(0, 3, 4, 7), (1, 2, 5, 6), (0, 1, 4, 5), (2, 3, 6, 7), (0, 1, 2, 3), (4, 5, 6, 7)]
MIDS = {
    "line3": [(0, 1)],
    "triangle6": [(0, 1), (1, 2), (2, 0)],
    "quad8": [(0, 1), (1, 2), (2, 3), (3, 0)],
    "quad9": [(0, 1), (1, 2), (2, 3), (3, 0), (0, 1, 2, 3)],
    "tetra10": [(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)],
    "hexahedron20": _HEX_MIDS,
    "hexahedron27": [*_HEX_MIDS, *_HEX_FACES, tuple(range(8))],
    "wedge15": [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)],
    "pyramid13": [(0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (2, 4), (3, 4)],
}
SPLITS = {
    "triangle": [(0, 1, 2), (0, 2, 3)],
    "quad": [(0, 1, 2, 3)],
    "hexahedron": [tuple(range(8))],
    "wedge": [(0, 1, 2, 4, 5, 6), (0, 2, 3, 4, 6, 7)],
    "tetra": [(0, 1, 2, 6), (0, 2, 3, 6), (0, 3, 7, 6), (0, 7, 4, 6), (0, 4, 5, 6), (0, 5, 1, 6)],
    "pyramid": [],
}


def corner_kind(kind):
    return kind.rstrip("0123456789")


def points_of(kind, corners=None):
    """Nodes of one cell, midside nodes halfway."""
    corners = np.array(CORNERS[corner_kind(kind)] if corners is None else corners, dtype=float)
    return np.array([*corners, *(corners[list(mid)].mean(0) for mid in MIDS.get(kind, []))])


def single(kind, dim=3, corners=None):
    points = points_of(kind, corners)
    return Mesh.from_arrays(points[:, :dim], {kind: [list(range(len(points)))]})


def grid(kind, shape):
    """A box of unit cells cut into cells of one kind, quadratic nodes included; planar kinds in 2-D."""
    base = corner_kind(kind)
    dim = len(shape)
    ids = np.arange(np.prod([n + 1 for n in shape])).reshape([n + 1 for n in shape])
    points = np.array(list(itertools.product(*(range(n + 1) for n in shape))), dtype=float)
    offsets = np.array(CORNERS["hexahedron" if dim == 3 else "quad"])[:, :dim]
    cells = []
    for cell in itertools.product(*(range(n) for n in shape)):
        box = [int(ids[tuple(np.array(cell) + o)]) for o in offsets]
        cells += [[box[i] for i in part] for part in SPLITS[base]]
    points, middle, full = list(points), {}, []
    for cell in cells:
        nodes = list(cell)
        for mid in MIDS.get(kind, []):
            key = frozenset(cell[i] for i in mid)
            if key not in middle:
                middle[key] = len(points)
                points.append(np.mean([points[i] for i in key], axis=0))
            nodes.append(middle[key])
        full.append(nodes)
    return Mesh.from_arrays(np.array(points), {kind: full})
