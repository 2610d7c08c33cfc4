import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_stores import contents

from flare_connect.errors import ConfigError, MeshError, StoreError
from flare_connect.mesh import MeshStore
from flare_datasets.unit_cells import UnitCellConfig, generate, generate_sample, generation
from flare_datasets.unit_cells import sample as sample_module

CONFIG = UnitCellConfig(
    num_train=4, num_test=2, num_shift=2, num_val=0, num_nodes=(400, 500), shift_holes=(5, 7), seed=11
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("cells") / "whole.h5", CONFIG, num_workers=0, progress=False)


def test_file_holds_what_the_samples_hold(made):
    with MeshStore(made) as store:
        assert len(store) == CONFIG.num_samples
        assert {name: ids.tolist() for name, ids in store.splits.items()} == {
            "train": [0, 1, 2, 3],
            "test": [4, 5],
            "shift": [6, 7],
        }
        mesh, direct = store[5], generate_sample(CONFIG, 5)
        assert torch.equal(mesh.pos, direct.pos)
        assert torch.equal(mesh.periodic_pairs, direct.periodic_pairs)
        assert torch.equal(mesh.cells["triangle"], direct.cells["triangle"])
        for name, values in direct.point_data.items():
            assert torch.equal(mesh.point_data[name], values)
        for name in ("holes", "sides"):
            assert torch.equal(mesh.set_nodes(name), direct.set_nodes(name))
        assert not made.with_name(made.name + ".parts").exists()
        assert store.attrs["seed"] == CONFIG.seed


def test_splits_differ_by_their_number_of_holes(made):
    with MeshStore(made) as store:
        holes = {name: [int(store[int(i)].global_data["num_holes"]) for i in ids] for name, ids in store.splits.items()}
    assert all(1 <= n <= 4 for n in holes["train"] + holes["test"])
    assert all(5 <= n <= 7 for n in holes["shift"])


def test_fields_of_a_sample_belong_together(made):
    with MeshStore(made) as store:
        for mesh in store:
            exx, eyy, exy = mesh.global_data["macro_strain"].double()
            assert float((exx**2 + eyy**2 + 2 * exy**2).sqrt()) == pytest.approx(CONFIG.strain_amplitude, rel=1e-5)
            macro = torch.stack([torch.stack([exx, exy]), torch.stack([exy, eyy])])
            total = mesh.pos @ macro + mesh.point_data["fluctuation"]
            assert torch.allclose(total, mesh.point_data["displacement"].double(), atol=1e-7)
            triangles = mesh.cells["triangle"]
            u, v = (mesh.pos[triangles[:, i]] - mesh.pos[triangles[:, 0]] for i in (1, 2))
            area = 0.5 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
            void = float(mesh.global_data["porosity"])
            assert 1 - float(area.sum()) == pytest.approx(void, rel=0.05)
            mean = (area[:, None] * mesh.point_data["stress"][triangles].mean(dim=1)).sum(dim=0)
            effective = mesh.global_data["effective_stress"]
            assert torch.allclose(mean, effective.double(), atol=0.03 * float(effective.abs().max()))


def test_same_index_same_bits_other_index_other_cell():
    one, again, other = generate_sample(CONFIG, 1), generate_sample(CONFIG, 1), generate_sample(CONFIG, 2)
    assert torch.equal(one.pos, again.pos)
    assert torch.equal(one.point_data["stress"], again.point_data["stress"])
    assert one.pos.shape != other.pos.shape or not torch.equal(one.pos, other.pos)
    reseeded = generate_sample(dataclasses.replace(CONFIG, seed=12), 1)
    assert not torch.equal(one.global_data["macro_strain"], reseeded.global_data["macro_strain"])


def test_test_samples_stay_when_training_samples_are_added():
    before = generate_sample(CONFIG, CONFIG.num_train)
    after = generate_sample(dataclasses.replace(CONFIG, num_train=9), 9)
    assert torch.equal(before.pos, after.pos)


def test_number_of_workers_does_not_matter(made, tmp_path):
    variables = dict(os.environ)
    path = generate(tmp_path / "two.h5", CONFIG, num_workers=2, progress=False)
    assert contents(path) == contents(made)
    assert dict(os.environ) == variables


SCRIPT = """
import json
import sys
from flare_datasets.unit_cells import UnitCellConfig, generate
if __name__ == "__main__":
    generate(sys.argv[1], UnitCellConfig(**json.loads(sys.argv[2])), num_workers=1)
"""


def test_killed_generation_goes_on_where_it_was(made, tmp_path):
    path, script = tmp_path / "killed.h5", tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, path, json.dumps(CONFIG.parameters())]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parts, deadline = path.with_name("killed.h5.parts"), time.monotonic() + 120
    process = subprocess.Popen(command, env=env, start_new_session=True)
    try:
        while len(list(parts.glob("[0-9]*"))) < 2:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert not path.exists()
    # The worker notices that its parent is gone, and ends.
    while _session(process.pid):
        assert time.monotonic() < deadline, f"left running: {_session(process.pid)}"
        time.sleep(0.05)
    kept = {part.name: part.stat().st_mtime_ns for part in parts.glob("[0-9]*")}
    assert 2 <= len(kept) < CONFIG.num_samples

    remade = []
    draw = sample_module.draw_sample
    with pytest.MonkeyPatch.context() as patch:
        counting = dataclasses.replace(
            generation._GENERATOR, draw=lambda config, index: remade.append(index) or draw(config, index)
        )
        patch.setattr(generation, "_GENERATOR", counting)
        generate(path, CONFIG, num_workers=0, progress=False)
    assert len(remade) == CONFIG.num_samples - len(kept)
    assert contents(path) == contents(made)
    assert not parts.exists()


def _session(leader: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_existing_file_is_kept_or_refused(made, tmp_path, monkeypatch):
    path = tmp_path / "again.h5"
    small = dataclasses.replace(CONFIG, num_train=1, num_test=0, num_shift=0, num_val=0)
    generate(path, small, num_workers=0, progress=False)
    before = path.stat()
    generate(path, small, num_workers=0, progress=False)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    other = dataclasses.replace(small, poisson_ratio=0.2)
    with pytest.raises(StoreError, match=r"poisson_ratio \(there 0.3, here 0.2\).*overwrite=True"):
        generate(path, other, num_workers=0, progress=False)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    generate(path, other, num_workers=0, progress=False, overwrite=True)
    with MeshStore(path) as store:
        assert store.attrs["parameters"]["poisson_ratio"] == 0.2
        assert set(store.splits) == {"train"}


def test_failed_sample_is_drawn_again_and_reported(tmp_path, monkeypatch, caplog):
    solve, calls = sample_module.solve, []

    def fail_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise MeshError("on purpose")
        return solve(*args, **kwargs)

    small = dataclasses.replace(CONFIG, num_train=2, num_test=0, num_shift=0, num_val=0)
    first = generate_sample(small, 0)
    monkeypatch.setattr(sample_module, "solve", fail_once)
    path = generate(tmp_path / "retried.h5", small, num_workers=0, progress=False)
    assert len(calls) == 3
    assert "sample 0 was drawn 2 times" in caplog.text
    assert "on purpose" in caplog.text
    with MeshStore(path) as store:
        assert not torch.equal(store[0].global_data["macro_strain"], first.global_data["macro_strain"])


def test_sample_that_always_fails_ends_with_its_causes(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise MeshError("on purpose")

    monkeypatch.setattr(sample_module, "mesh_cell", fail)
    with pytest.raises(MeshError, match=r"sample 0 .* 5 draws .*on purpose"):
        generate(tmp_path / "never.h5", CONFIG, num_workers=0, progress=False)
    assert not (tmp_path / "never.h5").exists()


def test_wrong_calls_are_named(tmp_path):
    with pytest.raises(ConfigError, match="num_workers"):
        generate(tmp_path / "x.h5", CONFIG, num_workers=-1)
    with pytest.raises(ConfigError, match=r"0\.\.7, got 8"):
        generate_sample(CONFIG, 8)
    (tmp_path / "text.h5").write_text("no data")
    with pytest.raises(StoreError, match="is no data set"):
        generate(tmp_path / "text.h5", CONFIG, num_workers=0)


def test_import_is_light_for_spawned_workers():
    code = (
        "import sys; from flare_datasets.unit_cells import UnitCellConfig, generate; UnitCellConfig();"
        "print([m for m in ('gmsh', 'skfem', 'h5py', 'torch') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_statistics_are_finite(made):
    with MeshStore(made) as store:
        statistics = store.statistics()
    assert all(np.isfinite(values).all() for field in statistics.values() for values in field.values())
    assert statistics["von_mises"]["std"][0] > 0
