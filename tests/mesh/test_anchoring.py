"""Anchors and costs as models read them."""

import pytest
import torch
from fixtures_meshes import plate

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, MeshCache, anchor_costs, anchors, diffusion_cost, geodesic_cost


def test_costs_are_those_of_the_anchors():
    mesh = plate(8)
    nodes, cost = anchor_costs(mesh, 5, scales=(2.0, 30.0, 7.0))
    assert torch.equal(nodes, anchors(mesh, 5)[0])
    assert cost.shape == (mesh.num_nodes, 3, 5)
    assert cost.dtype == torch.float16
    torch.testing.assert_close(cost.transpose(1, 2), diffusion_cost(mesh, nodes, (2.0, 30.0, 7.0)).half())
    _, geodesic = anchor_costs(mesh, 5, kind="geodesic")
    torch.testing.assert_close(geodesic[:, 0], geodesic_cost(mesh, nodes, through="edges").half())


def test_the_straight_control_knows_no_topology():
    mesh = plate(8)
    nodes, straight = anchor_costs(mesh, 5, kind="straight")
    expected = (mesh.pos[:, None] - mesh.pos[nodes]).square().sum(-1) / mesh.length_scale**2
    torch.testing.assert_close(straight[:, 0].double(), expected, rtol=2**-10, atol=1e-6)
    _, along = anchor_costs(mesh, 5, kind="geodesic")
    assert (along.float() >= straight.float() * (1 - 2**-9)).all()


def test_first_anchors_are_the_anchors_of_a_lower_rank():
    mesh = plate(8)
    many, few = anchor_costs(mesh, 9), anchor_costs(mesh, 4)
    assert torch.equal(many[0][:4], few[0])
    torch.testing.assert_close(many[1][:, :, :4], few[1])


def test_a_mesh_of_few_nodes_leaves_anchors_out():
    mesh = Mesh.from_arrays(torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), {"triangle": [[0, 1, 2]]})
    nodes, cost = anchor_costs(mesh, 5)
    assert nodes[3:].tolist() == [0, 0]
    assert torch.isfinite(cost[:, :, :3]).all()
    assert torch.isinf(cost[:, :, 3:]).all()


def test_costs_are_kept(tmp_path):
    cache, mesh = MeshCache(tmp_path), plate(6)
    first = cache(anchor_costs, mesh, 4)
    assert (anchor_costs, mesh, 4) in cache
    for one, other in zip(cache(anchor_costs, mesh, 4), first, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [({"count": 0}, "`count` must be at least 1, got 0"), ({"count": 3, "scales": (-1.0,)}, "positive")],
)
def test_what_cannot_work(options, message):
    with pytest.raises(MeshError, match=message):
        anchor_costs(plate(), **options)
