"""What commands say when something fails: one line, in words of the command line, before the work where that can be."""

import dataclasses
import errno
import os

import pytest
import torch
from fixtures_meshes import periodic_cell, plate
from fixtures_series import heat, write_heat
from tqdm import tqdm

import flare_connect as fc
from flare_connect.cli import main
from flare_connect.cli.command import device_named
from flare_connect.cli.failures import file_error, in_flags, print_error
from flare_connect.cli.frames import frame_of
from flare_connect.errors import InputError


def said(arguments, capsys):
    """The lines of the error, after a check of the exit code."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    return capsys.readouterr().err.splitlines()


def test_frames_of_series():
    mesh = heat()
    assert mesh.point_data["temperature"].shape[1] == 12
    mesh.point_data["flux"] = torch.randn(mesh.num_nodes, 12, 2)
    mesh.point_data["shift"] = torch.randn(mesh.num_nodes, 2)
    found, told = frame_of(mesh, ("temperature", "flux", None), None)
    torch.testing.assert_close(found.point_data["temperature"], mesh.point_data["temperature"][:, -1])
    torch.testing.assert_close(found.point_data["flux"], mesh.point_data["flux"][:, -1])
    assert told == "frame 11 of 0 to 11"
    assert mesh.point_data["flux"].dim() == 3  # what was given stays
    found, told = frame_of(mesh, ("temperature",), -10)
    assert told == "frame 2 of 0 to 11"
    torch.testing.assert_close(found.point_data["temperature"], mesh.point_data["temperature"][:, 2])
    assert frame_of(mesh, ("shift",), None)[0] is mesh  # a vector
    mesh.point_data["stress"] = torch.randn(mesh.num_nodes)
    with pytest.raises(InputError, match="'stress' is no series"):
        frame_of(mesh, ("stress",), 3)
    with pytest.raises(InputError, match="between -12 and 11 for the 12 frames of 'temperature', got 12"):
        frame_of(mesh, ("temperature",), 12)


def test_plot_draws_a_frame_of_a_data_set(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_heat("heat.h5", count=6)
    drawn = []
    monkeypatch.setattr("flare_connect.viz.plot_field", lambda mesh, field, **given: drawn.append((mesh, given)))
    plot = ["plot", "heat.h5", "--field", "temperature", "--out", "h.png", "--sample", "1"]
    assert main(plot) == 0
    assert main([*plot, "--step", "2"]) == 0
    series = fc.MeshStore("heat.h5")[1].point_data["temperature"]
    for (mesh, given), frame in zip(drawn, (11, 2), strict=True):
        torch.testing.assert_close(mesh.point_data["temperature"], series[:, frame])
        assert given["title"] == f"temperature, frame {frame} of 0 to 11"
    (line,) = said([*plot, "--step", "12"], capsys)
    assert "`--step` must be between -12 and 11" in line
    assert (
        "`--step` does nothing without `--field`"
        in said(["plot", "heat.h5", "--out", "h.png", "--step", "1"], capsys)[0]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--data.path", "x.h5", "--output", "o", "--data.outputs", "stress"],
            "in brackets, such as '[stress]'",
        ),
        (["train", "--data.path", "x.h5", "--output", "o", "--data.outpust", "[a]"], "did you mean --data.outputs?"),
        (["train", "--data.path", "x.h5", "--output", "o", "--channels", "8"], "did you mean --model.channels?"),
        (["train", "--config", "nowhere.yaml"], "`--config`: File does not exist"),
        (["train", "--output", "o"], "required: --data.path"),
        (["generate", "slit-plates", "--out", "x.h5", "--plates.num_train", "few"], "a whole number, got few"),
    ],
)
def test_the_parser_says_it_in_two_lines(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = said(arguments, capsys)
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("see flare-connect ")
    assert second.endswith(" --help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rollout", "x.h5", "--model", "m", "--steps", "3", "--every", "5", "--out", "h.pvd"], "`--every` must be"),
        (["rollout", "x.h5", "--model", "m", "--steps", "0", "--out", "h.pvd"], "`--steps` must be at least 1"),
        (["rollout", "x.h5", "--model", "m", "--steps", "3", "--out", "h.vtu"], "name it *.pvd, got 'h.vtu'"),
        (["rollout", "x.h5", "--model", "m", "--steps", "3", "--out", "no/h.pvd"], "the folder 'no' does not exist"),
        (["rollout", "x.h5", "--model", "m", "--steps", "3", "--step", "1", "--out", "h.pvd"], "`--step` does nothing"),
        (["predict", "x.vtu", "--model", "m", "--out", "no/h.vtu"], "the folder 'no' does not exist"),
        (["predict", "x.vtu", "--model", "m", "--out", "h.png"], "the extension '.png' is not one of .vtu"),
        (["predict", "x.vtu", "--model", "m", "--out", "h.vtu", "--picture", "h.txt"], "the extension must be one of"),
        (["predict", "x.vtu", "--model", "m", "--out", "h.vtu", "--device", "foo"], "there is no device 'foo'"),
        (["plot", "x.vtu", "--out", "h.txt"], "the extension must be one of"),
        (["info", "x.vtu", "--picture", "h.txt"], "the extension must be one of"),
        (["evaluate", "--model", "m", "--data", "x.h5", "--json", "no/e.json"], "the folder 'no' does not exist"),
        (
            ["evaluate", "--model", "unit-cells", "--data", "x.h5", "--csv", "e.csv"],
            "`--csv` does nothing with a model of single fields",
        ),
    ],
)
def test_wrong_use_is_found_before_the_work(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = said(arguments, capsys)  # neither the file nor the model is there, and nobody looked
    assert message in line


def test_devices():
    assert device_named("cpu").type == "cpu"
    for name in ("foo", "cuda:x", "meta"):
        with pytest.raises(InputError, match="`--device` takes 'auto', 'cpu', 'cuda'"):
            device_named(name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "no", "nodir/.e.json.1234.56.tmp"), "nodir/e.json: no such file or folder; "),
        (PermissionError(errno.EACCES, "no", ".out.vtu.ab_3.tmp/out.vtu"), "out.vtu: permission denied; "),
        (OSError(errno.EROFS, "no", "a/.p.77.part.png"), "a/p.png: the disk is read-only; "),
        (FileExistsError(errno.EEXIST, "no", "runs"), "runs: a file of this name exists; "),
        (OSError(errno.ENOSPC, "no"), "output: no space left on the disk; "),
        (
            RuntimeError(
                "ref count (file write failed, filename = '.f.h5.12.34.tmp', errno = 28, error message = 'x')"
            ),
            "f.h5: no space left on the disk; ",
        ),
    ],
)
def test_what_the_system_refuses(error, message):
    assert str(file_error(error, None)).startswith(message)


def test_defects_keep_their_traceback(monkeypatch, tmp_path):
    assert file_error(ConnectionResetError(errno.ECONNRESET, "reset"), None) is None
    assert file_error(RuntimeError("a defect"), None) is None
    monkeypatch.setattr("flare_connect.mesh.load_mesh", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plot", "x.vtu", "--out", str(tmp_path / "x.png")])


def test_a_full_disk_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    plate(5).save("plate.vtu")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flare_connect.viz.plot_mesh", full)
    lines = said(["plot", "plate.vtu", "--out", "x.png"], capsys)
    assert lines == ["error: x.png: no space left on the disk; make room there, or choose another place"]


def test_messages_name_flags():
    options = {"--overwrite", "--step", "--model.channels", "--a.path", "--b.path"}
    assert (
        in_flags("a.h5 exists; delete it, or pass overwrite=True", options)
        == "a.h5 exists; delete it, or add --overwrite"
    )
    assert in_flags("fill them, or pass allow_nonfinite=True", options) == "fill them"
    told = "`channels`, `path`, `--step`, `step`, `other`"
    assert in_flags(told, options) == "`--model.channels`, `path`, `--step`, `--step`, `other`"


def test_errors_have_a_line_of_their_own(capsys):
    bar = tqdm(total=8, desc="meshes")
    bar.update(3)
    print_error("sample 6 is wrong")
    bar.refresh()
    bar.close()
    assert capsys.readouterr().err.splitlines()[-1] == "error: sample 6 is wrong"


def test_nan_in_a_field_that_the_model_does_not_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mesh = periodic_cell()
    mesh.point_data["stress"] = torch.full((mesh.num_nodes,), float("nan"))
    mesh.save("cell.vtu")
    predict = ["predict", "cell.vtu", "--model", "unit-cells", "--out", "out.vtu"]
    (line,) = said(predict, capsys)
    assert line.endswith("or add --allow_nonfinite")
    assert main([*predict, "--allow_nonfinite", "--picture", "p.png"]) == 0
    assert "drawn without it" in capsys.readouterr().out
    found = fc.load_mesh("out.vtu", allow_nonfinite=True)
    assert found.point_data["stress_predicted"].isfinite().all()
    (line,) = said(["rollout", "cell.vtu", "--model", "unit-cells", "--steps", "2", "--out", "x.pvd"], capsys)
    assert "holds" in line  # NaN, where it is not allowed
    rolled = ["rollout", "cell.vtu", "--allow_nonfinite", "--model", "unit-cells", "--steps", "2", "--out", "x.pvd"]
    assert "`flare-connect predict` computes them" in said(rolled, capsys)[0]


def test_units_stay_with_a_prediction_beside_the_truth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mesh = periodic_cell()
    mesh.point_data["stress"] = torch.ones(mesh.num_nodes)
    mesh.save("cell.vtu")
    shipped = fc.FlareConnect.from_pretrained("unit-cells")
    shipped.config = dataclasses.replace(shipped.config, units={"stress": "kPa"})
    shipped.save_pretrained("model")
    drawn = []
    monkeypatch.setattr("flare_connect.viz.plot_field", lambda *_, **given: drawn.append(given["units"]))
    assert main(["predict", "cell.vtu", "--model", "model", "--out", "out.vtu", "--picture", "p.png"]) == 0
    assert fc.load_mesh("out.vtu").units["stress_predicted"] == "kPa"
    assert main(["plot", "cell.vtu", "--model", "model", "--field", "stress", "--out", "p.png"]) == 0
    assert drawn == ["kPa", "kPa"]


@pytest.mark.parametrize(
    "fields", [["[stress,displacement]"], ["[stress,", "displacement]"], ["stress", "displacement"]]
)
def test_prepare_takes_lists_in_brackets(fields, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("meshes")
    for i in range(3):
        plate(4 + i, seed=i).save(f"meshes/{i}.vtu")
    assert main(["prepare", "meshes", "--out", "a.h5", "--fields", *fields]) == 0
    assert set(fc.MeshStore("a.h5")[0].point_data) == {"stress", "displacement"}
