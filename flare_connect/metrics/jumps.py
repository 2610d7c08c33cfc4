"""Jumps across voids: pairs of nodes that are close in space and far along the mesh, and errors of the jump."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.mesh.arrays import host
from flare_connect.mesh.topology import glued
from flare_connect.metrics.across import candidates
from flare_connect.metrics.along import Lines, shortest_way, straight_way
from flare_connect.metrics.fields import Field, checked_pair, weighted_error
from flare_connect.metrics.thickness import element_size

_FEW_EDGES = 4.0  # the radius, in median edges, if none is given
_TIE = 1e-9  # relative: partners of which none is nearer than the other by more than rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class JumpPairs:
    """Pairs of nodes across voids of one mesh.

    Attributes:
        nodes: the two nodes of each pair `[2, P]`, the smaller number first; each pair once.
        distance: straight distance between them `[P]`, in units of `pos`; 0 at a crack without opening.
        num_nodes: N of the mesh.
    """

    nodes: Int[Tensor, "2 P"]
    distance: Float[Tensor, " P"]
    num_nodes: int

    def __len__(self) -> int:
        """Number of pairs, P."""
        return int(self.nodes.shape[1])


def jump_pairs(mesh: Mesh, *, radius: float | None = None, ratio: float = 5.0, min_cells: int = 6) -> JumpPairs:
    """Finds the pairs across slits, cracks and gaps: what attention over coordinates takes for neighbours.

    Nodes of the boundary (of a surface or curve in a space of more dimensions: all nodes) not farther apart than
    `radius` are a pair if the way along the mesh is at least `ratio` times as long as the straight one and crosses at
    least `min_cells` cells, or if there is no way. Those are kept where each is nearest to the other: on a slit whose
    lips are meshed alike the nodes that face each other, on a crack its doubled nodes. Periodic sides are glued first,
    and a void that they cut is whole.

    Args:
        mesh: any mesh, N nodes; those that no cell uses have no partner.
        radius: in units of `pos`; None takes four median edges, so a slit wider than that is left out.
        ratio: how many times longer the way must be, above 1. Ways go from node to node of a cell, and are a little too
            long.
        min_cells: how many cells it must cross, at least 2; without opening this alone decides how near the tip of a
            crack pairs begin.

    Returns:
        The pairs; none on a convex mesh, around large holes and across periodic sides. On one CPU core 10,000 nodes of
        triangles take 0.05 s, 100,000 of quadratic tetrahedra 15 s.

    Raises:
        InputError: a setting is out of range.

    Good values: the defaults; one `radius` for all to compare meshes of different fineness. A ratio of 5 is above
    any round hole (π/2) and any detour along edges (√2), and finds a slit that is four openings long.
    """
    if radius is None:
        radius = _FEW_EDGES * element_size(mesh)
    if not (np.isfinite(radius) and radius > 0):
        raise InputError(f"`radius` must be finite and above 0, got {radius}")
    if not ratio > 1:
        raise InputError(f"`ratio` must be above 1, got {ratio}")
    if min_cells < 2:
        raise InputError(f"`min_cells` must be at least 2, got {min_cells}")
    glue = np.arange(mesh.num_nodes)
    if mesh.periodic_pairs is not None:
        glue = glued(host(mesh.periodic_pairs), mesh.num_nodes)
    lines = Lines.of(mesh, glue)
    pairs, vector = candidates(mesh, glue, radius)
    distance = np.linalg.norm(vector, axis=1)
    # Most candidates are neighbours on one side and a walk shows it; searches are for the few that are left.
    way, count = straight_way(lines, pairs, vector)
    far = _at_least(way, ratio * distance) & (count >= min_cells)
    pairs, distance = _facing(lines, pairs[:, far], distance[far], ratio, min_cells)
    device = mesh.pos.device
    return JumpPairs(
        nodes=torch.from_numpy(pairs).to(device),
        distance=torch.from_numpy(distance).to(device),
        num_nodes=mesh.num_nodes,
    )


def jump_error(pairs: JumpPairs, prediction: Field, truth: Field, trim: float = 0.05) -> float:
    r"""Relative error of the differences across voids, $\|\Delta p - \Delta y\|_2 / \|\Delta y\|_2$ over the pairs.

    0 is a model that has every jump right, 1 one that sees none: it gives the same value on both sides.

    Args:
        pairs: from `jump_pairs`.
        prediction: `[N]` or `[N, c]`, in the unit of the truth.
        truth: the same shape.
        trim: pairs with a node whose |truth| is among the largest of this share of all nodes are left out, because
            differences of stress are ruled by the few nodes at tips; 0 takes all pairs.

    Returns:
        As `relative_l2`; NaN where there are no pairs, or none is left.

    Raises:
        InputError: a field does not fit the mesh, or `trim` is out of range.

    Good values: `trim=0.05` for stress, and 0 beside it; `trim=0` for temperature and displacement.
    """
    if not 0 <= trim < 1:
        raise InputError(f"`trim` must be at least 0 and below 1, got {trim}")
    guess, right = checked_pair(prediction, truth, pairs.num_nodes)
    first, second = pairs.nodes.cpu()
    size = right.norm(dim=1)
    calm = size <= float(np.quantile(size.numpy(), 1 - trim))
    kept = calm[first] & calm[second]
    if not kept.any():
        return float("nan")
    first, second = first[kept], second[kept]
    return weighted_error(guess[second] - guess[first], right[second] - right[first])


def _facing(
    lines: Lines, pairs: np.ndarray, distance: np.ndarray, ratio: float, min_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the pairs that are far apart along the mesh, those where each node is nearest to the other.

    A pair that others hide at both of its ends, wrong ones that a walk did not find out, is missed: to ask about
    all pairs would take minutes on a solid.
    """
    graph, known = lines.graph(), np.zeros(len(distance), dtype=bool)
    while True:
        nearest = np.full(graph.shape[0], np.inf)
        np.minimum.at(nearest, pairs, np.broadcast_to(distance, pairs.shape))
        near = distance <= nearest[pairs] * (1 + _TIE)
        wanted = np.zeros(graph.shape[0], dtype=bool)
        wanted[pairs[::-1][near]] = True
        asked = np.flatnonzero((near & wanted[pairs]).any(0) & ~known)
        if not len(asked):
            kept = near.all(0)
            return pairs[:, kept], distance[kept]
        # Searches are for what would be kept and what stands before it, and settle what else they pass on their way.
        reach = np.full(graph.shape[0], -np.inf)
        np.maximum.at(reach, pairs[0, asked], ratio * distance[asked])
        mine = np.flatnonzero(np.isfinite(reach[pairs[0]]))
        far = shortest_way(graph, pairs[:, mine], np.full(graph.shape[0], float(min_cells)), in_cells=True) >= min_cells
        far[far] = _at_least(shortest_way(graph, pairs[:, mine[far]], reach), ratio * distance[mine[far]])
        known[asked] = True
        stay = np.ones(len(known), dtype=bool)
        stay[mine[~far]] = False
        pairs, distance, known = pairs[:, stay], distance[stay], known[stay]


def _at_least(way: np.ndarray, limit: np.ndarray) -> np.ndarray:
    return way >= limit * (1 - _TIE)
