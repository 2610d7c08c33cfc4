"""The command line, in this process: what it prints, what it writes, and one sentence for each mistake."""

import dataclasses
import json

import pytest
import torch
from fixtures_meshes import periodic_cell, plate
from fixtures_runs import write_plates
from fixtures_series import write_heat

import flare_connect as fc
from flare_connect.cli import COMMANDS, main

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")

TRAIN = ["--model.channels", "16", "--model.num_blocks", "1", "--model.num_latents", "4", "--optimiser.epochs", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set, and a model trained on it by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_plates(folder / "plates.h5")
    data = ["--data.path", str(folder / "plates.h5"), "--data.outputs", "[stress]", "--data.conditions", "[load]"]
    quiet = ["--accelerator", "cpu", "--progress", "false"]
    assert main(["train", *data, *TRAIN, "--output", str(folder / "run"), *quiet]) == 0
    return folder


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text and command.summary in text for name, command in COMMANDS.items())
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert fc.__version__ in capsys.readouterr().out


def test_info_tells_and_draws_the_topology(tmp_path, capsys):
    plate(9).save(tmp_path / "plate.vtu")
    assert (
        main(["info", str(tmp_path / "plate.vtu"), "--topology", "--json", "--picture", str(tmp_path / "t.png")]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["betti_numbers"] == {"parts": 1, "loops": 1, "cavities": 0}
    assert found["boundary_parts"]["count"] == 2
    assert found["genus"] == 0
    assert 0 < found["local_thickness"]["min"] <= found["local_thickness"]["median"] < 1
    assert (tmp_path / "t.png").is_file()
    assert main(["info", str(tmp_path / "plate.vtu")]) == 0
    assert "betti" not in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[name].details.split("\n")[0] in capsys.readouterr().out


def test_info_of_a_mesh_and_of_a_data_set(folder, tmp_path, capsys):
    plate().save(tmp_path / "plate.vtu")
    assert main(["info", str(tmp_path / "plate.vtu")]) == 0
    assert "triangle" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "plate.vtu"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == plate().num_nodes
    assert main(["info", str(folder / "plates.h5")]) == 0
    assert "train: 4" in capsys.readouterr().out


def test_train_and_run_a_rollout(tmp_path, capsys):
    write_heat(tmp_path / "heat.h5", count=8)
    data = ["--data.path", str(tmp_path / "heat.h5"), "--data.fields", "[temperature]", "--data.window", "4"]
    run = ["--output", str(tmp_path / "run"), "--accelerator", "cpu", "--progress", "false"]
    assert main(["train-rollout", *data, *TRAIN, "--unroll.own_steps", "1", *run]) == 0
    assert "over the frames of rollouts" in capsys.readouterr().out
    files = [str(tmp_path / "heat.h5"), "--model", str(tmp_path / "run"), "--out", str(tmp_path / "heat.pvd")]
    assert main(["rollout", *files, "--sample", "7", "--steps", "5", "--every", "2", "--initial", "2"]) == 0
    assert "temperature at 2 times" in capsys.readouterr().out
    model, mesh = fc.FlareRollout.from_pretrained(tmp_path / "run"), fc.MeshStore(tmp_path / "heat.h5")[7]
    expected = model.rollout(mesh, {"temperature": mesh.point_data["temperature"][:, :2]}, 5)["temperature"]
    # The collection is what this package and ParaView read as a series; times count from the first given frame.
    for step, frame in ((0, 1), (1, 3)):
        found = fc.load_mesh(tmp_path / "heat.pvd", step=step).point_data["temperature"]
        torch.testing.assert_close(found.float(), expected[:, frame])
    assert 'timestep="3.0"' in (tmp_path / "heat.pvd").read_text()
    assert main(["rollout", *files, "--steps", "5", "--initial", "13"]) == 2
    assert "`--initial` must be between 1 and 12, the frames there are, got 13" in capsys.readouterr().err
    files = ["--model", str(tmp_path / "run"), "--data", str(tmp_path / "heat.h5"), "--initial_step", "2"]
    written = [f"--{kind}={tmp_path / kind}.{end}" for kind, end in (("json", "j"), ("csv", "c"), ("curves", "png"))]
    assert main(["evaluate", *files, *written, "--split", "val"]) == 0
    assert "persistence" in capsys.readouterr().out
    found = json.loads((tmp_path / "json.j").read_text())["fields"]["temperature"]
    errors = fc.train.evaluate_rollouts(model, fc.MeshStore(tmp_path / "heat.h5"), "val", initial=2, progress=False)
    assert found == json.loads(json.dumps(dataclasses.asdict(errors["temperature"])))
    head, *lines = (tmp_path / "csv.c").read_text().splitlines()
    assert head == "frame,model temperature,persistence temperature"
    assert lines[0] == f"2,{found['rel_l2_per_frame'][0]},{found['persistence_per_frame'][0]}"
    assert len(lines) == 10
    assert (tmp_path / "curves.png").stat().st_size > 3_000
    assert main(["evaluate", *files, "--movie", "a.gif"]) == 2
    assert "`--movie` does nothing with `--data`" in capsys.readouterr().err


def test_train_evaluate_predict_plot(folder, tmp_path, capsys):
    model, data = str(folder / "run"), str(folder / "plates.h5")
    assert main(["evaluate", "--model", model, "--data", data, "--json", str(tmp_path / "e.json")]) == 0
    assert "stress" in capsys.readouterr().out
    found = json.loads((tmp_path / "e.json").read_text())["fields"]["stress"]
    assert 0 < found["rel_l2"] < 10
    mesh = plate()
    mesh.save(tmp_path / "plate.vtu")
    out = tmp_path / "out.vtu"
    arguments = ["predict", str(tmp_path / "plate.vtu"), "--model", model, "--out", str(out)]
    assert main([*arguments, "--picture", str(tmp_path / "p.png")]) == 0
    assert {"stress", "stress_predicted"} <= set(fc.load_mesh(out).point_data)
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert main(["plot", data, "--sample", "1", "--model", model, "--out", str(tmp_path / "q.png")]) == 0
    assert main(["plot", str(tmp_path / "plate.vtu"), "--field", "stress", "--out", str(tmp_path / "r.png")]) == 0
    assert main(["plot", str(tmp_path / "plate.vtu"), "--out", str(tmp_path / "s.png")]) == 0


def test_models_that_come_with_the_package_go_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mesh = periodic_cell()
    mesh.save("cell.vtu")
    assert main(["predict", "cell.vtu", "--model", "unit-cells", "--out", "out.vtu"]) == 0
    stress = fc.FlareConnect.from_pretrained("unit-cells").predict(mesh)["stress"]
    torch.testing.assert_close(fc.load_mesh("out.vtu").point_data["stress"], stress)
    for command in ("evaluate", "predict", "plot"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "unit-cells" in capsys.readouterr().out
    assert main(["predict", "cell.vtu", "--model", "unit-cell", "--out", "x.vtu"]) == 2
    assert "unit-cell is no folder" in capsys.readouterr().err


def test_prepare_a_folder_of_files(tmp_path, capsys):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for i in range(5):
        plate(4 + i, seed=i).save(meshes / f"{i}.vtu")
    out = str(tmp_path / "mine.h5")
    assert main(["prepare", str(meshes), "--out", out, "--fields", "stress", "displacement"]) == 0
    assert "3 train" in capsys.readouterr().out
    store = fc.MeshStore(out)
    assert sorted(i for name in ("train", "val", "test") for i in store.split(name)) == [0, 1, 2, 3, 4]
    assert set(store[0].point_data) == {"stress", "displacement"}
    assert main(["prepare", str(meshes), "--out", out, "--fields", "stress"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["prepare", str(meshes), "--out", str(tmp_path / "x.h5"), "--fields", "heat"]) == 2
    assert "has no field 'heat'; its fields: 'stress', 'displacement'" in capsys.readouterr().err


PLATES = [f"--plates.num_{split}=0" for split in ("val", "test", "more", "serpentine", "comb", "spiral")]
PLATES += ["--plates.num_train=1", "--plates.num_nodes=400", "--plates.opening=[0.25,1.0]"]


@pytest.mark.parametrize(("physics", "field"), [("heat", "temperature"), ("elasticity", "von_mises")])
def test_generate_slit_plates(physics, field, tmp_path, capsys):
    out = tmp_path / "plates.h5"
    arguments = ["generate", "slit-plates", "--out", str(out), "--quiet", "--workers", "0", "--plates.physics", physics]
    assert main([*arguments, *PLATES]) == 0
    assert capsys.readouterr().out == f"{out}: 1 meshes\n"
    assert field in fc.MeshStore(out)[0].point_data
    assert main([*arguments, *PLATES, "--plates.seed", "1"]) == 2
    assert "was made with other parameters" in capsys.readouterr().err


def test_generate_unit_cells_from_flags_and_from_a_file(tmp_path, capsys):
    out = tmp_path / "cells.h5"
    counts = [f"--cells.num_{split}=0" for split in ("test", "val", "shift")]
    sizes = ["--cells.num_train", "1", "--cells.num_nodes", "400"]
    assert main(["generate", "unit-cells", "--out", str(out), "--workers", "0", "--quiet", *counts, *sizes]) == 0
    assert "von_mises" in fc.MeshStore(out)[0].point_data
    made = out.stat().st_mtime_ns
    cells = "{num_train: 1, num_test: 0, num_val: 0, num_shift: 0, num_nodes: 400}"
    (tmp_path / "c.yaml").write_text(f"dataset: unit-cells\nout: {out}\ncells: {cells}\n")
    assert main(["generate", "unit-cells", "--config", str(tmp_path / "c.yaml")]) == 0
    assert out.stat().st_mtime_ns == made  # the same settings
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["generate", "slit-plates", "--config", str(tmp_path / "c.yaml")])
    assert "'unit-cells' not among choices ['slit-plates']" in capsys.readouterr().err


def test_generate_holed_channels(tmp_path, capsys):
    out = tmp_path / "channels.h5"
    counts = [f"--channels.num_{split}=0" for split in ("val", "test", "more")]
    sizes = ["--channels.num_train=1", "--channels.num_nodes=300", "--channels.num_frames=2", "--channels.spin_up=0.0"]
    assert main(["generate", "holed-channels", "--out", str(out), "--quiet", "--workers", "0", *counts, *sizes]) == 0
    assert capsys.readouterr().out == f"{out}: 1 meshes\n"
    assert fc.MeshStore(out)[0].point_data["velocity"].shape[1:] == (2, 2)


def test_each_data_set_explains_its_settings(capsys):
    for name, own, other in (("unit-cells", "cells", "plates"), ("slit-plates", "plates", "cells")):
        with pytest.raises(SystemExit) as stop:
            main(["generate", name, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert f"--{own}.num_train" in text
        assert f"--{other}." not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere.vtu"], "nowhere.vtu"),
        (["info", "nowhere.h5"], "nowhere.h5"),
        (["info", "file.xyz"], ".xyz"),
        (["paint"], "unknown command 'paint'; commands: info, generate"),
        (["evaluate", "--model", "nowhere", "--data", "x.h5"], "nowhere is no folder"),
        (["plot", "nowhere.h5", "--out", "x.png"], "nowhere.h5"),
    ],
)
def test_mistakes_get_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.xyz").write_text("nothing")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data.path", "x.h5", "--output", "o", "--modle.channels", "3"], "modle"),
        (["train", "--data.path", "x.h5", "--output", "o", "--model.channels", "thirty"], "channels"),
        (["train", "--data.path", "x.h5", "--output", "o", "--model.channels", "30"], "try 32 channels"),
        (["train", "--output", "o"], "data.path"),
        (["generate"], "{unit-cells,slit-plates,holed-channels}"),
        (["generate", "round-things"], "choose from 'unit-cells', 'slit-plates'"),
        (["generate", "slit-plates", "--out", "x.h5"], "plates.physics"),
        (
            ["generate", "slit-plates", "--out", "x.h5", "--plates.physics", "magic"],
            "`--plates.physics` must be one of",
        ),
        (["generate", "slit-plates", "--out", "x.h5", "--cells.num_train", "3"], "--cells.num_train"),
        (["generate", "unit-cells", "--out", "x.h5", "--plates.physics", "heat"], "--plates.physics"),
    ],
)
def test_wrong_settings_are_refused_before_work(arguments, message, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_unknown_key_in_a_settings_file(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: {path: x.h5, colour: red}\noutput: o\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "c.yaml")])
    assert "colour" in capsys.readouterr().err
