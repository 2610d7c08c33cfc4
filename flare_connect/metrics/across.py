"""Nodes that are close in space and may face each other across a void, periodic images included."""

from itertools import product

import numpy as np
from scipy.spatial import cKDTree

from flare_connect.mesh import Mesh
from flare_connect.mesh.arrays import host

_SAME_PERIOD = 1e-4  # in diagonals: how far the shifts of pairs of one side may differ
_MOST_PERIODS = 7  # three sides, and the diagonals of their edges and corners


def candidates(mesh: Mesh, glue: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of nodes not farther apart than `radius`, on the boundary if the mesh fills its space.

    Args:
        mesh: any mesh.
        glue: the node that stands for each node `[N]`, the smallest of those in one place.
        radius: in units of `pos`.

    Returns:
        Nodes `[2, P]`, the smaller number first, each pair once; and the shortest straight way from the first to the
        second or to an image of it `[P, dim]`.
    """
    pos = host(mesh.pos).astype(np.float64)
    facing = host(mesh.component if _is_bent(mesh, pos) else mesh.boundary_component) >= 0
    nodes = np.unique(glue[facing])
    images, shifted = _images(pos[nodes], _periods(mesh, pos), radius)
    close = cKDTree(shifted).query_pairs(radius, output_type="ndarray").T
    close = close[:, (close < len(nodes)).any(0)]  # two images of neighbours are a pair of the mesh itself, too
    pairs, vector = nodes[images[close]], shifted[close[1]] - shifted[close[0]]
    turned = pairs[0] > pairs[1]
    pairs, vector = np.sort(pairs, axis=0), np.where(turned[:, None], -vector, vector)
    order = np.lexsort((np.linalg.norm(vector, axis=1), pairs[1], pairs[0]))
    pairs, vector = pairs[:, order], vector[order]
    once = pairs[0] != pairs[1]
    once[1:] &= (pairs[:, 1:] != pairs[:, :-1]).any(0)
    return pairs[:, once], vector[once]


def _is_bent(mesh: Mesh, pos: np.ndarray) -> bool:
    """Whether the nodes in use span more dimensions than the cells have: a surface has the void on both sides."""
    used = pos[host(mesh.component) >= 0]
    spread = np.linalg.svd(used - used.mean(0), compute_uv=False)
    return int((spread > 1e-6 * spread.max()).sum()) > mesh.topological_dim


def _periods(mesh: Mesh, pos: np.ndarray) -> np.ndarray:
    """Shifts by which the mesh repeats `[K, dim]`; none where sides repeat by a turn."""
    pairs = np.zeros((2, 0), dtype=np.int64) if mesh.periodic_pairs is None else host(mesh.periodic_pairs)
    left, found = pos[pairs[1]] - pos[pairs[0]], []
    while len(left):
        found.append(left[0])
        same = [np.linalg.norm(left - sign * left[0], axis=1) < _SAME_PERIOD * mesh.length_scale for sign in (-1, 1)]
        left = left[~(same[0] | same[1])]
        if len(found) > _MOST_PERIODS:
            return np.zeros((0, pos.shape[1]))
    return np.reshape(found, (-1, pos.shape[1]))


def _images(points: np.ndarray, periods: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The points, then their periodic images around them: which point each is, and where."""
    numbers, places = [np.arange(len(points))], [points]
    if not len(points):
        return numbers[0], places[0]
    low, high = points.min(0) - radius, points.max(0) + radius
    for times in product((-1, 0, 1), repeat=len(periods)):
        if any(times):
            moved = points + np.array(times) @ periods
            inside = ((moved >= low) & (moved <= high)).all(1)
            numbers.append(np.flatnonzero(inside))
            places.append(moved[inside])
    return np.concatenate(numbers), np.concatenate(places)
