"""Runs: they learn, they resume after kill -9 as if nothing had happened, and they say what is wrong."""

import csv
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from fixtures_meshes import plate
from fixtures_runs import run_config, write_plates
from safetensors.torch import load_file

from flare_connect.errors import CheckpointError, ConfigError, InputError, StoreError
from flare_connect.mesh import MeshStore
from flare_connect.models import FlareConnect
from flare_connect.train import DataConfig, OptimiserConfig, TrainConfig, evaluate, fit
from flare_connect.train.callbacks import WarmAveraging
from flare_connect.train.checkpoint import SafeCheckpointIO

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "plates.h5"
    write_plates(path)
    return path


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """A run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    return fit(run_config(data, folder, epochs=12))


def final_weights(folder):
    state = SafeCheckpointIO().load_checkpoint(Path(folder) / "checkpoints/last.safetensors")
    return {"averaged": state["state_dict"], "current": state["current_model_state"]}


def table(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def assert_same(one, other):
    for part in one:
        assert one[part].keys() == other[part].keys()
        for name in one[part]:
            assert torch.equal(one[part][name], other[part][name]), f"{part} {name}"


def test_a_run_learns_and_leaves_a_model(unbroken, data):
    assert unbroken.epochs_run == 12
    model = FlareConnect.from_pretrained(unbroken.folder)
    errors = evaluate(model, MeshStore(data), "test", progress=False)["stress"]
    assert errors.rel_l2 == pytest.approx(unbroken.best_error, rel=1e-4)
    assert errors.rel_l2 < errors.rel_l2_of_mean
    rows = table(unbroken.folder)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert float(rows[0]["val/rel_l2"]) >= unbroken.best_error
    assert list((unbroken.folder / "tensorboard").glob("events*"))
    provenance = json.loads((unbroken.folder / "config.json").read_text())["provenance"]
    assert provenance["data"]["generator"] == "plates"


def test_statistics_come_from_the_training_split_alone(unbroken, data):
    model, store = FlareConnect.from_pretrained(unbroken.folder), MeshStore(data)
    training = torch.cat([store[int(i)].point_data["stress"] for i in store.split("train")]).double()
    torch.testing.assert_close(model.output_statistics.mean, training.mean()[None].float())
    torch.testing.assert_close(model.output_statistics.std, training.std(correction=0)[None].float())


def test_a_finished_run_is_not_run_again(unbroken, data):
    before = final_weights(unbroken.folder)
    again = fit(run_config(data, unbroken.folder, epochs=12))
    assert again.epochs_run == 0
    assert again.best_error == unbroken.best_error
    assert_same(before, final_weights(unbroken.folder))


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from fixtures_runs import run_config
from flare_connect.train import fit
fit(run_config(sys.argv[2], sys.argv[3], epochs=12))
"""


def test_killed_runs_end_with_the_weights_of_an_unbroken_one(unbroken, data, tmp_path, repository):
    """kill -9 at random moments after training began, then resume; the table of the run is whole too."""
    folder, moments = tmp_path / "killed", random.Random(7)
    command = [sys.executable, "-c", WORKER, str(repository / "tests"), str(data), str(folder)]
    last, seen = folder / "checkpoints/last.safetensors", -1.0
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if last.is_file() and last.stat().st_mtime > seen:
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait()
        seen = last.stat().st_mtime if last.is_file() else seen
    # What a kill in the middle of a write leaves, at the two places where a run writes.
    for leftover in (folder / f".model.safetensors.{process.pid}.tmp", last.with_name(f".last.{process.pid}.tmp")):
        leftover.write_bytes(b"half")
    result = fit(run_config(data, folder, epochs=12))
    assert result.best_error == unbroken.best_error
    assert_same(final_weights(unbroken.folder), final_weights(folder))
    for name, weight in load_file(unbroken.folder / "model.safetensors").items():
        assert torch.equal(weight, load_file(folder / "model.safetensors")[name])
    tables = [table(unbroken.folder), table(folder)]
    assert [row["val/rel_l2"] for row in tables[0]] == [row["val/rel_l2"] for row in tables[1]]
    assert not list(folder.rglob("*.tmp"))


def test_another_run_in_the_same_folder_is_refused(unbroken, data):
    with pytest.raises(ConfigError, match=re.escape("optimiser.epochs: 12 there, 13 here")):
        fit(run_config(data, unbroken.folder, epochs=13))
    with pytest.raises(ConfigError, match="holds a run already"):
        fit(run_config(data, unbroken.folder, epochs=12), resume=False)


def test_the_average_of_the_weights_is_the_written_out_sum(tmp_path):
    """Three steps by hand: the start, then `a + (1 − d_n) (w − a)` with `d_n = min(d, (1 + n) / (10 + n))`."""

    class Counting(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, index):
            return -self.weight  # each step of unit rate adds one

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    module, averaging = Counting(), WarmAveraging(0.15)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[averaging], logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(3), batch_size=1))
    expected = 1.0  # the first step starts the average
    for n, weight in ((1, 2.0), (2, 3.0)):
        expected += (1 - min(0.15, (1 + n) / (10 + n))) * (weight - expected)
    assert float(module.weight.detach()) == pytest.approx(expected)


def test_without_averaging_and_lazily(data, tmp_path):
    config = run_config(data, tmp_path / "run", epochs=2, ema_decay=0.0, clip=0.0)
    kept = fit(config)
    lazy_data = DataConfig(**{**vars(config.data), "in_memory": False})
    lazy = fit(TrainConfig(**{**vars(config), "data": lazy_data, "output": str(tmp_path / "lazy")}))
    assert lazy.best_error == kept.best_error


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"outputs": ("heat",)}, InputError, "no point field 'heat'; it has: "),
        ({"conditions": ("wind",)}, InputError, "no per-mesh number 'wind'; it has: 'load'"),
        ({"boundary": {"top": "free"}}, InputError, "boundary set 'top', which the mesh lacks"),
        ({"train_split": "all"}, StoreError, "no split 'all'"),
        ({"val_split": "none"}, InputError, "the split 'none'"),
        ({"path": "nowhere.h5"}, StoreError, "nowhere.h5"),
    ],
)
def test_wrong_data(data, tmp_path, change, error, message):
    config = run_config(data, tmp_path / "run")
    with pytest.raises(error, match=re.escape(message)):
        fit(TrainConfig(**{**vars(config), "data": DataConfig(**{**vars(config.data), **change})}))
    assert not (tmp_path / "run").exists()  # which is free for the run without the mistake


def test_a_file_is_no_folder_for_a_run(data, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="run is a file: choose another output folder"):
        fit(run_config(data, tmp_path / "run"))


def test_truncated_data(data, tmp_path):
    short = tmp_path / "short.h5"
    short.write_bytes(data.read_bytes()[:-2000])
    with pytest.raises(StoreError, match="truncated"):
        fit(run_config(short, tmp_path / "run"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimiserConfig(epochs=0), "`optimiser.epochs` must be at least 1, got 0"),
        (lambda: OptimiserConfig(learning_rate=0), "must be positive, got 0"),
        (
            lambda: OptimiserConfig(precision="16"),
            "`optimiser.precision` must be one of 32, bf16, bf16-stream, got '16'",
        ),
        (lambda: OptimiserConfig(recompute="all"), "`optimiser.recompute` must be one of nothing, blocks, layers"),
        (lambda: OptimiserConfig(warmup=1.0), "between 0 and 1, got 1.0"),
        (lambda: OptimiserConfig(ema_decay=1.0), "below 1, got 1.0"),
        (lambda: DataConfig(path="x", num_workers=2), "does nothing while `data.in_memory` is on"),
        (lambda: DataConfig(path="x", batch_size=0), "`data.batch_size` must be at least 1, got 0"),
        (lambda: DataConfig(path="x", outputs=()), "`data.outputs` is empty"),
    ],
)
def test_settings_that_cannot_work(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_peak_error_and_mean_error_by_hand():
    from flare_connect.train import compare

    class Constant:
        """Predicts 2 everywhere; its training mean is 1."""

        class config:
            outputs = {"stress": 1}

        class output_statistics:
            mean = torch.tensor([1.0])

        def split_outputs(self, outputs):
            return {"stress": outputs.squeeze(1)}

        def predict(self, mesh):
            return {"stress": torch.full((mesh.num_nodes,), 2.0)}

    mesh = plate()
    mesh.point_data["stress"] = torch.full((mesh.num_nodes,), 4.0)
    error = compare(Constant(), [mesh, mesh])["stress"]
    assert error.rel_l2 == pytest.approx(0.5)
    assert error.rel_l2_of_mean == pytest.approx(0.75)
    assert error.peak_error == pytest.approx(0.5)
    assert error.rel_l2_per_mesh == pytest.approx((0.5, 0.5))


def test_checkpoints_hold_no_code(tmp_path):
    path, io = tmp_path / "state.safetensors", SafeCheckpointIO()
    weight = torch.arange(6.0)
    state = {
        "a": {1: weight, "v": weight[2:4]},
        "b": [1, 2.5, None, True],
        "c": ("x", -float("inf")),
        "d": float("nan"),
    }
    io.save_checkpoint(state, path)
    loaded = io.load_checkpoint(path)
    assert torch.equal(loaded["a"][1], weight)
    assert torch.equal(loaded["a"]["v"], weight[2:4])
    assert loaded["b"] == state["b"]
    assert loaded["c"] == state["c"]
    assert loaded["d"] != loaded["d"]
    with pytest.raises(TypeError, match="cannot hold function"):
        io.save_checkpoint({"f": io.save_checkpoint.__func__}, path)
    assert torch.equal(io.load_checkpoint(path)["a"][1], weight)  # the old file is still whole
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="damaged"):
        io.load_checkpoint(path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        io.load_checkpoint(tmp_path / "none")


def test_checkpoints_of_a_newer_version_or_another_kind(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_file({}, path, metadata={"format": "flare_connect.checkpoint", "version": "2", "tree": "{}"})
    with pytest.raises(CheckpointError, match="version 2, this flare_connect reads up to 1"):
        SafeCheckpointIO().load_checkpoint(path)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a flare_connect checkpoint"):
        SafeCheckpointIO().load_checkpoint(path)
