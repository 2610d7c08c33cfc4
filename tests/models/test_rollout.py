"""Rollouts: parts of a series give the whole, nothing looks ahead, memory does not grow, meshes do not mix."""

import json
import re

import pytest
import torch
from fixtures_meshes import plate
from safetensors.torch import load_file, save_file

from flare_connect.errors import CheckpointError, ConfigError, InputError
from flare_connect.mesh import Mesh
from flare_connect.models import Architecture, FlareConnect, FlareRollout, RolloutConfig, Value
from flare_connect.models.features import collate
from flare_connect.models.pretrained import save_pretrained
from flare_connect.models.unrolled import Unrolled
from flare_connect.nn import BlockInputs
from flare_kernels import Segments

SMALL = {"channels": 16, "num_blocks": 2, "num_heads": 4, "num_latents": 8}
PLAIN = {"anchors": "none", "boundary_tokens": False, "quadrature": False}
VARIANTS = {
    "hybrid": ({}, {}),
    "history": ({"history": 3}, {}),
    "adapted": ({}, {"queries": "adapted", "separate_decode": True}),
    "no memory": ({"memory": False, "history": 2}, {}),
    "no differences": ({"differences": 0}, {}),
    "attended": ({"attended": True}, {}),
    "attended, no anchors": ({"attended": True, "memory": False}, PLAIN | {"separate_decode": True}),
    "relative": ({"relative": True, "history": 2}, {}),
    "conserved": ({"conserved": ("w",)}, {}),
    "attention alone": ({"differences": 0, "memory": False}, PLAIN | {"message_passing": False}),
    "plain": ({}, PLAIN),
    "message passing and memory": ({}, PLAIN | {"attention": False}),
}
FRAMES = 6
# Untrained, with open gates: what it predicts grows fast.
pytestmark = pytest.mark.filterwarnings("ignore:frame . of the rollout is lost")


def model(config=None, arch=None):
    torch.manual_seed(0)
    options = {"dim": 2, "fields": {"u": 1, "w": 2}, "conditions": {"load": 2}, "boundary": {"left": "free"}}
    made = FlareRollout(RolloutConfig(**options | (config or {}), architecture=Architecture(**SMALL | (arch or {}))))
    for name, p in made.named_parameters():  # gates start at zero; open them, or nothing of a past would be tested
        if "gate" in name:
            torch.nn.init.normal_(p)
    return made


def frames(mesh, count=FRAMES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mesh.num_nodes, count, 3, generator=generator)


@pytest.fixture(params=VARIANTS)
def variant(request, device):
    made = model(*VARIANTS[request.param]).to(device).double()
    graph = made.build_graph(plate(5)).to(device)
    for key, value in graph.to_dict().items():
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            graph[key] = value.double()
    return made, graph, frames(plate(5)).to(device).double()


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_parts_of_a_series_give_the_whole(variant, cut):
    """Gradients included: what is known at the cut is all that the rest needs."""
    made, graph, series = variant

    def gradients(y):
        made.zero_grad()
        y.square().sum().backward()
        return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}

    whole, last = made(graph, series)
    expected = gradients(whole)
    first, state = made(graph, series[:, :cut])
    second, end = made(graph, series[:, cut:], state=state)
    joined = torch.cat([first, second], 1)
    torch.testing.assert_close(joined, whole, rtol=1e-9, atol=1e-10)
    found = gradients(joined)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8)
    for one, other in zip(end.memories, last.memories, strict=True):
        torch.testing.assert_close(one.latents.z, other.latents.z, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(one.latents.lse, other.latents.lse, rtol=1e-9, atol=1e-10)
    assert torch.equal(end.recent, last.recent)


def test_nothing_looks_ahead(variant):
    made, graph, series = variant
    other = series.clone()
    other[:, 3:] += 1.0
    with torch.no_grad():
        one, two = made(graph, series)[0], made(graph, other)[0]
    # Every bit on a CPU; a GPU adds up in another order each time.
    allowed = 0.0 if one.device.type == "cpu" else 1e-10 * float(one.abs().max())
    assert (one[:, :3] - two[:, :3]).abs().max() <= allowed
    assert not torch.allclose(one[:, 3:] - series[:, 3:], two[:, 3:] - other[:, 3:])


def test_memory_is_of_the_past_and_only_where_it_is_asked_for():
    """Frames before the history change what comes next with a memory, and nothing without."""
    for memory in (True, False):
        made = model({"memory": memory, "history": 2})
        graph, series = made.build_graph(plate(5)), frames(plate(5))
        other = series.clone()
        other[:, 0] += 1.0
        with torch.no_grad():
            changed = (made(graph, series)[0] - made(graph, other)[0])[:, -1].abs().max()
        assert (changed > 1e-4) == memory
        assert bool(made(graph, series)[1].memories) == memory


def test_the_past_fades():
    """A frame long ago counts less than one just before, by e^λ a step."""
    made = model()
    for block in made.trunk.memories:
        torch.nn.init.constant_(block.attention.fading.log_rates, 1.1)
    graph, series = made.build_graph(plate(5)), frames(plate(5), 12)
    with torch.no_grad():
        truth = made(graph, series)[0][:, -1]
        changes = []
        for t in (0, 10):
            other = series.clone()
            other[:, t] += 1.0
            changes.append((made(graph, other)[0][:, -1] - truth).abs().max())
    assert changes[0] < 1e-3 * changes[1]


def test_frames_go_through_differences_linearly():
    """With what steers them held fast, twice the frames are twice the change; and no constant is a difference."""
    made, mesh = model({"memory": False}), plate(5)
    graph, series = made.build_graph(mesh), frames(mesh, 1)
    block = made.trunk.streams[0]
    u, h = torch.randn(2, mesh.num_nodes, 16)
    inputs = BlockInputs(
        segments=Segments.from_lengths([mesh.num_nodes]), edge_index=graph.edge_index, edge_attr=graph.edge_attr
    )
    with torch.no_grad():
        torch.testing.assert_close(block(2 * u, h, inputs), 2 * block(u, h, inputs), rtol=1e-4, atol=1e-5)
        torch.nn.init.zeros_(block.down.weight)
        torch.testing.assert_close(block(u + 1, h, inputs), block(u, h, inputs) + 1, rtol=1e-4, atol=1e-5)
        # They are in what the model says: a change in one place is felt at its neighbours.
        known = made(graph, series)[0]
        made.trunk.answer.output.weight.zero_()
        assert not torch.allclose(made(graph, series)[0], known)


def test_frames_go_through_attention_linearly_and_far():
    """As through differences; and a change in one corner is felt where no differences come within a step."""
    graph = model().build_graph(mesh := plate(20))
    distance = (mesh.pos - mesh.pos.amin(0)).norm(dim=1)
    u, h = torch.randn(2, mesh.num_nodes, 16)
    other = u.clone()
    other[distance.argmin()] += 1.0
    inputs = BlockInputs(
        segments=Segments.from_lengths([mesh.num_nodes]), edge_index=graph.edge_index, edge_attr=graph.edge_attr
    )
    for attended in (True, False):
        made = model({"memory": False, "attended": attended}, PLAIN)
        block = made.trunk.streams[0]
        with torch.no_grad():
            torch.testing.assert_close(block(2 * u, h, inputs), 2 * block(u, h, inputs), rtol=1e-4, atol=1e-5)
            far = (block(other, h, inputs) - block(u, h, inputs))[distance.argmax()]
        assert bool(far.abs().max() > 0) == attended


def test_far_from_all_that_was_seen_a_change_grows_as_the_frames_do(variant):
    """And not as their square, which would end a rollout within a few steps of an error."""
    made, graph, series = variant
    with torch.no_grad():
        sizes = [(made(graph, far * series)[0] - far * series).abs().max() for far in (1e4, 1e8)]
    assert sizes[1] < 1.1e4 * sizes[0]


def test_relative_to_their_size_small_frames_change_as_smaller_ones_do():
    """Where a frame itself, which is read too, is next to nothing; each field has its own size."""
    made = model({"relative": True, "memory": False})
    graph, series = made.build_graph(plate(5)), frames(plate(5))
    with torch.no_grad():
        one, two = (made(graph, small * series)[0] - small * series for small in (1e-6, 1e-7))
        torch.testing.assert_close(10 * two, one, rtol=1e-3, atol=1e-9)
        assert one.abs().max() > 1e-7
        both = torch.cat([1e-6 * series[..., :1], 1e-7 * series[..., 1:]], dim=2)
        apart = made(graph, both)[0] - both
        torch.testing.assert_close(apart[..., :1], one[..., :1], rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(10 * apart[..., 1:], one[..., 1:], rtol=1e-3, atol=1e-9)
        # What is not small is not like it: how fast a wave is goes with its height.
        large = 1e-6 * (made(graph, series)[0] - series)
    assert (large - one).abs().max() > 0.1 * one.abs().max()


def test_sizes_have_all_digits_in_half_precision():
    made = model({"relative": True})
    graph, series = made.build_graph(plate(5)), frames(plate(5))
    whole = Segments.from_lengths([len(series)])
    with torch.autocast("cpu", torch.bfloat16):
        found = made.usual_change(series, graph, whole)
    torch.testing.assert_close(found, made.usual_change(series, graph, whole))


def test_a_field_that_is_nothing_changes_by_next_to_nothing():
    """And has a gradient, where nothing is divided by its size."""
    made = model({"relative": True})
    graph, series = made.build_graph(plate(5)), torch.zeros(plate(5).num_nodes, 2, 3)
    after, _ = made(graph, series)
    after.square().sum().backward()
    assert after.abs().max() < 1e-8
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def test_what_is_conserved_keeps_its_mean_by_volume():
    """On a mesh with elements of many sizes, and no other field."""
    mesh = plate(5)
    pos = mesh.pos.clone()
    pos[:, 0] = pos[:, 0] ** 2
    cells, load = {name: each.numpy() for name, each in mesh.cells.items()}, {"load": mesh.global_data["load"].numpy()}
    mesh = Mesh.from_arrays(pos.numpy(), cells, global_data=load, sets={"left": [0, 1]})
    made = model({"conserved": ("w",)})
    with torch.no_grad():
        frame, _ = made(made.build_graph(mesh), first := frames(mesh, 1))
    triangle = pos[mesh.cells["triangle"]]
    (ax, ay), (bx, by) = ((triangle[:, i] - triangle[:, 0]).T for i in (1, 2))
    area = (ax * by - ay * bx).abs() / 2
    weight = area.new_zeros(mesh.num_nodes).index_add_(
        0, mesh.cells["triangle"].flatten(), area.repeat_interleave(3) / 3
    )
    assert weight.max() > 3 * weight.min()
    gained = (weight[:, None] * (frame - first)[:, 0]).sum(0).abs() / weight.sum()
    assert gained[1:].max() < 1e-6 < 1e-4 < gained[0]
    assert (frame - first)[..., 1:].abs().max() > 1e-3


def test_series_of_a_batch_do_not_mix(variant):
    made, _, series = variant
    meshes = [plate(4, seed=1), plate(5), plate(3, 6, seed=2)]
    graphs = [made.build_graph(mesh).to(series.device) for mesh in meshes]
    for each in graphs:
        for key, value in each.to_dict().items():
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                each[key] = value.double()
    given = [frames(mesh, seed=i).to(series.device).double() for i, mesh in enumerate(meshes)]
    with torch.no_grad():
        together, state = made(collate(graphs), torch.cat(given))
        apart = [made(each, one) for each, one in zip(graphs, given, strict=True)]
    torch.testing.assert_close(together, torch.cat([y for y, _ in apart]), rtol=1e-9, atol=1e-10)
    for i, held in enumerate(state.memories):
        own = torch.cat([each.memories[i].latents.z for _, each in apart])
        torch.testing.assert_close(held.latents.z, own, rtol=1e-9, atol=1e-10)


def test_points_and_frames_are_each_others_inverse():
    made = model()
    graphs = collate([made.build_graph(plate(4)), made.build_graph(plate(5))])
    unrolled = Unrolled.of(graphs, 3, made.reads.architecture)
    values = torch.randn(graphs.num_nodes, 3, 2)
    assert torch.equal(unrolled.frames(unrolled.points(values)), values)
    # Edges stay within a step, and every step has those of the mesh.
    steps = unrolled.steps.batch
    assert torch.equal(steps[unrolled.edge_index[0]], steps[unrolled.edge_index[1]])
    assert torch.equal(unrolled.nodes[unrolled.edge_index].unique(dim=1), graphs.edge_index.unique(dim=1))
    assert unrolled.edge_index.shape[1] == 3 * graphs.edge_index.shape[1]


def test_a_step_leaves_no_index_to_be_made():
    """One that a CUDA graph made on the way would be empty until that graph is replayed, and others may read it."""
    made = model(*VARIANTS["adapted"])
    graphs = collate([made.build_graph(plate(4)), made.build_graph(plate(5))])
    given = torch.cat([frames(plate(4)), frames(plate(5))])
    unrolled = Unrolled.of(graphs, FRAMES, made.reads.architecture)
    parts = {"meshes": unrolled.meshes, "steps": unrolled.steps, "sequences": unrolled.sequences,
             "joint": unrolled.joint.segments, "tokens": unrolled.joint.token_segments}  # fmt: skip
    known = {name: set(part._cache) for name, part in parts.items()}
    made(graphs, given, unrolled=unrolled)
    assert {name: set(part._cache) for name, part in parts.items()} == known
    # What kernels on a GPU read of meshes that are not alike; sequences are.
    assert all({"batch", "chunks"} <= known[name] or name == "sequences" for name in parts), known


@pytest.mark.parametrize("history", [1, 3])
def test_a_rollout_is_one_step_after_another(history, device):
    made, mesh = model({"history": history}).to(device), plate(5)
    given = frames(mesh, 4)
    found = made.rollout(mesh, {"u": given[..., 0], "w": given[..., 1:]}, 3)
    assert {name: list(values.shape) for name, values in found.items()} == {
        "u": [mesh.num_nodes, 3],
        "w": [mesh.num_nodes, 3, 2],
    }
    graph, series = made.build_graph(mesh).to(device), given.to(device)
    with torch.no_grad():
        for _ in range(3):  # from all frames at once, with no state
            series = torch.cat([series, made(graph, series)[0][:, -1:]], 1)
    expected = series[:, 4:].cpu()
    # Open gates of an untrained model make rounding larger from step to step; parts of a series are compared in fp64.
    torch.testing.assert_close(found["u"], expected[..., 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["w"], expected[..., 1:], rtol=1e-3, atol=1e-3)
    one_in_two = made.rollout(mesh, {"u": given[..., 0], "w": given[..., 1:]}, 3, every=2)
    assert torch.equal(one_in_two["u"], found["u"][:, 1:2])


def test_what_is_known_does_not_grow():
    made, mesh = model({"history": 3}), plate(5)
    graph, series = made.build_graph(mesh), frames(mesh, 40)

    def sizes(held):
        return [list(x.shape) for x in held] if isinstance(held, list) else held.shape

    with torch.no_grad():
        state = made(graph, series[:, :3])[1]
        expected = [(m.latents.lse.shape, m.latents.z.shape) for m in state.memories]
        for t in range(3, 40):
            _, state = made(graph, series[:, t : t + 1], state=state)
    assert [(m.latents.lse.shape, m.latents.z.shape) for m in state.memories] == expected
    assert sizes(state.recent) == (mesh.num_nodes, 2, 3)
    # Fading is taken off, so that log-sum-exps stay where they are however long a rollout is.
    assert all(m.latents.lse.abs().max() < 60 for m in state.memories)


def test_without_learning_a_field_stays_as_it_is():
    made, mesh = model(), plate(5)
    for p in (made.trunk.decode.weight, made.trunk.decode.bias, made.trunk.answer.output.weight):
        torch.nn.init.zeros_(p)
    first = frames(mesh, 1)
    found = made.rollout(mesh, {"u": first[:, 0, 0], "w": first[:, 0, 1:]}, 2)
    assert torch.equal(found["u"], first[..., 0].expand(-1, 2))


def test_a_line_is_a_curve_in_the_plane():
    x = torch.linspace(0, 1, 17)
    cells = torch.stack([torch.arange(16), torch.arange(1, 17)], 1)
    mesh = Mesh.from_arrays(torch.stack([x, torch.zeros(17)], 1), {"line": cells}, point_data={"u": torch.sin(x)})
    made = FlareRollout(RolloutConfig(dim=2, fields={"u": 1}, architecture=Architecture(**SMALL)))
    assert made.rollout(mesh, None, 2)["u"].shape == (17, 2)


def test_boundary_values_are_read():
    options = {"fields": {"u": 1}, "conditions": {"held": 1}, "boundary": {"left": "value:held", "*": "free"}}
    made, mesh = model(options), plate(5)
    mesh.global_data = {"held": torch.tensor([1.0])}
    first = {"u": frames(mesh, 1)[:, 0, 0]}
    one = made.rollout(mesh, first, 1)["u"]
    assert torch.equal(made.rollout(mesh, first, 1, boundary={"left": Value(1.0)})["u"], one)
    assert not torch.equal(made.rollout(mesh, first, 1, boundary={"left": Value(3.0)})["u"], one)


def test_values_that_are_held_stay():
    """Of the field, on the sets; others move, and so do these where nothing is held."""
    made, free = (model({"held": held}) for held in ({"w": ("left",)}, {}))
    mesh = plate(5)
    at = mesh.set_nodes("left")
    first = {"u": frames(mesh, 1)[:, 0, 0], "w": frames(mesh, 1)[:, 0, 1:]}
    found, moved = made.rollout(mesh, first, 3), free.rollout(mesh, first, 3)
    assert torch.equal(found["w"][at], first["w"][at, None].expand(-1, 3, -1))
    rest = torch.ones(mesh.num_nodes, dtype=torch.bool)
    rest[at] = False
    assert (found["w"][rest] != first["w"][rest, None]).any(2).all()
    assert (found["u"] != first["u"][:, None]).all()
    assert (moved["w"][at] != first["w"][at, None]).any(2).all()
    assert torch.equal(found["u"][:, 0], moved["u"][:, 0])
    with pytest.raises(InputError, match="'w' is held on the set 'left', which the mesh lacks; its sets: none"):
        made._held(Mesh.from_arrays(mesh.pos, mesh.cells))


def test_any_rank(device):
    made, mesh = model().to(device), plate(5)
    first = {"u": frames(mesh, 1)[:, 0, 0], "w": frames(mesh, 1)[:, 0, 1:]}
    low, high = (made.rollout(mesh, first, 2, rank=rank)["u"] for rank in (2, 8))
    assert torch.equal(high, made.rollout(mesh, first, 2)["u"])
    assert not torch.equal(low, high)


def test_statistics_are_those_of_frames_and_changes():
    made = model()
    meshes = [plate(4), plate(5, seed=1)]
    graphs = [made.build_graph(mesh) for mesh in meshes]
    for i, (graph, mesh) in enumerate(zip(graphs, meshes, strict=True)):
        graph.frames = 3 + frames(mesh, seed=i)
    made.fit_statistics(graphs)
    every = torch.cat([graph.frames.flatten(0, 1) for graph in graphs]).double()
    changes = torch.cat([graph.frames.diff(dim=1).flatten(0, 1) for graph in graphs]).double()
    torch.testing.assert_close(made.frame_statistics.mean, every.mean(0).float())
    torch.testing.assert_close(made.change_scale, changes.square().mean(0).sqrt().float())


def test_saved_and_read_again(tmp_path):
    made, mesh = model({"history": 2, "units": {"u": "K"}}), plate(5)
    made.save_pretrained(tmp_path)
    again = FlareRollout.from_pretrained(tmp_path)
    assert again.config == made.config
    first = {"u": frames(mesh, 2)[..., 0], "w": frames(mesh, 2)[..., 1:]}
    assert torch.equal(again.rollout(mesh, first, 2)["u"], made.rollout(mesh, first, 2)["u"])
    with pytest.raises(CheckpointError, match="kind 'FlareRollout', not 'FlareConnect'"):
        FlareConnect.from_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: 2 * w if w.is_floating_point() else w for name, w in weights.items()}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not belong"):
        FlareRollout.from_pretrained(tmp_path)


def test_weights_of_another_version_are_refused(tmp_path):
    other = model({"relative": True}).config.to_dict()
    save_pretrained(model(), other, tmp_path, kind="FlareRollout", provenance={})
    with pytest.raises(CheckpointError, match="not those of its configuration as this version reads it; train it"):
        FlareRollout.from_pretrained(tmp_path)


WRONG = {
    "missing": ({"u": torch.zeros(33)}, "steps 'w', which is not among the fields given: 'u'"),
    "width": ({"u": torch.zeros(33), "w": torch.zeros(33, 3)}, "'w' must be [N, T, 2], or [N, 2] for one frame"),
    "frames": ({"u": torch.zeros(33, 2), "w": torch.zeros(33, 3, 2)}, "the same nodes and frames"),
    "nodes": ({"u": torch.zeros(7), "w": torch.zeros(7, 2)}, "frames must be of the mesh's"),
    "none": ({"u": torch.zeros(33, 0), "w": torch.zeros(33, 0, 2)}, "at least one"),
    "not finite": ({"u": torch.full((33,), torch.nan), "w": torch.zeros(33, 2)}, "not finite"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_wrong_frames_are_refused(fields, message):
    mesh = plate(5)
    fields = {
        name: values.new_zeros(mesh.num_nodes, *values.shape[1:]) + values[:1] if len(values) == 33 else values
        for name, values in fields.items()
    }
    with pytest.raises(InputError, match=re.escape(message)):
        model().rollout(mesh, fields, 2)


def test_statistics_of_relative_changes():
    made = model({"relative": True})
    graphs = [made.build_graph(plate(4)), made.build_graph(plate(5, seed=1))]
    for i, (graph, fading) in enumerate(zip(graphs, (1.0, 1e-2), strict=True)):
        graph.frames = fading ** torch.arange(FRAMES)[:, None] * frames(plate((4, 5)[i], seed=i), seed=i)
    made.fit_statistics(graphs)
    mean, std = made.frame_statistics.mean, made.frame_statistics.std
    changes = []
    for graph in graphs:
        weight = graph.log_weight.exp() / graph.log_weight.exp().sum()
        square = (weight[:, None, None] * ((graph.frames - mean) / std) ** 2).sum(0)
        size = torch.stack([square[:, 0], *2 * [square[:, 1:].mean(1)]], dim=1).sqrt()
        changes.append((graph.frames.diff(dim=1) / size[:-1]).flatten(0, 1))
    expected = torch.cat(changes).square().mean(0).sqrt()
    torch.testing.assert_close(made.change_scale, expected, rtol=1e-4, atol=0.0)
    whole = Segments.from_lengths([len(graph.frames)])
    usual = made.usual_change(graph.frames, graph, whole)
    torch.testing.assert_close(usual[0], expected * size, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("name", "options"), [("steps", (0, 1)), ("every", (2, 0))])
def test_wrong_numbers_are_refused(name, options):
    mesh = plate(5)
    with pytest.raises(InputError, match=f"`{name}` must be at least 1, got 0"):
        model().rollout(mesh, {"u": frames(mesh)[..., 0], "w": frames(mesh)[..., 1:]}, options[0], every=options[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": 0}, "`history` must be at least 1, got 0"),
        ({"differences": -1}, "`differences` must be 0 or more, got -1"),
        ({"architecture": Architecture(message_passing=False)}, "`differences` need the edges of `message_passing`"),
        ({"attended": True, "differences": 0}, "`attended` needs `differences` and the architecture's `attention`"),
        (
            {
                "attended": True,
                "architecture": Architecture(attention=False, anchors="none", boundary_tokens=False, quadrature=False),
            },
            "`attended` needs `differences` and the architecture's `attention`",
        ),
        ({"fields": {}}, "`fields` is empty"),
        ({"held": {"w": ("left",)}}, "`held` names 'w', which is not stepped; stepped are u"),
        ({"conserved": ("w",)}, "`conserved` names 'w', which is not stepped; stepped are u"),
        ({"conserved": ("u",), "held": {"u": ("left",)}}, "'u' is held on a boundary"),
        ({"inputs": {"u": 1}}, "'u' is an input and an output"),
        ({"architecture": Architecture(load_rounds=1)}, "do nothing in a rollout"),
    ],
)
def test_wrong_configurations_are_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RolloutConfig(**{"dim": 2, "fields": {"u": 1}} | options)


def test_a_configuration_survives_json():
    made = RolloutConfig(
        dim=2, fields={"u": 1}, history=2, conditions={"load": 2}, directional=("load",), held={"u": ("left", "top")},
        architecture=Architecture(anchor_scales=(1.0, 3.0)),
    )  # fmt: skip
    assert RolloutConfig.from_dict(made.to_dict()) == made
    loose = RolloutConfig(dim=2, fields={"u": 1, "w": 2}, relative=True, conserved=("w", "u"))
    assert RolloutConfig.from_dict(json.loads(json.dumps(loose.to_dict()))) == loose
    with pytest.raises(ConfigError, match="unknown key 'colour' in the rollout configuration"):
        RolloutConfig.from_dict(made.to_dict() | {"colour": 1})
