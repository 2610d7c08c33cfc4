"""Layers: shapes, invariances, what each switch changes, and that what should not matter does not."""

import dataclasses

import pytest
import torch

import flare_kernels
from flare_connect.errors import ConfigError
from flare_connect.nn import (
    AdaptiveNorm,
    BlockInputs,
    BoundaryConditioner,
    FlareAttention,
    HybridBlock,
    MeshConv,
)
from flare_kernels import EdgePlan, Segments

C = 16
VARIANTS = {
    "plain": {},
    "linear": {"num_kv_layers": -1},
    "deep": {"num_kv_layers": 3},
    "normalised": {"qk_norm": True},
    "adapted": {"queries": "adapted"},
    "separate": {"separate_decode": True},
    "adapted_separate": {"queries": "adapted", "separate_decode": True},
}


def attention(**options):
    return FlareAttention(C, num_heads=4, num_latents=8, **options).double()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_ragged_batch_equals_single_meshes(options):
    layer = attention(**options)
    lengths, token_lengths = [30, 5, 17], [4, 1, 6]
    x, tokens = torch.randn(52, C).double(), torch.randn(11, C).double()
    weights = torch.randn(52).double()
    segments, token_segments = Segments.from_lengths(lengths), Segments.from_lengths(token_lengths)
    y = layer(x, segments, log_weights=weights, tokens=tokens, token_segments=token_segments)
    parts = zip(x.split(lengths), tokens.split(token_lengths), weights.split(lengths), strict=True)
    singles = [
        layer(
            p, Segments.from_lengths([len(p)]), log_weights=w, tokens=t, token_segments=Segments.from_lengths([len(t)])
        )
        for p, t, w in parts
    ]
    torch.testing.assert_close(y, torch.cat(singles))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_points_permute(options):
    layer, x, order = attention(**options), torch.randn(40, C).double(), torch.randperm(40)
    segments = Segments.from_lengths([40])
    torch.testing.assert_close(layer(x[order], segments), layer(x, segments)[order])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_weight_is_trained(options):
    layer = attention(**options)
    layer(torch.randn(20, C).double(), Segments.from_lengths([12, 8])).square().sum().backward()
    idle = [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key's bias shifts all scores of a latent alike, so the softmax over points does not see it.
    assert not [name for name in idle if "bias" not in name]


def test_quadrature_weights_make_the_answer_independent_of_where_nodes_crowd():
    """The gather becomes an integral: a graded fine grid agrees with a coarse one; unweighted it does not."""
    layer, basis = attention(), torch.randn(3, C).double()
    probe = torch.tensor([[0.3, 0.8, 1.0]]).double() @ basis

    def answer(edges, weighted):
        middle, width = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
        x = torch.stack([middle, (3 * middle).sin(), torch.ones_like(middle)], 1) @ basis
        weights = (width / width.mean()).log() if weighted else None
        k, v = layer._split(layer.key(x)), layer._split(layer.value(x))
        z = flare_kernels.gather(layer.latents, k, v, scale=1.0, log_weights=weights)
        return flare_kernels.scatter(layer.latents, layer._split(layer.key(probe)), z, scale=1.0)

    uniform, graded = torch.linspace(0, 1, 401).double(), torch.linspace(0, 1, 2001).double() ** 3
    with_weights = (answer(uniform, True) - answer(graded, True)).abs().max()
    without = (answer(uniform, False) - answer(graded, False)).abs().max()
    assert with_weights < 1e-3 * without


def test_every_point_sees_every_point():
    layer, x = attention(), torch.randn(10, C).double().requires_grad_()
    layer(x, Segments.from_lengths([10]))[0].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_no_point_sees_another_mesh():
    layer, x = attention(queries="adapted"), torch.randn(10, C).double().requires_grad_()
    layer(x, Segments.from_lengths([6, 4]))[:6].sum().backward()
    assert (x.grad[:6].abs().sum(1) > 0).all()
    assert torch.equal(x.grad[6:], torch.zeros_like(x.grad[6:]))


def test_tokens_reach_the_points():
    layer, segments = attention(), Segments.from_lengths([10])
    tokens = torch.randn(3, C).double().requires_grad_()
    layer(
        torch.randn(10, C).double(), segments, tokens=tokens, token_segments=Segments.from_lengths([3])
    ).sum().backward()
    assert (tokens.grad.abs().sum(1) > 0).all()


def test_rank_uses_the_first_latents():
    layer, x, segments = attention(), torch.randn(10, C).double(), Segments.from_lengths([10])
    small = FlareAttention(C, num_heads=4, num_latents=3).double()
    state = layer.state_dict()
    small.load_state_dict(state | {"latents": state["latents"][:, :3]})
    torch.testing.assert_close(layer(x, segments, rank=3), small(x, segments))
    assert torch.equal(layer(x, segments, rank=8), layer(x, segments))
    with pytest.raises(ValueError, match="between 1 and `num_latents` = 8, got 9"):
        layer(x, segments, rank=9)


def test_adapted_queries_depend_on_the_mesh():
    layer, segments = attention(queries="adapted"), Segments.from_lengths([10])
    queries = [layer._queries(torch.randn(10, C).double(), segments, None, None) for _ in range(2)]
    assert not torch.allclose(*queries)
    assert attention()._queries(torch.randn(10, C).double(), segments, None, None).dim() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "divisible by `num_heads`, got 16 and 3"),
        ({"num_latents": 0}, "`num_latents` must be at least 1, got 0"),
        ({"queries": "magic"}, "'magic'"),
    ],
)
def test_wrong_attention(options, message):
    with pytest.raises(Exception, match=message):
        FlareAttention(C, **options)


def test_mesh_conv_against_a_loop():
    conv = MeshConv(C, 3).double()
    x, edge_index, e = (
        torch.randn(5, C).double(),
        torch.tensor([[0, 1, 2, 4, 0], [1, 0, 1, 1, 2]]),
        torch.randn(5, 3).double(),
    )
    y = conv(x, edge_index, e)
    for i in range(5):
        arriving = (edge_index[1] == i).nonzero().flatten().tolist()
        sent = [
            torch.nn.functional.gelu(
                conv.source(x[edge_index[0, a]]) + conv.target(x[i]) + conv.edge(e[a]), approximate="tanh"
            )
            for a in arriving
        ]
        mean = torch.stack(sent).mean(0) if sent else torch.zeros(C).double()
        torch.testing.assert_close(y[i], conv.output(torch.cat([x[i], mean])))


def test_mesh_conv_with_a_plan_is_mesh_conv_without():
    conv, e = MeshConv(C, 3).double(), torch.randn(40, 3).double()
    edge_index = torch.randint(0, 9, (2, 40))
    plan = EdgePlan.from_edges(edge_index, 12)  # the last three nodes have no edges
    x = torch.randn(12, C).double().requires_grad_()
    given = torch.randn(12, C).double()
    leaves = [x, *conv.parameters()]
    outcomes = []
    for more in ((), (plan,)):
        y = conv(x, edge_index, e, *more)
        outcomes.append((y, *torch.autograd.grad(y, leaves, given)))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_a_block_hands_the_plan_to_its_rounds(monkeypatch):
    block = HybridBlock(C, attention=None, edge_features=3, num_rounds=2)
    x, e, edge_index = torch.randn(9, C), torch.randn(20, 3), torch.randint(0, 9, (2, 20))
    inputs = BlockInputs(segments=Segments.from_lengths([9]), edge_index=edge_index, edge_attr=e)
    without = block(x, inputs)
    monkeypatch.setattr(MeshConv, "propagate", None)
    planned = dataclasses.replace(inputs, plan=EdgePlan.from_edges(edge_index, 9))
    torch.testing.assert_close(block(x, planned), without)


def test_adaptive_norm_starts_as_layer_norm_and_learns_the_condition():
    norm, x, segments = AdaptiveNorm(C, 4), torch.randn(6, C), Segments.from_lengths([2, 4])
    condition = torch.randn(2, 4)
    torch.testing.assert_close(norm(x, segments, condition), torch.nn.functional.layer_norm(x, (C,)))
    torch.nn.init.normal_(norm.modulation.weight)
    y = norm(x, segments, condition)
    torch.testing.assert_close(y[:2], norm(x[:2], Segments.from_lengths([2]), condition[:1]))
    assert not torch.allclose(y, norm(x, segments, condition.flip(0)))


def test_block_switches():
    x, segments = torch.randn(6, C), Segments.from_lengths([6])
    edges = {"edge_index": torch.tensor([[0, 1], [1, 0]]), "edge_attr": torch.randn(2, 3)}
    hybrid = HybridBlock(C, attention=FlareAttention(C, num_heads=4, num_latents=4), edge_features=3)
    with_edges = hybrid(x, BlockInputs(segments=segments, **edges))
    # The gate starts at zero: message passing changes nothing until it is trained.
    changed = BlockInputs(segments=segments, edge_index=edges["edge_index"], edge_attr=edges["edge_attr"] + 1)
    assert torch.equal(with_edges, hybrid(x, changed))
    torch.nn.init.ones_(hybrid.gates)
    assert not torch.allclose(with_edges, hybrid(x, changed))
    local = HybridBlock(C, attention=None, edge_features=3)
    x2 = x.clone()
    x2[0] += 1
    moved = (
        (local(x2, BlockInputs(segments=segments, **edges)) - local(x, BlockInputs(segments=segments, **edges)))
        .abs()
        .sum(1)
    )
    assert (moved[:2] > 0).all()
    assert torch.equal(moved[2:], torch.zeros(4))
    with pytest.raises(ConfigError, match="both are switched off"):
        HybridBlock(C, attention=None)
    with pytest.raises(ValueError, match="edge_index"):
        local(x, BlockInputs(segments=segments))


def test_rounds_reach_one_edge_further_each():
    """On a line, with three rounds, a change of the first node reaches the fourth and no further."""
    at = torch.arange(7)
    line = torch.cat([torch.stack([at[:-1], at[1:]]), torch.stack([at[1:], at[:-1]])], 1)
    local = HybridBlock(C, attention=None, edge_features=3, num_rounds=3).double()
    x = torch.randn(7, C).double().requires_grad_()
    inputs = BlockInputs(segments=Segments.from_lengths([7]), edge_index=line, edge_attr=torch.randn(12, 3).double())
    y = local(x, inputs)
    reached = [bool(torch.autograd.grad(y[i].sum(), x, retain_graph=True)[0][0].any()) for i in range(7)]
    assert reached == [True] * 4 + [False] * 3


def test_boundary_conditioner_makes_one_token_a_node():
    assert BoundaryConditioner(5, C)(torch.randn(7, 5)).shape == (7, C)
