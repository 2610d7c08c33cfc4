"""A coarse graph of a mesh: the clusters around its anchors, and which of them touch."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flare_connect.mesh.distances import nearest_anchor
from flare_connect.mesh.mesh import Mesh


class CoarseMesh(NamedTuple):
    """Clusters of a mesh and how they touch.

    Attributes:
        cluster: number of the nearest anchor along the mesh, 0 to M − 1, or M where none can be reached.
        edges: pairs of clusters that an edge of the mesh joins, in both directions, each once.
        length: shortest way from anchor to anchor over the border between the two, in units of `pos`.
        direction: mean direction of the edges that cross the border.
    """

    cluster: Int[Tensor, " N"]
    edges: Int[Tensor, "2 Ec"]
    length: Float[Tensor, " Ec"]
    direction: Float[Tensor, "Ec dim"]


def coarse_mesh(mesh: Mesh, anchor_nodes: Int[Tensor, " M"]) -> CoarseMesh:
    """Clusters around the anchors, and the coarse graph of those that touch.

    Clusters are connected, and so are two with an edge between them: the coarse graph never crosses a void. None of it
    depends on the resolution, as long as elements are small beside clusters.

    Args:
        mesh: any mesh; periodic pairs join clusters too, in no direction.
        anchor_nodes: nodes, one a cluster; of a node given twice the first counts.

    Raises:
        MeshError: if an anchor is no node.
    """
    count = len(anchor_nodes)
    nearest, distance = nearest_anchor(mesh, anchor_nodes)
    cluster = torch.where(nearest < 0, count, nearest)
    edges, pos = mesh.edge_index, mesh.pos.double()
    vectors = pos[edges[1]] - pos[edges[0]]
    if mesh.periodic_pairs is not None:
        pairs = mesh.periodic_pairs
        edges = torch.cat([edges, pairs, pairs.flip(0)], dim=1)
        vectors = torch.cat([vectors, vectors.new_zeros(2 * pairs.shape[1], pos.shape[1])])
    begin, end = cluster[edges]
    apart = begin != end
    crossing, vectors = edges[:, apart], vectors[apart]
    key, border = torch.unique(begin[apart] * (count + 1) + end[apart], return_inverse=True)
    size = vectors.norm(dim=1)
    ways = distance[crossing[0]] + size + distance[crossing[1]]
    length = ways.new_full((len(key),), torch.inf).scatter_reduce_(0, border, ways, "amin")
    units = vectors / size.clamp_min(torch.finfo(size.dtype).tiny)[:, None]
    direction = units.new_zeros(len(key), pos.shape[1]).index_add_(0, border, units)
    direction /= torch.bincount(border, minlength=len(key))[:, None]
    return CoarseMesh(cluster, torch.stack([key // (count + 1), key % (count + 1)]), length, direction)
