"""The examples run top to bottom, print one finite number and leave a picture."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import flare_connect as fc


def run(repository, name, out, *options):
    """Runs an example in a process of its own; returns the numbers of its last line."""
    done = subprocess.run(
        [sys.executable, repository / "examples" / name, *map(str, options), "--out", out],
        cwd=out.parent,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
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
    options = ("--quick", "--sets", "cells", "--models", "ours", "meshgraphnet", "--harmonic", "with")
    run(repository, "studies/topology/run.py", out, *options)
    rows = json.loads((out / "cells_quick.json").read_text())
    assert {row["model"] for row in rows} == {"ours", "meshgraphnet"}
    assert {row["split"] for row in rows} == {"id", "more holes", "near contact", "thin bridges"}
    assert all(math.isfinite(row["rel_l2"]) and row["steps"] > 0 for row in rows)
    params = [row["params"] for row in rows]
    assert max(params) < 1.1 * min(params)
    before = (out / "cells_quick.json").read_bytes()
    run(repository, "studies/topology/run.py", out, *options)
    assert (out / "cells_quick.json").read_bytes() == before
