"""Roles of a mesh's sets: what is read, where values and harmonic inputs go, and other names in prediction."""

import json
from dataclasses import replace

import pytest
import torch
from fixtures_meshes import periodic_cell, plate

import flare_connect as fc
from flare_connect.errors import ConfigError, InputError
from flare_connect.mesh import NamedSet
from flare_connect.mesh.harmonic_features import exit_features, harmonic_features
from flare_connect.models.boundary import boundary_values, harmonic_inputs, role_nodes, with_boundary
from flare_connect.models.features import num_node_features
from flare_connect.models.roles import Role, read_roles

SMALL = fc.Architecture(channels=16, num_blocks=1, num_heads=4, num_latents=8)
LOADED = fc.FlareConnectConfig(
    dim=2, outputs={"stress": 1}, conditions={"load": 2}, harmonic="boundary", architecture=SMALL,
    boundary={"left": "fixed", "right": "traction:load", "*": "free"},
)  # fmt: skip


def loaded(seed=0, n=8):
    mesh = plate(n, seed=seed)
    mesh.sets |= {"right": NamedSet("node", (mesh.pos[:, 0] > 1 - 1e-9).nonzero().squeeze(1))}
    return mesh


def test_roles_are_read():
    roles = read_roles(
        {"a": "fixed", "b": "value:t[1]", "c": "flux:q", "d": "traction:my load", "*": "free"},
        {"t": 3, "q": 1, "my load": 2},
    )
    assert roles == (
        Role(name="a", kind="fixed"),
        Role(name="b", kind="value", condition="t", component=1),
        Role(name="c", kind="flux", condition="q"),
        Role(name="d", kind="traction", condition="my load"),
        Role(name="*", kind="free"),
    )
    assert [role.width({"t": 3, "q": 1, "my load": 2}) for role in roles] == [0, 1, 1, 2, 0]


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        ({"a": "clamped"}, "'a' is 'clamped'; it must be free, fixed, value:NAME"),
        ({"a": "value"}, "'a' is 'value': write value:NAME"),
        ({"a": "fixed:load"}, "'a' is 'fixed:load': leave out what follows the colon"),
        ({"a": "value:heat"}, "names 'heat', which is no condition; there are: 'load', 'three'"),
        ({"a": "value:load[2]"}, "names number 2 of 'load', which has 2"),
        ({"*": "fixed"}, r"'\*', what is in no other set, must be free"),
        ({"a": "value:load", "b": "flux:three"}, "as many numbers, or one; got {'a': 2, 'b': 3}"),
    ],
)
def test_wrong_roles_are_named(boundary, message):
    with pytest.raises(ConfigError, match=message):
        fc.FlareConnectConfig(dim=2, outputs={"u": 1}, conditions={"load": 2, "three": 3}, boundary=boundary)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boundary": {"right": "traction:load"}}, "must hold some set"),
        ({"boundary": {"left": "fixed"}}, "give a value, flux or traction"),
        ({"harmonic": "strain"}, "`harmonic` names 'strain': it must be a condition of width 2"),
    ],
)
def test_harmonic_inputs_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(LOADED, **change)


def test_the_rest_is_the_boundary_in_no_other_set():
    mesh = loaded()
    left, right, rest = role_nodes(mesh, LOADED.roles)
    together = torch.cat([left, right, rest])
    assert torch.equal(together.sort().values, mesh.boundary_nodes.sort().values)
    inside = (mesh.pos[rest, 0] > 0) & (mesh.pos[rest, 0] < 1)
    assert len(rest)
    assert inside.all()
    assert torch.equal(role_nodes(mesh, ())[0], mesh.boundary_nodes)


def test_a_mesh_has_no_boundary_where_it_repeats():
    cell = periodic_cell()
    holes = cell.set_nodes("holes")
    assert len(cell.boundary_nodes) > len(holes)
    assert torch.equal(role_nodes(cell, ())[0].sort().values, holes.sort().values)
    (rest,) = role_nodes(cell, (Role(name="*", kind="free"),))
    assert torch.equal(rest.sort().values, holes.sort().values)


def test_values_lie_at_their_nodes():
    mesh = loaded()
    mesh.global_data |= {"ends": torch.tensor([3.0, -1.0])}
    config = fc.FlareConnectConfig(
        dim=2, outputs={"stress": 1}, conditions={"ends": 2, "load": 2},
        boundary={"left": "value:ends[0]", "right": "value:ends[1]", "*": "free"},
    )  # fmt: skip
    columns = boundary_values(mesh, config, role_nodes(mesh, config.roles))
    expected = torch.zeros(mesh.num_nodes, 1, dtype=torch.float64)
    expected[mesh.set_nodes("left")], expected[mesh.set_nodes("right")] = 3.0, -1.0
    assert torch.equal(columns, expected)
    # A value and a load have columns of their own.
    pulled = replace(config, boundary={"left": "value:ends[0]", "right": "traction:load"})
    columns = boundary_values(mesh, pulled, role_nodes(mesh, pulled.roles))
    assert columns.shape == (mesh.num_nodes, 3)
    assert torch.equal(columns[mesh.set_nodes("right"), 1:].float(), mesh.global_data["load"].expand(9, 2))
    assert not columns[mesh.set_nodes("left"), 1:].any()


def test_harmonic_inputs_are_those_of_the_mesh_module():
    mesh = loaded()
    found = harmonic_inputs(mesh, LOADED)
    loads = harmonic_features(mesh, {"left": 0.0}, {"right": mesh.global_data["load"].double()})
    expected = torch.cat([loads, exit_features(mesh, ["left"])], dim=1)
    assert torch.equal(found, expected)
    graph = fc.FlareConnect(LOADED).build_graph(mesh)
    assert graph.x.shape[1] == num_node_features(LOADED)
    assert torch.equal(graph.x[:, -10:], expected.float())


def test_a_cell_under_a_strain_needs_periodic_pairs():
    config = fc.FlareConnectConfig(dim=2, outputs={"stress": 1}, conditions={"e": 3}, harmonic="e", architecture=SMALL)
    mesh = loaded()
    mesh.global_data |= {"e": torch.tensor([0.1, 0.0, 0.2])}
    with pytest.raises(InputError, match=r"harmonic inputs: .*periodic"):
        fc.FlareConnect(config).build_graph(mesh)


def renamed(mesh):
    """The same mesh from another program: other names, no load in the file."""
    other = loaded()
    other.sets = {"clamp": mesh.sets["left"], "hook": mesh.sets["right"]}
    other.global_data = {}
    return other


@pytest.fixture(scope="module")
def surrogate():
    torch.manual_seed(0)
    model = fc.FlareConnect(LOADED)
    model.fit_statistics(model.build_graph(loaded(s), with_targets=True) for s in range(3))
    return model.eval()


def test_other_names_predict_the_same(surrogate):
    mesh = loaded()
    load = fc.Traction(mesh.global_data["load"].tolist())
    found = surrogate.predict(renamed(mesh), boundary={"clamp": "fixed", "hook": load})
    assert torch.equal(found["stress"], surrogate.predict(mesh)["stress"])
    twice = surrogate.predict(mesh, boundary={"right": fc.Traction(2 * mesh.global_data["load"])})
    assert not torch.allclose(twice["stress"], found["stress"])
    assert set(mesh.sets) == {"left", "right"}  # the mesh stays as it was


def test_several_sets_may_play_one_role(surrogate):
    mesh = loaded()
    nodes = mesh.set_nodes("left")
    halves = renamed(mesh)
    halves.sets = {"a": NamedSet("node", nodes[:5]), "b": NamedSet("node", nodes[4:]), "hook": mesh.sets["right"]}
    load = fc.Traction(mesh.global_data["load"].tolist())
    cast = with_boundary(halves, LOADED, {"a": "fixed", "b": fc.Fixed(role="left"), "hook": load})
    assert torch.equal(cast.set_nodes("left"), nodes)


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        ({"clmp": "fixed"}, "names the set 'clmp', which the mesh lacks; it has: 'clamp', 'hook'"),
        ({"clamp": "welded"}, "'clamp' is 'welded'; it must be 'free', 'fixed', Value"),
        ({"clamp": fc.Value(1.0)}, r"'clamp' is value, and the model knows no such role; its roles: 'left' \(fixed\)"),
        ({"clamp": "fixed"}, r"no set of `boundary` plays 'right' \(traction\)"),
        ({"clamp": "fixed", "hook": fc.Traction([1.0])}, r"'hook' needs 2 finite numbers, got \[1.0\]"),
        ({"clamp": "fixed", "hook": fc.Traction([1.0, float("nan")])}, "needs 2 finite numbers"),
        (
            {"clamp": fc.Traction([1.0, 2.0]), "hook": fc.Traction([2.0, 2.0])},
            r"'clamp' and 'hook' both stand for 'right' and must have the same values, got \[1.0, 2.0\] and \[2",
        ),
        ({"clamp": fc.Fixed(role="right")}, "no such role"),
    ],
)
def test_what_does_not_fit_is_named(surrogate, boundary, message):
    with pytest.raises(InputError, match=message):
        surrogate.predict(renamed(loaded()), boundary=boundary)


def test_a_role_must_be_said_where_there_are_several():
    config = fc.FlareConnectConfig(
        dim=2, outputs={"stress": 1}, conditions={"ends": 2}, architecture=SMALL,
        boundary={"left": "value:ends[0]", "right": "value:ends[1]"},
    )  # fmt: skip
    mesh = renamed(loaded())
    with pytest.raises(InputError, match="knows several roles that are value; say which 'clamp' plays with `role=`"):
        with_boundary(mesh, config, {"clamp": fc.Value(1.0), "hook": fc.Value(2.0, role="right")})
    cast = with_boundary(mesh, config, {"clamp": fc.Value(1.0, role="left"), "hook": fc.Value(2.0, role="right")})
    assert cast.global_data["ends"].tolist() == [1.0, 2.0]


def test_roles_travel_with_the_model(surrogate, tmp_path):
    surrogate.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["config"]
    assert stored["boundary"] == LOADED.boundary
    again = fc.FlareConnect.from_pretrained(tmp_path)
    assert again.config == LOADED
    assert torch.equal(again.predict(loaded())["stress"], surrogate.predict(loaded())["stress"])
