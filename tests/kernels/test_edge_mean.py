"""Means of messages along edges: the reference against PyG, plans, autocast, messages; the rest in `test_edges`."""

import re

import pytest
import torch
from kernels.edge_cases import EVERYWHERE, MEAN, Graph, arguments
from kernels.triton_cases import DEVICES, outcome
from torch_geometric.nn import MessagePassing

import flare_kernels as fk
from flare_kernels import tiled_edges
from flare_kernels.choice import MOST_CHANNELS, MOST_EDGE_FEATURES


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


def test_nodes_without_edges(device):
    x, attr, edge_index = MEAN.draw(Graph(), device, torch.float32)
    result = outcome(MEAN.along(attr, edge_index, 25), x, "triton", torch.float32)
    assert (result["y"][22:] == 0).all()
    assert (result["gradient of target"][22:] == 0).all()
    assert (result["gradient of source"][:3] == 0).all()


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_autocast(impl, device):
    """As in a linear layer: rows in the dtype of autocast, the parameter and its gradient in its own."""
    x, attr, edge_index = MEAN.draw(Graph(), device, torch.float32)
    call = MEAN.along(attr, edge_index, 25)

    def autocast(x, impl):
        with torch.autocast(device.type, torch.bfloat16):
            return call(x, impl)

    under = outcome(autocast, x, impl, torch.bfloat16)
    halves = {name: t if name == "weight" else t.bfloat16() for name, t in x.items()}
    by_hand = outcome(call, halves, impl, torch.bfloat16)
    assert under["y"].dtype == torch.bfloat16
    for name, result in under.items():
        assert name == "y" or result.dtype == torch.float32
        torch.testing.assert_close(result, by_hand[name].to(result.dtype), rtol=0, atol=0)


class ByPyG(MessagePassing):
    """The same message as PyG sends it."""

    def __init__(self):
        super().__init__(aggr="mean")

    def forward(self, source, target, edge, edge_index):
        return self.propagate(edge_index, source=source, target=target, edge=edge, size=(len(source), len(source)))

    def message(self, source_j, target_i, edge):
        return torch.nn.functional.gelu(source_j + target_i + edge, approximate="tanh")


@pytest.mark.parametrize("name", ["24 channels", "1 channel", "no edges"])
def test_reference_is_what_pyg_computes(name):
    graph = EVERYWHERE[name]
    x, attr, edge_index = MEAN.draw(graph, torch.device("cpu"), torch.float64)
    x["weight"] = x["weight"].double()
    ours = outcome(MEAN.along(attr, edge_index, graph.num_nodes), x, "reference", torch.float64)
    call = lambda x, _: {"y": ByPyG()(x["source"], x["target"], attr.double() @ x["weight"].t(), edge_index)}  # noqa: E731
    theirs = outcome(call, x, "", torch.float64)
    for key, result in theirs.items():
        torch.testing.assert_close(ours[key], result, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_plan(dtype, device):
    edge_index = torch.tensor([[3, 0, 3, 1, 0], [1, 1, 0, 1, 4]], dtype=dtype, device=device)
    plan = fk.EdgePlan.from_edges(edge_index, 6)
    expected = {
        "target_ptr": [0, 1, 4, 4, 4, 5, 5], "arriving_from": [3, 3, 0, 1, 0], "arriving": [2, 0, 1, 3, 4],
        "source_ptr": [0, 2, 3, 3, 5, 5, 5], "leaving_to": [1, 4, 1, 1, 0], "leaving": [1, 4, 3, 0, 2],
    }  # fmt: skip
    assert plan.num_edges == 5
    assert {name: getattr(plan, name).tolist() for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.randn(4, 4)}, "`source` must be [N, C] with the plan's N = 5, got [4, 4]"),
        ({1: torch.randn(5, 3)}, "`target` must be torch.float32 [5, 4] as `source` is, got torch.float32 [5, 3]"),
        ({1: torch.randn(5, 4).half()}, "got torch.float16 [5, 4]"),
        ({2: torch.randn(2, 3)}, "`edge_attr` must be [3, E], one row an edge, got [2, 3]"),
        ({2: torch.ones(3, 3).int()}, "`edge_attr` must be a floating-point tensor, got torch.int32"),
        ({3: torch.randn(4, 2)}, "`weight` must be [4, 3], got [4, 2]"),
        ({3: torch.randn(4, 3, device="meta")}, "`weight` is on meta"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = arguments()
    for place, value in change.items():
        given[place] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        fk.edge_mean(*given)


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.zeros(3, 2).long(), "`edge_index` must be int64 [2, Ne], got torch.int64 [3, 2]"),
        (torch.zeros(2, 3), "got torch.float32 [2, 3]"),
        (torch.tensor([[0], [5]]), "`edge_index` must hold nodes from 0 to 4, got 0 to 5"),
        (torch.tensor([[-1], [2]]), "got -1 to 2"),
    ],
)
def test_wrong_edges_are_named(edge_index, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fk.EdgePlan.from_edges(edge_index, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.float64}, "takes float32, bfloat16 and float16, got torch.float64"),
        ({"c": MOST_CHANNELS + 1}, f"takes 1 to {MOST_CHANNELS} channels, got {MOST_CHANNELS + 1}"),
        ({"e": MOST_EDGE_FEATURES + 1}, f"takes 1 to {MOST_EDGE_FEATURES} edge features, got {MOST_EDGE_FEATURES + 1}"),
    ],
)
def test_what_kernels_cannot_do_is_refused(options, message, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=re.escape(f"impl='triton' {message}; use impl='auto'")):
        fk.edge_mean(*arguments(**options), impl="triton")


def test_choice(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    given = arguments()
    with pytest.raises(ValueError, match=re.escape("needs a GPU, or its interpreter (TRITON_INTERPRET=1)")):
        fk.edge_mean(*given, impl="triton")
    with pytest.raises(ValueError, match="`impl` must be one of auto, triton, tiled, reference, got 'sdpa'"):
        fk.edge_mean(*given, impl="sdpa")
    for name in ("sdpa", "reference"):
        monkeypatch.setenv("FLARE_KERNELS_IMPL", name)
        assert torch.equal(fk.edge_mean(*given), fk.edge_mean(*given, impl="reference"))
    seen = []
    whole = tiled_edges.edge_mean
    monkeypatch.setattr(tiled_edges, "edge_mean", lambda *x: (seen.append(x), whole(*x))[1])
    for name, taken in (("tiled", 1), ("auto", 2), ("reference", 2)):
        monkeypatch.setenv("FLARE_KERNELS_IMPL", name)
        fk.edge_mean(*given)
        assert len(seen) == taken, name
    given[2].requires_grad_()  # features have a gradient on the reference path only
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "auto")
    assert fk.edge_mean(*given).requires_grad
    assert len(seen) == 2
    with pytest.raises(ValueError, match="impl='tiled' gives no gradient to `edge_attr`"):
        fk.edge_mean(*given, impl="tiled")
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "triton")
    with pytest.raises(ValueError, match="impl='triton'"):
        fk.edge_mean(*given)
