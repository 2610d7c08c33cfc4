"""Clusters of a mesh: all of it, connected, of about one size, however METIS is feeling."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, find_periodic_pairs, partition, partitioning
from flare_connect.mesh.distances import edge_graph


def assert_connected(mesh, label, count):
    used = mesh.component.numpy() >= 0
    assert (label.numpy()[~used] == -1).all()
    assert sorted(set(label.numpy()[used].tolist())) == list(range(count))
    graph = edge_graph(mesh)
    for number in range(count):
        nodes = np.flatnonzero(label.numpy() == number)
        assert connected_components(graph[nodes][:, nodes], directed=False)[0] == 1


@pytest.mark.parametrize("method", ["metis", "anchors", "auto"])
@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_clusters_cover_the_mesh_and_are_connected(method, count):
    if method == "metis":
        pytest.importorskip("pymetis")
    mesh = plate(16)
    label = partition(mesh, count, method=method)
    assert_connected(mesh, label, count)
    assert torch.equal(label, partition(mesh, count, method=method))


def test_metis_balances():
    pytest.importorskip("pymetis")
    sizes = torch.bincount(partition(grid("tetra", (12, 10, 8)), 16, method="metis"))
    assert sizes.max() < 1.15 * sizes.float().mean()


@pytest.mark.parametrize("method", ["metis", "anchors"])
def test_parts_get_clusters_by_their_size_and_orphans_none(method):
    if method == "metis":
        pytest.importorskip("pymetis")
    large, small = plate(20), plate(4, hole=False)
    pos = torch.cat([large.pos, small.pos + 5, large.pos[:1] - 3])
    cells = torch.cat([large.cells["triangle"], small.cells["triangle"] + large.num_nodes])
    mesh = Mesh.from_arrays(pos, {"triangle": cells})
    label = partition(mesh, 12, method=method)
    assert_connected(mesh, label, 12)
    of_small = set(label[large.num_nodes : -1].tolist())
    assert not of_small & set(label[: large.num_nodes].tolist())
    with pytest.raises(MeshError, match="between 2, the mesh's connected parts, and"):
        partition(mesh, 1, method=method)


def test_across_periodic_sides():
    pytest.importorskip("pymetis")
    mesh = grid("quad", (8, 8))
    mesh.periodic_pairs = find_periodic_pairs(mesh)
    assert_connected(mesh, partition(mesh, 5, method="metis"), 5)


def test_as_many_clusters_as_nodes():
    mesh = plate(4)
    used = int((mesh.component >= 0).sum())
    assert_connected(mesh, partition(mesh, used), used)


def test_torn_and_empty_clusters_are_mended():
    from flare_connect.mesh.partitioning import _connected

    n = 10
    ids = np.arange(n - 1)
    line = coo_matrix((np.ones(n - 1), (ids, ids + 1)), shape=(n, n)).tocsr()
    line = (line + line.T).tocsr()
    label = _connected(line, np.array([0, 0, 0, 1, 1, 0, 1, 1, 1, 1]), 3)
    assert sorted(set(label.tolist())) == [0, 1, 2]
    assert (np.diff(label) != 0).sum() == 2  # three runs


def test_without_metis(monkeypatch):
    monkeypatch.setattr(partitioning, "find_spec", lambda name: None)
    mesh = plate(8)
    assert_connected(mesh, partition(mesh, 6), 6)
    with pytest.raises(MeshError, match="needs pymetis: pip install pymetis"):
        partition(mesh, 6, method="metis")
