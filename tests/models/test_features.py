"""What the model reads of a mesh, against values worked out by hand."""

import re

import pytest
import torch
from fixtures_meshes import plate

from flare_connect.errors import ConfigError, InputError
from flare_connect.mesh import Mesh, find_periodic_pairs
from flare_connect.metrics import MeshErrors
from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig, build_graph
from flare_connect.models.features import num_edge_features, num_node_features, num_standardised_features
from flare_connect.train.evaluation import compare


def config(**options):
    return FlareConnectConfig(
        **{"dim": 2, "outputs": {"stress": 1}, "architecture": Architecture(num_frequencies=0)} | options
    )


def square(**data):
    mesh = plate(4, hole=False)
    pos = (mesh.pos * 4).round() / 4
    return Mesh.from_arrays(pos, mesh.cells, **data)


def test_widths_are_what_the_model_expects():
    directional = config(conditions={"load": 2, "strain": 3}, directional=("load", "strain"), inputs={"stress2": 2})
    mesh = square(
        global_data={"load": torch.ones(2), "strain": torch.ones(3)}, point_data={"stress2": torch.ones(25, 2)}
    )
    graph = build_graph(mesh, directional)
    assert graph.x.shape == (25, num_node_features(directional))
    assert num_standardised_features(directional) == 1 + 3 + 2
    assert graph.edge_attr.shape[1] == num_edge_features(directional)
    assert graph.condition.shape == (1, 6)


def test_a_load_is_projected_on_the_normal_nearby():
    """At the middle of the right side the normal is (1, 0): n·f = f_x, E·n = (E_xx, E_xy), n·E·n = E_xx."""
    strain, load = torch.tensor([2.0, 5.0, 7.0]), torch.tensor([3.0, 11.0])
    mesh = square(global_data={"strain": strain, "load": load})
    graph = build_graph(mesh, config(conditions={"load": 2, "strain": 3}, directional=("load", "strain")))
    middle = int((mesh.pos - torch.tensor([1.0, 0.5])).norm(dim=1).argmin())
    torch.testing.assert_close(graph.x[middle, -4:], torch.tensor([3.0, 2.0, 7.0, 2.0]), rtol=5e-2, atol=5e-2)


def test_directional_conditions_in_three_dimensions():
    from flare_connect.models.features import _projections

    tensor = torch.tensor([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]).double()
    normals = torch.nn.functional.normalize(torch.randn(7, 3).double(), dim=1)
    voigt = torch.tensor([1.0, 2, 3, 4, 5, 6]).double()
    acting = normals @ tensor
    expected = torch.cat([acting, (acting * normals).sum(1, keepdim=True)], 1)
    torch.testing.assert_close(_projections(voigt, normals), expected)


def test_distances_are_in_units_of_the_half_size():
    mesh = square()
    graph = build_graph(mesh, config())
    centre = int((mesh.pos - 0.5).norm(dim=1).argmin())
    assert graph.x[centre, 3] == pytest.approx(1.0)
    assert (graph.x[mesh.boundary_nodes, 3] == 0).all()
    torch.testing.assert_close(graph.x[mesh.boundary_nodes, 2], torch.ones(len(mesh.boundary_nodes)))


def test_each_part_of_the_boundary_has_its_own_normal():
    """At the corner the left side's normal is (−1, 0); the whole boundary's is the diagonal."""
    mesh = square()
    left = (mesh.pos[:, 0] == 0).nonzero().squeeze(1)
    torch.testing.assert_close(mesh.normals_on(left), torch.tensor([[-1.0, 0.0]]).double().expand(5, 2))
    corner = mesh.normals_on(mesh.boundary_nodes)[0]
    torch.testing.assert_close(corner.abs(), torch.full((2,), 0.5**0.5).double())


def test_orphans_have_no_weight():
    mesh = square()
    with_orphan = Mesh.from_arrays(torch.cat([mesh.pos, torch.tensor([[0.5, 0.6]])]), mesh.cells)
    weights = build_graph(with_orphan, config()).log_weight
    assert weights[-1] == -torch.inf
    assert torch.isfinite(weights[:-1]).all()
    assert weights[:-1].exp().mean() == pytest.approx(1.0)


@pytest.mark.parametrize("place", [(0.5, 0.6), (40.0, -3.0)])
def test_orphans_change_nothing_wherever_they_are_and_whatever_they_hold(place):
    """Reference points far away, with any value: the answer elsewhere is the same, and statistics and errors too."""
    mesh = square(point_data={"stress": torch.rand(25), "heat": torch.rand(25)})
    values = {name: torch.cat([each, torch.tensor([1e6])]) for name, each in mesh.point_data.items()}
    pos = torch.cat([torch.tensor([place]).to(mesh.pos), mesh.pos])
    values = {name: each.roll(1) for name, each in values.items()}
    more = Mesh.from_arrays(pos, {"triangle": mesh.cells["triangle"] + 1}, point_data=values)
    assert more.length_scale == mesh.length_scale
    torch.manual_seed(0)
    model = FlareConnect(
        config(inputs={"heat": 1}, architecture=Architecture(channels=16, num_blocks=1, num_heads=2, num_latents=4))
    )
    model.fit_statistics([model.build_graph(mesh, with_targets=True)])
    expected = model.predict(mesh)["stress"]
    torch.testing.assert_close(model.predict(more)["stress"][1:], expected, rtol=1e-4, atol=1e-5)
    graph = model.build_graph(more, with_targets=True)
    assert graph.y.max() <= 1
    assert graph.x.abs().max() < 100
    errors = [MeshErrors.prepare(m).of(m.point_data["heat"], m.point_data["stress"])["rel_l2"] for m in (mesh, more)]
    assert errors[0] == errors[1] > 0
    assert [compare(model, [m])["stress"].rel_l2 for m in (mesh, more)] == pytest.approx(
        2 * [compare(model, [mesh])["stress"].rel_l2], rel=1e-4
    )


def test_a_model_of_periodic_meshes_finds_the_pairs_or_refuses():
    periodic = config(periodic=True)
    mesh = square()
    found, plain = build_graph(mesh, periodic), build_graph(mesh, config())
    assert found.edge_index.shape[1] > plain.edge_index.shape[1]
    assert getattr(mesh, "periodic_pairs", None) is None  # it stays what it was
    named = square()
    named.periodic_pairs = find_periodic_pairs(named)
    told = build_graph(named, config())
    assert torch.equal(found.edge_index, told.edge_index)
    torch.testing.assert_close(found.x, told.x)
    uneven = Mesh.from_arrays(mesh.pos * (1 + 0.3 * mesh.pos.flip(1)), mesh.cells)
    with pytest.raises(InputError, match="no two opposite sides of this one have the same nodes"):
        build_graph(uneven, periodic)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directional": ("load",)}, "names 'load': it must be a condition of width 2 (vector) or 3"),
        ({"directional": ("load",), "conditions": {"load": 4}}, "(symmetric tensor), got 4"),
        ({"inputs": {"stress": 1}}, "'stress' is an input and an output"),
        ({"outputs": {}}, "`outputs` is empty"),
        ({"outputs": {"stress": 0}}, "the width of 'stress' must be at least 1, got 0"),
        ({"dim": 4}, "`dim` must be 2 or 3, got 4"),
    ],
)
def test_configurations_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**options)
