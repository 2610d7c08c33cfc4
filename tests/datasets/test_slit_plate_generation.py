import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_stores import contents

from flare_connect.errors import ConfigError, MeshError, StoreError
from flare_connect.mesh import Mesh, MeshStore
from flare_datasets.slit_plates import SlitPlateConfig, generate, generate_sample
from flare_datasets.slit_plates import sample as sample_module

COUNTS = {"num_train": 2, "num_val": 1, "num_test": 1, "num_more": 1, "num_serpentine": 1, "num_comb": 1}
CONFIG = SlitPlateConfig(
    physics="heat",
    **COUNTS,
    num_spiral=1,
    num_nodes=(900, 1_000),
    serpentine_slits=(2, 3),
    comb_slits=(2, 3),
    opening=(0.25, 1.0),
    seed=2,
)
ELASTIC = dataclasses.replace(CONFIG, physics="elasticity", youngs_modulus=2.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("plates") / "heat.h5", CONFIG, num_workers=0, progress=False)


@pytest.fixture(scope="module")
def elastic(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("plates") / "elastic.h5", ELASTIC, num_workers=0, progress=False)


def mean(mesh: Mesh, name: str) -> torch.Tensor:
    """Integral of a field over the plate, linear in each triangle."""
    triangles = mesh.cells["triangle"]
    return (mesh.cell_measure["triangle"][:, None] * mesh.point_data[name][triangles].double().mean(dim=1)).sum(dim=0)


def test_file_holds_what_the_samples_hold(made):
    with MeshStore(made) as store:
        assert {name: ids.tolist() for name, ids in store.splits.items()} == {
            "train": [0, 1], "val": [2], "test": [3], "more": [4], "serpentine": [5], "comb": [6], "spiral": [7],
        }  # fmt: skip
        mesh, direct = store[4], generate_sample(CONFIG, 4)
        assert torch.equal(mesh.pos, direct.pos)
        assert torch.equal(mesh.cells["triangle"], direct.cells["triangle"])
        for name, values in direct.point_data.items():
            assert torch.equal(mesh.point_data[name], values)
        for name in ("left", "right", "bottom", "top", "slits"):
            assert torch.equal(mesh.set_nodes(name), direct.set_nodes(name))
        assert store.attrs["units"]["temperature"] == "power / conductivity"
        assert store.attrs["parameters"]["physics"] == "heat"
        assert int(mesh.global_data["num_slits"]) in range(6, 9)
        assert mesh.topology.betti[1] == int(mesh.global_data["num_slits"])


def test_fields_of_a_plate_in_heat_flow_belong_together(made):
    with MeshStore(made) as store:
        for mesh in store:
            left, right = mesh.global_data["temperatures"]
            assert (mesh.point_data["temperature"][mesh.set_nodes("left")] == left).all()
            assert (mesh.point_data["temperature"][mesh.set_nodes("right")] == right).all()
            total = torch.zeros(mesh.num_nodes, dtype=torch.float64)
            for x, y, width, power in mesh.global_data["sources"].double().reshape(-1, 4):
                if width > 0:
                    squared = (mesh.pos - torch.stack([x, y])).square().sum(1) / width**2
                    total += power / (2 * torch.pi * width**2) * torch.exp(-squared / 2)
            assert torch.allclose(total, mesh.point_data["source"].double(), atol=1e-4)
            assert float(total.abs().max()) > 0
            magnitude = mesh.point_data["flux"].norm(dim=1)
            assert torch.allclose(magnitude, mesh.point_data["flux_magnitude"])


def test_stress_of_a_plate_carries_its_traction(elastic):
    # The mean of the stress against x: the integral of xx is the traction's x, of xy its y, wherever slits are.
    with MeshStore(elastic) as store:
        for mesh in store:
            assert (mesh.point_data["displacement"][mesh.set_nodes("left")] == 0).all()
            traction = mesh.global_data["traction"].double()
            assert ELASTIC.traction[0] <= float(traction.norm()) * (1 + 1e-6)
            assert float(traction.norm()) <= ELASTIC.traction[1] * (1 + 1e-6)
            carried = mean(mesh, "stress")[[0, 2]]
            scale = float(mesh.point_data["von_mises"].double().square().mean().sqrt())
            assert torch.allclose(carried, traction, atol=0.02 * scale)


def test_plates_are_the_same_in_both_physics(made, elastic):
    with MeshStore(made) as heat, MeshStore(elastic) as other:
        for one, two in zip(heat, other, strict=True):
            assert torch.equal(one.pos, two.pos)
            assert torch.equal(one.cells["triangle"], two.cells["triangle"])
            assert torch.equal(one.global_data["opening"], two.global_data["opening"])
        assert {float(mesh.global_data["opening"]) > 0 for mesh in heat} == {True, False}


def test_fields_jump_over_cracks(made):
    config = dataclasses.replace(CONFIG, crack_probability=1.0)
    mesh = generate_sample(config, 5)
    _, place, count = np.unique(mesh.pos.numpy(), axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    double = order[np.isin(place[order], np.flatnonzero(count == 2))].reshape(-1, 2)
    assert len(double) > 10
    assert float(mesh.global_data["opening"]) == 0
    temperature = mesh.point_data["temperature"].numpy()
    jump = np.abs(temperature[double[:, 0]] - temperature[double[:, 1]])
    assert jump.max() > 0.1 * np.ptp(temperature)


def test_samples_of_a_split_stay_when_another_grows():
    for index, split in enumerate(("train", "train", "val", "test", "more", "serpentine", "comb", "spiral")):
        if index == 1:
            continue
        grown = dataclasses.replace(CONFIG, **{name: count + 2 for name, count in COUNTS.items()}, num_spiral=3)
        start = sum(grown.counts[: grown.splits.index(split)])
        before, after = generate_sample(CONFIG, index), generate_sample(grown, start)
        assert torch.equal(before.pos, after.pos), split
        assert torch.equal(before.point_data["temperature"], after.point_data["temperature"])


@pytest.mark.parametrize("config", [CONFIG, ELASTIC], ids=["heat", "elasticity"])
def test_same_plate_and_loads_in_other_elements(config):
    loads = "temperatures" if config.physics == "heat" else "traction"
    same, coarse = (dataclasses.replace(config, num_nodes=n, geometry_nodes=config.num_nodes) for n in (900, 400))
    for index in (3, 5):
        drawn, few = generate_sample(config, index), generate_sample(coarse, index)
        assert abs(few.num_nodes / 400 - 1) < 0.15
        for name in ("opening", "num_slits", loads):
            assert torch.equal(drawn.global_data[name], few.global_data[name])
        assert drawn.total_measure == pytest.approx(few.total_measure, rel=1e-9)
        assert drawn.topology.betti == few.topology.betti
    # Where the sizes are the same, so are the bits; files of before are known by parameters without the setting.
    one = dataclasses.replace(config, num_nodes=900)
    assert torch.equal(
        generate_sample(one, 3).pos, generate_sample(dataclasses.replace(one, geometry_nodes=900), 3).pos
    )
    assert "geometry_nodes" not in config.parameters()
    assert type(config)(**same.parameters()) == same


def test_seed_and_index_draw_other_plates():
    one = generate_sample(CONFIG, 0)
    for other in (generate_sample(CONFIG, 1), generate_sample(dataclasses.replace(CONFIG, seed=6), 0)):
        assert not torch.equal(one.global_data["temperatures"], other.global_data["temperatures"])
        assert one.pos.shape != other.pos.shape or not torch.equal(one.pos, other.pos)


def test_generation_goes_on_where_it_was_with_other_workers(made, tmp_path, monkeypatch):
    path, drawn = tmp_path / "again.h5", []
    attempt = sample_module._attempt

    def stop_after_three(config, index, number):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(index)
        return attempt(config, index, number)

    monkeypatch.setattr(sample_module, "_attempt", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        generate(path, CONFIG, num_workers=0, progress=False)
    assert not path.exists()
    assert len(list(path.with_name("again.h5.parts").glob("[0-9]*"))) == 3
    monkeypatch.undo()
    generate(path, CONFIG, num_workers=1, progress=False)
    assert contents(path) == contents(made)
    assert not path.with_name("again.h5.parts").exists()


def test_existing_file_is_kept_or_refused(made):
    before = made.stat().st_mtime_ns
    assert generate(made, CONFIG, num_workers=0, progress=False) == made
    assert made.stat().st_mtime_ns == before
    with pytest.raises(StoreError, match=r"crack_probability \(there 0.4, here 0.5\).*overwrite=True"):
        generate(made, dataclasses.replace(CONFIG, crack_probability=0.5), num_workers=0, progress=False)


def test_failed_plate_is_drawn_again_and_reported(tmp_path, monkeypatch, caplog):
    solve, calls = sample_module.solve_heat, []

    def fail_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise MeshError("on purpose")
        return solve(*args, **kwargs)

    none = {f"num_{split}": 0 for split in CONFIG.splits}
    monkeypatch.setattr(sample_module, "solve_heat", fail_once)
    generate(
        tmp_path / "retried.h5", dataclasses.replace(CONFIG, **none | {"num_comb": 1}), num_workers=0, progress=False
    )
    assert "sample 0 was drawn 2 times" in caplog.text
    assert "on purpose" in caplog.text


def test_wrong_calls_are_named(tmp_path):
    with pytest.raises(ConfigError, match="num_workers"):
        generate(tmp_path / "x.h5", CONFIG, num_workers=-1)
    with pytest.raises(ConfigError, match=r"0\.\.7, got 8"):
        generate_sample(CONFIG, 8)


def test_import_is_light_for_spawned_workers():
    code = (
        "import sys; from flare_datasets.slit_plates import SlitPlateConfig, generate; SlitPlateConfig(physics='heat');"
        "print([m for m in ('gmsh', 'skfem', 'h5py', 'torch') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
