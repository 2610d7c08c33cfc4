"""Harmonic features: known on a ring, without dimension, the same however a mesh is placed, numbered or refined."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.rings import perforated_cell, ring

from flare_connect.mesh import Mesh, NamedSet
from flare_connect.mesh.gradients import nodal_gradient
from flare_connect.mesh.harmonic import cell_potentials, harmonic_extension, load_potential
from flare_connect.mesh.harmonic_features import cell_features, exit_features, harmonic_features, potential_features


def loaded_plate():
    mesh = plate(8)
    right = (mesh.pos[:, 0] == 1).nonzero()[:, 0]
    mesh.sets = mesh.sets | {"right": NamedSet("node", right)}
    return mesh


def vector_load(mesh, traction=(1.0, 0.3)):
    """Clamped left, pulled right, with something inside too."""
    return harmonic_features(mesh, {"left": 0.0}, {"right": list(traction)}, source=mesh.point_data["stress"])


def test_on_a_ring_they_are_the_logarithm_its_slope_and_the_log_of_that():
    def error(n):
        mesh = ring(n)
        found = harmonic_features(mesh, {"inner": 0.0, "outer": 1.0})
        assert found.shape == (mesh.num_nodes, 4)
        r = mesh.pos.norm(dim=1, keepdim=True)
        slope = mesh.pos / r**2 / np.log(2)
        mean_square = 2 / (3 * np.log(2))  # of the slope, 2π / ln 2, over the area, 3π
        size = 4 * 2**0.5  # of the bounding box
        exact = torch.cat(
            [r.log() / np.log(2), size * slope, (slope.norm(dim=1, keepdim=True) / mean_square**0.5).log()], 1
        )
        return (mesh.node_volume[:, None] * (found - exact) ** 2).sum(0).div(mesh.total_measure).sqrt().numpy()

    errors = np.array([error(n) for n in (4, 8, 16, 32)])
    assert (errors[-1] < [1e-3, 0.06, 0.06, 0.01]).all()
    assert (errors[:-1] > 2 * errors[1:]).all()


def test_place_size_and_numbering_do_not_matter():
    mesh = loaded_plate()
    expected = vector_load(mesh)
    order = torch.randperm(mesh.num_nodes)
    inverse = torch.argsort(order)
    other = Mesh.from_arrays(
        7 * mesh.pos[order] - torch.tensor([3.0, 40.0]),
        {"triangle": inverse[mesh.cells["triangle"]]},
        sets={name: inverse[mesh.set_nodes(name)] for name in mesh.sets},
        point_data={"stress": mesh.point_data["stress"][order]},
    )
    torch.testing.assert_close(vector_load(other), expected[order], rtol=0, atol=1e-10)
    assert expected[:, 6:].std(0).min() > 0.1  # and they say something


def test_gradients_turn_with_the_mesh_and_the_rest_stays():
    mesh = loaded_plate()
    turn = torch.linalg.qr(torch.randn(2, 2).double())[0]
    turned = Mesh.from_arrays(mesh.pos @ turn, mesh.cells, sets=mesh.sets, point_data=mesh.point_data)
    # the diagonal of the bounding box is not that of the turned mesh: compare in one unit
    ratio = mesh.length_scale / turned.length_scale
    expected = harmonic_features(mesh, {"left": 0.0, "right": 1.0})
    found = harmonic_features(turned, {"left": 0.0, "right": 1.0})
    torch.testing.assert_close(found[:, [0, 3]], expected[:, [0, 3]], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[:, 1:3] * ratio, expected[:, 1:3] @ turn, rtol=0, atol=1e-10)


def test_they_are_linear_in_the_load_but_for_the_logarithm():
    mesh = loaded_plate()
    mesh.point_data["stress"].zero_()
    one, two = vector_load(mesh), vector_load(mesh, (-3e6, -0.9e6))
    torch.testing.assert_close(two[:, :6], -3e6 * one[:, :6], rtol=1e-9, atol=1e-3)
    torch.testing.assert_close(two[:, 6:], one[:, 6:], rtol=0, atol=1e-9)


def test_the_logarithm_has_a_floor():
    """A component that is not loaded, a mesh that is not loaded at all, and nodes that no cell uses."""
    mesh = loaded_plate()
    found = harmonic_features(mesh, {"left": 0.0}, {"right": [1.0, 0.0]})
    assert (found[:, 7] == np.log(1e-4)).all()
    assert (found[:, 6] > np.log(1e-4)).all()
    assert (harmonic_features(mesh, {"left": 5.0})[:, 3] == np.log(1e-4)).all()
    lonely = Mesh.from_arrays([[0, 0], [1, 0], [0, 1], [5, 5]], {"triangle": [[0, 1, 2]]})
    found = harmonic_features(lonely, {torch.tensor([0, 1, 2]): torch.tensor([[0.0], [1.0], [0.0]])})
    torch.testing.assert_close(found[3], torch.tensor([0.0, 0.0, 0.0, np.log(1e-4)]).double())


def test_features_of_a_potential_at_hand():
    mesh = loaded_plate()
    found = potential_features(mesh, load_potential(mesh))
    torch.testing.assert_close(found, harmonic_features(mesh, {"left": 0.0, "right": 1.0}))
    slopes = nodal_gradient(mesh, found[:, :1])[:, 0]
    torch.testing.assert_close(found[:, 1:3], slopes * 2**0.5)


@pytest.mark.parametrize("gradient", [None, torch.tensor([[0.2, -1.0], [0.5, 0.5], [1.0, 0.0]]).double()])
def test_cells_have_the_gradient_of_the_whole(gradient):
    mesh = perforated_cell(6, 0.3)
    mean = torch.eye(2).double() if gradient is None else gradient
    count = len(mean)
    found = cell_features(mesh, gradient)
    assert found.shape == (mesh.num_nodes, 4 * count)
    whole = nodal_gradient(mesh, cell_potentials(mesh, gradient)) + mean
    torch.testing.assert_close(found[:, :count] * 2**0.5, cell_potentials(mesh, gradient))
    torch.testing.assert_close(found[:, count : 3 * count], whole.flatten(1))
    ratio = whole.norm(dim=2).log() - found[:, 3 * count :]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=0, atol=1e-9)
    pos = torch.cat([mesh.pos, torch.zeros(1, 2)])  # an orphan amid the hole
    lonely = Mesh.from_arrays(pos, mesh.cells, periodic_pairs=mesh.periodic_pairs)
    assert not cell_features(lonely, gradient)[-1, : 3 * count].any()
    torch.testing.assert_close(cell_features(lonely, gradient)[:-1], found, rtol=0, atol=1e-10)
    larger = Mesh.from_arrays(5 * mesh.pos + 2, mesh.cells, periodic_pairs=mesh.periodic_pairs)
    torch.testing.assert_close(cell_features(larger, gradient), found, rtol=0, atol=1e-10)


def test_a_small_hole_doubles_the_gradient_at_its_flanks_and_stops_it_before_and_behind():
    radius = 0.05
    mesh = perforated_cell(24, radius)
    at = torch.tensor([[0.0, radius], [radius, 0.0]], dtype=torch.float64)
    flank, front = torch.cdist(at, mesh.pos).argmin(1)
    along_x = cell_features(mesh)[:, 2:4]
    torch.testing.assert_close(
        along_x[flank], torch.tensor([2 / (1 + np.pi * radius**2), 0.0]).double(), rtol=0, atol=0.05
    )
    torch.testing.assert_close(along_x[front], torch.zeros(2).double(), rtol=0, atol=0.05)


def test_they_are_where_the_mesh_is(device):
    here = loaded_plate()
    there = Mesh.from_arrays(here.pos, here.cells, sets=here.sets, point_data=here.point_data).to(device)
    found = vector_load(there)
    assert found.device == there.pos.device
    torch.testing.assert_close(found.cpu(), vector_load(here), rtol=0, atol=1e-6)
    on = harmonic_features(here, {"left": 0.0, "right": 1.0}, device=device)
    assert on.device.type == device.type
    values = harmonic_extension(here, {"left": 0.0, "right": 1.0}, device=device)
    torch.testing.assert_close(on[:, :1], values)


def test_the_way_to_what_is_held_is_known_on_a_ring():
    def error(n):
        mesh = ring(n)
        found = exit_features(mesh, ["inner", "outer"])
        assert found.shape == (mesh.num_nodes, 2)
        r = mesh.pos.norm(dim=1)
        exact = (1 - r**2 + 3 * r.log() / np.log(2)) / (4 * 32)  # 32 is the square of the bounding box's diagonal
        free = exact > 1e-4
        torch.testing.assert_close(found[free, 1], found[free, 0].log())
        assert (found[mesh.set_nodes("outer"), 1] == np.log(1e-4)).all()
        return float((mesh.node_volume * (found[:, 0] - exact) ** 2).sum().sqrt() / mesh.node_volume.sum().sqrt())

    errors = np.array([error(n) for n in (4, 8, 16, 32)])
    assert errors[-1] < 2e-5
    assert (errors[:-1] > 3 * errors[1:]).all()


def test_the_way_to_what_is_held_has_no_dimension_and_crosses_no_gap():
    """Along a strip of length 1 that is held at its start it is (1 − (1 − x)²) / 2."""
    x, y = np.meshgrid(np.linspace(0, 1, 9), [0.0, 0.1], indexing="ij")
    ids = np.arange(18).reshape(9, 2)
    quads = np.stack([ids[:-1, 0], ids[1:, 0], ids[1:, 1], ids[:-1, 1]], 1)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    mesh = Mesh.from_arrays(np.stack([x.ravel(), y.ravel()], 1), {"triangle": triangles}, sets={"left": ids[0]})
    straight = exit_features(mesh, ["left"])[:, 0]
    exact = (1 - (1 - mesh.pos[:, 0].double()) ** 2) / 2 / mesh.length_scale**2
    torch.testing.assert_close(straight, exact, rtol=0, atol=2e-3)
    larger = Mesh.from_arrays(3 * mesh.pos + 5, mesh.cells, sets=mesh.sets)
    torch.testing.assert_close(exit_features(larger, ["left"])[:, 0], straight)
    # A part that nothing holds has no way there.
    second = mesh.pos + torch.tensor([10.0, 0.0])
    both = Mesh.from_arrays(
        torch.cat([mesh.pos, second]),
        {"triangle": torch.cat([mesh.cells["triangle"], mesh.cells["triangle"] + mesh.num_nodes])},
        sets={"left": mesh.set_nodes("left")},
    )
    w = exit_features(both, ["left"])[:, 0]
    assert w[mesh.num_nodes :].abs().max() < 1e-10 < w[: mesh.num_nodes].max()
