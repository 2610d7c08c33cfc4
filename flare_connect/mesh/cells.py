"""The kinds of cells: names, nodes, edges, facets, and how each is cut into simplices.

Node order is meshio's: VTK's, except that the linear wedge has its first triangle's normal pointing inward, as every
other solid here does (VTK's own linear wedge is the one exception to its rule).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class CellKind:
    """What is known about one kind of cell, before any coordinates.

    Attributes:
        name: meshio's name.
        vtk_type: VTK's cell type number.
        vtk_order: `nodes_in_vtk_order = nodes[:, vtk_order]`, or None where the orders agree.
        dim: topological dimension, 0 to 3.
        num_nodes: nodes of a cell, k.
        corners: kind made of the corner nodes alone, which come first.
        num_corners: number of corner nodes.
        edges: local nodes of every edge `[e, 2]`, quadratic edges as (corner, mid) and (mid, corner).
        facets: facet kind and its local nodes, oriented outward for a cell of positive measure.
        simplices: local nodes of the simplices that fill the cell `[s, dim + 1]`; ids from k on are `virtual`.
        filling: numbers of the simplices that make up one of the fillings, for uses that need no symmetry.
        weights: how often each simplex counts `[s]`; where several fillings are averaged this is a fraction.
        virtual: positions of helper points from the nodes `[v, k]`.
        shares: part of each simplex's measure that each node receives `[s, k]`; a row sums to its weight.
    """

    name: str
    vtk_type: int
    vtk_order: tuple[int, ...] | None
    dim: int
    num_nodes: int
    corners: str
    num_corners: int
    edges: np.ndarray
    facets: tuple[tuple[str, tuple[int, ...]], ...]
    simplices: np.ndarray
    filling: np.ndarray
    weights: np.ndarray
    virtual: np.ndarray
    shares: np.ndarray


# corner kind: (dimension, corner edges in the order of their midside nodes, facets by corners, outward)
_CORNER_KINDS: dict[str, tuple[int, tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]] = {
    "vertex": (0, (), ()),
    "line": (1, ((0, 1),), ((0,), (1,))),
    "triangle": (2, ((0, 1), (1, 2), (2, 0)), ((0, 1), (1, 2), (2, 0))),
    "quad": (2, ((0, 1), (1, 2), (2, 3), (3, 0)), ((0, 1), (1, 2), (2, 3), (3, 0))),
    "tetra": (
        3,
        ((0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)),
        ((0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)),
    ),
    "hexahedron": (
        3,
        ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)),
        ((3, 0, 4, 7), (1, 2, 6, 5), (0, 1, 5, 4), (2, 3, 7, 6), (0, 3, 2, 1), (4, 5, 6, 7)),
    ),
    "wedge": (
        3,
        ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)),
        ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)),
    ),
    "pyramid": (
        3,
        ((0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (2, 4), (3, 4)),
        ((0, 3, 2, 1), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)),
    ),
}

# corners of an upright cell of positive measure
_REFERENCE: dict[str, tuple[tuple[int, ...], ...]] = {
    "vertex": ((),),
    "line": ((0,), (2,)),
    "triangle": ((0, 0), (2, 0), (0, 2)),
    "quad": ((0, 0), (2, 0), (2, 2), (0, 2)),
    "tetra": ((0, 0, 0), (2, 0, 0), (0, 2, 0), (0, 0, 2)),
    "hexahedron": ((0, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0), (0, 0, 2), (2, 0, 2), (2, 2, 2), (0, 2, 2)),
    "wedge": ((0, 0, 0), (2, 0, 0), (0, 2, 0), (0, 0, 2), (2, 0, 2), (0, 2, 2)),
    "pyramid": ((0, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0), (1, 1, 2)),
}

# name: (corner kind, VTK type, has midside nodes, facets that have a centre node (in its order), has a body centre)
_KINDS: dict[str, tuple[str, int, bool, bool, bool]] = {
    "vertex": ("vertex", 1, False, False, False),
    "line": ("line", 3, False, False, False),
    "line3": ("line", 21, True, False, False),
    "triangle": ("triangle", 5, False, False, False),
    "triangle6": ("triangle", 22, True, False, False),
    "quad": ("quad", 9, False, False, False),
    "quad8": ("quad", 23, True, False, False),
    "quad9": ("quad", 28, True, False, True),
    "tetra": ("tetra", 10, False, False, False),
    "tetra10": ("tetra", 24, True, False, False),
    "hexahedron": ("hexahedron", 12, False, False, False),
    "hexahedron20": ("hexahedron", 25, True, False, False),
    "hexahedron27": ("hexahedron", 29, True, True, True),
    "wedge": ("wedge", 13, False, False, False),
    "wedge15": ("wedge", 26, True, False, False),
    "pyramid": ("pyramid", 14, False, False, False),
    "pyramid13": ("pyramid", 27, True, False, False),
}

# kinds that are kept but about which nothing geometrical is known
OTHER_VTK_TYPES = {"quad6": 30, "wedge12": 31, "wedge18": 32, "hexahedron24": 33, "triangle7": 34, "line4": 35}

_FACET_KIND = {
    (1, False, False): "vertex",
    (2, False, False): "line",
    (2, True, False): "line3",
    (3, False, False): "triangle",
    (3, True, False): "triangle6",
    (4, False, False): "quad",
    (4, True, False): "quad8",
    (4, True, True): "quad9",
}

# the order that turns a facet's normal round
FACET_FLIP: dict[str, tuple[int, ...]] = {
    "vertex": (0,),
    "line": (1, 0),
    "line3": (1, 0, 2),
    "triangle": (0, 2, 1),
    "triangle6": (0, 2, 1, 5, 4, 3),
    "quad": (0, 3, 2, 1),
    "quad8": (0, 3, 2, 1, 7, 6, 5, 4),
    "quad9": (0, 3, 2, 1, 7, 6, 5, 4, 8),
}

# Fillings of the corner kinds by simplices. Where there are several, their average is symmetric in the nodes and gives
# the exact measure of bilinear faces and trilinear bodies (complementary diagonals on every face).
_HEX_EVEN = ((0, 1, 2, 5), (0, 2, 3, 7), (0, 5, 7, 4), (2, 7, 5, 6), (0, 2, 7, 5))
_HEX_ODD = ((1, 0, 4, 3), (1, 3, 6, 2), (1, 6, 4, 5), (3, 4, 6, 7), (1, 3, 4, 6))
_FILLINGS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    "vertex": (((0,),),),
    "line": (((0, 1),),),
    "triangle": (((0, 1, 2),),),
    "quad": (((0, 1, 2), (0, 2, 3)), ((1, 2, 3), (1, 3, 0))),
    "tetra": (((0, 1, 2, 3),),),
    "hexahedron": (_HEX_EVEN, _HEX_ODD),
    "wedge": (
        ((0, 1, 2, 3), (1, 2, 3, 4), (2, 4, 5, 3)),
        ((0, 1, 2, 4), (0, 2, 3, 4), (2, 4, 5, 3)),
        ((0, 1, 2, 4), (0, 2, 5, 4), (0, 4, 5, 3)),
        ((0, 1, 2, 5), (0, 1, 5, 4), (0, 4, 5, 3)),
        ((0, 1, 2, 5), (0, 1, 5, 3), (1, 4, 5, 3)),
        ((0, 1, 2, 3), (1, 2, 3, 5), (1, 4, 5, 3)),
    ),
    "pyramid": (((0, 1, 2, 4), (0, 2, 3, 4)), ((1, 2, 3, 4), (1, 3, 0, 4))),
}

# quadratic kinds as corner-kind pieces; ids from num_nodes on are the helper points of _virtual_points
_PIECES: dict[str, tuple[tuple[str, tuple[tuple[int, ...], ...], float], ...]] = {
    "line3": (("line", ((0, 2), (2, 1)), 1.0),),
    "triangle6": (("triangle", ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)), 1.0),),
    "quad8": (("quad", ((0, 4, 8, 7), (4, 1, 5, 8), (8, 5, 2, 6), (7, 8, 6, 3)), 1.0),),
    "tetra10": (
        ("tetra", ((0, 4, 6, 7), (4, 1, 5, 8), (6, 5, 2, 9), (7, 8, 9, 3)), 1.0),
        # the inner octahedron, cut along each of its three diagonals in turn
        ("tetra", ((4, 9, 7, 8), (4, 9, 8, 5), (4, 9, 5, 6), (4, 9, 6, 7)), 1 / 3),
        ("tetra", ((5, 7, 4, 6), (5, 7, 6, 9), (5, 7, 9, 8), (5, 7, 8, 4)), 1 / 3),
        ("tetra", ((6, 8, 4, 5), (6, 8, 5, 9), (6, 8, 9, 7), (6, 8, 7, 4)), 1 / 3),
    ),
    "hexahedron20": (
        (
            "hexahedron",
            (
                (0, 8, 24, 11, 16, 22, 26, 20),
                (8, 1, 9, 24, 22, 17, 21, 26),
                (24, 9, 2, 10, 26, 21, 18, 23),
                (11, 24, 10, 3, 20, 26, 23, 19),
                (16, 22, 26, 20, 4, 12, 25, 15),
                (22, 17, 21, 26, 12, 5, 13, 25),
                (26, 21, 18, 23, 25, 13, 6, 14),
                (20, 26, 23, 19, 15, 25, 14, 7),
            ),
            1.0,
        ),
    ),
    "wedge15": (
        (
            "wedge",
            (
                (0, 6, 8, 12, 15, 17),
                (6, 1, 7, 15, 13, 16),
                (8, 7, 2, 17, 16, 14),
                (6, 7, 8, 15, 16, 17),
                (12, 15, 17, 3, 9, 11),
                (15, 13, 16, 9, 4, 10),
                (17, 16, 14, 11, 10, 5),
                (15, 16, 17, 9, 10, 11),
            ),
            1.0,
        ),
    ),
    "pyramid13": (
        (
            "pyramid",
            ((0, 5, 13, 8, 9), (5, 1, 6, 13, 10), (13, 6, 2, 7, 11), (8, 13, 7, 3, 12), (9, 10, 11, 12, 4)),
            1.0,
        ),
        ("pyramid", ((12, 11, 10, 9, 13),), 1.0),
        ("tetra", ((5, 10, 9, 13), (6, 11, 10, 13), (7, 12, 11, 13), (8, 9, 12, 13)), 1.0),
    ),
}
_PIECES["quad9"] = _PIECES["quad8"]
_PIECES["hexahedron27"] = _PIECES["hexahedron20"]


def _quad_centre(corners: tuple[int, ...], mids: tuple[int, ...], num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre of an eight-node face from its nodes, and the nodes that take over what falls to it."""
    position, share = np.zeros(num_nodes), np.zeros(num_nodes)
    position[list(corners)] = -0.25
    position[list(mids)] = 0.5
    share[list(mids)] = 0.25
    return position, share


def _virtual_points(name: str, facet_mids: list[tuple[tuple[int, ...], tuple[int, ...]]], num_nodes: int) -> np.ndarray:
    """Positions `[v, k]` and shares `[v, k]` of helper points, stacked to `[2, v, k]`."""
    if name == "quad8":
        points = [_quad_centre((0, 1, 2, 3), (4, 5, 6, 7), num_nodes)]
    elif name in ("hexahedron20", "wedge15", "pyramid13"):
        points = [_quad_centre(c, m, num_nodes) for c, m in facet_mids if len(c) == 4]
    else:
        return np.zeros((2, 0, num_nodes))
    if name == "hexahedron20":
        position, share = np.full(20, -0.25), np.zeros(20)
        position[8:] = 0.25  # the serendipity shape functions at the centre: -1/4 at corners, 1/4 at mids
        share[8:] = 1 / 12
        points.append((position, share))
    return np.array(points).transpose(1, 0, 2)


def _upright(simplices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Turns round the simplices that have negative measure at the reference points `[k + v, dim]`."""
    if simplices.shape[1] < 3:
        return simplices
    edges = points[simplices[:, 1:]] - points[simplices[:, :1]]
    negative = np.linalg.det(edges) < 0
    simplices[negative, :2] = simplices[negative, 1::-1]
    return simplices


def _simplices(
    pieces: Iterable[tuple[str, tuple[tuple[int, ...], ...], float]],
) -> tuple[list[list[int]], list[float], list[int]]:
    """Simplices of all fillings of all pieces, how much each counts, and which of them fill the cell once."""
    simplices: list[list[int]] = []
    weights: list[float] = []
    first: list[int] = []
    shared = False  # pieces that count less than once are ways to fill one place: the first is as good as the others
    for piece_kind, cells, weight in pieces:
        fillings = _FILLINGS[piece_kind]
        counts = weight == 1.0 or not shared
        shared |= weight < 1.0
        for cell in cells:
            for which, filling in enumerate(fillings):
                if counts and which == 0:
                    first += range(len(simplices), len(simplices) + len(filling))
                simplices += [[cell[i] for i in simplex] for simplex in filling]
                weights += [weight / len(fillings)] * len(filling)
    return simplices, weights, first


def _build(name: str) -> CellKind:
    corners, vtk_type, has_mids, has_face_centres, has_centre = _KINDS[name]
    dim, corner_edges, corner_facets = _CORNER_KINDS[corners]
    num_corners = max((max(f) for f in corner_facets), default=0) + 1
    corner_points = np.array(_REFERENCE[corners], dtype=float)
    points = list(corner_points)
    mid = {frozenset(e): num_corners + i for i, e in enumerate(corner_edges)} if has_mids else {}
    points += [corner_points[list(e)].mean(0) for e in corner_edges[: len(mid)]]
    num_nodes = num_corners + len(mid)
    edges: list[tuple[int, int]] = []
    for a, b in corner_edges:
        chain = (a, mid[frozenset((a, b))], b) if has_mids else (a, b)
        edges += pairwise(chain)
    facets: list[tuple[str, tuple[int, ...]]] = []
    facet_mids: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    centres: list[int] = []
    for facet in corner_facets:
        loop = list(pairwise(facet)) + ([(facet[-1], facet[0])] if len(facet) > 2 else [])
        mids = tuple(mid[frozenset(e)] for e in loop) if has_mids else ()
        facet_mids.append((facet, mids))
        centre: tuple[int, ...] = ()
        if has_face_centres:
            centre = (num_nodes,)
            centres.append(num_nodes)
            points.append(corner_points[list(facet)].mean(0))
            edges += [(m, num_nodes) for m in mids]
            num_nodes += 1
        facets.append((_FACET_KIND[len(facet), has_mids and len(facet) > 1, bool(centre)], facet + mids + centre))
    if has_centre:
        edges += [(i, num_nodes) for i in (centres or mid.values())]
        points.append(corner_points.mean(0))
        num_nodes += 1
    reference = np.array(points)
    virtual, redistribute = _virtual_points(name, facet_mids, num_nodes)
    pieces = _PIECES.get(name, ((corners, (tuple(range(num_corners)),), 1.0),))
    simplices, weights, first = _simplices(pieces)
    receives = np.concatenate([np.eye(num_nodes), redistribute])
    ids = _upright(np.array(simplices), np.concatenate([reference, virtual @ reference]))
    return CellKind(
        name=name,
        vtk_type=vtk_type,
        vtk_order=(0, 2, 1, 3, 5, 4) if name == "wedge" else None,
        dim=dim,
        num_nodes=num_nodes,
        corners=corners,
        num_corners=num_corners,
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
        facets=tuple(facets),
        simplices=ids,
        filling=np.array(first),
        weights=np.array(weights),
        virtual=virtual,
        shares=receives[ids].mean(1) * np.array(weights)[:, None],
    )


CELL_KINDS: dict[str, CellKind] = {name: _build(name) for name in _KINDS}
"""All kinds that are understood, by meshio's name."""

VTK_KINDS: dict[int, str] = {kind.vtk_type: kind.name for kind in CELL_KINDS.values()} | {
    number: name for name, number in OTHER_VTK_TYPES.items()
}
"""VTK cell type → meshio's name, for kinds with a fixed number of nodes."""
