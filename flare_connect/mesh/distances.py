"""How far it is along the mesh: shortest paths, anchors spread by them, the clusters around them.

Nothing here crosses a void: a node in another part of the mesh is infinitely far.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.arrays import numpy_of
from flare_connect.mesh.connectivity import kind_of
from flare_connect.mesh.marching import march
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.operators import assemble
from flare_connect.mesh.topology import glued

_GPU_PAYS = 15_000  # nodes; measured, see examples/studies/mesh_speed
_STEPS = 8  # along edges, between two looks


def geodesic_distance(
    mesh: Mesh,
    sources: Int[Tensor, " K"],
    *,
    through: Literal["cells", "edges"] = "cells",
    device: torch.device | str | None = None,
) -> Float[Tensor, "K N"]:
    """Length of the shortest path in the mesh from each source to each node; periodic pairs are one place.

    Through cells it is exact where the source is in straight sight, and first order in the size of an element behind
    corners and holes: 0.1 % in the mean around a ring of 5,000 nodes. Along edges it is too long, by 5 to 10 % in the
    mean on unstructured meshes and by up to 41 % across the diagonals of structured ones, whatever the resolution; it
    is what `anchors` and `clusters` use, for whom the order of nodes is enough.

    Args:
        mesh: any mesh.
        sources: nodes.
        through: what paths may cross. 64 sources on 10,000 nodes of triangles take 1.7 s through cells on two CPU
            cores and 0.1 s along edges; on 10,600 nodes of tetrahedra 16 s and 0.2 s.
        device: where to compute paths through cells; None is where the mesh is.

    Returns:
        Float64, in units of `pos`; infinite where there is no path.

    Raises:
        MeshError: if a source is no node.

    Source: see `flare_connect.mesh.marching.march`.
    """
    nodes = checked_nodes(mesh, sources)
    if through == "edges":
        return torch.from_numpy(np.atleast_2d(dijkstra(edge_graph(mesh), indices=nodes))).to(mesh.pos.device)
    return distance_from(mesh, [nodes[i : i + 1] for i in range(len(nodes))], device=device)


def distance_from(
    mesh: Mesh,
    sets: Sequence[np.ndarray],
    *,
    facets: Sequence[np.ndarray] | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "K N"]:
    """Length of the shortest path through cells to the nearest node of each set; see `flare_connect.mesh.marching`."""
    found = march(
        mesh.pos.double().cpu().numpy(),
        numpy_of(mesh.cells),
        mesh.edge_index.cpu().numpy(),
        sets,
        glue=None if mesh.periodic_pairs is None else glued(mesh.periodic_pairs.cpu().numpy(), mesh.num_nodes),
        facets=facets,
        device=mesh.pos.device if device is None else device,
    )
    return found.to(mesh.pos.device)


def anchors(
    mesh: Mesh, count: int, *, device: torch.device | str | None = None
) -> tuple[Int[Tensor, " M"], Float[Tensor, " N"]]:
    """Nodes spread over the mesh by farthest-point sampling in mesh distance, along edges.

    Nested: the first m of M anchors are the anchors asked for with `count=m`, so any prefix is a valid choice. Every
    connected part is reached before a second anchor falls into any. The first anchor is the node farthest from the
    centroid, so that numbering, position and orientation of the mesh do not matter (but for exact ties).

    Args:
        mesh: any mesh; nodes that no cell uses are left out.
        count: M, at most the number of nodes in use.
        device: where to compute; None is where the mesh is, but the CPU for meshes too small for a GPU to pay.

    Returns:
        The anchors, and each node's distance to the nearest of them (infinite at orphans), where the mesh is.

    Raises:
        MeshError: if `count` is below 1 or above the number of nodes in use.
    """
    if device is None:
        device = mesh.pos.device if mesh.num_nodes > _GPU_PAYS else "cpu"
    device = torch.device(device)
    pos = mesh.pos.to(device, torch.float64)
    used = torch.zeros(mesh.num_nodes, dtype=torch.bool, device=device)
    for nodes in mesh.cells.values():
        used[nodes.to(device).reshape(-1)] = True
    if not 1 <= count <= int(used.sum()):
        raise MeshError(f"`count` must be between 1 and the mesh's {int(used.sum())} nodes in use, got {count}")
    volume = assemble(pos, {kind: nodes.to(device) for kind, nodes in mesh.cells.items()})[2]
    straight = (pos - (volume[:, None] * pos).sum(0) / volume.sum()).norm(dim=1)
    visit = _visits(mesh, device)
    nearest = torch.where(used, torch.inf, -1.0).double()
    chosen = torch.empty(count, dtype=torch.long, device=device)
    for i in range(count):
        farthest = nearest.max()
        ties = nearest >= farthest * (1 - 1e-12)
        chosen[i] = torch.where(ties, straight, -1.0).argmax()
        visit(nearest, chosen[i : i + 1], float(farthest))
    nearest[~used] = torch.inf
    return chosen.to(mesh.pos.device), nearest.to(mesh.pos.device)


def _visits(mesh: Mesh, device: torch.device) -> Callable[[Tensor, Tensor, float], None]:
    """A function that lowers the distances `[N]` to what they are with one more source, along edges."""
    if device.type != "cpu":
        return _waves(mesh, device)
    graph = edge_graph(mesh)

    def search(nearest: Tensor, source: Tensor, farthest: float) -> None:
        # Beyond the present covering radius nothing gets nearer: later searches stay in a small ball.
        found = dijkstra(graph, indices=int(source), limit=farthest)
        np.minimum(nearest.numpy(), found, out=nearest.numpy())

    return search


def _waves(mesh: Mesh, device: torch.device) -> Callable[[Tensor, Tensor, float], None]:
    """The same, all edges at once, again and again until nothing gets nearer: as many times as the ball has edges."""
    local = [
        nodes.to(device)[:, torch.from_numpy(kind_of(kind).edges).to(device)].reshape(-1, 2).T
        for kind, nodes in mesh.cells.items()
    ]
    pairs = torch.cat(local, 1)
    key = torch.unique(torch.minimum(*pairs) * mesh.num_nodes + torch.maximum(*pairs))
    pairs = torch.stack([key // mesh.num_nodes, key % mesh.num_nodes])
    pos = mesh.pos.to(device, torch.float64)
    lengths = (pos[pairs[1]] - pos[pairs[0]]).norm(dim=1)
    if mesh.periodic_pairs is not None:
        links = mesh.periodic_pairs.to(device)
        pairs, lengths = torch.cat([pairs, links], 1), torch.cat([lengths, lengths.new_zeros(links.shape[1])])
    begin, end, lengths = torch.cat([pairs[0], pairs[1]]), torch.cat([pairs[1], pairs[0]]), lengths.repeat(2)

    def wave(nearest: Tensor, source: Tensor, farthest: float) -> None:
        nearest[source] = 0.0
        before = nearest.clone()
        while True:
            for _ in range(_STEPS):  # to ask whether anything changed takes longer than a step
                nearest.scatter_reduce_(0, end, nearest[begin] + lengths, "amin")
            if torch.equal(nearest, before):
                return
            before.copy_(nearest)

    return wave


def clusters(mesh: Mesh, anchor_nodes: Int[Tensor, " M"]) -> Int[Tensor, " N"]:
    """The nearest anchor of each node along the mesh: connected cells around the anchors.

    Returns:
        Number of the anchor, 0 to M − 1; -1 where none can be reached. Of equally near anchors one is taken whose cell
        stays connected.

    Raises:
        MeshError: if an anchor is no node.
    """
    return nearest_anchor(mesh, anchor_nodes)[0]


def nearest_anchor(mesh: Mesh, anchor_nodes: Int[Tensor, " M"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """`clusters`, and the distance along edges to the anchor (infinite where none can be reached)."""
    nodes = checked_nodes(mesh, anchor_nodes)
    distance, _, found = dijkstra(edge_graph(mesh), indices=nodes, min_only=True, return_predecessors=True)
    number = np.full(mesh.num_nodes + 1, -1, dtype=np.int64)
    number[nodes[::-1]] = np.arange(len(nodes))[::-1]
    nearest = torch.from_numpy(number[np.where(found < 0, mesh.num_nodes, found)])
    return nearest.to(mesh.pos.device), torch.from_numpy(distance).to(mesh.pos.device)


def geodesic_cost(
    mesh: Mesh,
    anchor_nodes: Int[Tensor, " M"],
    *,
    through: Literal["cells", "edges"] = "cells",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N M"]:
    """Squared geodesic distance to each anchor in units of the mesh's diagonal; infinite without a path.

    Arguments as for `geodesic_distance`.

    Raises:
        MeshError: if an anchor is no node.
    """
    distance = geodesic_distance(mesh, anchor_nodes, through=through, device=device)
    return (distance.T / mesh.length_scale).square().contiguous()


def edge_graph(mesh: Mesh) -> csr_matrix:
    """Edges weighted by their length `[N, N]`; periodic pairs are joined by an edge that is as good as nothing long."""
    edges = mesh.edge_index.cpu().numpy()
    pos = mesh.pos.double().cpu().numpy()
    length = np.linalg.norm(pos[edges[1]] - pos[edges[0]], axis=1)
    if mesh.periodic_pairs is not None:
        pairs = mesh.periodic_pairs.cpu().numpy()
        edges = np.concatenate([edges, pairs, pairs[::-1]], axis=1)
        length = np.concatenate([length, np.zeros(2 * pairs.shape[1])])
    # Sparse graphs drop zeros when they are made, and sum what is given twice; neither may happen here.
    tiny = np.finfo(float).tiny
    return coo_matrix((np.maximum(length, tiny), (edges[0], edges[1])), shape=(len(pos), len(pos))).tocsr()


def checked_nodes(mesh: Mesh, nodes: Tensor) -> np.ndarray:
    """The nodes as an array `[K]`.

    Raises:
        MeshError: if one is no node of the mesh.
    """
    ids = nodes.detach().cpu().numpy().reshape(-1)
    if ids.size and not (ids.min() >= 0 and ids.max() < mesh.num_nodes):
        raise MeshError(f"nodes must be between 0 and {mesh.num_nodes - 1}, got {int(ids.min())} … {int(ids.max())}")
    return ids
