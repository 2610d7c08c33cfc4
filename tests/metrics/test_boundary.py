"""The band along the boundary, node by node, and the error in it."""

import math

import numpy as np
import pytest
import torch
from mesh.meshes import grid
from metrics.plates import cracked, moved, plate, renumbered

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, find_periodic_pairs
from flare_connect.metrics import boundary_error, near_boundary, relative_l2


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_layers_are_elements_from_the_side(layers):
    mesh, _ = plate(9)
    depth = torch.minimum(mesh.pos, 9 - mesh.pos).amin(1)
    assert torch.equal(near_boundary(mesh, layers), depth <= layers)


@pytest.mark.parametrize("kind", ["triangle6", "quad", "quad9", "hexahedron", "tetra10"])
def test_layers_are_elements_in_every_kind(kind):
    size = 6
    mesh = grid(kind, (size,) * (3 if kind in ("hexahedron", "tetra10") else 2))
    depth = torch.minimum(mesh.pos, size - mesh.pos).amin(1)
    assert torch.equal(near_boundary(mesh, 2), depth <= 2)


def test_both_lips_of_a_crack_are_boundary_and_a_glued_side_is_none():
    mesh, lips = cracked(20, 20, 10, 5, 15)
    assert near_boundary(mesh, 0)[lips].all()
    without = np.zeros((12, 12), dtype=bool)
    without[1:3, 5:7] = True  # a hole one element from the left side
    cell, node = plate(12, without=without)
    glued = Mesh.from_arrays(cell.pos, cell.cells, periodic_pairs=find_periodic_pairs(cell))
    hole = {int(n) for n in node[1:4, 5:8].ravel()} - {int(node[2, 6])}
    assert set(near_boundary(glued, 0).nonzero().squeeze(1).tolist()) == hole
    across = near_boundary(glued, 2)[torch.from_numpy(node[:, 6])]  # the line through the hole's middle
    assert across.tolist() == [x in (0, 1, 3, 4, 5, 11, 12) for x in range(13)]
    assert not near_boundary(glued, 2)[torch.from_numpy(node[:, 0])].any()


def test_the_error_counts_the_band_alone():
    mesh, _ = plate(9)
    depth = torch.minimum(mesh.pos, 9 - mesh.pos).amin(1)
    truth = 1 + mesh.pos[:, 0]
    inside = depth > 2
    assert boundary_error(mesh, truth + 5.0 * inside, truth) == 0.0
    wrong = truth + mesh.pos[:, 1]
    assert boundary_error(mesh, wrong, truth) == relative_l2(wrong[~inside], truth[~inside])
    volume = mesh.node_volume
    weighted = boundary_error(mesh, wrong, truth, 1, weights=volume)
    assert weighted == pytest.approx(relative_l2(wrong[depth <= 1], truth[depth <= 1], volume[depth <= 1]))
    assert boundary_error(mesh, wrong, truth, 20) == relative_l2(wrong, truth)


def test_numbering_size_and_place_do_not_matter():
    mesh, _ = cracked(20, 20, 10, 5, 15)
    truth, noise = torch.randn(2, mesh.num_nodes).double()
    error = boundary_error(mesh, truth + noise, truth)
    other, number = renumbered(mesh)
    shuffled = torch.empty(2, mesh.num_nodes).double()
    shuffled[:, number] = torch.stack([truth, noise])
    assert boundary_error(other, shuffled.sum(0), shuffled[0]) == pytest.approx(error, rel=1e-12)
    assert boundary_error(moved(mesh, 1e-3, 5.0, 0.3), truth + noise, truth) == error


def test_no_boundary_no_error():
    mesh, _ = plate(6)
    torus = Mesh.from_arrays(mesh.pos, mesh.cells, periodic_pairs=find_periodic_pairs(mesh))
    assert math.isnan(boundary_error(torus, torch.ones(49), torch.ones(49)))


def test_wrong_arguments_are_named():
    mesh, _ = plate(3)
    with pytest.raises(InputError, match="`layers` must be at least 0, got -1"):
        near_boundary(mesh, -1)
    with pytest.raises(InputError, match=r"truth has shape \[5\] but the mesh has 16 nodes"):
        boundary_error(mesh, torch.ones(5), torch.ones(5))
