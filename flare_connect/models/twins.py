"""Nodes of a periodic mesh that are one material point, and the edges that they have together."""

import torch
from jaxtyping import Int
from torch import Tensor

from flare_connect.mesh import Mesh


def pairs_of(mesh: Mesh) -> Int[Tensor, "2 P"] | None:
    """The periodic pairs of a mesh; None if it has none."""
    pairs = getattr(mesh, "periodic_pairs", None)
    return pairs if pairs is not None and pairs.numel() else None


def first_twins(pairs: Int[Tensor, "2 P"], num_nodes: int) -> Int[Tensor, " N"]:
    """For each node the least of those that are the same material point, itself where there is no other.

    At the corners of a cell pairs share nodes: all that are joined in any number of steps are one.
    """
    twin = torch.arange(num_nodes, device=pairs.device)
    while True:
        least = torch.minimum(*twin[pairs])
        after = twin.scatter_reduce(0, pairs.flatten(), least.repeat(2), "amin")
        after = after[after]
        if torch.equal(after, twin):
            return twin
        twin = after


def closed_edges(
    edge_index: Int[Tensor, "2 Ne"], twin: Int[Tensor, " N"]
) -> tuple[Int[Tensor, "2 Nc"], Int[Tensor, " Nc"]]:
    """Edges by which each node hears what its twins hear, so that the mesh has no seam.

    Args:
        edge_index: directed edges within the mesh.
        twin: of `first_twins`.

    Returns:
        Directed edges, each material point heard once by each node; and which of the given edges has the features of
        each, for directions and lengths are those within the mesh.
    """
    source, target = edge_index
    members = twin.argsort(stable=True)
    counts = torch.bincount(twin, minlength=len(twin))
    starts = counts.cumsum(0) - counts
    times = counts[twin[target]]
    rows = torch.arange(len(source), device=source.device).repeat_interleave(times)
    place = torch.arange(len(rows), device=rows.device) - (times.cumsum(0) - times)[rows]
    heard_by = members[starts[twin[target[rows]]] + place]
    # A node's own edge comes before the copy of one of a twin's from the same material point.
    copied = (heard_by != target[rows]).long()
    key = (twin[source[rows]] * len(twin) + heard_by) * 2 + copied
    order = key.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    point = key[order] // 2
    first[1:] = point[1:] != point[:-1]
    kept = order[first]
    kept = kept[twin[source[rows[kept]]] != twin[heard_by[kept]]]  # a cell that is its own neighbour
    return torch.stack([source[rows[kept]], heard_by[kept]]), rows[kept]
