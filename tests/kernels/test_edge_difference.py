"""Weighted differences along edges: the reference against loops and finite differences, Triton against the reference.

Graphs are those of `test_edge_mean`, and so is what both operators share: plans, messages of errors, choices.
"""

import re
import subprocess
import sys

import pytest
import torch
from kernels.test_edge_mean import EVERYWHERE, ON_GPU, Graph, arguments, strided
from kernels.test_edge_mean import draw as draw_rows
from kernels.triton_cases import BACKENDS, DEVICES, ORDERS, assert_same, check, exact, outcome, runs

import flare_kernels as fk


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


def draw(graph, device, dtype):
    """As for `edge_mean`, and values in fp32: on a constant of the size of a field that varies little."""
    x, attr, edge_index = draw_rows(graph, device, dtype)
    generator = torch.Generator().manual_seed(graph.num_nodes)
    values = 3.0 + torch.randn(graph.num_nodes, graph.channels, generator=generator)
    return {"values": values.to(device)} | x, attr, edge_index


def along(attr, edge_index, n, seed=None):
    """A call as `triton_cases.outcome` makes them, with the edges in another order if there is a seed."""
    if seed is not None:
        order = torch.randperm(len(attr), generator=torch.Generator().manual_seed(seed)).to(attr.device)
        attr, edge_index = attr[order], edge_index[:, order]
    plan = fk.EdgePlan.from_edges(edge_index, n)

    def call(x, impl):
        features = attr.double() if x["source"].dtype == torch.float64 else attr
        y = fk.edge_difference(x["values"], x["source"], x["target"], features, x["weight"], plan, impl=impl)
        return {"y": y}

    return call


def compare(graph, device, dtype, layout=lambda t: t, seed=None):
    """Hold the kernels to the error budget: what is in fp32 to that of fp32, gradients of rows to that of theirs."""
    x, attr, edge_index = draw(graph, device, dtype)
    n = graph.num_nodes
    truth = outcome(along(attr, edge_index, n), exact(x), "reference", dtype)
    plain = [outcome(along(attr, edge_index, n, other), x, "reference", dtype) for other in (None, *range(ORDERS))]
    ours = outcome(
        along(layout(attr), edge_index, n, seed), {name: layout(t) for name, t in x.items()}, "triton", dtype
    )
    in_rows = {"gradient of source", "gradient of target"}
    for names, kind in ((ours.keys() & in_rows, dtype), (ours.keys() - in_rows, torch.float32)):
        pick = lambda r, names=names: {name: r[name] for name in names}  # noqa: E731
        check(pick(ours), [pick(each) for each in plain], pick(truth), kind)


@pytest.mark.parametrize(("graph", "device", "dtype"), runs(EVERYWHERE, ON_GPU))
def test_error_budget(graph, device, dtype):
    compare(graph, device, dtype)


def test_half_precision(device):
    for dtype in (torch.bfloat16, torch.float16):
        compare(Graph(), device, dtype)


def test_order_of_edges(device):
    compare(Graph(), device, torch.float32, seed=9)


@pytest.mark.parametrize("layout", [strided, lambda t: t.t().contiguous().t()], ids=["rows apart", "transposed"])
def test_layouts_of_memory(device, layout):
    compare(Graph(), device, torch.float32, layout=layout)


def test_the_same_bits_again(device):
    graph = Graph() if device.type == "cpu" else Graph(num_nodes=20_000, channels=64)
    x, attr, edge_index = draw(graph, device, torch.float32)
    first, *others = (
        outcome(along(attr, edge_index, graph.num_nodes), x, "triton", torch.float32)
        for _ in range(2 if device.type == "cpu" else 20)
    )
    for other in others:
        assert_same(first, other)


def test_programs_of_several_blocks(device, monkeypatch):
    from flare_kernels.triton_edges import ops

    monkeypatch.setattr(ops, "_MAX_PARTS", 3)
    compare(Graph(num_nodes=300, channels=64, most=2), device, torch.float32)


def test_only_wanted_gradients(device):
    x, attr, edge_index = draw(Graph(), device, torch.float32)
    call = along(attr, edge_index, 25)
    every = outcome(call, x, "triton", torch.float32)
    given = torch.randn(
        25, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(device, torch.float32)  # fmt: skip
    for name in x:
        leaf = x[name].detach().requires_grad_()
        y = call({other: t.detach() for other, t in x.items()} | {name: leaf}, "triton")["y"]
        (gradient,) = torch.autograd.grad(y, leaf, given)
        assert torch.equal(gradient, every[f"gradient of {name}"])


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_nothing_of_a_constant(impl, device):
    x, attr, edge_index = draw(Graph(), device, torch.float32)
    x["values"] = torch.full_like(x["values"], 1e4)
    assert (along(attr, edge_index, 25)(x, impl)["y"] == 0).all()


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_linear_in_the_values(impl, device):
    x, attr, edge_index = draw(Graph(), device, torch.float32)
    call = along(attr, edge_index, 25)
    other = torch.randn(25, 24, generator=torch.Generator().manual_seed(2)).to(device)
    one, two, both = (call(x | {"values": v}, impl)["y"] for v in (x["values"], other, x["values"] - 2 * other))
    torch.testing.assert_close(both, one - 2 * two, rtol=1e-5, atol=1e-5)


def test_small_differences_survive_autocast(device):
    """Values 1 % apart: half precision would leave them a few steps of its own."""
    x, attr, edge_index = draw(Graph(), device, torch.float32)
    x["values"] = 5.0 + 0.01 * x["values"]
    for impl in ("reference", "triton"):
        exactly = along(attr, edge_index, 25)({n: t.double() for n, t in x.items()}, "reference")["y"]
        with torch.autocast(device.type, torch.bfloat16):
            found = along(attr, edge_index, 25)(x, impl)["y"]
        assert found.dtype == torch.float32
        assert (found - exactly).norm() < 0.02 * exactly.norm()


def test_reference_is_a_loop_over_edges():
    x, attr, edge_index = draw(Graph(num_nodes=7, most=5, channels=3, features=2), torch.device("cpu"), torch.float64)
    expected, degree = torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, 1)
    for (start, end), features in zip(edge_index.t().tolist(), attr.double(), strict=True):
        a = x["source"][start] + x["target"][end] + x["weight"].double() @ features
        difference = x["values"][start].double() - x["values"][end].double()
        expected[end] += a / (1 + a.abs()) * difference
        degree[end] += 1
    found = along(attr, edge_index, 7)({n: t.double() for n, t in x.items()}, "reference")["y"]
    torch.testing.assert_close(found, expected / degree.clamp(min=1), rtol=1e-12, atol=1e-12)


def test_gradients_of_the_reference():
    x, attr, edge_index = draw(Graph(num_nodes=6, most=4, channels=3, features=2), torch.device("cpu"), torch.float64)
    plan = fk.EdgePlan.from_edges(edge_index, 6)
    leaves = [t.double().requires_grad_() for t in (x["values"], x["source"], x["target"], attr, x["weight"])]
    assert torch.autograd.gradcheck(lambda *t: fk.edge_difference(*t, plan), leaves)


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


@pytest.mark.parametrize("name", ["edge_difference", "edge_difference_target_grad", "edge_difference_source_grad"])
def test_operators_keep_the_rules_of_torch(name, device):
    import flare_kernels.triton_edges.ops  # noqa: F401

    *tensors, plan = arguments(device)
    values, taken = torch.randn(5, 4, device=device), torch.randn(5, 4, device=device)
    dy = torch.randn_like(values)
    more = {
        "edge_difference": plan.by_target,
        "edge_difference_target_grad": (*plan.by_target, dy),
        "edge_difference_source_grad": (plan.target_ptr, *plan.by_source, dy, taken),
    }[name]
    torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, (values, *tensors, *more))


COMPILE = """
import sys, torch, flare_kernels as fk

device, backend = sys.argv[1:]

def run(values, source, target, weight, attr, plan):
    return fk.edge_difference(values, source, target, attr, weight, plan, impl="triton")

compiled = torch.compile(run, fullgraph=True, backend=backend)
for n, num_edges in (9, 30), (12, 41), (20, 55):
    plan = fk.EdgePlan.from_edges(torch.randint(0, n, (2, num_edges), device=device), n)
    leaves = [torch.randn(shape, device=device).requires_grad_() for shape in (*3 * [(n, 8)], (8, 3))]
    attr, given = torch.randn(num_edges, 3, device=device), torch.randn(n, 8, device=device)
    outcomes = []
    for call in (run, compiled):
        y = call(*leaves, attr, plan)
        outcomes.append((y, *torch.autograd.grad(y, leaves, given)))
    for eager, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-6, atol=1e-6)
"""


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
def test_compiles_without_graph_breaks(device, backend):
    """In a process of its own: the shape checks of the test suite cannot be traced."""
    run = subprocess.run([sys.executable, "-c", COMPILE, device, backend], capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.gpu
def test_memory_is_linear_in_the_nodes():
    """Of the size of edges × channels nothing is kept, nor made on the way."""
    graph = Graph(num_nodes=20_000, channels=128, most=40)
    x, attr, edge_index = draw(graph, torch.device("cuda"), torch.bfloat16)
    plan = fk.EdgePlan.from_edges(edge_index, graph.num_nodes)
    values, source, target, weight = (t.requires_grad_() for t in x.values())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fk.edge_difference(values, source, target, attr, weight, plan, impl="triton").sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 0.6 * len(attr) * graph.channels * 2
