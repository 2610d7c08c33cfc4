"""Weighted differences along edges: the reference against a loop, and what makes them differences."""

import re

import pytest
import torch
from kernels.edge_cases import DIFFERENCE, Graph, arguments
from kernels.triton_cases import DEVICES

import flare_kernels as fk


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_nothing_of_a_constant(impl, device):
    x, attr, edge_index = DIFFERENCE.draw(Graph(), device, torch.float32)
    x["values"] = torch.full_like(x["values"], 1e4)
    assert (DIFFERENCE.along(attr, edge_index, 25)(x, impl)["y"] == 0).all()


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_linear_in_the_values(impl, device):
    x, attr, edge_index = DIFFERENCE.draw(Graph(), device, torch.float32)
    call = DIFFERENCE.along(attr, edge_index, 25)
    other = torch.randn(25, 24, generator=torch.Generator().manual_seed(2)).to(device)
    one, two, both = (call(x | {"values": v}, impl)["y"] for v in (x["values"], other, x["values"] - 2 * other))
    torch.testing.assert_close(both, one - 2 * two, rtol=1e-5, atol=1e-5)


def test_small_differences_survive_autocast(device):
    """Values 1 % apart: half precision would leave them a few steps of its own."""
    x, attr, edge_index = DIFFERENCE.draw(Graph(), device, torch.float32)
    x["values"] = 5.0 + 0.01 * x["values"]
    for impl in ("reference", "triton"):
        exactly = DIFFERENCE.along(attr, edge_index, 25)({n: t.double() for n, t in x.items()}, "reference")["y"]
        with torch.autocast(device.type, torch.bfloat16):
            found = DIFFERENCE.along(attr, edge_index, 25)(x, impl)["y"]
        assert found.dtype == torch.float32
        assert (found - exactly).norm() < 0.02 * exactly.norm()


def test_reference_is_a_loop_over_edges():
    x, attr, edge_index = DIFFERENCE.draw(
        Graph(num_nodes=7, most=5, channels=3, features=2), torch.device("cpu"), torch.float64
    )
    expected, degree = torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, 1)
    for (start, end), features in zip(edge_index.t().tolist(), attr.double(), strict=True):
        a = x["source"][start] + x["target"][end] + x["weight"].double() @ features
        difference = x["values"][start].double() - x["values"][end].double()
        expected[end] += a / (1 + a.abs()) * difference
        degree[end] += 1
    found = DIFFERENCE.along(attr, edge_index, 7)({n: t.double() for n, t in x.items()}, "reference")["y"]
    torch.testing.assert_close(found, expected / degree.clamp(min=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.randn(5, 3), "`values` must be a floating-point tensor [5, 4] as `source` is, got torch.float32 [5, 3]"),
        (torch.ones(5, 4).int(), "got torch.int32 [5, 4]"),
        (torch.randn(5, 4, device="meta"), "`values` is on meta"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fk.edge_difference(values, *arguments())


def test_values_that_kernels_do_not_take(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=re.escape("takes float32, bfloat16 and float16, got torch.float64")):
        fk.edge_difference(torch.randn(5, 4).double(), *arguments(), impl="triton")
