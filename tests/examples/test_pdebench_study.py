"""The study on PDEBench's equations: samples, losses and rollouts are what they say, and tables say what rows say."""

import importlib
import itertools
import json
import math
import os
import pickle
import re
import subprocess
import sys
import xml.etree.ElementTree
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from fixtures_devices import AloneOnTheDevice, meta  # noqa: F401 (a fixture)
from fixtures_studies import Inline

from flare_connect.errors import InputError
from flare_connect.metrics.pdebench import pdebench_errors
from flare_connect.train import UnrollConfig
from flare_connect.train.rollout_module import window_loss

MODULES = ("run", "report", "jobs", "training", "contestants", "sets", "crew", "rows", "steps", "curves",
           "wording", "options")  # fmt: skip


@pytest.fixture(scope="module")
def study(repository):
    """The modules of the study, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "examples/studies/common")
        patch.syspath_prepend(repository / "examples/studies/pdebench")
        for name in MODULES:
            sys.modules.pop(name, None)
        yield importlib.import_module
        for name in MODULES:
            sys.modules.pop(name, None)


def tiny(study, name="advection"):
    return study("sets").SETS[name].quick()


def made(study, name, of="advection"):
    torch.manual_seed(0)
    grid_set = tiny(study, of)
    model = study("contestants").make(name, grid_set, 2)
    model.fit_statistics(torch.randn(6, grid_set.frames, *(grid_set.size,) * grid_set.dim, 2))
    return model, grid_set


def series(grid_set, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, grid_set.frames, *(grid_set.size,) * grid_set.dim, 2, generator=generator)


@pytest.mark.parametrize(("of", "name"), [("advection", "ours, memory"), ("shallow_water", "ours")])
def test_ours_on_a_grid_is_ours_on_its_mesh(study, of, name):
    """A batch of series goes through as each alone through the model's own call, and training sees the same loss."""
    model, grid_set = made(study, name, of)
    given = series(grid_set)[:, :3]
    coming = model.frames_after(given)
    found = torch.stack([next(coming) for _ in range(3)], 1)
    for one, sample in zip(found, given, strict=True):
        nodes = model._to_nodes(sample[None])
        frames = model.model.rollout(model.grid.mesh, {"u": nodes}, 3)["u"]
        torch.testing.assert_close(one.movedim(0, -2), model.grid.to_grid(frames), rtol=1e-4, atol=1e-4)
    graph = model._own_graph()
    window = series(grid_set)[:, :5]
    for depth in (0, 2):
        unroll = UnrollConfig(own_steps=2)
        alone = [
            window_loss(model.model, graph, model._to_nodes(each[None]), unroll, depth, known=model.known)
            for each in window
        ]
        torch.testing.assert_close(model.loss(window, unroll, depth), torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_every_learner_has_as_many_parameters_as_ours_in_every_set(study):
    sets, contestants = study("sets").SETS, study("contestants")
    for grid_set, width in ((sets["advection"], 1), (sets["diffusion_reaction"], 2), (sets["burgers_published"], 1)):
        with torch.device("meta"):
            count = {name: contestants.parameters(contestants.make(name, grid_set, width)) for name in ("FNO", "U-Net")}
            ours = contestants.parameters(contestants.make("ours", grid_set, width))
        assert all(abs(each - ours) <= 0.1 * ours for each in count.values()), (grid_set.name, ours, count)


def test_every_setting_can_be_made_and_is_another_in_some_set(study):
    contestants, told = study("contestants"), {}
    for grid_set in (study("sets").SETS[name] for name in ("advection", "burgers_0.1", "shallow_water")):
        with torch.device("meta"):
            for name in contestants.SETTINGS:
                model = contestants.make(name, grid_set, 2)
                told.setdefault(name, []).append((str(model.model.config), model.window, model.batch))
    assert len({str(each) for each in told.values()}) == len(contestants.SETTINGS)


@pytest.mark.parametrize("name", ["FNO", "FNO, 1 frame", "U-Net"])
def test_loss_on_a_grid_is_of_the_frame_after_its_own(study, name):
    """Against the plain words: predict, predict from that, compare the last; unrolled, compare them all."""
    model, grid_set = made(study, name)
    history, standard = model.model.history, model.model.frame_statistics
    frames = series(grid_set)[:, : history + 3]

    def error(guess, truth):
        guess, truth = standard(guess), standard(truth)
        return ((guess - truth).square().sum(1) / truth.square().sum(1)).sqrt().mean()

    rolled = model.model.rollout(frames[:, :history], 3)
    for depth in (0, 2):
        wanted = error(rolled[:, depth], frames[:, history + depth])
        forward = model.loss(frames, UnrollConfig(own_steps=2), depth)
        torch.testing.assert_close(forward, wanted, rtol=1e-4, atol=1e-5)
        every = torch.stack([error(rolled[:, t], frames[:, history + t]) for t in range(depth + 1)]).mean()
        through = model.loss(frames, UnrollConfig(own_steps=2, through=True), depth)
        torch.testing.assert_close(through, every, rtol=1e-4, atol=1e-5)
    grads = []
    for unroll in (UnrollConfig(own_steps=2), UnrollConfig(own_steps=2, through=True)):
        model.zero_grad()
        model.loss(frames, unroll, 2).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert not torch.allclose(*grads)  # the gradient of the last prediction alone is another


def test_samples_are_frames_in_a_row_of_one_series(study):
    model, grid_set = made(study, "FNO, 1 frame")
    numbered = torch.arange(7 * 9.0).view(7, 9)[..., None, None].expand(-1, -1, grid_set.size, 1)
    feed = study("training").Feed(model, numbered, UnrollConfig(own_steps=3), seed=0)
    depths, seen = feed.depths(), set()
    drawn = [next(depths) for _ in range(200)]
    assert set(drawn) == {0, 1, 2, 3}
    for _ in range(50):
        next(depths)
        batch = feed.batch()[:, :, 0, 0]
        assert batch.shape == (model.batch, 2 + 3)
        assert (batch.diff(dim=1) == 1).all()
        assert (batch[:, 0] // 9 == batch[:, -1] // 9).all()
        seen |= set(batch[:, 0].int().tolist())
    assert seen == {9 * i + first for i in range(7) for first in range(9 - 5 + 1)}
    assert model.earliest == grid_set.initial - 1  # its first prediction is the first that it is judged by
    with pytest.raises(ValueError, match="needs 5 frames, the series have 4"):
        study("training").Feed(model, numbered[:, :4], UnrollConfig(own_steps=3), seed=0)


@pytest.mark.parametrize("of", ["advection", "shallow_water", "burgers_published"])
@pytest.mark.parametrize("name", ["ours", "ours, 2 frames", "ours, memory", "FNO", "FNO, 1 frame"])
def test_what_is_learned_is_what_comes_after_the_given_frames(study, of, name):
    """The first target of a sample is a frame after those, and the last sample ends where what is learned from ends."""
    for grid_set in (study("sets").SETS[of], tiny(study, of)):
        with torch.device("meta"):
            model = study("contestants").make(name, grid_set, 1)
        read = model.known + 1 if name.startswith("ours") else model.model.history
        assert model.earliest + read == max(grid_set.initial, read)
        assert read + 1 <= model.window
        assert model.earliest + model.window + study("contestants").OWN_STEPS <= grid_set.horizon


def test_how_frames_go_through_is_as_the_set_says_unless_a_setting_has_its_own(study):
    sets, make = study("sets").SETS, study("contestants").make

    def found(model, of):
        with torch.device("meta"):
            config = make(model, sets[of], 1).model.config
        return config.differences, config.attended

    assert [found("ours", of) for of in ("burgers_0.1", "shallow_water")] == [(6, True), (3, False)]
    assert found("ours, 2 rounds", "burgers_0.1") == (2, True)
    assert found("ours, not attended", "burgers_0.1") == (6, False)


@pytest.mark.parametrize("name", ["ours", "FNO"])
def test_training_learns_and_leaves_the_statistics(study, name):
    """A wave that moves: a few steps take the error far below that of nothing ever changing."""
    training = study("training")
    place = torch.arange(32) / 32
    waves = [
        torch.stack([torch.sin(2 * math.pi * (place - t / 32) + phase) for t in range(13)])
        for phase in torch.arange(8.0)
    ]
    moving = torch.stack(waves)[..., None]
    grid_set = tiny(study)
    torch.manual_seed(0)
    model = study("contestants").make(name, grid_set, 1)
    model.fit_statistics(moving)
    known = model.model.change_scale.clone()
    training.train(model, moving, unroll=training.UNROLLS["teacher"], steps=30, learning_rate=5e-3, seed=0)
    persistence = study("contestants").make("persistence", grid_set, 1)
    errors = [training.errors(each, moving, 3, 8, chunk=3).scalars()["nrmse"] for each in (model, persistence)]
    assert errors[0] < 0.5 * errors[1]
    assert torch.equal(model.model.change_scale, known)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("ours", "shallow_water"),
        ("ours", "burgers_0.1"),
        ("ours, memory", "advection"),
        ("FNO", "shallow_water"),
        ("U-Net", "advection"),
    ],
)
def test_a_step_asks_nothing_of_the_host(study, name, of, meta):  # noqa: F811
    """Or no CUDA graph could hold it; and a rollout goes on without the host too."""
    model, grid_set = made(study, name, of)
    known = series(grid_set, 6).to(meta)
    model.to(meta)
    for unroll in (UnrollConfig(own_steps=2, noise=0.1), UnrollConfig(own_steps=2, through=True)):
        feed = study("training").Feed(model, known, unroll, seed=0)
        model.loss(feed.batch(), unroll, 0)  # what is kept between steps is made in the first
        with AloneOnTheDevice():
            model.loss(feed.batch(), unroll, 2).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    coming = model.frames_after(known[:, :3])
    next(coming)
    with AloneOnTheDevice():
        next(coming)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ours", "ours, memory", "ours, relative", "FNO", "U-Net"])
def test_captured_steps_are_steps(study, name):
    """As graphs they end at the loss of the same steps without them."""
    found = []
    for captured in (True, False):
        model, grid_set = made(study, name, "shallow_water")
        model.to("cuda")
        unroll = UnrollConfig(own_steps=1)
        feed = study("training").Feed(model, series(grid_set, 6).cuda(), unroll, seed=0)
        start = float(model.loss(feed.batch(), unroll, 0).detach())
        _, calls = study("training")._steps(model, feed, 5e-3, captured)
        for call in 10 * calls:
            feed.draw()
            call()
        feed.drawn.zero_()
        found.append(float(model.loss(feed.batch(), unroll, 0).detach()))
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] < 0.95 * start


def test_errors_are_those_of_the_rollouts_whatever_the_chunk(study):
    training = study("training")
    model, grid_set = made(study, "persistence", "shallow_water")
    truth = series(grid_set, 5)
    still = torch.cat([truth[:, :3], truth[:, 2:3].expand(-1, 6, -1, -1, -1)], 1)
    wanted = pdebench_errors(still.movedim(1, -2), truth[:, :9].movedim(1, -2), initial_step=3)
    for chunk in (0, 2):
        found = training.errors(model, truth, 3, 9, chunk)
        for name, values in wanted.values.items():
            torch.testing.assert_close(found.values[name], values, rtol=1e-6, atol=1e-9, equal_nan=True)
    parts = training.split_errors(wanted, 3, 7)
    curve = wanted.steps()["nrmse"]
    assert parts["horizon"]["nrmse"] == pytest.approx(float(curve[:4].mean()))
    assert parts["twice"]["nrmse"] == pytest.approx(float(curve[4:].mean()))
    assert parts["twice"]["nrmse_per_step"] == pytest.approx(curve.tolist(), abs=1e-6)
    assert parts["twice"]["frmse_high"] is None  # 16 points have no such waves
    json.dumps(parts, allow_nan=False)


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_rollouts_that_leave_all_bounds_are_counted(study, chunk):
    """Of each column its own bounds; and what is no number is out."""

    def after(given):
        for step in range(1, 10):
            yield given[:, -1] * torch.tensor([1.0, 10.0]) * given[:, 0, :1, :1] ** step

    growing = SimpleNamespace(eval=lambda: None, frames_after=after)
    series = torch.tensor([1.0, 1.1, 2.0, math.inf, 0.5])[:, None, None, None].expand(-1, 6, 4, 2)
    left = partial(study("training").strayed, growing, series, 2, chunk=chunk)
    assert left(5, torch.tensor([1.0, 10.0])) == pytest.approx(0.4)
    assert left(5, torch.tensor([1.0, 1.0])) == pytest.approx(0.8)
    assert left(5, torch.tensor([100.0, 100.0])) == pytest.approx(0.2)
    assert left(3, torch.tensor([1.5, 15.0])) == pytest.approx(0.2)


def test_growth_is_that_of_an_exponential(study):
    growth = study("training").growth
    assert growth(0.01 * 1.07 ** torch.arange(30)) == pytest.approx(0.07, rel=1e-5)
    assert growth(torch.full((9,), 0.3)) == pytest.approx(0, abs=1e-9)
    assert growth(torch.tensor([0.5])) == 0


def test_data_is_made_once_and_anew_when_it_would_be_other(study, tmp_path):
    sets, cpu = study("sets"), torch.device("cpu")
    grid_set = replace(tiny(study, "burgers_0.001"), frames=4, counts=(5, 2, 2))
    path = sets.prepare(grid_set, tmp_path, cpu)
    before = path.stat().st_mtime_ns
    assert sets.prepare(grid_set, tmp_path, cpu) == path
    assert path.stat().st_mtime_ns == before
    parts = sets.load(grid_set, path, cpu)
    assert [tuple(part.shape) for part in parts.values()] == [(n, 4, 32, 1) for n in (5, 2, 2)]
    # Every other point of what is solved, at the centres of cells twice as wide but for a quarter of these.
    config = grid_set.make(9, 64, 4)
    whole = config.solve(range(5, 7), cpu)
    torch.testing.assert_close(parts["val"], whole[:, 1::2].movedim(2, 1).float(), rtol=1e-5, atol=1e-6)
    sets.prepare(replace(grid_set, counts=(4, 3, 2)), tmp_path, cpu)
    assert path.stat().st_mtime_ns != before
    assert not list(tmp_path.glob(".*"))
    path.write_bytes(b"no such file")
    assert sets.prepare(grid_set, tmp_path, cpu).stat().st_size > 1000


def test_published_files_are_read_or_told_to_be_missing(study, tmp_path):
    sets, cpu = study("sets"), torch.device("cpu")
    grid_set = tiny(study, "burgers_published")
    assert sets.prepare(grid_set, tmp_path, cpu) is None
    with pytest.raises(InputError, match=re.escape("burgers_train_16.pt is not there: give --published the folder")):
        sets.prepare(grid_set, tmp_path, cpu, tmp_path)
    rows = {"train": torch.randn(40, 17, 16).double(), "test": torch.randn(9, 17, 16).double()}
    for name, y in rows.items():
        torch.save({"y": y}, tmp_path / f"burgers_{name}_16.pt")
    parts = sets.load(grid_set, sets.prepare(grid_set, tmp_path, cpu, tmp_path), cpu)
    assert torch.equal(torch.cat([parts["train"], parts["val"]])[..., 0], rows["train"][:28].float())
    assert torch.equal(parts["test"][..., 0], rows["test"][:8].float())
    torch.save({"y": rows["test"][:, :4]}, tmp_path / "burgers_test_16.pt")
    with pytest.raises(InputError, match=re.escape("must hold `y` [at least 8, 17, 16]")):
        sets.prepare(replace(grid_set, counts=(23, 5, 8)), tmp_path, cpu, tmp_path)


def row(model, split="horizon", nrmse=0.1, *, stage="train", seed=0, seconds=60.0, **others):
    """As `run.py` writes it."""
    found = {
        "command": "python examples/studies/pdebench/run.py", "commit": "abc1234", "dataset": "advection",
        "date": "2026-11-27", "machine": "H100, torch 2", "train_series": 1000, "points": 256, "frames": 9,
        "horizon": 5, "initial": 2, "params": 800_000, "steps": 5_000, "stage": stage, "model": model, "split": split,
        "seed": seed, "unroll": "pushforward", "seconds": seconds, "learning_rate": 3e-3, "val_nrmse": 0.1,
        "nrmse": nrmse, "rmse": 2 * nrmse, "captured": True,
    }  # fmt: skip
    if split == "twice":
        found |= {"growth": 0.05, "nrmse_per_step": [nrmse] * 7}
    return found | others


def both(model, near, far, **others):
    return [row(model, "horizon", near, **others), row(model, "twice", far, **others)]


def test_tables_have_means_the_least_in_bold_and_say_what_left_all_bounds(study, tmp_path):
    report = study("report")
    rows = [
        *both("FNO", 0.3, 0.2), *both("ours", 0.1, 0.4), *both("ours", 0.2, 0.4, seed=1), *both("U-Net", 0.5, 1e5),
        *both("U-Net", 0.01, 0.01, seconds=20.0), row("FNO", stage="time", step_ms=9.5),
        row("ours", stage="cost", rollout_steps=10, rollout_ms=1.5, gpu_peak_mib=70),
        row("ours", stage="cost", rollout_steps=1000, rollout_ms=1.25, gpu_peak_mib=70),
        row("FNO, 1 frame", stage="train", split="none", failed="OutOfMemoryError: much text"),
    ]  # fmt: skip
    lines = report.table(rows).splitlines()
    assert lines[0] == "| nRMSE | frames learned from | as many after them | growth a step |"
    assert lines[2:] == [
        "| ours | **0.150 ± 0.071** | 0.400 ± 0.000 | 5.0 % |",
        "| FNO | 0.300 | **0.200** | 5.0 % |",
        "| U-Net | 0.500 | unbounded | 5.0 % |",
    ]
    (tmp_path / "advection.json").write_text(json.dumps(rows))
    report.write(tmp_path)
    text = (tmp_path / "tables.md").read_text()
    for part in ("## Advection, β = 1 (`advection`)", "Trained for 60 s. 1 seed; 2 seeds for `ours`. H100, torch 2; "
                 "commit abc1234", "| FNO | 800,000 | pushforward | 0.003 | 9.5 | 5,000 | – | – |",
                 "| ours | 800,000 | pushforward | 0.003 | – | 5,000 | – | 1.25 |", "| ours | 70 | 70 |",
                 "Failed: FNO, 1 frame (train: OutOfMemoryError)."):  # fmt: skip
        assert part in text
    picture = xml.etree.ElementTree.fromstring((tmp_path / "advection.svg").read_text())
    lines = [each.get("points").split() for each in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [7, 7, 0]
    heights = [float(points[0].split(",")[1]) for points in lines[:2]]
    assert heights[0] < heights[1]  # the larger error is higher
    report.write(tmp_path / "none")
    assert "No rows yet." in (tmp_path / "none/tables.md").read_text()


def test_the_best_setting_is_that_of_the_least_validation_error(study, tmp_path):
    results = study("rows").Results(tmp_path / "rows.json")
    tried = [("teacher", 1e-3, 0.4), ("teacher", 3e-3, 0.2), ("teacher", 9e-3, 0.9), ("unrolled", 3e-3, 0.3)]
    results.add([
        row("ours", "val", stage="tune", unroll=u, learning_rate=rate, val_nrmse=error) for u, rate, error in tried
    ])  # fmt: skip
    results.add([row("FNO", "val", stage="tune", unroll="unrolled", val_nrmse=0.1)])
    results.add([row("ours", "none", stage="tune", unroll="unrolled", learning_rate=1e-3, failed="no")])
    assert results.best("unroll", "val_nrmse", ["teacher", "unrolled"], model="ours") == "teacher"
    assert results.best("learning_rate", "val_nrmse", [1e-3, 3e-3, 9e-3], model="ours", unroll="teacher") == 3e-3
    assert results.best("learning_rate", "val_nrmse", [1, 2, 3], model="U-Net") == 2
    again = study("rows").Results(tmp_path / "rows.json")
    assert len(again.rows) == len(results.rows) - 1  # what failed is tried again
    job = study("jobs").Job(stage="tune", model="ours", unroll="teacher", learning_rate=3e-3, seconds=60.0, steps=7)
    assert again.has(job)
    for other in ({"seed": 1}, {"captured": False}, {"learning_rate": 2e-3}, {"stage": "train"}):
        assert not again.has(replace(job, **other))


def test_equal_time_is_steps_by_the_time_of_a_step(study, tmp_path):
    results = study("rows").Results(tmp_path / "rows.json")
    results.add([row("ours", "none", stage="time", unroll=u, step_ms=ms) for u, ms in (("teacher", 4), ("noise", 8))])
    assert results.steps(60, model="ours", unroll="teacher") == 15_000
    assert results.steps(60, model="ours", unroll="noise") == 7_500
    results.check_machine("H100, torch 2")
    with pytest.raises(SystemExit, match="were timed on 'H100, torch 2', here is 'A100'"):
        results.check_machine("A100")


def test_memory_of_a_rollout_does_not_grow(study):
    """What is kept between the steps is of one size, as is shown where a GPU can tell."""
    model, grid_set = made(study, "ours, memory")
    coming, sizes = model.frames_after(series(grid_set, 1)[:, :3]), []
    for _ in itertools.islice(coming, 6):
        state = coming.gi_frame.f_locals["coming"].gi_frame.f_locals["state"]
        held = [state.recent, *(part for memory in state.memories for part in memory.latents)]
        sizes.append([tuple(each.shape) for each in held])
    assert all(size == sizes[0] for size in sizes)
    rows = study("training").cost(model, series(grid_set, 1), 3, (2, 4))
    assert [each["rollout_steps"] for each in rows] == [2, 4]
    assert all(each["rollout_ms"] > 0 for each in rows)


def test_every_stage_follows_from_those_before_and_goes_on_where_it_was(study, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["run.py", "--quick", "--models", "FNO", "persistence", "--published", str(tmp_path)]
    )
    run, jobs = study("run"), study("jobs")
    args, grid_set, cpu = run.arguments(), tiny(study), torch.device("cpu")
    args.seconds, args.rates, args.unrolls = 0.02, [1e-3, 4e-3], ["pushforward", "teacher"]
    data = study("sets").prepare(grid_set, tmp_path, cpu)
    # It travels to other processes.
    work = pickle.loads(pickle.dumps(partial(jobs.Work, grid_set, data, (2, 4), tmp_path)))(cpu)
    common = {"dataset": "advection"}
    crew, results = Inline(work, common), study("rows").Results(tmp_path / "rows.json")
    run.run(crew, results, args, grid_set)
    stages = [(job.stage, job.model, job.unroll) for job in crew.made]
    assert stages[:5] == [
        ("time", "FNO", "pushforward"), ("time", "FNO", "teacher"), ("tune", "FNO", "pushforward"),
        ("tune", "FNO", "pushforward"), ("tune", "FNO", "teacher"),
    ]  # fmt: skip
    tuned = {
        (each["unroll"], each["learning_rate"]): each["val_nrmse"] for each in results.rows if each["stage"] == "tune"
    }
    final = next(job for job in crew.made if (job.stage, job.model) == ("train", "FNO"))
    assert tuned[final.unroll, final.learning_rate] == min(tuned.values())
    assert final.steps == results.steps(0.02, model="FNO", unroll=final.unroll)
    assert [(job.stage, job.model) for job in crew.made[6:]] == [
        ("train", "persistence"), ("cost", "FNO"), ("cost", "persistence")
    ]  # fmt: skip
    again = Inline(work, common)
    run.run(again, study("rows").Results(tmp_path / "rows.json"), args, grid_set)
    assert again.made == []


def test_what_cannot_be_captured_is_compared_without(study, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--models", "FNO", "--stages", "train"])
    run, args, seen = study("run"), study("run").arguments(), []

    def work(job):
        seen.append((job.stage, job.captured))
        if job.captured:
            return [{"split": "none", "failed": "RuntimeError: capture"}]
        return [{"split": "none", "step_ms": 5.0, "nrmse": 0.1}]

    run.run(Inline(work, {}), study("rows").Results(tmp_path / "rows.json"), args, tiny(study))
    assert seen == [("time", True), ("time", False), ("train", False)]


def test_study_runs(repository, tmp_path):
    """In a process of its own, with one more that works; what is left out is said."""
    options = ["--quick", "--sets", "advection", "burgers_published", "--models", "persistence", "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, repository / "examples/studies/pdebench/run.py", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "burgers_published is left out: give --published the folder that holds burgers_train" in done.stdout
    rows = json.loads((tmp_path / "advection_quick.json").read_text())
    assert {(each["stage"], each["split"]) for each in rows} == {
        ("train", "horizon"), ("train", "twice"), ("cost", "none"),
    }  # fmt: skip
    far = next(each for each in rows if each["split"] == "twice")
    assert len(far["nrmse_per_step"]) == 13 - 3
    assert math.isfinite(far["growth"])
    assert {"commit", "machine", "command", "date"} <= far.keys()
