"""What the tests of both operators along edges share: graphs, arguments, and the comparison."""

import dataclasses

import torch
from kernels.triton_cases import ORDERS, check, exact, outcome
from torch import Tensor

import flare_kernels as fk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """Sizes of a random graph: 0 to `most` edges arrive at a node, none at the last 3, the first 3 send none."""

    num_nodes: int = 25
    most: int = 20
    channels: int = 24
    features: int = 5
    std: float = 1.0


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator along edges.

    Attributes:
        inputs: the tensors with gradients, in the order of its arguments; the features come before the weight.
        in_rows: results in the dtype of the rows; the others are in fp32, and so are their sums.
        kept: most memory of forward and backward, in units of edges × channels in half precision.
    """

    name: str
    inputs: tuple[str, ...]
    in_rows: frozenset[str]
    kept: float

    def __call__(self, x: dict[str, Tensor], attr: Tensor, plan: fk.EdgePlan, impl: str = "auto") -> Tensor:
        """Its result for tensors by name."""
        *rows, weight = (x[name] for name in self.inputs)
        return getattr(fk, self.name)(*rows, attr, weight, plan, impl=impl)

    def draw(self, graph, device, dtype):
        """(tensors with gradients by name, features, edges), as `draw`."""
        x, attr, edge_index = draw(graph, device, dtype)
        return {name: x[name] for name in self.inputs}, attr, edge_index

    def along(self, attr, edge_index, n, seed=None):
        """A call as `triton_cases.outcome` makes them, with the edges in another order if there is a seed."""
        if seed is not None:
            order = torch.randperm(len(attr), generator=torch.Generator().manual_seed(seed)).to(attr.device)
            attr, edge_index = attr[order], edge_index[:, order]
        plan = fk.EdgePlan.from_edges(edge_index, n)

        def call(x, impl):
            return {"y": self(x, attr.double() if x["source"].dtype == torch.float64 else attr, plan, impl)}

        return call

    def compare(self, graph, device, dtype, layout=lambda t: t, seed=None, impl="triton"):
        """Hold the kernels to the error budget: plain torch has the edges in several orders, ours in that of a seed."""
        x, attr, edge_index = self.draw(graph, device, dtype)
        n = graph.num_nodes
        truth = outcome(self.along(attr, edge_index, n), exact(x), "reference", dtype)
        seeds = (None, *range(ORDERS))
        plain = [outcome(self.along(attr, edge_index, n, other), x, "reference", dtype) for other in seeds]
        mine = {name: layout(t) for name, t in x.items()}
        ours = outcome(self.along(layout(attr), edge_index, n, seed), mine, impl, dtype)
        for names, kind in ((ours.keys() & self.in_rows, dtype), (ours.keys() - self.in_rows, torch.float32)):
            pick = lambda r, names=names: {name: r[name] for name in names}  # noqa: E731
            check(pick(ours), [pick(each) for each in plain], pick(truth), kind)


_OF_ROWS = frozenset({"gradient of source", "gradient of target"})
MEAN = Operator("edge_mean", ("source", "target", "weight"), _OF_ROWS | {"y"}, 0.4)
DIFFERENCE = Operator("edge_difference", ("values", "source", "target", "weight"), _OF_ROWS, 0.6)

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


def draw(graph, device, dtype):
    """(tensors by name, features, edges); edges come in no order, some of them twice, some are loops."""
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
    # Values of differences, in fp32: on a constant of the size of a field that varies little.
    x["values"] = 3.0 + torch.randn(n, graph.channels, generator=generator)
    return {name: t.to(device) for name, t in x.items()}, attr.to(device), edge_index.to(device)


def arguments(device="cpu", n=5, c=4, e=3, dtype=torch.float32):
    """Positional arguments of `edge_mean`."""
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]], device=device)
    rows = [torch.randn(n, c, device=device).to(dtype) for _ in range(2)]
    features, weight = torch.randn(3, e, device=device), torch.randn(c, e, device=device)
    return [*rows, features, weight, fk.EdgePlan.from_edges(edge_index, n)]
