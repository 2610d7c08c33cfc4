"""Shortest paths through the cells, not only along their edges: arrays in, tensors out, many sources at once.

Every node takes the least of what the simplices around it offer. A simplex sees a wave pass through the face opposite
the node. For a wave from a node, the distances at the face's corners say where a straight ray must have come from, and
the
ray's length is the offer if the ray goes through the face: so distances are exact wherever the source is in straight
sight, whatever the cells. For a wave from a boundary, the distances at the corners give the direction of a plane front.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from torch import Tensor

from flare_connect.mesh.connectivity import distinct_rows, kind_of

_IMPROVES = 1e-10  # relative: a smaller gain than this is rounding
_SLACK = 1e-9  # how far beside a face, relative to it, a ray may pass: rounding must not lose the ones along its rim
# Offers at a time: on a CPU what stays in its cache, on a GPU what keeps it busy.
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 23}
# How many edges wide a band is: a narrow one means more steps, a wide one more nodes that settle twice.
_BAND = {"cpu": 1.0, "cuda": 4.0}


@dataclass(frozen=True, eq=False)
class Offers:
    """Ways to reach a node through a face of k corners: k = 1 along an edge, 2 across an edge, 3 across a triangle.

    Attributes:
        target: the node that is reached `[R]`.
        corners: the face's nodes, k times `[R]`.
        sides: squared lengths of the sides from the first corner, k − 1 times `[R]`.
        mixed: the product of the two sides, where there are two `[R]`.
        inverse: inverse of the sides' Gram matrix, upper triangle by rows `[R]`.
        foot: coordinates in the sides of the point of the face's plane that is nearest to the target `[R]`.
        height: how far the target is from that plane `[R]`.
        whole: whether a front may start from all of the face at once, because it is part of a source `[R]`.
        start: offers that face a node begin here in `order` `[N + 1]`.
        order: numbers of the offers, by the node that they face `[R k]`.
    """

    target: Tensor
    corners: list[Tensor]
    sides: list[Tensor]
    mixed: list[Tensor]
    inverse: list[Tensor]
    foot: list[Tensor]
    height: Tensor
    whole: Tensor
    start: Tensor
    order: Tensor


def march(
    pos: Float[np.ndarray, "N dim"],
    cells: Mapping[str, np.ndarray],
    edges: Int[np.ndarray, "2 E"],
    sources: Sequence[np.ndarray],
    *,
    glue: Int[np.ndarray, " N"] | None = None,
    facets: Sequence[np.ndarray] | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "K N"]:
    """Length of the shortest path through the cells to each node from the nearest node of each source.

    Rays are exact where the path is straight. Behind a corner the wave is taken to come from farther than it does,
    which is wrong by a share of an element's size: there the error falls linearly with it. Plane fronts are exact for a
    flat source, and as good as rays are behind corners for any other.

    Nodes are settled in bands of rising distance, all sources at once, and a band is repeated until no node gets
    nearer.

    Args:
        pos: node positions.
        cells: cell kind → nodes `[n, k]`; cells of any dimension, the kinds known.
        edges: pairs of nodes `[2, E]`; for what is no part of a triangle or tetrahedron.
        sources: K sets of nodes, each at distance 0 from itself.
        glue: the node that stands for each node, where some are one place.
        facets: if the sources are lines or surfaces, their facets, tables of nodes `[F, k]`: fronts are plane then.
            Without them sources are single nodes, and rays come from these.
        device: where to compute.

    Returns:
        Float64, in units of `pos`, on `device`; infinite where there is no path.

    Source: Kimmel and Sethian 1998 (waves through triangles), Novotni and Klein 2002 (straight rays instead of plane
    fronts), Fu, Kirby and Whitaker 2013 (tetrahedra, many nodes at once).
    """
    points, triangles, tetrahedra = _simplices(pos, cells)
    count = len(points)
    stand = np.arange(count)
    if glue is not None:
        stand[: len(glue)] = glue
    faces = [tetrahedra[:, [i for i in range(4) if i != j]] for j in range(4)]
    triangles = _distinct(np.concatenate([triangles, *faces]), count)
    sides = [triangles[:, [0, 1]], triangles[:, [0, 2]], triangles[:, [1, 2]], np.sort(edges.T, axis=1)]
    links = _distinct(np.concatenate(sides), count)
    tables = []
    for simplices in (links, triangles, tetrahedra):
        if len(simplices):
            corners, target = _opposite(simplices)
            tables.append(_offers(points, corners, target, _of_facets(corners, facets, count), stand, device))
    distance = torch.full((len(sources) * count,), torch.inf, dtype=torch.float64, device=device)
    start = [stand[np.asarray(nodes, dtype=np.int64)] + i * count for i, nodes in enumerate(sources)]
    first = torch.from_numpy(np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *start]))).to(device)
    distance[first] = 0.0
    if tables:
        _spread(distance, first, tables, count, facets is not None)
    return distance.reshape(len(sources), count)[:, torch.from_numpy(stand[: len(pos)]).to(device)]


def _spread(distance: Tensor, waiting: Tensor, tables: list[Offers], count: int, plane: bool) -> None:
    """Lowers the distances in place until no offer improves one; `waiting` are places in it, source by source."""
    stamp = torch.zeros(len(distance), dtype=torch.long, device=distance.device)
    chunk = _CHUNK.get(distance.device.type, _CHUNK["cpu"])
    band = tables[0].height.mean() * _BAND.get(distance.device.type, _BAND["cpu"])
    longest = tables[0].height.max()
    while len(waiting):
        ahead = distance[waiting]
        now = ahead <= ahead.min() + band
        # No wave of this band can improve what lies farther behind it than an edge is long.
        settled = ahead.min() - longest
        changed, reached = waiting[now], [waiting[~now]]
        for table in tables:
            node = changed % count
            begin = table.start[node]
            number = table.start[node + 1] - begin
            for part in _parts(number, chunk):
                reached.append(_step(distance, changed[part], begin[part], number[part], table, count, settled, plane))
        nearer = torch.cat(reached)
        # each place once: the last to write its number there keeps it
        ids = torch.arange(len(nearer), device=nearer.device)
        stamp[nearer] = ids
        waiting = nearer[stamp[nearer] == ids]


def _parts(number: Tensor, chunk: int) -> list[slice]:
    """Slices of places that together make about `chunk` offers."""
    ends = torch.cumsum(number, 0)
    total = int(ends[-1])
    cuts = torch.searchsorted(ends, torch.arange(chunk, max(total, chunk), chunk, device=ends.device)).tolist()
    bounds = sorted({0, *cuts, len(number)})
    return [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _step(
    distance: Tensor,
    changed: Tensor,
    begin: Tensor,
    number: Tensor,
    table: Offers,
    count: int,
    settled: Tensor,
    plane: bool,
) -> Tensor:
    """Makes the offers of one table that face the changed places; returns the places that got nearer."""
    ends = torch.cumsum(number, 0)
    total = int(ends[-1]) if len(ends) else 0
    shift = torch.repeat_interleave(begin - (ends - number), number, output_size=total)
    offer = table.order[shift + torch.arange(total, device=shift.device)]
    base = torch.repeat_interleave(changed - changed % count, number, output_size=total)
    goal = base + table.target[offer]
    old = distance[goal]
    still = torch.nonzero(old > settled).squeeze(1)
    offer, goal, old = offer[still], goal[still], old[still]
    known = [distance[base[still] + corner[offer]] for corner in table.corners]
    # A wave comes from where it is nearer, and must have passed the whole face.
    nearest, farthest = known[0], known[0]
    for other in known[1:]:
        nearest, farthest = torch.minimum(nearest, other), torch.maximum(farthest, other)
    passed = (nearest < old) & (farthest < torch.inf)
    if plane:
        passed &= (farthest > 0) | table.whole[offer]
    possible = torch.nonzero(passed).squeeze(1)
    offer, goal, old = offer[possible], goal[possible], old[possible]
    known = [values[possible] for values in known]
    new = _plane(known, table, offer) if plane else _ray(known, table, offer)
    better = torch.nonzero(new < old * (1 - _IMPROVES)).squeeze(1)
    goal, new = goal[better], new[better]
    distance.scatter_reduce_(0, goal, new, "amin")
    return goal


def _ray(known: list[Tensor], table: Offers, offer: Tensor) -> Tensor:
    """Length of the straight ray to the target through the inside of the face; infinite where it passes beside it."""
    height = table.height[offer]
    if len(known) == 1:
        return known[0] + height
    square = [values.square() for values in known]
    sides = [side[offer] for side in table.sides]
    # Where the ray starts: coordinates y in the sides, and its depth behind the face.
    b = [(square[0] - other + side) / 2 for other, side in zip(square[1:], sides, strict=True)]
    y = _solve(b, table, offer)
    depth = square[0] - _dot(b, y)
    reached = depth >= -_SLACK * square[0]
    depth = depth.clamp_min(0).sqrt()
    share = depth / (depth + height)
    steps = [foot[offer] - coordinate for foot, coordinate in zip(table.foot, y, strict=True)]
    through = _inside([a + share * step for a, step in zip(y, steps, strict=True)])
    along = _dot([step.square() for step in steps], sides)
    if len(steps) == 2:
        along += 2 * steps[0] * steps[1] * table.mixed[0][offer]
    return torch.where(through & reached, (along + (depth + height).square()).clamp_min(0).sqrt(), torch.inf)


def _plane(known: list[Tensor], table: Offers, offer: Tensor) -> Tensor:
    """When a plane front that passed the corners reaches the target; infinite if it comes from beside the face."""
    height = table.height[offer]
    if len(known) == 1:
        return known[0] + height
    rise = [values - known[0] for values in known[1:]]
    slope = _solve(rise, table, offer)
    rest = 1 - _dot(rise, slope)  # of the gradient's square, what is left for the normal of the face
    normal = rest.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    foot = [values[offer] for values in table.foot]
    through = _inside([a - height / normal * s for a, s in zip(foot, slope, strict=True)]) & (rest > 0)
    return torch.where(through, known[0] + _dot(foot, rise) + height * normal, torch.inf)


def _solve(right: list[Tensor], table: Offers, offer: Tensor) -> list[Tensor]:
    inverse = [values[offer] for values in table.inverse]
    if len(right) == 1:
        return [right[0] * inverse[0]]
    return [right[0] * inverse[0] + right[1] * inverse[1], right[0] * inverse[1] + right[1] * inverse[2]]


def _dot(left: list[Tensor], right: list[Tensor]) -> Tensor:
    out = left[0] * right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        out = out + a * b
    return out


def _inside(weights: list[Tensor]) -> Tensor:
    within, total = weights[0] >= -_SLACK, weights[0]
    for weight in weights[1:]:
        within, total = within & (weight >= -_SLACK), total + weight
    return within & (total <= 1 + _SLACK)


def _of_facets(corners: np.ndarray, facets: Sequence[np.ndarray] | None, count: int) -> np.ndarray:
    """Whether the corners of each face lie in one facet `[R]`; single nodes always do."""
    size = corners.shape[1]
    if facets is None or size == 1:
        return np.ones(len(corners), dtype=bool)
    tables = [
        np.sort(table[:, list(ids)], axis=1) for table in facets for ids in combinations(range(table.shape[1]), size)
    ]
    known = _distinct(np.concatenate([np.zeros((0, size), dtype=np.int64), *tables]), count)
    on = np.zeros(count, dtype=bool)
    on[known.reshape(-1)] = True
    inside = on[corners].all(1)
    rows = np.flatnonzero(inside)  # most faces are not even near
    both = np.concatenate([known, np.sort(corners[rows], axis=1)])
    index = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    found = np.zeros(len(both), dtype=bool)
    found[index[: len(known)]] = True
    inside[rows] = found[index[len(known) :]]
    return inside


def _offers(
    points: np.ndarray,
    corners: np.ndarray,
    target: np.ndarray,
    whole: np.ndarray,
    stand: np.ndarray,
    device: torch.device | str,
) -> Offers:
    sides = [points[corners[:, i]] - points[corners[:, 0]] for i in range(1, corners.shape[1])]
    to = points[target] - points[corners[:, 0]]
    squares = [_product(side, side) for side in sides]
    mixed: list[np.ndarray] = []
    if len(sides) == 2:
        mixed = [_product(*sides)]
        det = squares[0] * squares[1] - mixed[0] ** 2
    else:
        det = squares[0] if sides else np.ones(len(target))
    # A face without measure has no inside; its edges make their own offers.
    sound = det > 1e-20 * np.prod(squares, axis=0) if len(sides) == 2 else det > 0
    corners, target, to, det, whole = (array[sound] for array in (corners, target, to, det, whole))
    sides, squares, mixed = ([array[sound] for array in arrays] for arrays in (sides, squares, mixed))
    seen = [_product(side, to) for side in sides]
    if len(sides) == 2:
        inverse = [squares[1] / det, -mixed[0] / det, squares[0] / det]
        foot = [seen[0] * inverse[0] + seen[1] * inverse[1], seen[0] * inverse[1] + seen[1] * inverse[2]]
    else:
        inverse = [1 / square for square in squares]
        foot = [a * b for a, b in zip(seen, inverse, strict=True)]
    for side, coordinate in zip(sides, foot, strict=True):
        to = to - coordinate[:, None] * side
    faced = stand[corners]
    # SciPy's counting sort: faster than sorting.
    number = np.arange(faced.size)
    by_node = coo_matrix((number, (faced.reshape(-1), number)), shape=(len(points), max(1, faced.size))).tocsr()

    def there(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Offers(
        there(stand[target]),
        [there(column) for column in faced.T],
        [there(square) for square in squares],
        [there(product) for product in mixed],
        [there(entry) for entry in inverse],
        [there(coordinate) for coordinate in foot],
        there(np.linalg.norm(to, axis=1)),
        there(whole),
        there(by_node.indptr.astype(np.int64)),
        there(by_node.data // corners.shape[1]),
    )


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", a, b)


def _simplices(pos: np.ndarray, cells: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points with the helper points of cells appended, triangles `[T, 3]` and tetrahedra `[S, 4]`."""
    points, count = [pos], len(pos)
    found: dict[int, list[np.ndarray]] = {2: [np.zeros((0, 3), dtype=np.int64)], 3: [np.zeros((0, 4), dtype=np.int64)]}
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim < 2:
            continue
        block, helpers = nodes, len(kind.virtual)
        if helpers:
            # The centre of a face is one point for both cells at it: the nodes that it is the mean of say which.
            support = np.full((helpers, kind.num_nodes), kind.num_nodes)
            for row, weights in zip(support, kind.virtual, strict=True):
                row[: np.count_nonzero(weights)] = np.flatnonzero(weights)
            padded = np.pad(nodes, ((0, 0), (0, 1)), constant_values=len(pos))[:, support]
            _, first, index = np.unique(
                np.sort(padded, axis=2).reshape(-1, kind.num_nodes), axis=0, return_index=True, return_inverse=True
            )
            centres = np.einsum("vk,nkd->nvd", kind.virtual, pos[nodes]).reshape(-1, pos.shape[1])
            points.append(centres[first])
            block = np.concatenate([nodes, count + index.reshape(-1, helpers)], axis=1)
            count += len(first)
        found[kind.dim].append(block[:, kind.simplices[kind.filling]].reshape(-1, kind.dim + 1))
    surface, solid = np.concatenate(found[2]), np.concatenate(found[3])
    return np.concatenate(points), np.sort(surface, axis=1), np.sort(solid, axis=1)


def _distinct(simplices: np.ndarray, count: int) -> np.ndarray:
    """Each simplex once `[S, k]`; the nodes of each sorted already. Those that name a node twice are left out."""
    simplices = distinct_rows(simplices, count)[0]
    return simplices[(simplices[:, 1:] > simplices[:, :-1]).all(1)]


def _opposite(simplices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every face of the simplices, and the node opposite to it."""
    size = simplices.shape[1]
    faces = [simplices[:, [i for i in range(size) if i != j]] for j in range(size)]
    return np.concatenate(faces), simplices.T.reshape(-1)
