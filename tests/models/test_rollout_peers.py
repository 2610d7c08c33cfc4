"""Peers that step frames: the same calls as FlareRollout, and what a peer can and cannot see."""

from dataclasses import replace

import pytest
import torch
from fixtures_baselines import OPTIONS, SMALL
from fixtures_meshes import plate

from flare_connect.errors import ConfigError
from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.models.baselines import BASELINES
from flare_connect.models.baselines.stepping import rollout_peer
from flare_connect.models.features import collate
from flare_connect.train import UnrollConfig
from flare_connect.train.config import OptimiserConfig
from flare_connect.train.rollout_config import SeriesConfig
from flare_connect.train.rollout_module import RolloutModule, window_loss

ARCHITECTURE = Architecture(channels=16, num_blocks=2, num_heads=4, num_latents=8)


def config(**options):
    fields = {"u": 1, "w": 2}
    return RolloutConfig(
        **{"dim": 2, "fields": fields, "conditions": {"load": 2}, "architecture": ARCHITECTURE} | options
    )


def peer(name, **options):
    torch.manual_seed(0)
    made = rollout_peer(name, config(**options), **SMALL | OPTIONS[name])
    with torch.no_grad():
        for parameter in made.trunk.parameters():  # published starts are so small that errors would hide
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def frames(mesh, count=6, seed=0):
    return torch.randn(mesh.num_nodes, count, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{"history": 1}, {"history": 2}, {"relative": True}], ids=str)
@pytest.mark.parametrize("name", BASELINES)
def test_a_rollout_is_one_step_after_another(name, options):
    """And frames given together are stepped as each of them alone: a peer has no other past than its history."""
    made, mesh = peer(name, **options), plate(5)
    graph, series = made.build_graph(mesh), frames(mesh)
    with torch.no_grad():
        whole, state = made(graph, series)
        first, known = made(graph, series[:, :4])
        rest, _ = made(graph, series[:, 4:], state=known)
        torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=1e-4, atol=1e-5)
        assert state.memories == ()
        found = made.rollout(mesh, made.split_fields(series), 2)
        second, _ = made(graph, whole[:, -1:], state=state)
    torch.testing.assert_close(found["w"], torch.cat([whole[:, -1:], second], 1)[..., 1:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, series)


@pytest.mark.parametrize("name", BASELINES)
def test_series_of_a_batch_do_not_mix(name):
    made, meshes = peer(name), [plate(4, seed=1), plate(5), plate(3, 6, seed=2)]
    for i, mesh in enumerate(meshes):
        mesh.global_data = {"load": torch.tensor([float(i), 1.0])}
    graphs, given = [made.build_graph(mesh) for mesh in meshes], [frames(mesh, seed=i) for i, mesh in enumerate(meshes)]
    with torch.no_grad():
        together, _ = made(collate(graphs), torch.cat(given))
        apart = [made(graph, one)[0] for graph, one in zip(graphs, given, strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)


def test_messages_reach_as_far_as_there_are_rounds():
    made, mesh = peer("meshgraphnet"), plate(9)
    graph, series = made.build_graph(mesh), frames(mesh, 1)
    other = series.clone()
    other[0] += 1.0
    with torch.no_grad():
        change = (made(graph, other)[0] - made(graph, series)[0])[:, 0].abs().amax(1)
    reached = torch.zeros(mesh.num_nodes, dtype=torch.bool)
    reached[0] = True
    for _ in range(SMALL["num_blocks"]):
        source, target = mesh.edge_index
        reached[target[reached[source]]] = True
    assert (change[~reached] == 0).all()
    assert (change[reached] > 0).all()
    assert 3 < reached.sum() < mesh.num_nodes


@pytest.mark.parametrize("depth", [0, 2])
def test_peers_train_as_ours(depth):
    """Own predictions, noise, and steps of the optimiser that lower the loss."""
    made, mesh = peer("meshgraphnet"), plate(5)
    graph = made.build_graph(mesh)
    graph.frames = frames(mesh, 1) * 0.7 ** torch.arange(6)[:, None]
    made.fit_statistics([graph])
    module = RolloutModule(made, OptimiserConfig(recompute="blocks"), 0, SeriesConfig(path="x.h5", fields=("u",)),
                           UnrollConfig(own_steps=2))  # fmt: skip
    assert made.trunk.peer.recompute == "blocks"
    assert module.model.trunk.blocks is made.trunk.peer.blocks
    batch, unroll = collate([graph]), UnrollConfig(own_steps=2, noise=0.05)
    optimiser, losses = torch.optim.Adam(made.parameters(), 3e-3), []
    for _ in range(50):
        optimiser.zero_grad()
        loss = window_loss(made, batch, graph.frames, unroll, depth)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_widths_follow_the_wanted_count():
    ours = FlareRollout(config()).num_parameters
    made = rollout_peer("meshgraphnet", config(), parameters=ours, num_blocks=3)
    assert made.trunk.peer.decode.in_features % 4 == 0
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(ours, rel=0.1)
    assert not made.config.memory
    assert not rollout_peer("meshgraphnet", replace(config(), attended=True)).config.attended
    assert made.config.architecture.anchors == "none"
    with pytest.raises(ConfigError, match="'meshgraphnet' has no option 'num_heads'"):
        rollout_peer("meshgraphnet", config(), num_heads=2)
    with pytest.raises(ConfigError, match="unknown baseline 'fno'"):
        rollout_peer("fno", config())
