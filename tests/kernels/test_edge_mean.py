"""Messages along edges: the reference against PyG and finite differences, Triton against the reference in fp64."""

import dataclasses
import re
import subprocess
import sys

import pytest
import torch
from kernels.triton_cases import BACKENDS, DEVICES, ORDERS, assert_same, check, exact, outcome, runs
from torch_geometric.nn import MessagePassing

import flare_kernels as fk
from flare_kernels.choice import MOST_CHANNELS, MOST_EDGE_FEATURES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """Sizes of a random graph: 0 to `most` edges arrive at a node, none at the last 3, the first 3 send none."""

    num_nodes: int = 25
    most: int = 20
    channels: int = 24
    features: int = 5
    std: float = 1.0


EVERYWHERE = {
    "24 channels": Graph(),
    "1 channel": Graph(channels=1, features=1),
    "56 channels": Graph(channels=56, features=6),
    "64 channels": Graph(channels=64),
    "128 channels": Graph(channels=128, features=16),
    "1024 channels": Graph(num_nodes=7, channels=1024, most=3),
    "large values": Graph(std=8.0),
    "one node": Graph(num_nodes=4, channels=8),
    "no edges": Graph(most=0),
    "no nodes": Graph(num_nodes=0),
}
ON_GPU = {
    f"{n} nodes, {c} channels": Graph(num_nodes=n, channels=c, most=12)
    for n, c in ((5000, 64), (20_000, 56), (3000, 128), (2000, 200), (70_000, 64))
}


@pytest.fixture(params=DEVICES)
def device(request):
    """Where the kernels run."""
    return torch.device(request.param)


def draw(graph, device, dtype):
    """(tensors with gradients by name, features, edges); edges come in no order, some of them twice, some are loops."""
    generator = torch.Generator().manual_seed(graph.num_nodes + graph.channels)
    n = graph.num_nodes
    degree = torch.randint(0, graph.most + 1, (n,), generator=generator)
    degree[max(n - 3, 1) :] = 0
    end = torch.arange(n).repeat_interleave(degree)
    start = torch.randint(min(3, max(n - 1, 0)), max(n, 1), end.shape, generator=generator)
    order = torch.randperm(len(end), generator=generator)
    normal = lambda *shape: graph.std * torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = {
        "source": normal(n, graph.channels).to(dtype),
        "target": normal(n, graph.channels).to(dtype),
        # A parameter, in fp32 also where the rest is in half precision.
        "weight": normal(graph.channels, graph.features).float(),
    }
    attr, edge_index = normal(len(end), graph.features).float(), torch.stack([start, end])[:, order]
    return {name: t.to(device) for name, t in x.items()}, attr.to(device), edge_index.to(device)


def along(attr, edge_index, n, seed=None):
    """A call as `triton_cases.outcome` makes them, with the edges in another order if there is a seed."""
    if seed is not None:
        order = torch.randperm(len(attr), generator=torch.Generator().manual_seed(seed)).to(attr.device)
        attr, edge_index = attr[order], edge_index[:, order]
    plan = fk.EdgePlan.from_edges(edge_index, n)

    def call(x, impl):
        features = attr.double() if x["source"].dtype == torch.float64 else attr
        return {"y": fk.edge_mean(x["source"], x["target"], features, x["weight"], plan, impl=impl)}

    return call


def compare(graph, device, dtype, layout=lambda t: t, seed=None):
    """Hold the kernels to the error budget: plain torch has the edges in several orders, ours in that of a seed."""
    x, attr, edge_index = draw(graph, device, dtype)
    n = graph.num_nodes
    truth = outcome(along(attr, edge_index, n), exact(x), "reference", dtype)
    seeds = (None, *range(ORDERS))
    plain = [outcome(along(attr, edge_index, n, other), x, "reference", dtype) for other in seeds]
    ours = outcome(
        along(layout(attr), edge_index, n, seed), {name: layout(t) for name, t in x.items()}, "triton", dtype
    )
    check_by_kind(ours, plain, truth, dtype)


def check_by_kind(ours, plain, truth, dtype):
    """The gradient of the weight is in fp32 and its sums are too, whatever the rows are in."""
    of_weight = {"gradient of weight"}
    for names, kind in ((ours.keys() - of_weight, dtype), (of_weight, torch.float32)):
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


def strided(t):
    """The same numbers with other rows in between, and not aligned."""
    room = t.new_full((len(t), 2 * t.shape[1] + 1), torch.nan)
    room[:, 1 : t.shape[1] + 1] = t
    return room[:, 1 : t.shape[1] + 1]


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
    """What the gradient of the weight comes down to with very many nodes."""
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


def test_nodes_without_edges(device):
    x, attr, edge_index = draw(Graph(), device, torch.float32)
    result = outcome(along(attr, edge_index, 25), x, "triton", torch.float32)
    assert (result["y"][22:] == 0).all()
    assert (result["gradient of target"][22:] == 0).all()
    assert (result["gradient of source"][:3] == 0).all()


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_autocast(impl, device):
    """As in a linear layer: rows in the dtype of autocast, the parameter and its gradient in its own."""
    x, attr, edge_index = draw(Graph(), device, torch.float32)
    call = along(attr, edge_index, 25)

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
    x, attr, edge_index = draw(graph, torch.device("cpu"), torch.float64)
    x["weight"] = x["weight"].double()
    ours = outcome(along(attr, edge_index, graph.num_nodes), x, "reference", torch.float64)
    call = lambda x, _: {"y": ByPyG()(x["source"], x["target"], attr.double() @ x["weight"].t(), edge_index)}  # noqa: E731
    theirs = outcome(call, x, "", torch.float64)
    for key, result in theirs.items():
        torch.testing.assert_close(ours[key], result, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_reference():
    x, attr, edge_index = draw(Graph(num_nodes=6, most=4, channels=3, features=2), torch.device("cpu"), torch.float64)
    plan = fk.EdgePlan.from_edges(edge_index, 6)
    leaves = [t.double().requires_grad_() for t in (x["source"], x["target"], attr, x["weight"])]
    assert torch.autograd.gradcheck(lambda *t: fk.edge_mean(*t, plan), leaves)


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


def arguments(device="cpu", n=5, c=4, e=3, dtype=torch.float32):
    """Positional arguments of `edge_mean`."""
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]], device=device)
    rows = [torch.randn(n, c, device=device).to(dtype) for _ in range(2)]
    features, weight = torch.randn(3, e, device=device), torch.randn(c, e, device=device)
    return [*rows, features, weight, fk.EdgePlan.from_edges(edge_index, n)]


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
    with pytest.raises(ValueError, match="`impl` must be one of auto, triton, reference, got 'sdpa'"):
        fk.edge_mean(*given, impl="sdpa")
    for name in ("sdpa", "reference"):
        monkeypatch.setenv("FLARE_KERNELS_IMPL", name)
        assert torch.equal(fk.edge_mean(*given), fk.edge_mean(*given, impl="reference"))
    monkeypatch.setenv("FLARE_KERNELS_IMPL", "triton")
    with pytest.raises(ValueError, match="impl='triton'"):
        fk.edge_mean(*given)


def test_gradients_of_features_take_the_reference(device):
    given = arguments(device)
    given[2].requires_grad_()
    with pytest.raises(ValueError, match="gives no gradient to `edge_attr`"):
        fk.edge_mean(*given, impl="triton")
    fk.edge_mean(*given).sum().backward()
    assert given[2].grad.abs().sum() > 0
    with torch.no_grad():
        fk.edge_mean(*given, impl="triton")


def test_second_derivatives_are_refused(device):
    source, *rest = arguments(device)
    source.requires_grad_()
    (slope,) = torch.autograd.grad(
        fk.edge_mean(source, *rest, impl="triton").square().sum(), source, create_graph=True
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.sum().backward()


@pytest.mark.parametrize("name", ["edge_mean", "edge_target_grad", "edge_source_grad"])
def test_operators_keep_the_rules_of_torch(name, device):
    import flare_kernels.triton_edges.ops  # noqa: F401

    *tensors, plan = arguments(device)
    by_target = (plan.target_ptr, plan.arriving_from, plan.arriving)
    by_source = (plan.target_ptr, plan.source_ptr, plan.leaving_to, plan.leaving)
    dy = torch.randn_like(tensors[0])
    more = {"edge_mean": by_target, "edge_target_grad": (*by_target, dy), "edge_source_grad": (*by_source, dy)}[name]
    torch.library.opcheck(getattr(torch.ops.flare_connect, name).default, (*tensors, *more))


COMPILE = """
import sys, torch, flare_kernels as fk

device, backend = sys.argv[1:]

def run(source, target, weight, attr, plan):
    return fk.edge_mean(source, target, attr, weight, plan, impl="triton")

compiled = torch.compile(run, fullgraph=True, backend=backend)
for n, num_edges in (9, 30), (12, 41), (20, 55):
    plan = fk.EdgePlan.from_edges(torch.randint(0, n, (2, num_edges), device=device), n)
    leaves = [torch.randn(shape, device=device).requires_grad_() for shape in ((n, 8), (n, 8), (8, 3))]
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
def test_cuda_graph_replays_what_eager_computes():
    """The sorting of the edges as well: nothing waits for the device."""
    x, attr, edge_index = draw(Graph(num_nodes=300, channels=64), torch.device("cuda"), torch.bfloat16)
    tensors, given = list(x.values()), torch.randn_like(x["source"])

    def run():
        source, target, weight = leaves = [t.detach().requires_grad_() for t in tensors]
        plan = fk.EdgePlan.from_edges(edge_index, 300)
        y = fk.edge_mean(source, target, attr, weight, plan, impl="triton")
        return [y, *torch.autograd.grad(y, leaves, given)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):
        with torch.no_grad():
            for t in (*tensors, given):
                t.normal_()
            edge_index.random_(0, 300)
        graph.replay()
        for replayed, eager in zip(captured, run(), strict=True):
            assert torch.equal(replayed, eager)


@pytest.mark.gpu
def test_memory_is_linear_in_the_nodes():
    """Of the size of edges × channels nothing is kept, nor made on the way."""
    graph = Graph(num_nodes=20_000, channels=128, most=40)
    x, attr, edge_index = draw(graph, torch.device("cuda"), torch.bfloat16)
    plan = fk.EdgePlan.from_edges(edge_index, graph.num_nodes)
    source, target, weight = (t.requires_grad_() for t in x.values())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fk.edge_mean(source, target, attr, weight, plan, impl="triton").sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 0.4 * len(attr) * graph.channels * 2
