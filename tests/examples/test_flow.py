"""The study of flow: runs through, goes on where it was, and compares like with like."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from fixtures_devices import AloneOnTheDevice, meta  # noqa: F401 (a fixture)
from fixtures_meshes import square
from fixtures_studies import Inline

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, NamedSet, write_store
from flare_connect.train import UnrollConfig
from flare_connect.train.rollout_module import window_loss

MODULES = ("contestants", "preparing", "training", "jobs", "report", "run", "crew", "rows", "steps", "curves",
           "wording", "options")  # fmt: skip
FRAMES = 8


def channel(seed):
    """A square with series as the channels have them: waves that move on."""
    rng = np.random.default_rng(seed)
    x, y, triangles, _ = square(7)
    phase = 3 * x[:, None] + rng.uniform(0, 6) - 0.3 * np.arange(FRAMES)
    inside = (np.sin(np.pi * x) * np.sin(np.pi * y))[:, None]
    velocity = np.stack([1 + 0 * phase, inside * np.sin(phase)], axis=-1)
    series = {"velocity": velocity, "temperature": inside * np.cos(phase)}
    at = {"inlet": x == 0, "outlet": x == 1, "walls": (y == 0) | (y == 1), "holes": (abs(x - 0.5) < 0.1) & (y == 0)}
    return Mesh.from_arrays(
        np.stack([x, y], axis=1), {"triangle": triangles},
        point_data={name: values.astype(np.float32) for name, values in series.items()},
        global_data={"reynolds": [100.0 + seed]},
        sets={name: NamedSet("node", torch.from_numpy(np.flatnonzero(mask))) for name, mask in at.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "channels_quick.h5"
    splits = {"train": range(8), "val": [8, 9], "test": [10, 11], "more": [12, 13]}
    write_store(
        path, map(channel, range(14)), splits=splits, generator="waves", generator_version=1, seed=0, parameters={}
    )
    return path


@pytest.fixture
def study(repository, monkeypatch):
    """Modules of the study, which share their names with those of others."""
    monkeypatch.syspath_prepend(repository / "examples/studies/common")
    monkeypatch.syspath_prepend(repository / "examples/studies/flow")
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    yield {name: importlib.import_module(name) for name in MODULES}
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.mark.slow
def test_the_study_runs_and_goes_on_where_it_was(study, repository, data, monkeypatch, capsys):
    out = data.parent
    options = ["run.py", "--quick", "--seconds", "0.2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, repository / "examples/studies/flow" / options[0], *options[1:]],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| ours |" in done.stdout
    rows = json.loads((out / "flow_quick.json").read_text())
    trained = [row for row in rows if row["stage"] == "train"]
    assert {(row["model"], row["split"]) for row in trained} == {
        (model, split) for model in ("ours", "MeshGraphNet", "persistence") for split in ("id", "more holes")
    }
    for row in trained:
        assert row["nrmse"] == pytest.approx(np.mean(row["nrmse_per_step"]), abs=1e-4)
        assert len(row["nrmse_per_step"]) == FRAMES - 1
        assert row["nrmse"] == pytest.approx((row["nrmse_velocity"] + row["nrmse_temperature"]) / 2)
        assert {"machine", "commit", "date", "command"} <= row.keys()
        assert row["model"] == "persistence" or row["train_nrmse"] > 0
    ours, peer = (next(row for row in trained if row["model"] == name) for name in ("ours", "MeshGraphNet"))
    assert peer["params"] == pytest.approx(ours["params"], rel=0.1)
    for row in (ours, peer):
        step = next(each["step_ms"] for each in rows if each["stage"] == "time" and each["model"] == row["model"])
        assert row["steps"] * step == pytest.approx(1e3 * row["seconds"], abs=step)
    before = (out / "flow_quick.json").read_bytes()
    monkeypatch.setattr(sys, "argv", options)
    monkeypatch.setattr(study["crew"].Crew, "_give", None)  # nothing is given to anyone
    # The name that rows have of this machine has its threads in it, which a test may have changed.
    monkeypatch.setattr(study["rows"].measure, "machine", lambda device: ours["machine"])
    study["run"].main(study["run"].arguments())
    assert "| ours |" in capsys.readouterr().out
    assert (out / "flow_quick.json").read_bytes() == before


def test_every_stage_follows_from_those_before(study, tmp_path, monkeypatch):
    """Rates are tried for ours and the peer alone; others take theirs, and what cannot be captured runs without."""
    models = ["ours", "MeshGraphNet", "no anchors"]
    monkeypatch.setattr(sys, "argv", ["run.py", "--models", *models, "--seeds", "2", "--seconds", "6"])
    args = study["run"].arguments()
    best, step_ms = {"ours": 3e-3, "MeshGraphNet": 1e-3}, {"ours": 10.0, "MeshGraphNet": 5.0, "no anchors": 8.0}

    def work(job):
        if job.stage == "time" and job.model == "ours" and job.captured:
            return [{"split": "none", "failed": "RuntimeError: capture"}]
        facts = {"time": {"step_ms": step_ms.get(job.model)}, "train": {}}
        return [{"split": "x"} | facts.get(job.stage, {"val_nrmse": abs(job.learning_rate - best.get(job.model, 0))})]

    crew, results = Inline(work, {}), study["rows"].Results(tmp_path / "rows.json")
    study["run"].run(crew, results, args, "quick")
    tuned = [job for job in crew.made if job.stage == "tune"]
    assert [(job.model, job.learning_rate) for job in tuned] == [
        (model, rate) for model in best for rate in (5e-4, 1e-3, 3e-3, 6e-3)
    ]
    assert {(job.model, job.seconds, job.steps) for job in tuned} == {("ours", 2.0, 200), ("MeshGraphNet", 2.0, 400)}
    first, *final = [job for job in crew.made if job.stage == "train"]
    assert first.model == "persistence"
    assert [(job.seed, job.model, job.learning_rate, job.steps, job.captured) for job in final] == [
        (seed, *each)
        for seed in (0, 1)
        for each in (("ours", 3e-3, 600, False), ("MeshGraphNet", 1e-3, 1200, True), ("no anchors", 3e-3, 750, True))
    ]
    again = Inline(work, {})
    study["run"].run(again, study["rows"].Results(tmp_path / "rows.json"), args, "quick")
    assert [(job.stage, job.model, job.captured) for job in again.made] == [("time", "ours", True)]


def test_what_cannot_be_run_is_said_before_work_starts(study, monkeypatch, capsys):
    for options, told in (
        (["--seconds", "0"], "--seconds must be positive, got 0"),
        (["--models", "no anchors"], "learning rates are those of 'ours': name it among --models"),
    ):
        monkeypatch.setattr(sys, "argv", ["run.py", *options])
        with pytest.raises(SystemExit):
            study["run"].arguments()
        assert told in capsys.readouterr().err


def test_all_have_about_as_many_parameters(study, data):
    around = study["preparing"].around_of(data)
    for size, names in (
        ("full", ("ours", "MeshGraphNet", "ours, memory", "no attention")),
        ("quick", study["contestants"].CONTESTANTS),
    ):
        counts = {}
        for name in names:
            with torch.device("meta"):
                counts[name] = study["contestants"].parameters(study["contestants"].make(name, around, size))
        assert max(abs(count / counts["ours"] - 1) for count in counts.values()) <= 0.1


def test_errors_are_those_of_rollouts(study, data):
    """Mesh by mesh with `rollout`, the mean over nodes of each frame; of the first frame for all times too."""
    graphs = study["preparing"].Graphs.of(data, "quick")
    torch.manual_seed(0)
    model = study["contestants"].make("ours", graphs.around, "quick")
    model.fit_statistics(graphs.splits["train"])
    found = study["training"].errors_of(model, graphs.splits["test"], batch=2)
    idle = study["training"].idle_errors(graphs.splits["test"], [2, 1])
    assert list(found.shape) == list(idle.shape) == [FRAMES - 1, 2, 2]
    for place in range(2):
        mesh = study["preparing"].kept_of(data, "test", place)
        first = {name: mesh.point_data[name][:, :1] for name in ("velocity", "temperature")}
        rolled = model.rollout(mesh, first, FRAMES - 1)
        for field, name in enumerate(first):
            truth = mesh.point_data[name][:, 1:]
            off = (rolled[name] - truth).transpose(0, 1).flatten(1).norm(dim=1)
            expected = off / truth.transpose(0, 1).flatten(1).norm(dim=1)
            torch.testing.assert_close(found[:, place, field], expected, rtol=1e-3, atol=1e-5)
            off = (first[name] - truth).transpose(0, 1).flatten(1).norm(dim=1)
            expected = off / truth.transpose(0, 1).flatten(1).norm(dim=1)
            torch.testing.assert_close(idle[:, place, field], expected, rtol=1e-4, atol=1e-5)


def test_steps_see_windows_of_their_batch_after_so_many_own_predictions(study, data):
    graphs = study["preparing"].Graphs.of(data, "quick")
    torch.manual_seed(0)
    model = study["contestants"].make("ours", graphs.around, "quick")
    model.fit_statistics(graphs.splits["train"])
    training, unroll = study["training"], UnrollConfig(own_steps=2)
    feed = training.Feed(model, graphs.splits["train"], unroll, 0, batch=3, window=5)
    assert len(feed.batches) == 2  # the last two of eight fill none
    order, seen, places = feed.order(), set(), []
    for _ in range(200):
        place, depth = divmod(next(order), 3)
        places.append(place)
        seen.add((place, depth, int(feed.first)))
    assert seen == {(place, depth, first) for place in range(2) for depth in range(3) for first in range(FRAMES - 4)}
    assert all(sorted(each) == [0, 1] for each in np.reshape(places, (-1, 2)).tolist())
    place, depth = divmod(next(order), 3)
    graph, first = feed.batches[place][0], int(feed.first)
    before = graph.frames[:, max(first - 1, 0), None]  # a change is known but where a series begins
    window = torch.cat([before, graph.frames[:, first : first + 5]], dim=1)
    expected = window_loss(model, graph, window, unroll, depth, known=1)
    torch.testing.assert_close(feed.loss(place, depth), expected)
    with pytest.raises(InputError, match="a window has 9 frames, the series have 8"):
        training.Feed(model, graphs.splits["train"], unroll, 0, window=9)


@pytest.mark.parametrize("name", ["ours", "ours, memory", "no attention", "MeshGraphNet"])
def test_a_step_asks_nothing_of_the_host(study, data, name, meta):  # noqa: F811
    """Or no CUDA graph could hold it; not even of a batch that was never seen before, if one like it was."""
    graphs = study["preparing"].Graphs.of(data, "quick")
    model = study["contestants"].make(name, graphs.around, "quick")
    model.fit_statistics(graphs.splits["train"])
    model.to(meta)
    for unroll in (study["contestants"].CONTESTANTS[name].unroll, UnrollConfig(own_steps=1, through=True)):
        feed = study["training"].Feed(model, graphs.splits["train"], unroll, 0, batch=2, window=5)
        feed.loss(0, 0)
        with AloneOnTheDevice():
            feed.loss(1, unroll.own_steps).backward()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ours", "MeshGraphNet"])
def test_captured_steps_are_steps(study, data, name):
    """As graphs they end at the loss of the same steps without them, in half precision."""
    graphs, found = study["preparing"].Graphs.of(data, "quick"), []
    for captured in (True, False):
        torch.manual_seed(0)
        model = study["contestants"].make(name, graphs.around, "quick")
        model.fit_statistics(graphs.splits["train"])
        model.to("cuda")
        feed = study["training"].Feed(model, graphs.splits["train"], UnrollConfig(own_steps=1), 0, batch=3)
        start = float(feed.loss(0, 0).detach())
        _, calls = feed.steps(5e-3, captured=captured)
        for call in 5 * calls:
            feed.draw()
            call()
        feed.first.zero_()
        found.append(float(feed.loss(0, 0).detach()))
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] < 0.95 * start


def test_training_follows_from_its_seed_and_learns(study, data):
    graphs = study["preparing"].Graphs.of(data, "quick")
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = study["contestants"].make("MeshGraphNet", graphs.around, "quick")
        model.fit_statistics(graphs.splits["train"])
        before = float(study["training"].errors_of(model, graphs.splits["val"]).mean())
        unroll = study["contestants"].CONTESTANTS["MeshGraphNet"].unroll
        facts = study["training"].train(
            model, graphs.splits["train"], unroll=unroll, steps=40, learning_rate=8e-3, seed=0
        )
        assert facts["epochs"] == 20
        losses.append(float(study["training"].errors_of(model, graphs.splits["val"]).mean()))
    assert losses[0] == losses[1]
    assert losses[0] < 0.8 * before


def test_the_best_rate_is_that_of_the_least_error(study, tmp_path):
    results, rates = study["rows"].Results(tmp_path / "r.json"), [1.0, 2.0, 3.0]
    assert results.best("learning_rate", "val_nrmse", rates, model="ours") == 2.0
    for rate, error in ((1.0, 0.3), (2.0, 0.2), (3.0, 0.4)):
        results.add([{"stage": "tune", "model": "ours", "learning_rate": rate, "val_nrmse": error}])
    results.add([{"stage": "tune", "model": "other", "learning_rate": 3.0, "val_nrmse": 0.1}])
    results.add([{"stage": "time", "model": "ours", "step_ms": 20.0, "machine": "here"}])
    again = study["rows"].Results(tmp_path / "r.json")
    assert again.best("learning_rate", "val_nrmse", rates, model="ours") == 2.0
    assert results.steps(3.0, model="ours") == 150
    with pytest.raises(SystemExit, match="were timed on 'here', here is 'there'"):
        results.check_machine("there")


def test_the_table_has_means_over_seeds_along_the_way(study, tmp_path):
    """Of the longest trainings at the rate that validation prefers; the curves are of every frame."""
    common = {"stage": "train", "learning_rate": 1e-3, "val_nrmse": 0.1, "machine": "H100", "commit": "abc1234",
              "command": "python run.py"}  # fmt: skip
    rows = [
        common | {"model": "ours", "split": "id", "seed": seed, "nrmse": 0.1 + 0.02 * seed, "params": 1000, "steps": 5,
                  "nrmse_per_step": [0.01 * (seed + 1), 0.2, 0.3, 0.4], "nrmse_per_mesh": [0.2, 1.5 - seed],
                  "train_nrmse": 0.1, "seconds": 60.0}
        for seed in (0, 1)
    ]  # fmt: skip
    still = {"split": "id", "seed": 0, "nrmse": 0.5, "nrmse_per_step": [0.5] * 4, "nrmse_per_mesh": [0.5, 0.5],
             "seconds": 0.0, "steps": 0}  # fmt: skip
    rows += [
        common | still | {"model": "persistence"}, rows[0] | {"seconds": 20.0, "nrmse": 0.01},
        rows[0] | {"learning_rate": 2e-3, "val_nrmse": 0.2, "nrmse": 0.02},
        {"stage": "time", "model": "ours", "step_ms": 7.0}, {"stage": "train", "model": "x", "failed": "no"},
    ]  # fmt: skip
    lines = study["report"].table(rows).splitlines()[2:]
    means = "0.110 ± 0.014 | 0.0150 ± 0.0071 | 0.200 ± 0.000 | 0.400 ± 0.000"
    nothing = "– | – | – | –"
    assert lines == [
        f"| persistence | {nothing} | 0.500 | 0.500 | 0.500 | 0.500 | 0 of 2 |",
        f"| ours | 1,000 | 5 | 7.0 | 0.100 ± 0.000 | {means} | 1 of 4 |",
    ]
    (tmp_path / "flow.json").write_text(json.dumps(rows))
    study["report"].write(tmp_path, tmp_path)
    told = "Trained for 60 s. 2 seeds. H100; commit abc1234: `python run.py`."
    assert told in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "test.svg").read_text().count("<polyline") == 2
    study["report"].write(tmp_path / "none", tmp_path)
    assert "No rows yet." in (tmp_path / "none/tables.md").read_text()
