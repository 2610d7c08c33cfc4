"""Training of rollouts: it learns, resumes, unrolls as it says, and refuses what does not fit."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_series import FRAMES, heat, rollout_config, write_heat
from safetensors.torch import load_file

from flare_connect.errors import ConfigError, InputError
from flare_connect.mesh import MeshStore
from flare_connect.models import Architecture, FlareRollout, RolloutConfig
from flare_connect.models.features import collate
from flare_connect.train import OptimiserConfig, SeriesConfig, UnrollConfig, fit, rollout_module
from flare_connect.train.rollout_module import RolloutModule, window_loss
from flare_datasets.pdebench.graphs import mesh_of_axes

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
SMALL = Architecture(channels=16, num_blocks=2, num_heads=4, num_latents=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("series") / "heat.h5"
    write_heat(path)
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return fit(rollout_config(data, tmp_path_factory.mktemp("runs") / "heat", epochs=20))


def errors_of(guess, truth):
    """Relative L2 of each frame."""
    return (guess - truth).norm(dim=0) / truth.norm(dim=0)


def test_a_run_learns_what_follows(trained, data):
    """Far better than that nothing changes; and the error that a run reports is that of rollouts."""
    model, store = FlareRollout.from_pretrained(trained.folder), MeshStore(data)
    errors, idle = [], []
    for i in store.split("val"):
        series = store[int(i)].point_data["temperature"]
        guess = model.rollout(store[int(i)], {"temperature": series[:, :1]}, FRAMES - 1)["temperature"]
        errors.append(errors_of(guess, series[:, 1:]).mean())
        idle.append(errors_of(series[:, :1].expand(-1, FRAMES - 1), series[:, 1:]).mean())
    assert torch.stack(errors).mean() == pytest.approx(trained.best_error, rel=1e-3)
    assert trained.best_error < 0.5 * torch.stack(idle).mean()
    assert model.config.units == {"temperature": "K"}


def test_an_interrupted_run_ends_as_an_unbroken_one(data, tmp_path, monkeypatch):
    whole = fit(rollout_config(data, tmp_path / "whole", epochs=3))
    step = RolloutModule.training_step

    def breaks(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("interrupted")
        return step(self, batch, batch_idx)

    broken = rollout_config(data, tmp_path / "broken", epochs=3)
    with monkeypatch.context() as patched:
        patched.setattr(RolloutModule, "training_step", breaks)
        with pytest.raises(RuntimeError, match="interrupted"):
            fit(broken)
    resumed = fit(broken)
    assert resumed.epochs_run == 2
    assert resumed.best_error == whole.best_error
    one, other = (load_file(Path(run.folder) / "checkpoints/last.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture
def window():
    """A model whose past counts, a batch of two meshes and their frames."""
    torch.manual_seed(0)
    model = FlareRollout(RolloutConfig(dim=2, fields={"temperature": 1}, architecture=SMALL))
    for name, p in model.named_parameters():
        if "gate" in name:
            torch.nn.init.normal_(p)
    graphs = [model.build_graph(heat(side, seed), with_targets=True) for side, seed in ((6, 0), (7, 1))]
    model.fit_statistics(graphs)
    return model, collate(graphs), torch.cat([graph.frames for graph in graphs])[:, :6]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_frames_follow_on_so_many_predictions(window, depth):
    """As one by one: the frame t + 1 from a rollout that was given the frames up to t − depth.

    Without a memory: with one, the frames before are predictions too, which is what a rollout remembers.
    """
    model, batch, frames = window
    model.trunk.memories = torch.nn.ModuleList()
    found = window_loss(model, batch, frames, UnrollConfig(own_steps=3), depth)
    guesses = []
    for t in range(depth, frames.shape[1] - 1):
        frame = frames[:, t - depth : t - depth + 1]
        for _ in range(depth + 1):
            frame, _ = model(batch, frame)
        guesses.append(frame)
    standard = model.frame_statistics
    guess, truth = (standard(x) for x in (torch.cat(guesses, 1), frames[:, depth + 1 :]))
    parts = [errors_of(g[..., 0], t[..., 0]).mean() for g, t in zip(guess.split((36, 49)), truth.split((36, 49)),
                                                                   strict=True)]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(parts).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("history", "known"), [(1, 0), (3, 2), (3, 1), (3, 0)])
def test_changes_before_a_window_are_those_of_the_frames_before_it(window, history, known):
    """Of a model without a memory the frames of a whole series tell the same, but that the first of them is earlier."""
    _, batch, frames = window
    config = RolloutConfig(dim=2, fields={"temperature": 1}, history=history, memory=False, architecture=SMALL)
    torch.manual_seed(0)
    model = FlareRollout(config)
    cut = 2 - known
    found = window_loss(model, batch, frames[:, cut:], UnrollConfig(), 0, known=known)
    started = torch.cat([frames[:, cut : cut + 1].expand(-1, cut, -1), frames[:, cut:]], 1)
    guess, truth = model(batch, started)[0][:, 2:-1], frames[:, 3:]
    parts = [errors_of(g[..., 0], t[..., 0]).mean() for g, t in zip(guess.split((36, 49)), truth.split((36, 49)),
                                                                   strict=True)]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(parts).mean(), rtol=1e-4, atol=1e-6)
    if known:
        assert not torch.isclose(found, window_loss(model, batch, frames[:, 2:], UnrollConfig(), 0), rtol=1e-3)


def test_training_knows_the_frames_before_a_window(window, monkeypatch):
    """As many as changes are read of, and at the beginning of a series those that there are."""
    model, batch, frames = window
    model.config = replace(model.config, history=3)
    batch.frames = torch.arange(6.0).expand(len(frames), 6)[..., None]
    data = SeriesConfig(path="none", fields=("temperature",), window=3)
    module, seen = RolloutModule(model, OptimiserConfig(), 0, data, UnrollConfig(own_steps=0)), set()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)

    def told(model, batch, window, unroll, depth, rank, *, known):
        seen.add((known, *window[0, :, 0].int().tolist()))
        return window.sum()

    monkeypatch.setattr(rollout_module, "window_loss", told)
    for _ in range(60):
        module.training_step(batch, 0)
    assert seen == {(0, 0, 1, 2), (1, 0, 1, 2, 3), (2, 0, 1, 2, 3, 4), (2, 1, 2, 3, 4, 5)}


@pytest.mark.parametrize("through", [True, False])
def test_gradients_flow_through_own_predictions_only_if_asked(window, through):
    """Of a window of three frames with one prediction between, the first frame is read by that prediction alone."""
    model, batch, frames = window
    model.trunk.memories = torch.nn.ModuleList()
    given = frames[:, :3].clone().requires_grad_()
    window_loss(model, batch, given, UnrollConfig(own_steps=1, through=through), 1).backward()
    assert (given.grad[:, 0].abs().max() > 0) == through


def test_noise_is_in_what_is_read_and_not_in_what_is_learned(window):
    """A model that changes nothing is off by what the truth changes and by the noise, together."""
    model, batch, frames = window
    for p in (model.trunk.decode.weight, model.trunk.decode.bias, model.trunk.answer.output.weight):
        torch.nn.init.zeros_(p)
    still = frames[:, :1].expand(-1, 6, -1).contiguous()
    assert window_loss(model, batch, still, UnrollConfig(), 0) < 1e-5
    noise = window_loss(model, batch, still, UnrollConfig(noise=0.5), 0)
    expected = 0.5 * model.change_scale / model.frame_statistics.std
    size = torch.stack([model.frame_statistics(part).square().mean().sqrt() for part in still[:, 0].split((36, 49))])
    torch.testing.assert_close(noise, (expected / size).mean(), rtol=0.1, atol=0.0)


def test_noise_of_many_sizes_is_another_for_each_frame_of_each_mesh(window, monkeypatch):
    model, batch, _ = window
    read = []
    monkeypatch.setattr(model, "forward", lambda _, frames, **__: (read.append(frames), (frames, None))[1])
    for _ in range(200):
        window_loss(model, batch, torch.zeros(batch.num_nodes, 6, 1), UnrollConfig(noise=0.5, decades=2.0), 0)
    parts = torch.stack(read).squeeze(-1).split((36, 49), dim=1)
    levels = torch.stack([part.square().mean(1).sqrt().flatten() for part in parts]) / model.change_scale
    decades = (levels / 0.5).log10()
    # All are alike likely; of 36 numbers the spread is known to 12 %.
    assert (decades.flatten().sort().values - torch.linspace(-2.0, 0.0, decades.numel())).abs().max() < 0.2
    assert torch.corrcoef(decades)[0, 1].abs() < 0.1


def test_noise_goes_with_the_size_of_each_frame_where_changes_do(window):
    """So a model that changes nothing is as far off where frames are a thousandth as large."""
    _, _, frames = window
    model = FlareRollout(RolloutConfig(dim=2, fields={"temperature": 1}, relative=True, architecture=SMALL))
    graphs = [model.build_graph(heat(side, seed)) for side, seed in ((6, 0), (7, 1))]
    for p in (model.trunk.decode.weight, model.trunk.decode.bias, model.trunk.answer.output.weight):
        torch.nn.init.zeros_(p)
    still = frames[:, :1].expand(-1, 6, -1)
    large, small = (
        window_loss(model, collate(graphs), size * still, UnrollConfig(noise=0.5), 0) for size in (1.0, 1e-3)
    )
    assert large > 0.1
    torch.testing.assert_close(small, large, rtol=0.1, atol=0.0)


def test_a_run_makes_the_model_that_is_asked_for(data, tmp_path):
    config = replace(rollout_config(data, tmp_path / "run", epochs=1, conserved=("temperature",)), relative=True)
    made = FlareRollout.from_pretrained(fit(config).folder)
    assert made.config.relative
    assert made.config.conserved == ("temperature",)


def test_twins_get_the_same_noise(monkeypatch):
    grid = mesh_of_axes([np.arange(4) / 4, np.arange(5) / 5], period=[1.0, 1.0])
    model = FlareRollout(
        RolloutConfig(dim=2, fields={"u": 1}, architecture=Architecture(channels=8, num_blocks=1, num_heads=2))
    )
    batch = collate([model.build_graph(grid.mesh)] * 2)
    read = []
    monkeypatch.setattr(model, "forward", lambda _, frames, **__: (read.append(frames), (frames, None))[1])
    window_loss(model, batch, torch.zeros(batch.num_nodes, 3, 1), UnrollConfig(noise=0.5), 0)
    assert torch.equal(read[0], read[0][batch.twin_index])
    assert len(read[0].unique()) == 20 * 2 * 2  # points, frames, meshes


def test_what_is_held_gets_no_noise(window):
    """A model that changes nothing is right where a field is held, and off by the noise elsewhere."""
    model, batch, frames = window
    for p in (model.trunk.decode.weight, model.trunk.decode.bias, model.trunk.answer.output.weight):
        torch.nn.init.zeros_(p)
    still = frames[:, :1].expand(-1, 6, -1).contiguous()
    model.config = replace(model.config, held={"temperature": ("all",)})
    batch.held = torch.ones(len(still), 1, dtype=torch.bool)
    assert window_loss(model, batch, still, UnrollConfig(noise=0.5), 0) < 1e-5
    batch.held[:10] = False
    assert window_loss(model, batch, still, UnrollConfig(noise=0.5), 0) > 1e-3


def test_what_does_not_fit_is_refused_before_work_starts(data, tmp_path):
    with pytest.raises(InputError, match=re.escape("at least `window` = 13 frames, got [64, 12]")):
        fit(rollout_config(data, tmp_path / "a", window=13))
    with pytest.raises(InputError, match="no point field 'pressure'; it has: 'temperature'"):
        fit(rollout_config(data, tmp_path / "b", fields=("pressure",)))
    with pytest.raises(ConfigError, match=r"`unroll\.own_steps` must be at most `data\.window` − 2 = 1, got 2"):
        rollout_config(data, tmp_path / "c", window=3)
    with pytest.raises(ConfigError, match=r"`unroll\.through` does nothing"):
        UnrollConfig(own_steps=0, through=True)
    with pytest.raises(ConfigError, match="must not be negative"):
        UnrollConfig(noise=-0.1)
    for noise, decades in ((0.1, -1.0), (0.0, 2.0)):
        with pytest.raises(ConfigError, match=r"`unroll\.decades` must not be negative, and does nothing without"):
            UnrollConfig(noise=noise, decades=decades)
    for name, least in (("window", 2), ("batch_size", 1), ("initial", 1)):
        with pytest.raises(ConfigError, match=f"`data.{name}` must be at least {least}, got 0"):
            rollout_config(data, tmp_path / "d", **{name: 0})
