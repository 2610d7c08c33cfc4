"""The examples run top to bottom, print one finite number and leave a picture."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import flare_connect as fc


def run(repository, name, out, *options, called="--out", threads=2):
    """Runs an example in a process of its own; returns the numbers of its last line."""
    done = subprocess.run(
        [sys.executable, repository / "examples" / name, *map(str, options), called, out],
        cwd=out.parent,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    numbers = [float(text) for text in re.findall(r"\d+\.\d+", done.stdout.splitlines()[-1])]
    assert numbers, done.stdout
    assert all(map(math.isfinite, numbers)), done.stdout
    return numbers


def assert_drawn(path):
    """The picture is there, of some size, and not of one colour."""
    import pyvista

    pixels = np.asarray(pyvista.read(path).point_data.active_scalars)
    assert len(pixels) > 100_000
    assert len(np.unique(pixels, axis=0)) > 100


@pytest.mark.slow
def test_first_surrogate(repository, tmp_path):
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    out = tmp_path / "first"
    (error,) = run(repository, "01_first_surrogate.py", out, "--cells", 6, "--nodes", 300, "--epochs", 2)
    assert error > 0
    assert_drawn(out / "stress.png")
    with fc.MeshStore(out / "cells.h5") as store:
        loads = {name: {tuple(store[int(i)].global_data["macro_strain"].tolist()) for i in store.split(name)}
                 for name in ("train", "val", "test")}  # fmt: skip
    assert not loads["test"] & (loads["train"] | loads["val"])


@pytest.mark.slow
def test_heat_over_time(repository, tmp_path):
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    out = tmp_path / "heat"
    (error,) = run(repository, "03_heat_over_time.py", out, "--plates", 6, "--nodes", 300, "--epochs", 2)
    assert error > 0
    assert_drawn(out / "heat.png")
    with fc.MeshStore(out / "series.h5") as store:
        mesh = store[0]
        series, volume = mesh.point_data["temperature"].double(), mesh.node_volume[:, None]
    # Nothing flows through a boundary: the heat stays, and the hottest place cools.
    heat = (series * volume).sum(0)
    torch.testing.assert_close(heat, heat[:1].expand_as(heat), rtol=1e-5, atol=0.0)
    assert (series.max(0).values.diff() < 0).all()


@pytest.mark.slow
def test_pdebench_burgers(repository, tmp_path):
    """A file as published, what is judged was not trained on, a film of all frames."""
    from PIL import Image

    from flare_datasets.pdebench import open_pdebench

    out = tmp_path / "burgers"
    # Many small operations: beside other tests, two threads would mostly wait for each other.
    (error,) = run(repository, "05_pdebench_burgers.py", out, "--samples", 20, "--epochs", 2, threads=1)
    assert error > 0
    assert_drawn(out / "curves.png")
    with Image.open(out / "film.gif") as film:
        assert film.n_frames == 41
    file = open_pdebench(out / "1D_Burgers_Sols_Nu0.01.hdf5", reduced_resolution=2)
    assert (file.family.name, file.parameters, len(file)) == ("burgers", {"Nu": 0.01}, 20)
    first = [frames[:, 0, 0].tobytes() for frames in file]
    assert len(set(first)) == 20
    with fc.MeshStore(out / "series.h5") as store:
        starts = {
            name: {store[int(i)].point_data["u"][:-1, 0].numpy().tobytes() for i in ids}  # the last node is the first
            for name, ids in store.splits.items()
        }
    assert starts["test"] == set(first[:2])
    assert not starts["test"] & (starts["train"] | starts["val"])


@pytest.mark.slow
def test_your_own_mesh_learns(repository, tmp_path):
    out = tmp_path / "own"
    error, error_of_mean = run(repository, "02_your_own_mesh.py", out, "--files", 16, "--epochs", 20)
    assert error < 0.8 * error_of_mean
    assert_drawn(out / "prediction.png")
    mesh = fc.load_mesh(out / "prediction.vtu")
    assert set(mesh.point_data) == {"von_mises", "predicted"}
    assert set(mesh.sets) == {"hole", "edge"}
    assert mesh.units["predicted"] == "MPa"


@pytest.fixture(scope="module")
def plates(repository):
    """The second example as a module."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("your_own_mesh", repository / "examples/02_your_own_mesh.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stand_in_stress_is_kirsch(plates):
    """Around the hole three times the tension at its flanks, once at its poles; the tension itself far away."""
    points = np.array([[0.0, 0.2], [0.2, 0.0], [200.0, 0.0]])
    stress = plates.kirsch_von_mises(points, 0.2, np.array([100.0, 0.0]))
    np.testing.assert_allclose(stress, [300.0, 100.0, 100.0], rtol=1e-5)


def test_stand_in_meshes_are_sound(plates, tmp_path):
    plates.write_plates(tmp_path, 5)
    for path in sorted(tmp_path.glob("*.vtu")):
        mesh = fc.load_mesh(path)
        assert mesh.num_inverted_cells == 0
        assert mesh.num_components == 1
        assert len(mesh.orphan_nodes) == 0
        on_boundary = {*mesh.set_nodes("hole").tolist(), *mesh.set_nodes("edge").tolist()}
        assert on_boundary == set(mesh.boundary_nodes.tolist())
        assert mesh.global_data["tension"].shape == (2,)


@pytest.mark.slow
def test_study_of_topology(repository, tmp_path):
    """Two models with and without harmonic inputs; a second call makes nothing again."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    out = tmp_path / "study"
    options = ("--quick", "--sets", "cells", "--models", "ours", "geoflare", "--harmonic", "with")
    run(repository, "studies/topology/run.py", out, *options)
    every = json.loads((out / "cells_quick.json").read_text())
    assert {row["model"]: row["step_ms"] > 0 for row in every if row["stage"] == "time"} == {
        "ours": True,
        "geoflare": True,
    }
    rows = [row for row in every if row["stage"] == "train"]
    assert {row["model"] for row in rows} == {"ours", "geoflare"}
    assert {row["split"] for row in rows} == {"id", "more holes", "near contact", "thin bridges"}
    assert all(math.isfinite(row["rel_l2"]) and row["steps"] > 0 for row in rows)
    params = [row["params"] for row in rows]
    assert max(params) < 1.1 * min(params)
    before = (out / "cells_quick.json").read_bytes()
    run(repository, "studies/topology/run.py", out, *options)
    assert (out / "cells_quick.json").read_bytes() == before


@pytest.mark.slow
def test_study_of_cost(repository, tmp_path):
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    options = ("--models", "ours", "FLARE", "--nodes", 500, "--samples", 1, "--step_nodes", 500, "--seconds", 0.01)
    run(repository, "studies/topology/cost.py", tmp_path / "out", *options, "--results", tmp_path)
    rows = json.loads((tmp_path / "cost.json").read_text())
    assert [row["model"] for row in rows] == ["ours", "FLARE"]
    assert all(row[name] > 0 for row in rows for name in ("prepare_ms", "predict_ms", "step_ms", "params"))


@pytest.fixture(scope="module")
def study(repository):
    """The modules of the study of topology."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "examples/studies/topology")
        yield importlib.import_module


def untrained(study, name, folder, num_latents=16):
    """A folder as `run.py` leaves it."""
    read = study("sets").SETS[name]
    widths = {"traction": 2, "temperatures": 2, "macro_strain": 3}
    arch = fc.Architecture(channels=16, num_blocks=2, num_heads=4, num_latents=num_latents)
    config = fc.FlareConnectConfig(
        dim=2, outputs={read.output: {"stress": 3}.get(read.output, 1)}, inputs=dict.fromkeys(read.inputs, 1),
        directional=read.directional,
        conditions={name: widths[name] for name in read.conditions}, boundary=read.boundary, architecture=arch,
    )  # fmt: skip
    return fc.FlareConnect(config).save_pretrained(folder)


@pytest.mark.parametrize("name", ["plates", "heat", "cells", "wide", "graded"])
def test_every_set_of_the_study_can_be_generated_quick_or_whole(name, study):
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    read = study("sets").SETS[name]
    quick, whole = read.config(True), read.config(False)
    assert quick.num_samples < 20 < whole.num_samples
    assert {f"num_{split}" for split in ("train", "val", *read.splits)} <= vars(quick).keys()
    models = study("contestants").of(read)
    assert "ours" in models
    assert len(models) == len(set(models)) == (len(read.models) or len(models))
    assert set(models) <= {*study("contestants").NAMES}


@pytest.mark.slow
def test_study_leaves_out_harmonic_inputs_and_nothing_else(study, tmp_path):
    """Graphs are made once, with these inputs; without them a model reads what it would be given alone."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    from flare_connect.models.features import build_graph
    from flare_datasets import slit_plates

    heat = study("sets").SETS["heat"]
    counts = dict.fromkeys(heat.counts, 1)
    few = slit_plates.SlitPlateConfig(num_nodes=600, **counts, **(heat.options | {"opening": (0.25, 1.0)}))
    path = slit_plates.generate(tmp_path / "heat.h5", few, num_workers=0, progress=False)
    settings = study("contestants").SETTINGS
    prepared = study("preparing").prepare(heat, path, 1, list(settings.values()))
    with fc.MeshStore(path) as store:
        mesh = store[prepared.indices["train"][0]]
    for harmonic in (True, False):
        for name in ("ours", "16 anchors", "geodesic", "one scale, 60"):
            config = replace(prepared.around(harmonic), architecture=settings[name])
            graph = study("preparing").with_costs(prepared.view("train", harmonic, torch.device("cpu")), settings[name])
            alone = build_graph(mesh, config, with_targets=True)
            for key in ("x", "y", "cost", "condition", "edge_attr", "boundary_index"):
                assert torch.equal(graph[0][key], alone[key])


def test_fields_are_carried_between_meshes_on_their_side_of_a_crack(study):
    """What is linear on each side of a crack is carried as it is, lips included."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    from flare_datasets.slit_plates import Slit, mesh_plate

    crack = [Slit(((0.5, 0.0), (0.5, 0.6)))]
    meshes = [fc.Mesh.from_arrays((m := mesh_plate(crack, n)).pos, {"triangle": m.triangles}) for n in (300, 700)]

    def fields(mesh):
        """A linear one; and one that is 1 at the right of the crack and on its right lip."""
        middle = mesh.pos[mesh.cells["triangle"]].mean(dim=1)
        right = mesh.pos[:, 0] > 0.5
        for corner in mesh.cells["triangle"].T:
            right[corner] |= (middle[:, 0] > 0.5) & (mesh.pos[corner, 0] == 0.5) & (mesh.pos[corner, 1] < 0.6)
        return mesh.pos @ mesh.pos.new_tensor([2.0, -1.0]), right.double()

    for mesh, to in (meshes, meshes[::-1]):
        carry = study("carrying").Carry(mesh, to)
        (linear, side), (same, right) = fields(mesh), fields(to)
        np.testing.assert_allclose(carry(linear), same, atol=1e-4)
        lips = (to.pos[:, 0] == 0.5) & (to.pos[:, 1] < 0.5)
        assert set(right[lips].tolist()) == {0.0, 1.0}
        np.testing.assert_allclose(carry(side)[lips], right[lips], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plates", "cells"])
def test_study_of_resolution(repository, study, tmp_path, name):
    """The same geometry at three sizes; a second call makes nothing again, other weights do."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    model, out = tmp_path / "models" / f"{name}-ours" / "seed1", tmp_path / "out"
    options = ("--models", model, "--results", out, "--samples", 2, "--workers", 0)
    options += ("--trained", 3_000, "--nodes", 300, 600)
    untrained(study, name, model)
    run(repository, "studies/topology/resolution.py", out, *options)
    written = out / "resolution.json"
    rows = {row["nodes"]: row for row in json.loads(written.read_text())}
    assert list(rows) == [3_000, 300, 600]
    assert rows[3_000]["ratio_to_trained"] == 1
    for nodes, row in rows.items():
        assert (row["dataset"], row["split"], row["model"], row["seed"]) == (name, "id", f"{name}-ours", 1)
        assert row["num_meshes"] == len(row["rel_l2_per_mesh"]) == 2
        assert row["ratio_to_trained"] == row["rel_l2"] / rows[3_000]["rel_l2"]
        assert all(math.isfinite(row[key]) for key in ("common_rel_l2", "boundary_error", "peak_error"))
        with fc.MeshStore(out / "resolution" / f"{name}-{nodes}.h5") as store:
            assert np.abs(store.num_nodes / nodes - 1).max() < 0.15
    assert rows[3_000]["truth_change"] < 1e-3 < rows[600]["truth_change"] < rows[300]["truth_change"] < 1
    before = written.read_bytes()
    run(repository, "studies/topology/resolution.py", out, *options)
    assert written.read_bytes() == before


@pytest.mark.slow
def test_study_of_rank(repository, study, tmp_path):
    """Ranks up to all latents of each model, and what is chosen for a tolerance."""
    pytest.importorskip("gmsh", reason="the extra `generate` is not installed")
    pytest.importorskip("skfem", reason="the extra `generate` is not installed")
    from flare_datasets import unit_cells

    cells = unit_cells.UnitCellConfig(num_train=1, num_val=2, num_test=2, num_shift=1, num_nodes=300)
    data = unit_cells.generate(tmp_path / "cells.h5", cells, num_workers=0, progress=False)
    models = [untrained(study, "cells", tmp_path / f"latents{count}", count) for count in (12, 4)]
    options = ("--data", data, "--models", *models, "--splits", "id", "more holes", "--ranks", 2, 4, 8, 16)
    out = tmp_path / "out"
    run(repository, "studies/topology/rank.py", out, *options, called="--results")
    rows = json.loads((out / "rank.json").read_text())
    ranks = {(row["model"], row["split"]): [] for row in rows if row["tolerance"] is None}
    for row in rows:
        assert math.isfinite(row["rel_l2"])
        assert 1 <= row["rank"] <= row["latents"]
        if row["tolerance"] is None:
            ranks[row["model"], row["split"]].append(row["rank"])
    assert ranks == {
        (name, split): found for split in ("id", "more holes")
        for name, found in (("latents12", [2, 4, 8, 12]), ("latents4", [2, 4]))
    }  # fmt: skip
    assert [row["tolerance"] for row in rows if row["tolerance"] is not None] == [0.02, 0.05, 0.1] * 2
    before = (out / "rank.json").read_bytes()
    untrained(study, "cells", models[1], 4)  # other weights
    run(repository, "studies/topology/rank.py", out, *options, called="--results")
    after = json.loads((out / "rank.json").read_text())
    assert len(after) == len(rows)
    assert [row for row in after if row["model"] == "latents12"] == [row for row in rows if row["model"] == "latents12"]
    assert (out / "rank.json").read_bytes() != before
