"""Steps of a rollout that are replays of one graph, which on a CPU is the work itself."""

import itertools

import pytest
import torch
from fixtures_devices import AloneOnTheDevice, meta  # noqa: F401 (a fixture)
from fixtures_meshes import plate

from flare_connect.errors import InputError
from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.models.replayed import EAGER, owned, successive
from flare_connect.models.rollout import RolloutState
from flare_connect.models.unrolled import Unrolled
from flare_connect.nn import CausalState
from flare_kernels import LatentState

SMALL = {"channels": 16, "num_blocks": 2, "num_heads": 4, "num_latents": 8}
COUNT = EAGER + 5
CHANGES = (
    {}, {"history": 3}, {"held": {"u": ("left",)}}, {"memory": False, "attended": True},
    {"relative": True, "conserved": ("w",)},
)  # fmt: skip


def swap(frame, state):
    """A step whose next state is the frame and part of the state itself: what is overwritten first is read later."""
    older, (oldest, nothing) = state
    return frame + oldest, (frame, (older, nothing))


def start():
    return torch.tensor([1.0, 2.0]), (torch.tensor([3.0, 5.0]), (torch.tensor([7.0, 11.0]), None))


def by_hand(step, frame, state, count):
    found = [frame]
    while len(found) < count:
        frame, state = step(frame, state)
        found.append(frame)
    return found


def refused(work):
    raise RuntimeError("no graph here")


@pytest.mark.parametrize("record", [lambda work: work, refused], ids=["recorded", "refused"])
def test_frames_are_those_of_one_step_after_another(record):
    """And nobody overwrites them, nor what was given."""
    given = start()
    coming = successive(swap, *given, captured=True, record=record)
    found = list(itertools.islice(coming, EAGER + 1))
    if record is refused:
        with pytest.warns(UserWarning, match="goes on without a CUDA graph, more slowly: no graph here"):
            found.append(next(coming))
    found += itertools.islice(coming, COUNT - len(found))
    assert all(torch.equal(a, b) for a, b in zip(found, by_hand(swap, *start(), COUNT), strict=True))
    assert torch.equal(given[0], start()[0])


def test_without_a_gpu_there_is_no_graph():
    coming = successive(swap, *start(), record=refused)
    assert len(list(itertools.islice(coming, COUNT))) == COUNT


def test_a_graph_is_made_once():
    made = []

    def record(work):
        made.append(work)
        return work

    list(itertools.islice(successive(swap, *start(), captured=True, record=record), COUNT))
    assert len(made) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_rollout_leaves_no_memory():
    """Graphs are recorded on one stream: each other would keep a workspace of its own for good."""
    model = FlareRollout(RolloutConfig(dim=2, fields={"u": 1}, architecture=Architecture(**SMALL))).cuda()
    mesh, held = plate(5), []
    for _ in range(4):
        model.rollout(mesh, {"u": torch.randn(mesh.num_nodes)}, EAGER + 3)
        held.append(torch.cuda.memory_allocated())
    assert held[1] == held[2] == held[3]


def test_states_keep_their_kind():
    latents = LatentState(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, 4))
    state = RolloutState(torch.zeros(5, 1, 2), (CausalState(latents),))
    kept = owned(state)
    assert isinstance(kept, RolloutState)
    assert isinstance(kept.memories[0], CausalState)
    assert kept.memories[0].seeds is None
    assert kept.recent.data_ptr() != state.recent.data_ptr()


def made(**changes):
    torch.manual_seed(0)
    options = {"dim": 2, "fields": {"u": 1, "w": 2}, "conditions": {"load": 2}, "boundary": {"left": "free"}}
    model = FlareRollout(RolloutConfig(**options | changes, architecture=Architecture(**SMALL)))
    for name, p in model.named_parameters():
        if "gate" in name:
            torch.nn.init.normal_(p)
        if name.startswith(("trunk.decode", "trunk.answer.output")):
            p.data *= 0.01  # or rollouts grow a million times, and what rounding differs in with them
    return model


def test_a_graph_without_a_gpu_is_refused():
    mesh = plate(5)
    given = {"u": torch.zeros(mesh.num_nodes), "w": torch.zeros(mesh.num_nodes, 2)}
    with pytest.raises(InputError, match="`captured` wants the model on a GPU, it is on cpu: move it, or give None"):
        made().rollout(mesh, given, 1, captured=True)


@pytest.mark.parametrize("changes", CHANGES)
def test_a_step_of_ours_can_be_captured(changes, meta):  # noqa: F811
    model = made(**changes)
    graph = model.build_graph(plate(5)).to(meta)
    model.to(meta)
    unrolled = Unrolled.of(graph, 1, model.reads.architecture)
    frames = torch.randn(len(graph.x), 2, 3).to(meta)
    with torch.no_grad():
        known, state = model(graph, frames)
        frame, state = model(graph, known[:, -1:], state=state, unrolled=unrolled)
        with AloneOnTheDevice():
            model(graph, frame, state=state, unrolled=unrolled)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", CHANGES)
def test_a_captured_rollout_is_the_rollout(changes):
    model, mesh = made(**changes).to("cuda"), plate(5)
    given = {"u": torch.randn(mesh.num_nodes, 2), "w": torch.randn(mesh.num_nodes, 2, 2)}
    found, expected = (model.rollout(mesh, given, COUNT + 4, captured=captured) for captured in (None, False))
    for name, values in expected.items():
        torch.testing.assert_close(
            found[name], values, rtol=1e-4, atol=1e-5, msg=lambda told, name=name: f"{name}: {told}"
        )
