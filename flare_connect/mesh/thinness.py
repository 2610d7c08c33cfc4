"""How thin a mesh is at a node, and how near its boundaries are, measured along the mesh."""

import heapq

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from flare_connect.mesh.distances import edge_graph
from flare_connect.mesh.mesh import Mesh


def component_distances(mesh: Mesh, count: int = 2) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """Distances along the mesh to the `count` nearest boundary parts, and which parts they are.

    Where the second is as near as the first, a node lies in a ligament between two holes.

    Args:
        mesh: any mesh.
        count: K, how many parts, nearest first.

    Returns:
        Distances in units of `pos`, infinite where there are fewer parts; ids as in `mesh.boundary_component`,
        -1 there.
    """
    label = mesh.boundary_component.cpu().numpy()
    graph = edge_graph(mesh)
    parts = int(label.max()) + 1
    best = np.full((mesh.num_nodes, count + 1), np.inf)
    which = np.full((mesh.num_nodes, count + 1), -1, dtype=np.int64)
    for part in range(parts):
        best[:, count] = dijkstra(graph, indices=np.flatnonzero(label == part), min_only=True)
        which[:, count] = np.where(np.isfinite(best[:, count]), part, -1)
        order = np.argsort(best, axis=1, kind="stable")
        best, which = np.take_along_axis(best, order, axis=1), np.take_along_axis(which, order, axis=1)
    return torch.from_numpy(best[:, :count].copy()), torch.from_numpy(which[:, :count].copy())


def local_thickness(mesh: Mesh) -> Float[Tensor, " N"]:
    """Diameter of the largest ball between the boundaries that reaches a node `[N]`.

    Balls sit at nodes and are measured along mesh edges; the largest is laid first, and a node keeps the first one that
    reaches it, to within one edge. So it is right to within an element: a ligament without inner nodes has the length
    of its shortest edges. Periodic sides are no boundary.

    Returns:
        In units of `pos`; infinite on a mesh without boundary, 0 at nodes that no cell uses.

    Source: local thickness, Hildebrand and Rüegsegger 1997. One Python step a node: 0.6 s for a bracket of 100,000.
    """
    on_boundary = np.flatnonzero(mesh.boundary_component.cpu().numpy() >= 0)
    if not len(on_boundary):
        return torch.full((mesh.num_nodes,), torch.inf, dtype=torch.float64)
    graph = edge_graph(mesh)
    depth = dijkstra(graph, indices=on_boundary, min_only=True)
    depth[~np.isfinite(depth)] = 0.0
    starts, ends, lengths = graph.indptr.tolist(), graph.indices.tolist(), graph.data.tolist()
    shortest, longest = _incident(graph)
    thickness = np.zeros(mesh.num_nodes)
    done = np.zeros(mesh.num_nodes, dtype=bool).tolist()
    # (−radius, −what is left of it, node): the largest ball first, and in it the nearest node first
    heap = list(zip((-depth).tolist(), (-(depth + longest)).tolist(), range(mesh.num_nodes), strict=True))
    heapq.heapify(heap)
    while heap:
        radius, left, node = heapq.heappop(heap)
        if done[node]:
            continue
        done[node] = True
        thickness[node] = -2 * radius
        for i in range(starts[node], starts[node + 1]):
            rest = left + lengths[i]
            if rest <= 0 and not done[ends[i]]:
                heapq.heappush(heap, (radius, rest, ends[i]))
    return torch.from_numpy(np.maximum(thickness, shortest))


def _incident(graph: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Length of the shortest and of the longest edge at each node; 0 where there is none, periodic links left out."""
    count = graph.shape[0]
    node = np.repeat(np.arange(count), np.diff(graph.indptr))
    real = graph.data > 1e-300
    shortest, longest = np.full(count, np.inf), np.zeros(count)
    np.minimum.at(shortest, node[real], graph.data[real])
    np.maximum.at(longest, node[real], graph.data[real])
    return np.where(np.isfinite(shortest), shortest, 0.0), longest
