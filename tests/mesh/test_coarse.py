"""The coarse graph around anchors."""

import torch
from fixtures_meshes import plate

from flare_connect.mesh import Mesh, anchors, clusters, coarse_mesh, find_periodic_pairs


def line(n):
    """n nodes one apart, joined by bars."""
    pos = torch.stack([torch.arange(n).double(), torch.zeros(n).double()], 1)
    return Mesh.from_arrays(pos, {"line": torch.stack([torch.arange(n - 1), torch.arange(1, n)], 1)})


def test_a_line_by_hand():
    found = coarse_mesh(line(10), torch.tensor([0, 8, 3]))
    assert found.cluster.tolist() == [0, 0, 2, 2, 2, 2, 1, 1, 1, 1]
    assert found.edges.tolist() == [[0, 1, 2, 2], [2, 2, 0, 1]]
    assert found.length.tolist() == [3.0, 5.0, 3.0, 5.0]
    assert found.direction.tolist() == [[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]


def test_clusters_are_joined_where_an_edge_of_the_mesh_joins_them():
    mesh = plate(9)
    nodes, _ = anchors(mesh, 7)
    found = coarse_mesh(mesh, nodes)
    assert torch.equal(found.cluster, clusters(mesh, nodes))
    expected = {(int(a), int(b)) for a, b in found.cluster[mesh.edge_index].T if a != b}
    assert set(map(tuple, found.edges.T.tolist())) == expected
    straight = (mesh.pos[nodes][found.edges[1]] - mesh.pos[nodes][found.edges[0]]).norm(dim=1)
    assert (found.length >= straight * (1 - 1e-12)).all()
    assert (found.direction.norm(dim=1) <= 1 + 1e-12).all()


def test_parts_stay_apart_and_what_no_anchor_reaches_has_no_edges():
    one = line(4)
    mesh = Mesh.from_arrays(
        torch.cat([one.pos, one.pos + 0.1]), {"line": torch.cat([one.cells["line"], one.cells["line"] + 4])}
    )
    found = coarse_mesh(mesh, torch.tensor([0, 3]))
    assert found.cluster.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert found.edges.tolist() == [[0, 1], [1, 0]]


def test_periodic_sides_join_clusters():
    mesh = plate(9, hole=False)
    mesh.periodic_pairs = find_periodic_pairs(mesh)
    left, right = ((mesh.pos - torch.tensor([x, 0.5])).norm(dim=1).argmin() for x in (0.2, 0.8))
    top = (mesh.pos - torch.tensor([0.5, 1.0])).norm(dim=1).argmin()
    found = coarse_mesh(mesh, torch.stack([left, right, top]))
    # From 0.2 over the side to 0.8 it is 0.4, straight it is 0.6.
    assert found.length[0] < 0.58
