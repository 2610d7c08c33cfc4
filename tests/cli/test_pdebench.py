"""Files of PDEBench on the command line: packed, trained on, rolled out, scored."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import flare_connect as fc
from flare_connect.cli import main
from flare_connect.metrics.pdebench import pdebench_errors
from flare_datasets.pdebench import PDEBenchGraphs, open_pdebench, write_pdebench

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


@pytest.fixture
def drawn(monkeypatch):
    """What each drawing function was given, by its name; it draws all the same."""
    import flare_connect.viz as viz

    given = {}

    def watched(name, draw):
        def call(*args, **options):
            given[name] = (args, options)
            return draw(*args, **options)

        return call

    for name in ("plot_curves", "plot_spectra", "save_movie"):
        monkeypatch.setattr(viz, name, watched(name, getattr(viz, name)))
    return given


def rolled(folder, split, **strides):
    """Truth and rollouts of a split [B, X, T, 1], without the command line."""
    file = open_pdebench(folder / "1D_Advection_Sols_beta1.0.hdf5", **strides)
    model = fc.FlareRollout.from_pretrained(folder / "run")
    truth = torch.from_numpy(np.stack([file[int(i)] for i in file.split(split)]))
    guesses = truth.clone()
    for guess, mesh in zip(guesses, PDEBenchGraphs(file, split), strict=True):
        frames = model.rollout(mesh, {"u": mesh.point_data["u"][:, :GIVEN]}, FRAMES - GIVEN)["u"]
        guess[:, GIVEN:, 0] = frames[:-1]
    return truth, guesses


def test_pictures_show_what_was_predicted(folder, tmp_path, drawn, capsys):
    truth, guesses = rolled(folder, "train", reduced_batch=3)
    files = {name: str(tmp_path / name) for name in ("curves.png", "spectrum.png", "film.gif")}
    options = [f"--{name.split('.')[0].replace('film', 'movie')}={path}" for name, path in files.items()]
    options += ["--split", "train", "--reduced_batch", "3"]
    file = str(folder / "1D_Advection_Sols_beta1.0.hdf5")
    assert main(["evaluate", "--pdebench", file, "--model", str(folder / "run"), *options]) == 0
    told = capsys.readouterr().out
    assert all(path in told and os.path.getsize(path) > 5_000 for path in files.values())
    (errors,), options = drawn["plot_curves"]
    expected = pdebench_errors(guesses, truth, initial_step=GIVEN)
    for metric in ("nrmse", "rmse"):
        torch.testing.assert_close(errors["model"].values[metric], expected.values[metric], rtol=1e-3, atol=1e-6)
    assert (options["channels"], options["initial_step"], options["window"]) == (["u"], GIVEN, 4)
    (spectra,), _ = drawn["plot_spectra"]
    assert spectra.frames == (10, 11, 13)
    power = torch.fft.rfft(truth[..., 0].double(), dim=1).abs().square().mean(0) / POINTS**2  # [K, T]
    torch.testing.assert_close(spectra.truth[0], power.T[list(spectra.frames)])
    # One sample in the middle of all: as many are better as are worse, give or take one.
    each = [
        pdebench_errors(p[None], y[None], initial_step=GIVEN).scalars()["nrmse"]
        for p, y in zip(guesses, truth, strict=True)
    ]
    median = sorted(range(len(each)), key=each.__getitem__)[len(each) // 2]
    (right, guess, _), options = drawn["save_movie"]
    torch.testing.assert_close(right, truth[median])
    torch.testing.assert_close(guess, guesses[median], rtol=1e-3, atol=1e-4)
    assert options["given"] == GIVEN
    with Image.open(files["film.gif"]) as film:
        assert film.n_frames == FRAMES


def test_a_sample_is_chosen(folder, tmp_path, drawn):
    file, film = str(folder / "1D_Advection_Sols_beta1.0.hdf5"), str(tmp_path / "film.gif")
    options = ["--movie", film, "--sample", "1"]
    assert main(["evaluate", "--pdebench", file, "--model", str(folder / "run"), *options]) == 0
    truth, guesses = rolled(folder, "test")
    (right, guess, _), options = drawn["save_movie"]
    torch.testing.assert_close(right, truth[1])
    torch.testing.assert_close(guess, guesses[1], rtol=1e-3, atol=1e-4)
    assert options["title"] == "1D_Advection_Sols_beta1.0.hdf5, sample 1"


def test_what_is_steady_is_scored(tmp_path):
    """Darcy flow: a surrogate of one shot, beside the training mean; a model of the other kind is refused."""
    file, out, run = str(tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5"), str(tmp_path / "d.h5"), str(tmp_path / "run")
    sizes = ["--samples", "20", "--resolution", "8", "--quiet", "--device", "cpu"]
    assert main(["generate-pdebench", "darcy", "--out", file, *sizes]) == 0
    assert main(["prepare-pdebench", file, "--out", out]) == 0
    small = ["--model.channels=16", "--model.num_blocks=1", "--model.num_latents=4", "--optimiser.epochs=2"]
    data = ["--data.path", out, "--data.outputs", "[u]", "--data.inputs", "[nu]"]
    assert main(["train", *data, *small, "--output", run, "--accelerator", "cpu", "--progress", "false"]) == 0
    pictures = [f"--{name}={tmp_path / file}" for name, file in (("curves", "c.png"), ("spectrum", "s.png"))]
    pictures += [f"--movie={tmp_path / 'film.gif'}", f"--json={tmp_path / 'e.json'}"]
    assert main(["evaluate", "--pdebench", file, "--model", run, *pictures]) == 0
    found = json.loads((tmp_path / "e.json").read_text())
    opened, store = open_pdebench(file), fc.MeshStore(out)
    truth = torch.from_numpy(np.stack([opened[int(i)] for i in opened.split("test")]))
    model = fc.FlareConnect.from_pretrained(run)
    guess = torch.stack([model.predict(store[int(i)])["u"].reshape(8, 8, 1, 1) for i in store.split("test")])
    mean = torch.cat([store[int(i)].point_data["u"] for i in store.split("train")]).mean().expand_as(truth)
    for name, values in (("model", guess), ("mean", mean)):
        expected = pdebench_errors(values, truth, initial_step=0, batch_size=1).scalars()
        assert found[name]["mean"] == {key: pytest.approx(e, rel=1e-3, nan_ok=True) for key, e in expected.items()}
    for picture in ("c.png", "s.png", "film.gif"):
        assert (tmp_path / picture).stat().st_size > 3_000


def test_models_of_the_other_kind_are_refused(folder, tmp_path, capsys):
    darcy = str(tmp_path / "d.hdf5")
    assert main(["generate-pdebench", "darcy", "--out", darcy, "--samples", "10", "--resolution", "8", "--quiet"]) == 0
    assert main(["evaluate", "--pdebench", darcy, "--model", str(folder / "run")]) == 2
    assert "holds a model of kind 'FlareRollout', not 'FlareConnect'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--pdebench", "FILE", "--sample", "1"], "`--sample` does nothing without `--movie`"),
        (["evaluate", "--pdebench", "FILE", "--movie", "a.gif", "--sample", "9"], "there is no sample 9"),
        (["evaluate", "--pdebench", "FILE", "--movie", "a.avi"], "the extension must be .gif or .mp4"),
        (["evaluate", "--pdebench", "FILE", "--curves", "no/a.png"], "the folder 'no' does not exist"),
        (["evaluate", "--pdebench", "FILE", "--spectrum", "a.gif"], "the extension must be one of .png"),
        (["evaluate", "--data", "x.h5", "--spectrum", "a.png"], "`--spectrum` does nothing with `--data`"),
        (["evaluate"], "give either `--data`"),
        (["evaluate", "--data", "x.h5", "--pdebench", "y.h5"], "give either `--data`"),
        (["evaluate", "--pdebench", "FILE", "--initial_step", "14"], "`--initial_step` must be from 1 to 13"),
        (["evaluate", "--pdebench", "FILE", "--reduced_resolution", "99"], "reduced_resolution"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    file = str(folder / "1D_Advection_Sols_beta1.0.hdf5")
    arguments = [file if argument == "FILE" else argument for argument in arguments]
    assert main([*arguments, "--model", str(folder / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
