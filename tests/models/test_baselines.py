"""Peers: batches, permutations, gradients, numbers of parameters, and what they may not see."""

import inspect
import re

import pytest
import torch
from fixtures_baselines import OPTIONS, SIZES, SMALL, batch, peer
from fixtures_meshes import plate

from flare_connect.errors import ConfigError
from flare_connect.models import Architecture, FlareConnect, FlareConnectConfig
from flare_connect.models.baselines import BASELINES, build, matching_channels
from flare_connect.models.features import collate
from flare_connect.models.trunk import Trunk
from flare_kernels import Segments

NAMES = list(BASELINES)
# Variants that are their own code path, for the tests of invariances.
VARIANTS = {name: (name, {}) for name in NAMES} | {
    "graphnet_sage": ("graphnet", {"conv": "sage"}),
    "geoflare_without_surroundings": ("geoflare", {"radii": (), "num_neighbours": ()}),
}


def one_of(mesh, x, condition, more):
    """Only one mesh of a batch."""
    segments = more["segments"]
    rows = segments.slices[mesh]
    inside = (more["edge_index"][0] >= rows.start) & (more["edge_index"][0] < rows.stop)
    boundary = more["boundary_index"]
    boundary = boundary[(boundary >= rows.start) & (boundary < rows.stop)] - rows.start
    return (
        x[rows],
        condition[mesh : mesh + 1],
        {
            "segments": Segments.from_lengths([segments.lengths[mesh]]),
            "boundary_index": boundary,
            "edge_index": more["edge_index"][:, inside] - rows.start,
            "edge_attr": more["edge_attr"][inside],
        },
    )


@pytest.mark.parametrize("lengths", [[30, 12, 45], [20, 20]], ids=["ragged", "uniform"])
@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_batch_equals_meshes_one_by_one(name, options, lengths):
    model, (x, condition, more) = peer(name, **options), batch(lengths)
    singles = []
    for mesh in range(len(lengths)):
        x1, condition1, more1 = one_of(mesh, x, condition, more)
        singles.append(model(x1, condition1, **more1))
    torch.testing.assert_close(model(x, condition, **more), torch.cat(singles), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_nodes_permute(name, options):
    model, (x, condition, more) = peer(name, **options), batch([40])
    order = torch.randperm(40)
    place = order.argsort()
    moved = more | {
        "boundary_index": place[more["boundary_index"]].sort().values,
        "edge_index": place[more["edge_index"]],
    }
    torch.testing.assert_close(
        model(x[order], condition, **moved), model(x, condition, **more)[order], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_every_weight_is_trained(name, options):
    model, (x, condition, more) = peer(name, **options), batch([25, 14])
    model(x, condition, **more).square().sum().backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-12]
    # A key's bias shifts all scores of a query alike, so the softmax over keys does not see it.
    assert not [key for key in idle if not key.endswith("reader.key.bias")]


@pytest.mark.parametrize("name", NAMES)
def test_conditions_matter_and_stay_in_their_mesh(name):
    model, (x, condition, more) = peer(name), batch([25, 14])
    condition.requires_grad_()
    model(x, condition, **more)[:25].square().sum().backward()
    assert (condition.grad[0].abs() > 0).all()
    assert torch.equal(condition.grad[1], torch.zeros(3).double())


def test_what_a_node_sees():
    """A perceptron sees one node, a graph network as many edges away as it has rounds, attention everything."""
    chain = torch.stack([torch.arange(9), torch.arange(1, 10)])
    edge_index = torch.cat([chain, chain.flip(0)], 1)
    reach = {"pointwise": 1, "meshgraphnet": 3, "graphnet": 3}
    for name in NAMES:
        model, x = peer(name), torch.randn(10, 7).double().requires_grad_()
        model(
            x,
            torch.zeros(1, 3).double(),
            segments=Segments.from_lengths([10]),
            edge_index=edge_index,
            edge_attr=torch.randn(18, 4).double(),
        )[0].sum().backward()
        assert (x.grad.abs().sum(1) > 0).sum() == reach.get(name, 10), name


def test_surroundings_found_before_change_nothing():
    model, (x, condition, more) = peer("geotransolver"), batch([30, 12])
    found = model.surroundings(x[:, :2], more["segments"], more["boundary_index"])
    expected = model(x, condition, **more)
    assert torch.equal(model(x, condition, surroundings=found, **more), expected)
    assert torch.equal(model(x, condition, pos=x[:, :2], **more), expected)
    moved = model(x, condition, pos=2 * x[:, :2], **more)
    assert not torch.allclose(moved, expected)


@pytest.mark.parametrize("name", NAMES)
def test_recomputation_gives_the_same_gradients(name):
    model, (x, condition, more) = peer(name), batch([12, 9])
    grads = []
    for model.recompute in ("nothing", "blocks"):
        y = model(x, condition, **more)
        grads.append(torch.autograd.grad(y.square().sum(), list(model.parameters()), allow_unused=True))
    torch.testing.assert_close(*[[g for g in found if g is not None] for found in grads])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close(name):
    model, (x, condition, more) = peer(name).float(), batch([30, 12])
    x, condition, more["edge_attr"] = x.float(), condition.float(), more["edge_attr"].float()
    exact = model(x, condition, **more)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, condition, **more).float()
    assert (half - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", NAMES)
def test_stands_in_for_the_trunk(name):
    """The whole model runs and predicts with the peer inside, on meshes and batches of them."""
    arch = Architecture(channels=16, num_blocks=1, num_heads=4, num_latents=4)
    config = FlareConnectConfig(dim=2, outputs={"stress": 1}, conditions={"load": 2}, architecture=arch)
    surrogate, meshes = FlareConnect(config), [plate(4, 5, seed=1), plate(5, 6, seed=2)]
    graphs = [surrogate.build_graph(mesh) for mesh in meshes]
    sizes = {"features": graphs[0].x.shape[1], "edge_features": graphs[0].edge_attr.shape[1]}
    surrogate.trunk = build(name, **sizes, conditions=3, outputs=1, dim=2, **SMALL, **OPTIONS[name])
    torch.nn.init.normal_(surrogate.trunk.decode.weight)
    singles = [surrogate.predict(mesh)["stress"] for mesh in meshes]
    with torch.no_grad():
        together = surrogate(collate(graphs)).squeeze(1)
    torch.testing.assert_close(together, torch.cat(singles), rtol=1e-4, atol=1e-4)
    assert surrogate.device == torch.device("cpu")


def test_takes_every_keyword_of_the_trunk_and_no_other():
    model, (x, condition, more) = peer("pointwise"), batch([12])
    given = {name for name, p in inspect.signature(Trunk.forward).parameters.items() if p.kind is p.KEYWORD_ONLY}
    model(x, condition, **dict.fromkeys(given) | more)
    with pytest.raises(TypeError, match="Pointwise and `Trunk` have no keyword 'weights'"):
        model(x, condition, **more, weights=None)


@pytest.mark.parametrize("wanted", [60_000, 400_000])
@pytest.mark.parametrize("name", NAMES)
def test_matching_channels(name, wanted):
    settings = SIZES | {"num_blocks": 4} | OPTIONS[name]
    channels = matching_channels(name, wanted, **settings)
    counts = [
        sum(p.numel() for p in build(name, channels=width, **settings).parameters())
        for width in (channels - 4, channels, channels + 4)
    ]
    assert channels % 4 == 0
    assert abs(counts[1] - wanted) <= 0.1 * wanted
    assert abs(counts[1] - wanted) == min(abs(count - wanted) for count in counts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("flare", **SIZES), "unknown baseline 'flare'; known: transolver, geotransolver"),
        (lambda: build("transolver", **SIZES, num_latents=3), "'transolver' has no option 'num_latents'; its options"),
        (lambda: build("transolver", **SIZES, channels=30), "divisible by `num_heads`, got 30 and 8"),
        (lambda: build("graphnet", **SIZES, channels=30), "divisible by `num_heads`, got 30 and 8"),
        (lambda: build("graphnet", **SIZES, conv="magic"), "'magic'"),
        (lambda: build("meshgraphnet", **SIZES | {"edge_features": 0}), "MeshGraphNet needs `edge_features`"),
        (lambda: build("graphnet", **SIZES | {"edge_features": 0}), "GraphNet needs `edge_features`"),
        (lambda: build("geoflare", **SIZES, radii=(0.1,)), "each of `radii` needs its `num_neighbours`"),
        (lambda: matching_channels("meshgraphnet", 500, **SIZES), "neither within 10% of 500: change `num_blocks`"),
    ],
)
def test_settings_that_do_not_fit(call, message):
    # An annotation that catches a wrong word first says it in its own way.
    with pytest.raises(Exception, match=re.escape(message)):
        call()


def test_calls_that_do_not_fit():
    x, condition, more = batch([12])
    for name in ("meshgraphnet", "graphnet"):
        with pytest.raises(ValueError, match="needs `edge_index` and `edge_attr`"):
            peer(name)(x, condition, segments=more["segments"])
    model = peer("transolver")
    with pytest.raises(ValueError, match="`rank` must be None for Transolver"):
        model(x, condition, rank=3, **more)
    model.recompute = "layers"
    with pytest.raises(ConfigError, match="'nothing' or 'blocks' for Transolver, got 'layers'"):
        model(x, condition, **more)
    model.recompute, model.stream = "nothing", torch.bfloat16
    with pytest.raises(ConfigError, match="another precision than 'bf16-stream'"):
        model(x, condition, **more)
