"""How thin a mesh is at a node, and how near its boundaries are, measured along the mesh."""

import numpy as np
import torch
from jaxtyping import Float, Int
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
    """Diameter of the largest ball that fits between the boundaries at the ridge above each node `[N]`.

    Climbs from each node to the neighbour that is farthest from the boundary until none is farther, and takes twice
    that distance: in a strip its width, in a plate of holes the width of the nearest open region. Distances go along
    mesh edges, so a strip of few elements comes out in whole elements.

    Returns:
        In units of `pos`; infinite on a mesh without boundary.
    """
    label = mesh.boundary_component.cpu().numpy()
    on_boundary = np.flatnonzero(label >= 0)
    if not len(on_boundary):
        return torch.full((mesh.num_nodes,), torch.inf, dtype=torch.float64)
    depth = dijkstra(edge_graph(mesh), indices=on_boundary, min_only=True)
    source, target = mesh.edge_index.cpu().numpy()
    # The deepest neighbour of each node, itself where none is deeper; of equals the first.
    order = np.lexsort((target, -depth[target], source))
    first = np.unique(source[order], return_index=True)[1]
    best = np.arange(mesh.num_nodes)
    node, neighbour = source[order][first], target[order][first]
    best[node] = np.where(depth[neighbour] > depth[node], neighbour, node)
    while True:  # each round doubles the length of the climb
        further = best[best]
        if np.array_equal(further, best):
            return torch.from_numpy(2 * depth[best])
        best = further
