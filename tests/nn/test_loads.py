"""The stream of loads: differences along the mesh are the same by PyG and by plan, and stop where the mesh does."""

import pytest
import torch

from flare_connect.nn import loads
from flare_connect.nn.attention import FlareAttention
from flare_connect.nn.hybrid import BlockInputs
from flare_connect.nn.loads import LoadBlock, LoadStencil
from flare_connect.nn.mlp import one_product, together
from flare_kernels import EdgePlan, Segments

N, C, CU, E = 30, 12, 8, 5


@pytest.fixture
def graph(device):
    """Two rings of 15 points; edges with features."""
    ring = torch.arange(15)
    one = torch.stack([ring, ring.roll(-1)])
    edges = torch.cat([one, one.flip(0), one + 15, one.flip(0) + 15], dim=1)
    generator = torch.Generator().manual_seed(0)
    points, u = (torch.randn(N, width, generator=generator, dtype=torch.float64) for width in (C, CU))
    attr = torch.randn(edges.shape[1], E, generator=generator, dtype=torch.float64)
    return tuple(t.to(device) for t in (points, u, edges, attr))


@pytest.fixture
def stencil(device):
    """Random weights in double precision."""
    torch.manual_seed(0)
    return LoadStencil(C, CU, E).double().to(device)


def test_by_plan_is_by_pyg(graph, stencil):
    points, u, edges, attr = graph
    torch.testing.assert_close(
        stencil(u, points, edges, attr, EdgePlan.from_edges(edges, N)), stencil(u, points, edges, attr),
        rtol=1e-12, atol=1e-12,
    )  # fmt: skip


def test_formula(graph, stencil):
    points, u, edges, attr = graph
    expected = torch.zeros_like(u)
    for (j, i), e in zip(edges.t().tolist(), attr, strict=True):
        a = stencil.source(points[j]) + stencil.target(points[i]) + stencil.edge(e)
        expected[i] += a / (1 + a.abs()) * (u[j] - u[i]) / 2  # two arrive at each
    torch.testing.assert_close(stencil(u, points, edges, attr), stencil.output(expected), rtol=1e-12, atol=1e-12)


def test_nothing_where_the_stream_is_constant(graph, stencil):
    points, u, edges, attr = graph
    u = torch.cat([u[:1].expand(15, -1), u[1:2].expand(15, -1)])  # a constant on each ring, not the same
    assert not stencil(u, points, edges, attr).any()


def test_what_happens_on_one_part_stays_there(graph, stencil):
    points, u, edges, attr = graph
    other = u.clone()
    other[20] += 1.0
    change = (stencil(other, points, edges, attr) - stencil(u, points, edges, attr)).abs().sum(1)
    assert set(change.nonzero()[:, 0].tolist()) == {19, 20, 21}


def block(num_rounds, mlp_ratio=1.0):
    """A block whose attention gives nothing, so that only the stencils move anything."""
    torch.manual_seed(1)
    attention = FlareAttention(C, num_heads=4, num_latents=3, value_channels=CU)
    torch.nn.init.zeros_(attention.output.weight)
    return LoadBlock(C, CU, attention, edge_features=E, num_rounds=num_rounds, mlp_ratio=mlp_ratio).double()


def test_each_round_reaches_one_neighbour_farther(graph):
    points, u, edges, attr = (t.cpu() for t in graph)
    inputs = BlockInputs(segments=Segments.from_lengths((N,), torch.device("cpu")), edge_index=edges, edge_attr=attr)
    other = u.clone()
    other[20] += 1.0
    for num_rounds, reached in ((0, {20}), (1, {19, 20, 21}), (2, {18, 19, 20, 21, 22})):
        each = block(num_rounds)
        change = (each(other, points, inputs) - each(u, points, inputs)).abs().sum(1)
        assert set(change.nonzero()[:, 0].tolist()) == reached
    with pytest.raises(ValueError, match="need `edge_index` and `edge_attr`"):
        block(1)(u, points, BlockInputs(segments=inputs.segments))


def test_hidden_width_follows_the_ratio():
    assert block(0).up.out_features == CU
    assert block(0, mlp_ratio=2.5).up.out_features == 20


@pytest.mark.parametrize("how", [together, one_product])
@pytest.mark.parametrize("biases", [(True, False, True), (False, False)])
def test_maps_taken_together_are_the_maps(biases, how, device):
    """Gradients included."""
    torch.manual_seed(0)
    maps = [torch.nn.Linear(C, width, bias=bias).double() for width, bias in zip((3, 1, 8), biases, strict=False)]
    maps = torch.nn.ModuleList(maps).to(device)
    x = torch.randn(N, C, dtype=torch.float64, device=device, requires_grad=True)
    found = []
    for results in (how(list(maps), x), [each(x) for each in maps]):
        loss = sum((y * torch.arange(y.numel(), device=device).view_as(y)).sum() for y in results)
        found.append((*results, *torch.autograd.grad(loss, [x, *maps.parameters()])))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("how", [together, one_product])
def test_a_block_is_its_formula(graph, how, device, monkeypatch):
    monkeypatch.setattr(loads, "together", how)
    points, u, edges, attr = graph
    torch.manual_seed(1)
    block = LoadBlock(C, CU, None, edge_features=E, num_rounds=2).double().to(device)
    segments = Segments.from_lengths([N], device)
    h, expected = block.norm(points), u
    for stencil, passed in zip(block.stencils, block.passed, strict=True):
        expected = expected + passed(h) * stencil(expected, h, edges, attr)
    expected = expected + block.down(block.up(expected) * torch.nn.functional.gelu(block.gate(h), approximate="tanh"))
    found = block(u, points, BlockInputs(segments=segments, edge_index=edges, edge_attr=attr))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
