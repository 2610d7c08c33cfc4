"""A mesh cut into connected parts of about one size."""

from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.distances import anchors, clusters, edge_graph
from flare_connect.mesh.mesh import Mesh


def partition(mesh: Mesh, count: int, *, method: Literal["auto", "metis", "anchors"] = "auto") -> Int[Tensor, " N"]:
    """Cuts a mesh into connected clusters.

    METIS gives clusters of equal numbers of nodes with few edges between them; the cells of nodes around anchors
    (`clusters`) are rounder and differ in size. Both keep to the mesh: no cluster reaches across a void.

    Args:
        mesh: any mesh; periodic pairs are edges.
        count: C, at least the number of connected parts.
        method: "metis" needs pymetis; "auto" takes it where it is installed.

    Returns:
        Number of the cluster, 0 to C − 1, each at least one node and connected; -1 at nodes that no cell uses.

    Raises:
        MeshError: if `count` is below the number of parts or above the number of nodes in use, or pymetis is missing.

    Good values: a few hundred nodes a cluster.

    Source: Karypis and Kumar 1998 (METIS).
    """
    component = mesh.component.cpu().numpy()
    sizes = np.bincount(component[component >= 0])
    if not len(sizes) <= count <= sizes.sum():
        raise MeshError(
            f"`count` must be between {len(sizes)}, the mesh's connected parts, and {sizes.sum()}, its nodes in use;"
            f" got {count}"
        )
    if method == "metis" and find_spec("pymetis") is None:
        raise MeshError("method='metis' needs pymetis: pip install pymetis; or take method='anchors'")
    if method == "anchors" or find_spec("pymetis") is None:
        return clusters(mesh, anchors(mesh, count, device="cpu")[0])
    graph = edge_graph(mesh)
    graph.data[:] = 1.0
    label = np.full(mesh.num_nodes, -1, dtype=np.int64)
    # Periodic pairs may join what the cells do not.
    used = np.flatnonzero(component >= 0)
    parts = connected_components(graph[used][:, used], directed=False)[1]
    shares = _shares(np.bincount(parts), count)
    start = 0
    for part, share in enumerate(shares):
        nodes = used[parts == part]
        label[nodes] = start + _connected(graph[nodes][:, nodes], _metis(graph[nodes][:, nodes], share), share)
        start += share
    return torch.from_numpy(label).to(mesh.pos.device)


def _shares(sizes: np.ndarray, count: int) -> list[int]:
    """How many clusters each part gets: one, and the others one by one to the part with the largest clusters."""
    shares = np.ones(len(sizes), dtype=np.int64)
    for _ in range(count - len(sizes)):
        room = np.where(shares < sizes, sizes / shares, 0.0)
        shares[np.argmax(room)] += 1
    return shares.tolist()


def _metis(graph: csr_matrix, count: int) -> np.ndarray:
    import pymetis

    if count == 1:
        return np.zeros(graph.shape[0], dtype=np.int64)
    pairs = pymetis.CSRAdjacency(adj_starts=graph.indptr, adjacent=graph.indices)
    return np.asarray(pymetis.part_graph(count, adjacency=pairs, options=pymetis.Options(contig=1, seed=0))[1])


def _connected(graph: csr_matrix, label: np.ndarray, count: int) -> np.ndarray:
    """Mends what METIS does not promise: torn clusters give their smaller pieces away, empty ones take a node."""
    row = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    for _ in range(graph.shape[0]):
        inside = label[row] == label[graph.indices]
        within = csr_matrix((np.ones(int(inside.sum())), (row[inside], graph.indices[inside])), shape=graph.shape)
        piece = connected_components(within, directed=False)[1]
        size = np.bincount(piece)
        owner = np.empty(len(size), dtype=np.int64)
        owner[piece] = label
        order = np.lexsort((np.arange(len(size)), -size, owner))
        torn = order[1:][owner[order[1:]] == owner[order[:-1]]]
        if len(torn):
            cut = np.isin(piece, torn)
            borders = cut[row] & ~cut[graph.indices]
            label = label.copy()
            label[row[borders]] = label[graph.indices[borders]]
            continue
        empty = np.setdiff1d(np.arange(count), label)
        if not len(empty):
            return label
        # A leaf of the largest cluster's tree may leave without tearing it.
        largest = np.argmax(np.bincount(label, minlength=count))
        nodes = np.flatnonzero(label == largest)
        label = label.copy()
        label[nodes[_leaf(graph[nodes][:, nodes])]] = empty[0]
    return label


def _leaf(graph: csr_matrix) -> int:
    from scipy.sparse.csgraph import breadth_first_order

    return int(breadth_first_order(graph, 0, directed=False, return_predecessors=False)[-1])
