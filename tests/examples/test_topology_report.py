"""Tables of the study of topology say what the rows say, and its pictures show what models predict."""

import importlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures_meshes import square

import flare_connect as fc
from flare_connect.mesh import write_store
from flare_connect.metrics import MeshErrors
from flare_connect.models.features import build_graph

MODULES = ("tables", "report", "showing", "trained", "jobs", "preparing", "shelf", "contestants", "sets")


@pytest.fixture(scope="module")
def study(repository):
    """The modules of the study, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "examples/studies/topology")
        for name in MODULES:
            sys.modules.pop(name, None)
        yield importlib.import_module
        for name in MODULES:
            sys.modules.pop(name, None)


def row(model, split="id", rel_l2=0.1, *, seed=0, harmonic=False, seconds=60.0, stage="train", rate=2e-3, **others):
    """As `run.py` writes it."""
    found = {
        "command": "python examples/studies/topology/run.py", "commit": "abc1234", "dataset": "heat",
        "date": "2026-11-27", "machine": "H100, torch 2", "train_meshes": 2000, "params": 600_000, "steps": 5_000,
        "epochs": 20.0, "gpu_peak_mib": 2048, "stage": stage, "model": model, "split": split, "seed": seed,
        "harmonic": harmonic, "seconds": seconds, "learning_rate": rate, "val_rel_l2": 0.1, "rel_l2": rel_l2,
    }  # fmt: skip
    return found | others


def cells(table):
    """First cell → the others, of a table in Markdown."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == {"---"}
    assert len({line[0] for line in lines}) == len(lines)
    return {first: others for first, *others in lines}


def errors(study, rows, splits=("id", "comb"), **options):
    tables = study("tables")
    lines = tables.longest(tables.trained(rows))
    return cells(tables.errors(lines, list(splits), "rel_l2", "relative L2", **options))


def test_means_spreads_and_the_least_in_bold(study):
    rows = [row("FLARE", rel_l2=0.3, seed=s) for s in (0, 1)] + [
        row("ours", rel_l2=r, seed=s) for s, r in enumerate((0.1, 0.2))
    ]
    found = errors(study, [*rows, row("FLARE", "comb", 0.04)])
    assert found["relative L2"] == ["id", "comb"]
    assert list(found)[2:] == ["ours", "FLARE"]  # in the order of the contestants, not of the rows
    assert found["ours"] == ["**0.150 ± 0.071**", "–"]
    assert found["FLARE"] == ["0.300 ± 0.000", "**0.0400 (1 of 2)**"]
    alone = errors(study, [*rows, row("FLARE", rel_l2=0.2, harmonic=True)])
    assert alone["FLARE + harmonic"][0] == "0.200"  # beside none of ours


def test_the_last_line_is_the_best_peer_as_a_multiple_of_ours(study):
    rows = [
        row("ours", rel_l2=0.1), row("ours", "comb", 0.4), row("FLARE", rel_l2=0.25), row("FLARE", "comb", 0.5),
        row("transolver", rel_l2=0.3), row("transolver", "comb", 0.2), row("no anchors", rel_l2=0.01),
        row("ours", rel_l2=0.2, harmonic=True), row("graphnet", rel_l2=0.3, harmonic=True),
    ]  # fmt: skip
    found = errors(study, rows, compared=True)
    assert list(found)[-2:] == ["*best peer / ours*", "*best peer / ours + harmonic*"]
    assert found["*best peer / ours*"] == ["2.50", "0.50"]
    assert found["*best peer / ours + harmonic*"] == ["1.50", "–"]
    # A peer with a part of ours is no peer as it was published.
    mixed = errors(study, [*rows, row("FLARE, loads apart", rel_l2=0.2)], compared=True)
    assert mixed["*best peer / ours*"] == ["2.00", "0.50"]
    assert mixed["*best peer, loads not apart / ours*"] == ["2.50", "0.50"]
    # Each kind of inputs has a least one.
    assert found["ours + harmonic"][0] == "**0.200**"
    assert "**" not in found["ours"][0]
    tables = study("tables")
    lines = tables.longest(tables.trained(rows))
    assert (
        tables.behind(lines, ["id", "comb"], {"rel_l2": "relative L2"})
        == "A peer is better than ours at: comb (relative L2)."
    )
    assert tables.behind(lines, ["id"], {"rel_l2": "relative L2", "no_such": "none"}) == ""


def test_the_longest_training_counts_and_times_are_not_mixed(study):
    tables = study("tables")
    rows = [
        *(row("ours", rel_l2=0.2, seconds=60.0, seed=s) for s in (0, 1)), row("ours", rel_l2=0.1, seconds=300.0),
        row("FLARE", rel_l2=0.15, seconds=60.0), row("transolver", rel_l2=0.5, seconds=300.0, commit="def5678"),
    ]  # fmt: skip
    found = errors(study, rows, ["id"], compared=True)
    assert found["ours, 300 s"] == ["**0.100**"]
    assert found["FLARE, 60 s"] == ["0.150"]
    assert found["*best peer / ours*"] == ["5.00"]  # FLARE had less time
    lines = tables.longest(tables.trained(rows))
    words = tables.caption(lines, rows)
    meshes = "Trained on 2,000 meshes of 2,500 to 7,500 nodes"
    assert f"{meshes} for 300 s; 60 s for `FLARE`. 1 seed. H100, torch 2; commits " in words
    assert "commits abc1234, def5678" in words
    calls = [line for line in words.splitlines() if line.startswith("python")]
    assert calls == [
        "python examples/studies/topology/run.py --sets heat --seconds 300 --seeds 1 --models ours transolver "
        "--harmonic without --learning_rate 0.002",
        "python examples/studies/topology/run.py --sets heat --seconds 60 --seeds 1 --models FLARE "
        "--harmonic without --learning_rate 0.002",
    ]
    assert errors(study, [r for r in rows if r["seconds"] == 60.0], ["id"])["ours"] == ["0.200 ± 0.000"]
    # Where none was tried, each learning rate takes a call.
    rows = [row("ours", rel_l2=0.2), row("FLARE", rel_l2=0.3, rate=0.008)]
    calls = [line for line in tables.caption(tables.trained(rows), rows).splitlines() if line.startswith("python")]
    assert [line.split()[-1] for line in calls] == ["0.002", "0.008"]


def test_of_two_learning_rates_the_better_on_validation_counts(study):
    rows = [row("ours", rel_l2=0.1, rate=1e-3, val_rel_l2=0.5), row("ours", rel_l2=0.2, rate=4e-3, val_rel_l2=0.4)]
    assert errors(study, rows, ["id"])["ours"] == ["**0.200**"]
    rows[1]["val_rel_l2"] = float("nan")
    assert errors(study, rows, ["id"])["ours"] == ["**0.100**"]


def test_parts_stand_beside_ours_trained_for_as_long(study):
    tables = study("tables")
    rows = [
        row("ours", seconds=300.0), row("ours", seconds=60.0), row("no anchors", seconds=60.0),
        row("FLARE", seconds=300.0),
        row("ours", seconds=300.0, harmonic=True), row("straight", seconds=60.0, harmonic=True),
    ]  # fmt: skip
    found = [(line.name, line.seconds) for line in tables.parts(tables.trained(rows))]
    assert found == [("ours", 60), ("no anchors", 60), ("ours + harmonic", 300), ("straight + harmonic", 60)]
    assert tables.parts(tables.trained(rows[:2])) == []


def test_what_parts_are_worth_in_every_set(study, tmp_path):
    report = study("report")
    heat = [
        row("ours", rel_l2=0.2), row("ours", rel_l2=0.4, seed=1), row("straight", rel_l2=0.6), row("FLARE"),
        row("no anchors", "comb"), row("straight", rel_l2=9.0, harmonic=True), row("geodesic", seconds=300.0),
    ]  # fmt: skip
    plates = [row("ours", rel_l2=0.1), row("geodesic", rel_l2=0.15), row("straight", rel_l2=0.2)]
    (tmp_path / "heat.json").write_text(json.dumps(heat))
    assert report.worth(tmp_path) == ""  # in its own table
    (tmp_path / "plates.json").write_text(json.dumps(plates[:2]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plates.json").write_text(json.dumps(plates))
    found = cells(report.worth(tmp_path).split("\n\n")[1])
    assert found["error, as a multiple of that of ours"] == ["plates", "heat"]
    assert {name: each for name, each in found.items() if name in ("geodesic", "straight", "no anchors")} == {
        "geodesic": ["1.50", "–"], "straight": ["2.00", "2.00"],
    }  # fmt: skip
    report.write(tmp_path, tmp_path)
    assert "| straight | 2.00 | 2.00 |" in (tmp_path / "parts.md").read_text()


def test_cost_names_the_rate_and_how_many_were_tried(study):
    tables = study("tables")
    rows = [
        row("ours", harmonic=True, params=610_000), row("ours"),
        row("FLARE", stage="time", step_ms=12.34, split="none"),
        row("FLARE"), *(row("FLARE", stage="tune", split="val", rate=rate) for rate in (1e-3, 2e-3)),
        row("FLARE", stage="tune", split="none", rate=4e-3, failed="OutOfMemoryError: …"),
        row("graphnet", split="none", failed="OutOfMemoryError: much text"),
        row("ours", split="none", failed="it did not at first"),
    ]  # fmt: skip
    found = cells(tables.cost(tables.longest(tables.trained(rows)), rows))
    assert found["ours"] == ["600,000", "–", "60", "5,000", "20.0", "0.002, not tuned", "2.0"]
    assert found["FLARE"] == ["600,000", "12.3", "60", "5,000", "20.0", "0.002 of 2", "2.0"]
    assert tables.unfinished(rows) == "Not trained to the end: graphnet (OutOfMemoryError)."


def test_whatever_is_missing_the_page_is_written(study, tmp_path):
    report = study("report")
    report.write(tmp_path / "none", tmp_path)
    assert "No rows yet." in (tmp_path / "none/tables.md").read_text()
    rows = [
        row("ours", jump_error=None, peak_error=0.3),
        row("ours", "spiral", 0.4),
        row("FLARE", stage="time", step_ms=9.0),
    ]
    (tmp_path / "heat.json").write_text(json.dumps(rows))
    text = report.text(tmp_path)
    assert "## Temperature in plates with slits (`heat`)" in text
    assert "| relative L2 | id | spiral |" in text
    assert "| peak | id | spiral |" in text
    assert "jump" not in text
    assert "Parts on and off" not in text
    assert "best peer" not in text
    assert "| FLARE" not in text  # was timed, not trained
    (tmp_path / "heat.json").write_text(json.dumps(rows[2:]))
    assert "##" not in report.text(tmp_path)


def test_other_sizes_and_ranks_have_tables(study, tmp_path):
    report = study("report")
    common = {"command": "python rank.py", "commit": "abc", "machine": "H100", "dataset": "cells", "split": "id"}
    sizes = [
        common | {"model": f"cells-{name}", "seed": seed, "nodes": nodes, "trained_nodes": 5000, "rel_l2": error,
                  "common_rel_l2": error / 2, "truth_change": 1e4 / nodes / 100}
        for name, seed, nodes, error in [("ours", 0, 2000, 0.2), ("ours", 1, 2000, 0.4), ("ours", 0, 10000, 0.3),
                                         ("FLARE_adapted-harmonic", 0, 2000, 0.5)]
    ]  # fmt: skip
    ranks = [
        common | {"model": "cells-ours", "seed": 0, "rank": rank, "rel_l2": 1 / rank, "tolerance": None}
        for rank in (4, 64)
    ]
    ranks.append(
        common | {"model": "cells-ours", "seed": 0, "rank": 12, "rel_l2": 0.11, "tolerance": 0.05, "split": "val"}
    )
    (tmp_path / "resolution.json").write_text(json.dumps(sizes))
    (tmp_path / "rank.json").write_text(json.dumps(ranks))
    blocks = report.text(tmp_path).split("\n\n")
    found = [cells(block) for block in blocks if block.startswith("|")]
    assert found[0]["relative L2"] == ["2,000", "10,000"]
    assert found[0]["ours"] == ["0.300 ± 0.141", "0.300"]
    assert found[0]["FLARE, adapted + harmonic"] == ["0.500", "–"]
    assert found[0]["*change of the truth*"] == ["0.0500", "0.0100"]
    assert found[1]["ours"] == ["0.150 ± 0.071", "0.150"]
    assert found[2]["relative L2, id, at rank"] == ["4", "64"]
    assert found[2]["ours"] == ["0.250", "0.0156"]
    assert (found[3]["ours"], found[4]["ours"]) == (["12"], ["0.110"])
    assert "2 seeds; 1 seed for `FLARE, adapted + harmonic`. H100; commit abc: `python rank.py`." in "\n".join(blocks)


@pytest.fixture
def cells_file(tmp_path):
    """Three small cells in the split `shift`, with fields as the set `cells` has them."""
    side = 9
    x, y, triangles, pairs = square(side)
    meshes = [
        fc.Mesh.from_arrays(
            np.stack([x, y], 1), {"triangle": triangles},
            point_data={"stress": np.stack([x, y, x * y], 1).astype(np.float32) * scale,
                        "von_mises": (1 + x).astype(np.float32) * scale},
            global_data={"macro_strain": np.array([scale, 0, 0], np.float32)}, sets={"holes": np.arange(side)},
            periodic_pairs=pairs,
        )
        for scale in (1.0, 3.0, 9.0)
    ]  # fmt: skip
    path = tmp_path / "cells.h5"
    write_store(
        path, meshes, splits={"train": [0], "shift": [0, 1, 2]}, generator="made", generator_version=1, seed=0,
        parameters={},
    )  # fmt: skip
    return path


def untrained(study, folder):
    """A folder as `run.py` leaves it."""
    read = study("sets").SETS["cells"]
    arch = fc.Architecture(channels=16, num_blocks=1, num_heads=4, num_latents=4)
    config = fc.FlareConnectConfig(
        dim=2, outputs={"stress": 3}, directional=read.directional, conditions={"macro_strain": 3},
        boundary=read.boundary, architecture=arch,
    )  # fmt: skip
    return fc.FlareConnect(config).save_pretrained(folder)


def test_median_mesh_is_drawn_as_models_see_it(study, cells_file, tmp_path, monkeypatch, capsys):
    showing, seen = study("showing"), {}
    folders = [untrained(study, tmp_path / "models" / name / "seed0") for name in ("cells-ours", "cells-FLARE_adapted")]

    def drawn(mesh, truth, predictions, **options):
        seen.update(mesh=mesh, truth=truth, predictions=predictions)
        return plot_worst(mesh, truth, predictions, **options)

    plot_worst = showing.plot_worst
    monkeypatch.setattr(showing, "plot_worst", drawn)
    picture = tmp_path / "picture.png"
    options = ["showing.py", "--models", *map(str, folders), "--data", str(cells_file), "--split", "more holes"]
    monkeypatch.setattr(sys, "argv", [*options, "--save", str(picture)])
    showing.main(showing.arguments())
    assert picture.stat().st_size > 10_000
    assert list(seen["predictions"]) == ["FLARE, adapted", "ours"]  # ours last
    # The errors of ours on all three, anew.
    ours = study("trained").load(folders[:1], torch.device("cpu"))[0]
    with fc.MeshStore(cells_file) as store:
        errors = []
        for mesh in store:
            guess = study("trained").predict(ours, ours.model.build_graph(mesh))
            errors.append(float((guess - mesh.point_data["von_mises"]).norm() / mesh.point_data["von_mises"].norm()))
        middle = int(np.argsort(errors)[1])
        assert torch.equal(seen["mesh"].point_data["von_mises"], store[middle].point_data["von_mises"])
    assert f"more holes {middle}, ours: {errors[middle]:.4f}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*options, "--sample", "3", "--save", str(picture)])
    with pytest.raises(SystemExit, match="must be below 3"):
        showing.main(showing.arguments())
    monkeypatch.setattr(sys, "argv", [*options[:-1], "serpentine", "--save", str(picture)])
    with pytest.raises(SystemExit, match="no split 'serpentine'"):
        showing.main(showing.arguments())


def test_graphs_are_kept_as_long_as_what_they_follow_from(study, cells_file, monkeypatch):
    """What a run finds is what it would make: graphs, and what errors need of each mesh."""
    preparing, few = study("preparing"), study("sets").SETS["cells"]
    few = replace(few, splits={"shift": "more holes"})
    with fc.MeshStore(cells_file) as store:
        splits = {"train": [0], "val": [], "shift": [0, 1, 2]}
        monkeypatch.setattr(fc.MeshStore, "split", lambda self, name: splits[name])
        monkeypatch.setattr(preparing, "_TOGETHER", 2)
        arch = [fc.Architecture(num_latents=4)]
        prepared = preparing.prepare(few, cells_file, 1, arch)
        files = {file: file.stat().st_mtime_ns for file in cells_file.with_name("cells-graphs").glob("*.safetensors")}
        assert len(files) == 3
        for graph, error, index in zip(
            prepared.view("shift", True, torch.device("cpu")), prepared.errors("shift"), splits["shift"], strict=True
        ):
            alone, whole = store[index], MeshErrors.prepare(store[index])
            for key, value in build_graph(alone, prepared.config, with_targets=True).to_dict().items():
                assert torch.equal(graph[key], value) if isinstance(value, torch.Tensor) else graph[key] == value
            guess, truth = alone.point_data["von_mises"] + 1, alone.point_data["von_mises"]
            assert error.of(guess, truth) == pytest.approx(whole.of(guess, truth), nan_ok=True)
    lost = next(iter(files))
    lost.unlink()
    preparing.prepare(few, cells_file, 1, arch)
    now = {file: file.stat().st_mtime_ns for file in files}
    assert [file for file in files if now[file] != files[file]] == [lost]
    for change in (lambda: preparing.prepare(few, cells_file, 1, [fc.Architecture(num_latents=8)]),
                   lambda: (monkeypatch.setattr(preparing, "_digest_of_code", lambda: "other"),
                            preparing.prepare(few, cells_file, 1, arch))):  # fmt: skip
        before = {file: file.stat().st_mtime_ns for file in files}
        change()
        assert all(file.stat().st_mtime_ns != before[file] for file in files)
