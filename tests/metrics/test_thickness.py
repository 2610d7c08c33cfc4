"""Errors by thickness on strips of known width, and sums over meshes."""

import math

import pytest
import torch
from fixtures_meshes import plate as jittered
from metrics.plates import moved, plate, renumbered

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, find_periodic_pairs, local_thickness
from flare_connect.metrics import combine, element_size, error_against_thickness


def two_strips():
    """A strip of width 2 and one of width 6, far apart; 2 elements and 6 across."""
    thin, _ = plate(20, 2)
    thick, _ = plate(20, 6)
    pos = torch.cat([thin.pos, thick.pos + 50])
    cells = torch.cat([thin.cells["triangle"], thick.cells["triangle"] + thin.num_nodes])
    return Mesh.from_arrays(pos, {"triangle": cells}), torch.arange(len(pos)) < thin.num_nodes


def test_each_strip_falls_into_its_bin():
    mesh, thin = two_strips()
    assert element_size(mesh) == 1.0
    truth = torch.full((mesh.num_nodes,), 2.0)
    prediction = torch.where(thin, 3.0, 1.8)
    error = error_against_thickness(mesh, prediction, truth, [0.0, 2.5, 100.0])
    ends = int((local_thickness(mesh)[~thin] < 2.5).sum())  # corners of the thick strip
    assert error.num_nodes == (int(thin.sum()) + ends, int((~thin).sum()) - ends)
    assert error.squared_error[1] == pytest.approx(0.04 * error.num_nodes[1], rel=1e-6)
    assert error.relative[1] == pytest.approx(0.1, rel=1e-6)
    assert error.squared_error[0] == pytest.approx(int(thin.sum()) + 0.04 * ends, rel=1e-6)
    assert sum(error.squared_truth) == pytest.approx(4 * mesh.num_nodes)


def test_limits_belong_to_the_bin_above_and_the_rest_is_left_out():
    mesh, _ = plate(3)
    thickness = torch.tensor([0.5, 1.0, 1.5, 2.0] * 4).double()
    truth, prediction = torch.ones(16), torch.arange(16.0) + 1
    error = error_against_thickness(mesh, prediction, truth, (1.0, 2.0, 3.0), thickness=thickness)
    assert error.num_nodes == (8, 4)
    assert error.squared_error == (
        sum(float(i) ** 2 for i in range(16) if i % 4 in (1, 2)),
        sum(float(i) ** 2 for i in range(16) if i % 4 == 3),
    )


def test_bins_of_meshes_add_up():
    mesh, thin = two_strips()
    truth, noise = torch.randn(2, mesh.num_nodes).double()
    thickness = local_thickness(mesh)
    parts = []
    for chosen in (thin, ~thin):
        number = chosen.cumsum(0) - 1
        cells = mesh.cells["triangle"]
        part = Mesh.from_arrays(mesh.pos[chosen], {"triangle": number[cells[chosen[cells].all(1)]]})
        assert torch.equal(local_thickness(part), thickness[chosen])
        parts.append(error_against_thickness(part, (truth + noise)[chosen], truth[chosen]))
    both, whole = combine(parts), error_against_thickness(mesh, truth + noise, truth)
    assert both.num_nodes == whole.num_nodes
    assert both.relative == pytest.approx(whole.relative, rel=1e-12, nan_ok=True)
    assert sum(both.squared_error) == pytest.approx(float(noise.square().sum()))


def test_numbering_and_size_do_not_matter_and_refinement_counts_elements_only():
    mesh = jittered(14)  # no two balls of one size: of those the node with the smaller number is first
    truth, noise = torch.randn(2, mesh.num_nodes).double()
    for unit in ("element", "domain"):
        found = error_against_thickness(mesh, truth + noise, truth, unit=unit)
        scaled = error_against_thickness(moved(mesh, 100.0), truth + noise, truth, unit=unit)
        assert scaled == found
        other, number = renumbered(mesh)
        shuffled = torch.empty(2, mesh.num_nodes).double()
        shuffled[:, number] = torch.stack([truth, noise])
        again = error_against_thickness(other, shuffled.sum(0), shuffled[0], unit=unit)
        assert again.relative == pytest.approx(found.relative, rel=1e-12, nan_ok=True)
    mesh, fine = plate(16, 6)[0], plate(32, 12, spacing=0.5)[0]
    shares = [
        [count / other.num_nodes for count in error_against_thickness(other, x, x, unit=unit, edges=edges).num_nodes]
        for unit, edges in (("domain", (0.0, 0.25, 1.0)), ("element", (0.0, 7.0, 100.0)))
        for other in (mesh, fine)
        for x in [other.pos[:, 0]]
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.1)
    assert shares[2][0] > 0.9
    assert shares[3][0] < 0.5


def test_empty_bins_meshes_without_boundary_and_nodes_without_cells():
    mesh, _ = plate(8)
    torus = Mesh.from_arrays(
        torch.cat([mesh.pos, torch.tensor([[4.0, 4.5]])]), mesh.cells, periodic_pairs=find_periodic_pairs(mesh)
    )
    truth = torch.ones(82)
    error = error_against_thickness(torus, 1.5 * truth, truth)
    assert error.num_nodes == (0, 0, 0, 0, 81)
    assert error.relative[4] == pytest.approx(0.5)
    assert all(math.isnan(value) for value in error.relative[:4])


def test_wrong_arguments_are_named():
    mesh, _ = plate(3)
    ones = torch.ones(16)
    with pytest.raises(InputError, match=r"`edges` must be at least two rising numbers, got \[1.0, 1.0\]"):
        error_against_thickness(mesh, ones, ones, [1.0, 1.0])
    with pytest.raises(InputError, match='`unit` must be "element" or "domain", got \'metre\''):
        error_against_thickness(mesh, ones, ones, unit="metre")
    with pytest.raises(InputError, match=r"thickness must have shape \[16\], one for each node, got \[4\]"):
        error_against_thickness(mesh, ones, ones, thickness=torch.ones(4))
    with pytest.raises(InputError, match="there is nothing to combine"):
        combine([])
    with pytest.raises(InputError, match="bins differ"):
        combine([error_against_thickness(mesh, ones, ones, unit=unit) for unit in ("element", "domain")])
