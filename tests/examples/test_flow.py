"""The study of flow: runs through, goes on where it was, and compares like with like."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from fixtures_meshes import square

from flare_connect.mesh import Mesh, NamedSet, write_store

MODULES = ("contestants", "preparing", "training", "jobs", "report")
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
    monkeypatch.syspath_prepend(repository / "examples/studies/flow")
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    yield {name: importlib.import_module(name) for name in MODULES}
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def run(repository, *options):
    done = subprocess.run(
        [sys.executable, repository / "examples/studies/flow/run.py", *map(str, options)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_study_runs_and_goes_on_where_it_was(repository, data):
    out = data.parent
    told = run(repository, "--quick", "--seconds", 0.5, "--out", out)
    assert "| ours |" in told
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
    ours, peer = (next(row for row in trained if row["model"] == name) for name in ("ours", "MeshGraphNet"))
    assert peer["params"] == pytest.approx(ours["params"], rel=0.1)
    for row in (ours, peer):
        step = next(each["step_ms"] for each in rows if each["stage"] == "time" and each["model"] == row["model"])
        assert row["steps"] * step == pytest.approx(1e3 * row["seconds"], abs=step)
    before = (out / "flow_quick.json").read_bytes()
    assert run(repository, "--quick", "--seconds", 0.5, "--out", out).count("[1/") == 0
    assert (out / "flow_quick.json").read_bytes() == before


def test_all_have_about_as_many_parameters(study, data):
    around = study["preparing"].around_of(data)
    for size, names in (("full", ("ours", "MeshGraphNet", "no memory")), ("quick", study["contestants"].CONTESTANTS)):
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
    assert list(found.shape) == [FRAMES - 1, 2, 2]
    for place in range(2):
        mesh = study["preparing"].kept_of(data, "test", place)
        first = {name: mesh.point_data[name][:, :1] for name in ("velocity", "temperature")}
        rolled = model.rollout(mesh, first, FRAMES - 1)
        for field, name in enumerate(first):
            truth = mesh.point_data[name][:, 1:]
            off = (rolled[name] - truth).transpose(0, 1).flatten(1).norm(dim=1)
            expected = off / truth.transpose(0, 1).flatten(1).norm(dim=1)
            torch.testing.assert_close(found[:, place, field], expected, rtol=1e-3, atol=1e-5)


def test_training_follows_from_its_seed_and_learns(study, data):
    graphs = study["preparing"].Graphs.of(data, "quick")
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = study["contestants"].make("MeshGraphNet", graphs.around, "quick")
        model.fit_statistics(graphs.splits["train"])
        before = float(study["training"].errors_of(model, graphs.splits["val"]).mean())
        unroll = study["contestants"].CONTESTANTS["MeshGraphNet"].unroll
        trainer = study["training"].Trainer(model, graphs.splits["train"], unroll, 0)
        facts = study["training"].train(trainer, steps=40, learning_rate=8e-3)
        assert facts["epochs"] == 20
        losses.append(float(study["training"].errors_of(model, graphs.splits["val"]).mean()))
    assert losses[0] == losses[1]
    assert losses[0] < 0.8 * before


def test_the_best_rate_is_that_of_the_least_error(study, tmp_path):
    results = study["jobs"].Results(tmp_path / "r.json")
    assert results.best_rate("ours", [1.0, 2.0, 3.0]) == 2.0
    for rate, error in ((1.0, 0.3), (2.0, 0.2), (3.0, 0.4)):
        results.add([{"stage": "tune", "model": "ours", "learning_rate": rate, "val_nrmse": error}])
    results.add([{"stage": "tune", "model": "other", "learning_rate": 3.0, "val_nrmse": 0.1}])
    results.add([{"stage": "time", "model": "ours", "step_ms": 20.0, "machine": "here"}])
    assert study["jobs"].Results(tmp_path / "r.json").best_rate("ours", [1.0, 2.0, 3.0]) == 2.0
    assert results.steps("ours", 3.0) == 150
    with pytest.raises(SystemExit, match="were timed on 'here', here is 'there'"):
        results.check_machine("there")


def test_the_table_has_means_over_seeds_along_the_way(study):
    rows = [
        {"stage": "train", "model": "ours", "split": "id", "seed": seed, "nrmse": 0.1 + 0.02 * seed, "params": 1000,
         "steps": 5, "rollout_ms": 2.0, "nrmse_per_step": [0.01 * (seed + 1), 0.2, 0.3, 0.4]}
        for seed in (0, 1)
    ]  # fmt: skip
    rows += [{"stage": "time", "model": "ours", "step_ms": 7.0}, {"stage": "train", "model": "x", "failed": "no"}]
    line = study["report"].table(rows).splitlines()[2]
    means = "0.1100 ± 0.0141 | 0.0150 ± 0.0071 | 0.2000 ± 0.0000 | 0.4000 ± 0.0000"
    assert line == f"| ours | 1,000 | 5 | 7.0 | 2.0 | {means} |"
