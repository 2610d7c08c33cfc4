"""What is linear in the loads is so for any weights, and a response in proportion is in proportion."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import flare_connect as fc
from flare_connect.errors import ConfigError
from flare_connect.models.loads import load_columns

SIDES = {"left": "value:temperatures[0]", "right": "value:temperatures[1]", "*": "free"}


def plate(n=7, seed=0, temperatures=(1.0, -2.0), sources=1.0):
    """A square of triangles with a slit, so that boundary and anchors are not trivial."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
    pos = np.stack([x.ravel(), y.ravel()], axis=1)
    ids = np.arange(n * n).reshape(n, n)
    low = np.stack([ids[:-1, :-1], ids[1:, :-1], ids[1:, 1:]], axis=-1).reshape(-1, 3)
    high = np.stack([ids[:-1, :-1], ids[1:, 1:], ids[:-1, 1:]], axis=-1).reshape(-1, 3)
    source = torch.from_numpy(random.standard_normal(n * n))
    return fc.Mesh.from_arrays(
        pos,
        {"triangle": np.concatenate([low, high])},
        point_data={"temperature": torch.from_numpy(random.standard_normal(n * n)), "source": sources * source},
        global_data={"temperatures": torch.tensor(temperatures, dtype=torch.float64), "kappa": torch.tensor([2.0])},
        sets={
            name: fc.NamedSet("node", torch.from_numpy(ids[at])) for name, at in (("left", 0), ("right", -1))
        },
    )  # fmt: skip


def config(**options):
    arch = fc.Architecture(
        channels=16, num_blocks=2, num_heads=4, num_latents=8, **options.pop("architecture", {"load_channels": 12})
    )
    base = fc.FlareConnectConfig(
        dim=2, outputs={"temperature": 1}, inputs={"source": 1}, conditions={"temperatures": 2, "kappa": 1},
        boundary=SIDES, harmonic="boundary", loads=("temperatures", "source"), architecture=arch,
    )  # fmt: skip
    return replace(base, **options)


def fitted(**options):
    """A model of random weights, its statistics those of some plates, in double precision."""
    torch.manual_seed(0)
    surrogate = fc.FlareConnect(config(**options))
    meshes = [plate(seed=seed, temperatures=(1.0 + seed, 5.0)) for seed in range(3)]
    surrogate.fit_statistics([surrogate.build_graph(mesh, with_targets=True) for mesh in meshes])
    # Zero is where gates of blocks start; what is told apart must not hide behind that.
    for p in surrogate.trunk.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return surrogate.double()


def doubled(graph):
    """In double precision."""
    graph = graph.clone()
    for key, value in graph.to_dict().items():
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            graph[key] = value.double()
    return graph


def answer(surrogate, **loads):
    with torch.no_grad():
        return surrogate.output_statistics.inverse(surrogate(doubled(surrogate.build_graph(plate(**loads)))))


@pytest.mark.parametrize("load_rounds", [0, 2])
@pytest.mark.parametrize("anchors", ["diffusion", "none"])
@pytest.mark.parametrize("harmonic", ["boundary", ""])
def test_answers_to_loads_add_up(anchors, harmonic, load_rounds):
    surrogate = fitted(harmonic=harmonic, architecture={"anchors": anchors, "load_rounds": load_rounds})
    hot = answer(surrogate, temperatures=(3.0, 1.0), sources=0.0)
    heated = answer(surrogate, temperatures=(0.0, 0.0), sources=2.0)
    both = answer(surrogate, temperatures=(3.0, 1.0), sources=2.0)
    assert hot.abs().max() > 1e-3 < heated.abs().max()
    # Features are kept in single precision.
    torch.testing.assert_close(hot + heated, both, rtol=1e-5, atol=1e-5 * float(both.abs().max()))
    assert not answer(surrogate, temperatures=(0.0, 0.0), sources=0.0).any()


def test_a_homogeneous_response_is_in_proportion_and_does_not_add_up():
    surrogate = fitted(response="homogeneous")
    once, twice = (answer(surrogate, temperatures=(k * 3.0, k * 1.0), sources=k) for k in (1.0, 2.0))
    torch.testing.assert_close(2 * once, twice, rtol=1e-5, atol=1e-5 * float(twice.abs().max()))
    against = answer(surrogate, temperatures=(-3.0, -1.0), sources=-1.0)
    assert (once + against).abs().max() > 1e-2 * once.abs().max()


def test_without_loads_answers_do_not_add_up():
    surrogate = fitted(loads=())
    hot = answer(surrogate, temperatures=(3.0, 1.0), sources=0.0)
    heated = answer(surrogate, temperatures=(0.0, 0.0), sources=2.0)
    both = answer(surrogate, temperatures=(3.0, 1.0), sources=2.0)
    assert (hot + heated - both).abs().max() > 1e-2 * both.abs().max()


def test_columns_are_told_apart():
    """Source and temperatures are loads wherever they come in; κ, places and the logarithm are not."""
    cold, hot = (fc.FlareConnect(config()).build_graph(plate(temperatures=t)) for t in ((1.0, -2.0), (2.0, -4.0)))
    columns = load_columns(config())
    twice = (hot.x == 2 * cold.x).all(0) & (cold.x != 0).any(0)
    source = [cold.x.shape[1] - 1]
    assert set(twice.nonzero()[:, 0].tolist()) == set(columns.nodes) - set(source)
    assert columns.meshes == [0, 1]
    assert columns.other_meshes == [2, 3]
    # Of a linear response the logarithm of the gradient is left out, of a homogeneous one it belongs to the rest.
    assert len(columns.nodes) + len(columns.other_nodes) == cold.x.shape[1] - 1
    whole = load_columns(config(response="homogeneous"))
    assert sorted(whole.nodes + whole.other_nodes) == list(range(cold.x.shape[1]))
    assert load_columns(config(loads=())).count == 0


def test_it_trains_saves_and_takes_lower_ranks(tmp_path):
    torch.manual_seed(0)
    surrogate = fc.FlareConnect(config())
    mesh = plate()
    graph = surrogate.build_graph(mesh, with_targets=True)
    surrogate.fit_statistics([graph])
    surrogate(graph).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in surrogate.parameters())
    saved = fc.FlareConnect.from_pretrained(surrogate.save_pretrained(tmp_path / "model"))
    assert saved.config == surrogate.config
    assert torch.equal(saved.predict(mesh)["temperature"], surrogate.predict(mesh)["temperature"])
    assert not torch.equal(saved.predict(mesh, rank=2)["temperature"], saved.predict(mesh)["temperature"])


def test_recomputing_gives_the_same_gradients():
    surrogate = fitted()
    graph = surrogate.build_graph(plate())
    for key, value in graph.to_dict().items():
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            graph[key] = value.double()
    found = []
    for surrogate.trunk.recompute in ("nothing", "blocks", "layers"):
        found.append(torch.autograd.grad(surrogate(graph).square().sum(), list(surrogate.trunk.parameters())))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="`loads` names 'wind', which is neither a condition nor an input"):
        config(loads=("wind",))
    with pytest.raises(ConfigError, match="`load_channels` must be divisible by `num_heads`, got 10 and 4"):
        config(architecture={"load_channels": 10})
    with pytest.raises(ConfigError, match="gives 'kappa', which is no load, along with loads"):
        config(boundary=SIDES | {"right": "value:kappa"}, loads=("temperatures",))
    off = {"attention": False, "anchors": "none", "boundary_tokens": False, "quadrature": False}
    with pytest.raises(ConfigError, match="`loads` go through the attention"):
        config(architecture=off)


def test_differences_move_loads_along_the_mesh(tmp_path):
    """Without attention to carry them, a source is felt as many edges away as there are rounds; saving keeps them."""
    surrogate = fitted(harmonic="", architecture={"load_rounds": 2, "anchors": "none"})
    for block in surrogate.trunk.load_blocks:
        torch.nn.init.zeros_(block.attention.output.weight)
    graph = surrogate.build_graph(plate())
    other = graph.clone()
    other.x[24, -1] += 1.0  # the source in the middle of 7 x 7
    with torch.no_grad():
        changed = (surrogate(doubled(other)) - surrogate(doubled(graph))).abs().sum(1) > 0
        kept = fc.FlareConnect.from_pretrained(surrogate.float().save_pretrained(tmp_path / "model"))
        assert torch.equal(kept(graph), surrogate(graph))
    reached = torch.zeros(49, dtype=torch.bool)
    reached[24] = True
    for _ in range(2 * 2):  # rounds a block × blocks
        reached[graph.edge_index[1][reached[graph.edge_index[0]]]] = True
    assert torch.equal(changed, reached)
    assert not reached.all()
