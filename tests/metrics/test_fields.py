"""The relative L2 error against numbers worked by hand, and against integrals where it is a norm of functions."""

import math

import pytest
import torch
from metrics.plates import plate

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.metrics import relative_l2


def test_by_hand():
    truth = torch.tensor([3.0, 4.0, 0.0])
    prediction = torch.tensor([3.0, 4.0, 1.0])
    assert relative_l2(prediction, truth) == pytest.approx(1 / 5, abs=1e-15)
    assert relative_l2(prediction, truth, torch.tensor([1.0, 1.0, 4.0])) == pytest.approx(2 / 5, abs=1e-15)
    vector = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert relative_l2(vector + torch.tensor([[0.0, 3.0], [4.0, 0.0]]), vector) == pytest.approx(1.0, abs=1e-15)


def test_scale_and_unit_do_not_matter_and_types_may_differ():
    truth, noise = torch.randn(50), torch.randn(50)
    error = relative_l2(truth + noise, truth)
    assert relative_l2(1e9 * (truth + noise), 1e9 * truth) == pytest.approx(error, rel=1e-6)
    assert relative_l2((truth + noise)[:, None], truth.double()) == pytest.approx(error, rel=1e-6)
    assert relative_l2(truth.bfloat16(), truth) < 0.01
    assert relative_l2(torch.tensor([2, 2]), torch.tensor([1, 1])) == 1.0


def test_differences_of_large_values_do_not_drown_in_single_precision():
    truth = torch.full((1000,), 1e6, dtype=torch.float64)
    assert relative_l2(truth + 0.01, truth) == pytest.approx(1e-8, rel=1e-6)


def test_a_truth_of_zero():
    zero = torch.zeros(4)
    assert relative_l2(zero, zero) == 0.0
    assert math.isinf(relative_l2(zero + 1, zero))


def test_with_volumes_it_is_the_norm_of_functions_on_any_mesh():
    wanted, of_nodes = math.sqrt(3 / 7), math.sqrt(5 / 13)  # |x³| beside |x|, over the square and over √x
    errors, plain = [], []
    for n in (8, 16, 32):
        mesh, _ = plate(n, spacing=1 / n)
        mesh = Mesh.from_arrays(mesh.pos**2, mesh.cells)  # nodes crowd at x = 0, and a plain sum counts them all
        x = mesh.pos[:, 0]
        errors.append(abs(relative_l2(x + x**3, x, mesh.node_volume) - wanted))
        plain.append(abs(relative_l2(x + x**3, x) - of_nodes))
    assert errors[2] < 4e-3
    assert 3.5 < errors[0] / errors[1] < 4.5  # second order
    assert 3.5 < errors[1] / errors[2] < 4.5
    assert plain[0] > 1.8 * plain[1] > 3.2 * plain[2]


@pytest.mark.parametrize(
    ("prediction", "weights", "message"),
    [
        (torch.zeros(4), None, r"prediction has shape \[4\] but truth \[3\]"),
        (torch.zeros(3, 2), None, r"prediction has shape \[3, 2\] but truth \[3\]"),
        (torch.tensor([1, math.nan, math.inf]), None, "prediction is NaN or infinite at 2 of 3 nodes, first at node 1"),
        (torch.zeros(3, dtype=torch.cfloat), None, "prediction must hold real numbers, got dtype torch.complex64"),
        (torch.zeros(0), None, r"prediction must have shape \[N\] or \[N, c\] with N >= 1, got \[0\]"),
        (torch.ones(3), torch.ones(2), r"weights must have shape \[3\], one for each node, got \[2\]"),
        (torch.ones(3), torch.tensor([1.0, -1.0, 1.0]), r"weights must be finite, >= 0 and not all 0, got -1 … 1"),
        (torch.ones(3), torch.zeros(3), r"weights must be finite, >= 0 and not all 0, got 0 … 0"),
    ],
)
def test_what_cannot_be_compared(prediction, weights, message):
    with pytest.raises(InputError, match=message):
        relative_l2(prediction, torch.ones(3), weights)
