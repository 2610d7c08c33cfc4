"""Files of PDEBench on the command line: packed, trained on, rolled out, scored."""

import csv
import json

import numpy as np
import pytest
import torch

import flare_connect as fc
from flare_connect.cli import main
from flare_connect.metrics.pdebench import pdebench_errors
from flare_datasets.pdebench import open_pdebench, write_pdebench

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
POINTS, FRAMES, GIVEN = 16, 14, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of waves that travel, as a data set, and a model trained on it."""
    folder = tmp_path_factory.mktemp("pdebench")
    x, t = (np.arange(POINTS) + 0.5) / POINTS, 0.05 * np.arange(FRAMES)

    def draw(i):
        return np.sin(2 * np.pi * (x[:, None] - t + i / 12)).astype(np.float32)[..., None]

    write_pdebench(
        folder / "1D_Advection_Sols_beta1.0.hdf5", "advection", draw, num_samples=24, coordinates=[x], times=t,
        parameters={"beta": 1.0},
    )  # fmt: skip
    file, out = str(folder / "1D_Advection_Sols_beta1.0.hdf5"), str(folder / "series.h5")
    assert main(["prepare-pdebench", file, "--out", out, "--val_fraction", "0.1"]) == 0
    small = ["--model.channels", "16", "--model.num_blocks", "1", "--model.num_latents", "4", "--optimiser.epochs", "3"]
    data = ["--data.path", out, "--data.fields", "[u]", "--data.window", "4", "--data.initial", str(GIVEN)]
    run = ["--output", str(folder / "run"), "--accelerator", "cpu", "--progress", "false"]
    assert main(["train-rollout", *data, *small, *run]) == 0
    return folder


def test_a_file_becomes_series(folder, capsys):
    file, store = open_pdebench(folder / "1D_Advection_Sols_beta1.0.hdf5"), fc.MeshStore(folder / "series.h5")
    assert {name: len(ids) for name, ids in store.splits.items()} == {"train": 20, "val": 2, "test": 2}
    # The first tenth of an array file is the test split, and none of it was trained on or validated with.
    for i, sample in zip(store.split("test"), file.split("test"), strict=True):
        series = store[int(i)].point_data["u"]
        assert torch.equal(series[:-1], torch.from_numpy(file[int(sample)][..., 0]))
        assert torch.equal(series[-1], series[0])  # one point
    assert main(["prepare-pdebench", str(file.path), "--out", str(folder / "series.h5")]) == 2
    assert "exists: choose another name, or add --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["exact", "pdebench"])
def test_rollouts_are_scored(folder, tmp_path, mode):
    file = open_pdebench(folder / "1D_Advection_Sols_beta1.0.hdf5")
    more = ["--mode", mode, "--json", str(tmp_path / "e.json"), "--csv", str(tmp_path / "e.csv")]
    assert main(["evaluate", "--pdebench", str(file.path), "--model", str(folder / "run"), *more]) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    truth = torch.from_numpy(np.stack([file[int(i)] for i in file.split("test")]))
    still = torch.cat([truth[..., :GIVEN, :], truth[..., GIVEN - 1 : GIVEN, :].expand_as(truth[..., GIVEN:, :])], -2)
    expected = pdebench_errors(still, truth, initial_step=GIVEN, mode=mode, batch_size=1)
    for name, value in expected.scalars().items():
        assert found["persistence"]["mean"][name] == pytest.approx(value, nan_ok=True)
    store, model = fc.MeshStore(folder / "series.h5"), fc.FlareRollout.from_pretrained(folder / "run")
    guesses = truth.clone()
    for guess, i in zip(guesses, store.split("test"), strict=True):
        series = store[int(i)].point_data["u"]
        guess[:, GIVEN:, 0] = model.rollout(store[int(i)], {"u": series[:, :GIVEN]}, FRAMES - GIVEN)["u"][:-1]
    expected = pdebench_errors(guesses, truth, initial_step=GIVEN, mode=mode, batch_size=1)
    assert found["model"]["mean"]["nrmse"] == pytest.approx(expected.scalars()["nrmse"], rel=1e-4)
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    assert [int(row["frame"]) for row in rows] == list(range(GIVEN, FRAMES))
    assert [float(row["model rmse"]) for row in rows] == pytest.approx(found["model"]["steps"]["rmse"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "give either `--data`"),
        (["evaluate", "--data", "x.h5", "--pdebench", "y.h5"], "give either `--data`"),
        (["evaluate", "--pdebench", "FILE", "--initial_step", "14"], "`initial_step` must be from 1 to 13"),
        (["evaluate", "--pdebench", "FILE", "--reduced_resolution", "99"], "reduced_resolution"),
    ],
)
def test_mistakes_are_named(folder, capsys, arguments, message):
    file = str(folder / "1D_Advection_Sols_beta1.0.hdf5")
    arguments = [file if argument == "FILE" else argument for argument in arguments]
    assert main([*arguments, "--model", str(folder / "run")]) == 2
    assert message in capsys.readouterr().err
