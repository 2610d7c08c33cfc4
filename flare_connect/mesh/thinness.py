"""How thin a mesh is at a node, and how near its boundaries are, measured along the mesh."""

import heapq

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from flare_connect.mesh.arrays import numpy_of
from flare_connect.mesh.distances import distance_from, edge_graph
from flare_connect.mesh.mesh import Mesh

_TOGETHER = 1 << 24  # distances at a time: a hundred megabytes
_LINK = 1e-300  # an edge shorter than this is a periodic link


def component_distances(mesh: Mesh, count: int = 2) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """Distances along the mesh to the `count` nearest boundary parts, and which parts they are.

    Fronts are plane: exact before a straight side. Where the second is as near as the first, a node lies in a ligament
    between two holes.

    Args:
        mesh: any mesh.
        count: K, how many parts, nearest first.

    Returns:
        Distances in units of `pos`, infinite where there are fewer parts; ids as in `mesh.boundary_component`,
        -1 there.
    """
    label = mesh.boundary_component.cpu().numpy()
    parts = int(label.max()) + 1
    facets = _facets(mesh)
    together = max(1, _TOGETHER // mesh.num_nodes)
    best = np.full((count, mesh.num_nodes), np.inf)
    which = np.full((count, mesh.num_nodes), -1, dtype=np.int64)
    for start in range(0, parts, together):
        ids = np.arange(start, min(start + together, parts))
        found = distance_from(mesh, [np.flatnonzero(label == part) for part in ids], facets=facets).cpu().numpy()
        best = np.concatenate([best, found])
        which = np.concatenate([which, np.where(np.isfinite(found), ids[:, None], -1)])
        order = np.argsort(best, axis=0, kind="stable")[:count]
        best, which = np.take_along_axis(best, order, axis=0), np.take_along_axis(which, order, axis=0)
    device = mesh.pos.device
    return torch.from_numpy(best.T.copy()).to(device), torch.from_numpy(which.T.copy()).to(device)


def local_thickness(mesh: Mesh) -> Float[Tensor, " N"]:
    """Diameter of the largest ball between the boundaries that reaches a node `[N]`.

    Balls sit at nodes, and touch the nearest boundary. The largest is laid first, along the mesh, and a node keeps the
    first one that reaches it, to within one edge. So it is right to within an element: a ligament without inner nodes
    has the length of its shortest edges. Periodic sides are no boundary.

    Returns:
        In units of `pos`; infinite on a mesh without boundary, 0 at nodes that no cell uses.

    Source: local thickness, Hildebrand and Rüegsegger 1997. One Python step a node: some
    seconds for a bracket of 100,000.
    """
    on_boundary = np.flatnonzero(mesh.boundary_component.cpu().numpy() >= 0)
    if not len(on_boundary):
        return torch.full((mesh.num_nodes,), torch.inf, dtype=torch.float64, device=mesh.pos.device)
    graph = edge_graph(mesh)
    depth = distance_from(mesh, [on_boundary], facets=_facets(mesh)).cpu().numpy()[0]
    depth[~np.isfinite(depth)] = 0.0
    shortest, longest = _incident(graph)
    starts, ends, lengths = graph.indptr.tolist(), graph.indices.tolist(), graph.data.tolist()
    places = [tuple(point) for point in mesh.pos.double().cpu().numpy().tolist()]
    reach = ((depth + longest) ** 2).tolist()
    thickness = np.zeros(mesh.num_nodes)
    done = [False] * mesh.num_nodes
    # (−radius, node, where the ball's centre is as seen from there, its reach squared): the largest ball first
    heap = list(zip((-depth).tolist(), range(mesh.num_nodes), places, reach, strict=True))
    heapq.heapify(heap)
    while heap:
        radius, node, centre, limit = heapq.heappop(heap)
        if done[node]:
            continue
        done[node] = True
        thickness[node] = -2 * radius
        for i in range(starts[node], starts[node + 1]):
            other = ends[i]
            if done[other]:
                continue
            seen = centre
            if lengths[i] < _LINK:  # a periodic link: beyond it the centre is a period away
                seen = tuple(c + q - p for c, p, q in zip(centre, places[node], places[other], strict=True))
            if sum((q - c) ** 2 for c, q in zip(seen, places[other], strict=True)) <= limit:
                heapq.heappush(heap, (radius, other, seen, limit))
    return torch.from_numpy(np.maximum(thickness, shortest)).to(mesh.pos.device)


def _facets(mesh: Mesh) -> list[np.ndarray]:
    """Facets of the boundary, those that periodic pairs glue together left out."""
    on = mesh.boundary_component.cpu().numpy() >= 0
    return [table[on[table].all(1)] for table in numpy_of(mesh.boundary_facets).values()]


def _incident(graph: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Length of the shortest and of the longest edge at each node; 0 where there is none, periodic links left out."""
    count = graph.shape[0]
    node = np.repeat(np.arange(count), np.diff(graph.indptr))
    real = graph.data >= _LINK
    shortest, longest = np.full(count, np.inf), np.zeros(count)
    np.minimum.at(shortest, node[real], graph.data[real])
    np.maximum.at(longest, node[real], graph.data[real])
    return np.where(np.isfinite(shortest), shortest, 0.0), longest
