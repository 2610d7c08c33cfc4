"""Messages along edges a tile of nodes at a time against plain torch and the reference in fp64, gradients included."""

import pytest
import torch
from kernels.edge_cases import DIFFERENCE, EVERYWHERE, MEAN, Graph

import flare_kernels as fk
from flare_kernels import tiled_edges

OPERATORS = pytest.mark.parametrize("operator", [MEAN, DIFFERENCE], ids=lambda operator: operator.name)


@pytest.fixture(params=[7, 100, 1 << 17], ids=["a node a tile", "several tiles", "one tile"])
def tile(request, monkeypatch):
    """So many numbers of a tile: some nodes have more edges than that."""
    monkeypatch.setattr(tiled_edges, "TILE", request.param)


@OPERATORS
@pytest.mark.parametrize("graph", EVERYWHERE.values(), ids=EVERYWHERE)
def test_error_budget(operator, graph, tile):
    for dtype in (torch.float32, torch.bfloat16):
        operator.compare(graph, torch.device("cpu"), dtype, seed=3, impl="tiled")


@OPERATORS
def test_tiles_have_every_edge_once_and_fit(operator, monkeypatch):
    graph = Graph(num_nodes=300, most=9)
    _, attr, edge_index = operator.draw(graph, "cpu", torch.float32)
    plan = fk.EdgePlan.from_edges(edge_index, 300)
    monkeypatch.setattr(tiled_edges, "TILE", 50 * 24)
    tiles = list(tiled_edges._tiles(plan, torch.arange(len(attr))[:, None].float(), 24))
    assert torch.cat([each.attr[:, 0] for each in tiles]).sort().values.tolist() == list(range(len(attr)))
    ends = torch.cat([each.node + each.nodes.start for each in tiles])
    starts = torch.cat([each.start for each in tiles])
    assert torch.equal(torch.stack([starts, ends]), edge_index[:, plan.arriving])
    assert len(tiles) > 10
    assert max(len(each.attr) for each in tiles) <= 50 + 9  # a node is not cut


@OPERATORS
def test_nothing_of_all_edges_is_kept(operator):
    graph = Graph(num_nodes=400, most=20)
    x, attr, edge_index = operator.draw(graph, "cpu", torch.float32)
    x = {name: each.requires_grad_() for name, each in x.items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        operator(x, attr, fk.EdgePlan.from_edges(edge_index, 400), "tiled")
    assert max(kept) <= max(400 * 24, attr.numel())
    assert len(attr) * 24 > 4 * max(kept)
