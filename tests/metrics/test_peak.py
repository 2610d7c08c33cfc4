"""Peaks whose height and place are known."""

import math

import numpy as np
import pytest
import torch
from metrics.plates import cracked, moved, plate, renumbered

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.metrics import peak_error


def bump(mesh, centre, height=1.0, width=1.5):
    return height * torch.exp(-(mesh.pos - torch.tensor(centre)).square().sum(1) / (2 * width**2))


def test_height_and_place():
    mesh, _ = plate(12)
    error = peak_error(mesh, bump(mesh, (6.0, 9.0), 1.2), bump(mesh, (3.0, 5.0)))
    assert error.value == pytest.approx(0.2)
    assert error.distance == pytest.approx(5 / (12 * math.sqrt(2)))
    same = peak_error(mesh, bump(mesh, (3.0, 5.0)), bump(mesh, (3.0, 5.0)))
    assert (same.value, same.robust, same.distance) == (0.0, 0.0, 0.0)


def test_sizes_count_not_signs():
    mesh, _ = plate(4)
    truth = bump(mesh, (2.0, 2.0))
    assert peak_error(mesh, -truth, truth).value == 0.0
    vector = torch.stack([3 * truth, -4 * truth], 1)
    error = peak_error(mesh, 1.5 * vector, vector)
    assert (error.value, error.robust) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_way_goes_round_a_crack():
    mesh, lips = cracked(20, 20, 10, -1, 16)  # open at the left, tip at x = 16
    at, over = lips[:, 6]  # x = 6, either lip: the same place
    truth, prediction = torch.zeros(2, mesh.num_nodes)
    truth[at], prediction[over] = 1.0, 1.0
    assert peak_error(mesh, prediction, truth).distance == pytest.approx(20 / (20 * math.sqrt(2)), rel=1e-9)


def test_parts_that_are_not_connected_and_nodes_without_cells():
    mesh, _ = plate(3)
    two = Mesh.from_arrays(
        torch.cat([mesh.pos, mesh.pos + 10, torch.tensor([[5.0, 5.0]])]),
        {"triangle": torch.cat([mesh.cells["triangle"], mesh.cells["triangle"] + 16])},
    )
    truth, prediction = torch.zeros(2, 33)
    truth[0], prediction[20] = 1.0, 1.0
    assert math.isinf(peak_error(two, prediction, truth).distance)
    prediction[20], prediction[1], prediction[32] = 0.0, 1.0, 99.0
    error = peak_error(two, prediction, truth)
    assert error.value == 0.0
    assert error.distance == pytest.approx(1 / two.length_scale)


def test_of_equal_peaks_the_true_one_nearest_and_the_predicted_one_farthest():
    mesh, node = plate(10)
    truth, prediction = torch.zeros(2, mesh.num_nodes)
    truth[node[[0, 10], 5]] = 1.0
    prediction[node[8, 5]] = 1.0
    assert peak_error(mesh, prediction, truth).distance == pytest.approx(2 / mesh.length_scale)
    assert peak_error(mesh, torch.ones(mesh.num_nodes), truth).distance > 0.4  # a peak nowhere is no peak


def test_the_robust_peak_by_hand():
    # Three nodes in a row, of volume 1/4, 1/2 and 1/4 of a strip: half of it is the first and half of the second.
    mesh = Mesh.from_arrays([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], {"line": [[0, 1], [1, 2]]})
    truth, prediction = torch.tensor([4.0, 2.0, 0.0]), torch.tensor([4.0, 3.0, 0.0])
    error = peak_error(mesh, prediction, truth, top=0.5)
    assert error.value == 0.0
    assert error.robust == pytest.approx((3.5 - 3.0) / 3.0)
    assert peak_error(mesh, prediction, truth, top=1.0).robust == pytest.approx((2.5 - 2.0) / 2.0)
    assert peak_error(mesh, prediction, truth, top=0.2).robust == 0.0  # within the first node


def test_the_robust_peak_converges_where_the_plain_one_does_not():
    robust, plain = [], []
    for n in (40, 80, 160):
        mesh, _ = plate(n, spacing=1 / n)
        radius = (mesh.pos - 0.5).norm(dim=1).clamp_min(0.1 / n)
        # r^(-1/2) has no largest value; its mean over a disc of area 0.01 is 4/3 of that at the disc's rim
        error = peak_error(mesh, radius.pow(-0.5), torch.ones(mesh.num_nodes), top=0.01)
        robust.append(error.robust + 1)
        plain.append(error.value + 1)
    wanted = 4 / 3 * (0.01 / math.pi) ** -0.25
    assert abs(robust[2] - wanted) < 0.02 * wanted
    assert abs(robust[2] - wanted) < abs(robust[0] - wanted) / 2
    assert plain[2] > 1.9 * plain[0]


def test_numbering_size_and_units_do_not_matter():
    mesh, _ = cracked(20, 20, 10, 5, 15)
    truth, prediction = bump(mesh, (4.0, 5.0)), bump(mesh, (12.0, 11.0), 1.3)
    error = peak_error(mesh, prediction, truth)
    other, number = renumbered(mesh)
    shuffled = torch.empty(2, mesh.num_nodes).double()
    shuffled[:, number] = torch.stack([prediction, truth])
    for found in (
        peak_error(other, *shuffled),
        peak_error(moved(mesh, 1e4, -3.0), prediction, truth),
        peak_error(mesh, 1e8 * prediction, 1e8 * truth),
    ):
        np.testing.assert_allclose(
            [found.value, found.robust, found.distance], [error.value, error.robust, error.distance], rtol=1e-9
        )


def test_a_truth_of_zero_and_a_wrong_share():
    mesh, _ = plate(3)
    zero = torch.zeros(16)
    error = peak_error(mesh, zero, zero)
    assert (error.value, error.robust, error.distance) == (0.0, 0.0, 0.0)
    assert math.isinf(peak_error(mesh, zero + 1, zero).value)
    with pytest.raises(InputError, match=r"`top` must be above 0 and at most 1, got 0\.0"):
        peak_error(mesh, zero, zero, top=0.0)
