"""Both operators along edges: Triton against the reference in fp64, and what kernels promise beside right numbers."""

import subprocess
import sys

import pytest
import torch
from kernels.edge_cases import DIFFERENCE, EVERYWHERE, MEAN, ON_GPU, Graph, arguments
from kernels.triton_cases import BACKENDS, BOTH, DEVICES, assert_same, outcome, runs

import flare_kernels as fk


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


OPERATORS = (MEAN, DIFFERENCE)


@pytest.fixture(params=OPERATORS, ids=lambda operator: operator.name)
def operator(request):
    """Which of the two."""
    return request.param


@pytest.mark.parametrize(("graph", "device", "dtype"), runs(EVERYWHERE, ON_GPU, BOTH))
def test_error_budget(operator, graph, device, dtype):
    operator.compare(graph, device, dtype)


def test_half_precision(operator, device):
    for dtype in (torch.bfloat16, torch.float16):
        operator.compare(Graph(), device, dtype)


def test_order_of_edges(operator, device):
    operator.compare(Graph(), device, torch.float32, seed=9)


def strided(t):
    """The same numbers with other rows in between, and not aligned."""
    room = t.new_full((len(t), 2 * t.shape[1] + 1), torch.nan)
    room[:, 1 : t.shape[1] + 1] = t
    return room[:, 1 : t.shape[1] + 1]


@pytest.mark.parametrize("layout", [strided, lambda t: t.t().contiguous().t()], ids=["rows apart", "transposed"])
def test_layouts_of_memory(operator, device, layout):
    operator.compare(Graph(), device, torch.float32, layout=layout)


def test_the_same_bits_again(operator, device):
    graph = Graph() if device.type == "cpu" else Graph(num_nodes=20_000, channels=64)
    x, attr, edge_index = operator.draw(graph, device, torch.float32)
    first, *others = (
        outcome(operator.along(attr, edge_index, graph.num_nodes), x, "triton", torch.float32)
        for _ in range(2 if device.type == "cpu" else 20)
    )
    for other in others:
        assert_same(first, other)


def test_programs_of_several_blocks(operator, device, monkeypatch):
    """What the gradient of the weight comes down to with very many nodes."""
    from flare_kernels.triton_edges import ops

    monkeypatch.setattr(ops, "_MAX_PARTS", 3)
    operator.compare(Graph(num_nodes=300, channels=64, most=2), device, torch.float32)


def test_only_wanted_gradients(operator, device):
    x, attr, edge_index = operator.draw(Graph(), device, torch.float32)
    call = operator.along(attr, edge_index, 25)
    every = outcome(call, x, "triton", torch.float32)
    given = torch.randn(
        25, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(device, torch.float32)  # fmt: skip
    for name in x:
        leaf = x[name].detach().requires_grad_()
        y = call({other: t.detach() for other, t in x.items()} | {name: leaf}, "triton")["y"]
        (gradient,) = torch.autograd.grad(y, leaf, given)
        assert torch.equal(gradient, every[f"gradient of {name}"])


def test_gradients_of_the_reference(operator):
    graph = Graph(num_nodes=6, most=4, channels=3, features=2)
    x, attr, edge_index = operator.draw(graph, torch.device("cpu"), torch.float64)
    plan = fk.EdgePlan.from_edges(edge_index, 6)
    leaves = [t.double().requires_grad_() for t in (*x.values(), attr)]
    call = lambda *given: operator(dict(zip(x, given, strict=False)), given[-1], plan)  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves)


def test_gradients_of_features_take_the_reference(operator, device):
    x, attr, edge_index = operator.draw(Graph(), device, torch.float32)
    plan = fk.EdgePlan.from_edges(edge_index, 25)
    attr.requires_grad_()
    with pytest.raises(ValueError, match="gives no gradient to `edge_attr`"):
        operator(x, attr, plan, "triton")
    operator(x, attr, plan).sum().backward()
    assert attr.grad.abs().sum() > 0
    with torch.no_grad():
        operator(x, attr, plan, "triton")


def test_second_derivatives_are_refused(operator, device):
    x, attr, edge_index = operator.draw(Graph(), device, torch.float32)
    source = x["source"].requires_grad_()
    for impl in ("triton", "tiled"):
        y = operator(x, attr, fk.EdgePlan.from_edges(edge_index, 25), impl)
        for loss in (y.square().sum(), y.sum()):  # of a sum, the gradient that comes in is a constant
            with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
                torch.autograd.grad(loss, source, create_graph=True, retain_graph=True)


@pytest.mark.parametrize(
    "name",
    [
        "edge_mean", "edge_target_grad", "edge_source_grad",
        "edge_difference", "edge_difference_target_grad", "edge_difference_source_grad",
    ],
)  # fmt: skip
def test_operators_keep_the_rules_of_torch(name, device):
    import flare_kernels.triton_edges.ops  # noqa: F401

    *tensors, plan = arguments(device)
    values, dy, taken = (torch.randn_like(tensors[0]) for _ in range(3))
    of_target, of_source = (*plan.by_target, dy), (plan.target_ptr, *plan.by_source, dy)
    more = {
        "edge_mean": plan.by_target, "edge_target_grad": of_target, "edge_source_grad": of_source,
        "edge_difference": plan.by_target, "edge_difference_target_grad": of_target,
        "edge_difference_source_grad": (*of_source, taken),
    }[name]  # fmt: skip
    given = (values, *tensors) if "difference" in name else tensors
    torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, (*given, *more))


COMPILE = """
import sys, torch, flare_kernels as fk

device, backend, *operators = sys.argv[1:]
for operator, rows in zip(operators[::2], map(int, operators[1::2]), strict=True):
    def run(attr, plan, *given):
        return getattr(fk, operator)(*given[:-1], attr, given[-1], plan, impl="triton")

    compiled = torch.compile(run, fullgraph=True, backend=backend)
    for n, num_edges in (9, 30), (12, 41), (20, 55):
        plan = fk.EdgePlan.from_edges(torch.randint(0, n, (2, num_edges), device=device), n)
        leaves = [torch.randn(shape, device=device).requires_grad_() for shape in (*rows * [(n, 8)], (8, 3))]
        attr, given = torch.randn(num_edges, 3, device=device), torch.randn(n, 8, device=device)
        outcomes = []
        for call in (run, compiled):
            y = call(attr, plan, *leaves)
            outcomes.append((y, *torch.autograd.grad(y, leaves, given)))
        for eager, other in zip(*outcomes, strict=True):
            torch.testing.assert_close(other, eager, rtol=1e-6, atol=1e-6)
print(len(operators) // 2, "compiled")
"""


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
def test_compiles_without_graph_breaks(device, backend):
    """Both in a process of their own: the shape checks of the test suite cannot be traced."""
    call = [sys.executable, "-c", COMPILE, device, backend]
    call += [word for each in OPERATORS for word in (each.name, str(len(each.inputs) - 1))]
    run = subprocess.run(call, capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stderr[-4000:]
    assert f"{len(OPERATORS)} compiled" in run.stdout


@pytest.mark.gpu
def test_cuda_graph_replays_what_eager_computes(operator):
    """The sorting of the edges as well: nothing waits for the device."""
    x, attr, edge_index = operator.draw(Graph(num_nodes=300, channels=64), torch.device("cuda"), torch.bfloat16)
    given = None

    def run():
        leaves = {name: t.detach().requires_grad_() for name, t in x.items()}
        y = operator(leaves, attr, fk.EdgePlan.from_edges(edge_index, 300), "triton")
        return [y, *torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y) if given is None else given)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        given = torch.randn_like(run()[0])
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):
        with torch.no_grad():
            for t in (*x.values(), given):
                t.normal_()
            edge_index.random_(0, 300)
        graph.replay()
        for replayed, eager in zip(captured, run(), strict=True):
            assert torch.equal(replayed, eager)


@pytest.mark.gpu
def test_memory_is_linear_in_the_nodes(operator):
    """Of the size of edges × channels nothing is kept, nor made on the way."""
    graph = Graph(num_nodes=20_000, channels=128, most=40)
    x, attr, edge_index = operator.draw(graph, torch.device("cuda"), torch.bfloat16)
    plan = fk.EdgePlan.from_edges(edge_index, graph.num_nodes)
    leaves = {name: t.requires_grad_() for name, t in x.items()}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    operator(leaves, attr, plan, "triton").sum().backward()
    assert torch.cuda.max_memory_allocated() - before < operator.kept * len(attr) * graph.channels * 2
