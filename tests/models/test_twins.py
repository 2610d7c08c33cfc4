"""Periodic meshes without a seam: nodes that are one material point hear the same and change alike."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures_meshes import plate

from flare_connect.models import Architecture, FlareConnectConfig, FlareRollout, RolloutConfig
from flare_connect.models.features import build_graph, collate
from flare_connect.models.twins import closed_edges, first_twins
from flare_datasets.pdebench.graphs import mesh_of_axes

ARCH = Architecture(channels=16, num_blocks=2, num_heads=4, num_latents=4, anchors="none", boundary_tokens=False)


def ring(*sizes):
    return mesh_of_axes([(np.arange(n) + 0.5) / n for n in sizes], period=[1.0] * len(sizes))


def rollout(closed, **options):
    torch.manual_seed(0)
    config = RolloutConfig(dim=2, fields={"u": 1}, closed=closed, architecture=ARCH, **options)
    made = FlareRollout(config).double()
    for name, p in made.named_parameters():  # gates start at zero; open them, or no message would be tested
        if "gate" in name:
            torch.nn.init.normal_(p)
    return made


def graph_of(made, mesh):
    """Without positions, which tell where the seam is."""
    graph = made.build_graph(mesh)
    for key, value in graph.to_dict().items():
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            graph[key] = value.double()
    graph.x = torch.zeros_like(graph.x)
    return graph


def test_all_that_are_joined_in_any_number_of_steps_are_one():
    pairs = torch.tensor([[5, 7, 2, 0], [7, 2, 9, 1]])
    assert first_twins(pairs, 10).tolist() == [0, 0, 2, 3, 4, 2, 6, 2, 8, 2]
    for order in itertools.permutations(range(4)):
        assert torch.equal(first_twins(pairs[:, list(order)], 10), first_twins(pairs, 10))
    assert torch.equal(first_twins(torch.zeros(2, 0, dtype=torch.long), 3), torch.arange(3))


@pytest.mark.parametrize("sizes", [(7,), (5, 6), (3, 2, 4)])
def test_edges_are_those_of_a_torus(sizes):
    """Every node hears each neighbour of its material point once, from the side on which that is."""
    grid = ring(*sizes)
    dim = len(sizes)
    config = FlareConnectConfig(dim=max(2, dim), outputs={"u": 1}, closed=True, architecture=ARCH)
    graph = build_graph(grid.mesh, config)
    at = torch.stack(torch.meshgrid(*map(torch.arange, sizes), indexing="ij"), -1).reshape(-1, dim)[grid.point_of_node]
    steps = [sign * step for step in torch.eye(dim, dtype=torch.long) for sign in (1, -1)]
    wanted = {
        (node, *((at[node] + step) % torch.tensor(sizes)).tolist())
        for node in range(len(at)) for step in steps
    }  # fmt: skip
    source, target = graph.edge_index
    heard = [(int(t), *at[s].tolist()) for s, t in zip(source, target, strict=True)]
    assert set(heard) == wanted
    assert len(heard) == len(wanted)
    # Where an axis has more than two cells its two neighbours differ, and so must the directions of the edges.
    for s, t, attr in zip(source, target, graph.edge_attr, strict=True):
        moved = (at[t] - at[s] + 1) % torch.tensor(sizes) - 1
        if (torch.tensor(sizes) > 2).all():
            assert torch.equal(attr[:dim].round().long(), moved)
        assert attr[-1] == 0


def test_a_cell_that_is_its_own_neighbour_hears_nothing_of_itself():
    edges = torch.tensor([[0, 1], [1, 0]])
    assert closed_edges(edges, torch.zeros(2, dtype=torch.long))[0].shape == (2, 0)


@pytest.mark.parametrize("sizes", [(12,), (6, 8)])
def test_a_closed_mesh_has_no_seam(sizes):
    """What is moved around the domain comes out moved, the attention included; with the seam left open it does not."""
    grid, frames = ring(*sizes), torch.randn(*sizes, 3, 1).double()
    axes = list(range(len(sizes)))
    for closed in (True, False):
        made = rollout(closed, history=2)
        graph = graph_of(made, grid.mesh)
        with torch.no_grad():
            here = grid.to_grid(made(graph, grid.to_nodes(frames))[0])
            there = grid.to_grid(made(graph, grid.to_nodes(frames.roll([2] * len(sizes), axes)))[0])
        # Volumes are in single precision.
        same = torch.allclose(there, here.roll([2] * len(sizes), axes), rtol=1e-5, atol=1e-6)
        assert same == closed


def test_twins_stay_one_point_however_long():
    """Positions differ at twins, and what a model makes of these must not part them; meshes of a batch do not mix."""
    grid = ring(6, 8)
    made = rollout(True).float()
    twins = first_twins(grid.mesh.periodic_pairs, grid.mesh.num_nodes)
    graph = made.build_graph(grid.mesh)
    batch = collate([graph, graph])
    frame = torch.stack([grid.to_nodes(torch.randn(6, 8, 1, 1)) for _ in range(2)])
    state = each = None
    together = frame.flatten(0, 1)
    alone = frame[1]
    with torch.no_grad():
        for _ in range(4):
            together, state = made(batch, together, state=state)
            alone, each = made(graph, alone, state=each)
            assert torch.equal(alone, alone[twins])
            torch.testing.assert_close(together[len(alone) :], alone, rtol=1e-3, atol=1e-3)
        open_one = rollout(False).float()
        parted = open_one(open_one.build_graph(grid.mesh), frame[0])[0]
    assert not torch.allclose(parted, parted[twins], atol=1e-4)


def test_without_pairs_there_is_nothing_to_close():
    config = FlareConnectConfig(dim=2, outputs={"u": 1}, architecture=ARCH)
    one, other = (build_graph(plate(5), replace(config, closed=closed)) for closed in (True, False))
    assert torch.equal(one.edge_index, other.edge_index)
    assert torch.equal(one.edge_attr, other.edge_attr)
    assert "twin_index" not in one


def test_models_from_before_there_was_a_choice_are_read_as_they_were():
    config = RolloutConfig(dim=2, fields={"u": 1}, architecture=ARCH)
    assert config.closed
    assert RolloutConfig.from_dict(config.to_dict()) == config
    before = {key: value for key, value in config.to_dict().items() if key != "closed"}
    assert not RolloutConfig.from_dict(before).closed
    assert not FlareConnectConfig(dim=2, outputs={"u": 1}).closed
