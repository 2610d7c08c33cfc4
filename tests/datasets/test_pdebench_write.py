"""What is written is what is published: keys, shapes, dtypes, attributes; and it survives interruptions."""

import json
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from fixtures_pdebench import ALL, BY_NAME, numbers
from fixtures_stores import contents

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.pdebench import PDEBenchWriter, open_pdebench, write_pdebench


def settings(case):
    return {
        "num_samples": len(case.values),
        "coordinates": case.coordinates,
        "times": None if case.pde == "darcy" else case.times,
        "parameters": case.parameters,
    }


def draw(case):
    return lambda i: case.values[i] if case.static is None else (case.values[i], case.static[i])


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.pde)
def test_round_trip_of_every_layout(case, tmp_path):
    path = write_pdebench(tmp_path / case.name, case.pde, draw(case), **settings(case))
    with open_pdebench(path) as file:
        assert file.family.name == case.pde
        assert file.parameters == pytest.approx(case.parameters)
        np.testing.assert_array_equal(np.stack(list(file)), case.values)
        if case.static is not None:
            np.testing.assert_array_equal(np.stack([file.static(i) for i in range(len(file))]), case.static)
        np.testing.assert_array_equal(file.times(), [0] if case.pde == "darcy" else case.times)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.pde)
def test_arrays_attributes_and_bytes_are_the_published_ones(case, tmp_path):
    (tmp_path / "published").mkdir()
    reference, made = contents(case.write(tmp_path / "published")), tmp_path / case.name
    write_pdebench(made, case.pde, draw(case), **settings(case))
    written = contents(made)
    assert written["/"] == (case.parameters or {})
    written["/"] = reference["/"] = {}
    assert sorted(written) == sorted(reference)
    for name, item in reference.items():
        if "data" in item:
            assert item["data"][0] == "<f4"
        assert written[name] == item, name


def test_keys_and_shapes_as_a_loader_opens_them(tmp_path):
    """Spelled out from the table, with no code of the library in between."""
    rows = {
        "advection": {"tensor": (10, 21, 16), "x-coordinate": (16,), "t-coordinate": (22,)},
        "compressible_2d": {
            **dict.fromkeys(("density", "pressure", "Vx", "Vy"), (10, 11, 8, 6)),
            "x-coordinate": (8,), "y-coordinate": (6,), "t-coordinate": (11,),
        },
        "darcy": {"tensor": (10, 1, 8, 6), "nu": (10, 8, 6), "x-coordinate": (8,), "y-coordinate": (6,)},
        "incompressible": {
            "velocity": (3, 11, 8, 6, 2), "particles": (3, 11, 8, 6, 1), "force": (3, 8, 6, 2), "t": (3, 11),
        },
    }  # fmt: skip
    for pde, shapes in rows.items():
        case = BY_NAME[pde]
        with h5py.File(write_pdebench(tmp_path / case.name, pde, draw(case), **settings(case))) as raw:
            assert {name: item.shape for name, item in raw.items()} == shapes
            assert {item.dtype for item in raw.values()} == {np.dtype("<f4")}
    case = BY_NAME["diffusion_reaction"]
    with h5py.File(write_pdebench(tmp_path / case.name, case.pde, draw(case), **settings(case))) as raw:
        assert sorted(raw) == [f"{i:04d}" for i in range(10)]
        assert raw["0009/data"].shape == (11, 8, 6, 2)
        assert {name: raw["0009/grid"][name].shape for name in raw["0009/grid"]} == {"x": (8,), "y": (6,), "t": (11,)}


def test_entry_more_of_time_is_one_step_later(tmp_path):
    case = BY_NAME["advection"]
    with h5py.File(write_pdebench(tmp_path / "a.h5", case.pde, draw(case), **settings(case))) as raw:
        steps = np.diff(raw["t-coordinate"][()])
        assert steps == pytest.approx(0.05, rel=1e-5)


def test_tensors_and_doubles_are_taken(tmp_path):
    case = BY_NAME["burgers"]
    writer = PDEBenchWriter(tmp_path / "a.h5", case.pde, **{**settings(case), "num_samples": 2})
    writer.write(1, torch.from_numpy(case.values[1]).double().requires_grad_())
    writer.write(0, case.values[0].tolist())
    with open_pdebench(writer.finish()) as file:
        np.testing.assert_array_equal(np.stack(list(file)), case.values[:2])


def test_order_of_samples_and_interruptions_do_not_matter(tmp_path):
    case = BY_NAME["darcy"]
    whole = write_pdebench(tmp_path / "whole.h5", case.pde, draw(case), **settings(case))
    path, drawn = tmp_path / "broken.h5", []

    def failing(i):
        drawn.append(i)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(case)(i)

    with pytest.raises(KeyboardInterrupt):
        write_pdebench(path, case.pde, failing, **settings(case))
    assert not path.exists()
    (tmp_path / "broken.h5.parts" / "000001.npz").write_bytes(b"damage")
    writer = PDEBenchWriter(path, case.pde, **settings(case))
    assert writer.missing() == [1, *range(3, 10)]
    for i in reversed(writer.missing()):
        writer.write(i, case.values[i], case.static[i])
    assert writer.finish() == path
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "broken.h5",
        "broken.h5.json",
        "whole.h5",
        "whole.h5.json",
    ]


SCRIPT = """
import sys, time
import numpy as np
from flare_datasets.pdebench import write_pdebench

def draw(i):
    time.sleep(0.02)
    return np.full((16, 3, 1), i)

write_pdebench(sys.argv[1], "burgers", draw, num_samples=40, coordinates=[np.arange(16)], times=[0, 1, 2],
               parameters={"Nu": 1.0}, made_with={"seed": 3})
"""


def test_killed_writing_goes_on_where_it_was(tmp_path):
    path, parts = tmp_path / "killed.h5", tmp_path / "killed.h5.parts"
    command = [sys.executable, "-c", SCRIPT, path]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process, deadline = subprocess.Popen(command, env=env), time.monotonic() + 60
    while len(list(parts.glob("[0-9]*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not path.exists()
    kept = {part.name: part.stat().st_mtime_ns for part in parts.glob("[0-9]*")}
    assert 3 <= len(kept) < 40
    subprocess.run(command, env=env, check=True)
    with open_pdebench(path) as file:
        assert [float(sample[0, 0, 0]) for sample in file] == list(range(40))
    assert not parts.exists()


def test_existing_file_is_kept_or_refused(tmp_path):
    case = BY_NAME["shallow_water"]
    path = tmp_path / "a.h5"
    given = settings(case) | {"made_with": {"seed": 1}}
    write_pdebench(path, case.pde, draw(case), **given)
    before = path.stat().st_mtime_ns

    def never(i):
        raise AssertionError

    assert write_pdebench(path, case.pde, never, **given) == path
    assert write_pdebench(path, case.pde, never, **given, overwrite=True) == path
    assert path.stat().st_mtime_ns == before
    other = given | {"made_with": {"seed": 2}}
    with pytest.raises(StoreError, match=r"made_with \(there \{'seed': 1\}, here \{'seed': 2\}\).*overwrite=True"):
        write_pdebench(path, case.pde, never, **other)
    finer = given | {"times": case.times / 2}
    with pytest.raises(StoreError, match=r"made with other settings: t \(there '11 values, 0 … 1, \w+', here '11 val"):
        write_pdebench(path, case.pde, never, **finer)
    writer = PDEBenchWriter(path, case.pde, **other, overwrite=True)
    assert writer.missing() == list(range(10))
    assert path.stat().st_mtime_ns == before  # the old file stays until the new one is whole
    writer.write(0, case.values[0])
    assert PDEBenchWriter(path, case.pde, **other).missing() == list(range(1, 10))
    assert PDEBenchWriter(path, case.pde, **other, overwrite=True).missing() == list(range(1, 10))
    write_pdebench(path, case.pde, draw(case), **other)
    assert json.loads((tmp_path / "a.h5.json").read_text())["made_with"] == {"seed": 2}


def test_files_of_others_are_not_overwritten(tmp_path):
    case = BY_NAME["burgers"]
    path = case.write(tmp_path)
    with pytest.raises(StoreError, match="exists and was not made here; choose another path or pass overwrite=True"):
        PDEBenchWriter(path, case.pde, **settings(case))
    assert not path.with_name(path.name + ".parts").exists()
    write_pdebench(path, case.pde, draw(case), **settings(case), overwrite=True)
    assert PDEBenchWriter(path, case.pde, **settings(case)).finished
    case.write(tmp_path)  # put there by someone else, under the old note
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(StoreError, match="exists and was not made here"):
        PDEBenchWriter(path, case.pde, **settings(case))


@pytest.mark.parametrize("step", ["file", "note"])
def test_killed_at_the_very_end(step, tmp_path, monkeypatch):
    from flare_datasets.pdebench import writer as module

    case = BY_NAME["burgers"]
    path = tmp_path / "a.h5"

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "file":
            patch.setattr(module, "write_json", stop)
        else:
            patch.setattr(module.SampleParts, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            write_pdebench(path, case.pde, draw(case), **settings(case))
    assert path.exists()
    writer = PDEBenchWriter(path, case.pde, **settings(case))
    assert writer.missing() == []
    writer.finish()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "a.h5.json"]
    assert writer.finished


def test_wrong_samples(tmp_path):
    burgers, darcy = BY_NAME["burgers"], BY_NAME["darcy"]
    writer = PDEBenchWriter(tmp_path / "a.h5", "burgers", **settings(burgers))
    with pytest.raises(StoreError, match=r"sample 2: `values` must have shape \[16, 21, 1\], got shape \[16, 20, 1\]"):
        writer.write(2, burgers.values[2][:, :20])
    with pytest.raises(StoreError, match="has 10 samples, counted from 0; there is no sample 10"):
        writer.write(10, burgers.values[0])
    with pytest.raises(StoreError, match="sample 0 has `static`, but burgers stores nothing of the kind"):
        writer.write(0, burgers.values[0], burgers.values[0])
    for bad in (np.nan, 1e39):
        with pytest.raises(StoreError, match="sample 0: `values` is NaN or infinite as float32"):
            writer.write(0, np.full((16, 21, 1), bad))
    writer.write(0, burgers.values[0])
    with pytest.raises(StoreError, match="sample 1 has not been written yet"):
        writer.finish()
    assert not (tmp_path / "a.h5").exists()
    assert writer.missing() == list(range(1, 10))
    flow = PDEBenchWriter(tmp_path / "b.h5", "darcy", **settings(darcy))
    with pytest.raises(StoreError, match=r"sample 0: `static` must have shape \[8, 6, 1\], got none"):
        flow.write(0, darcy.values[0])


@pytest.mark.parametrize(
    ("pde", "change", "says"),
    [
        ("burgers", {"parameters": {}}, "`parameters` must have 'Nu', which tells burgers from other files"),
        ("burgers", {"parameters": {"nu": 1.0}}, "`parameters` of burgers are 'Nu', got 'nu'"),
        ("burgers", {"parameters": {"Nu": "1"}}, r"`parameters\['Nu'\]` must be a finite number, got '1'"),
        ("shallow_water", {"parameters": {"Nu": 1.0}}, "`parameters` of shallow_water are none, got 'Nu'"),
        ("burgers", {"num_samples": 0}, "`num_samples` must be a whole number of 1 or more, got 0"),
        ("shallow_water", {"num_samples": 10_001}, r"`num_samples` must be a whole number in 1\.\.10000, got 10001"),
        ("burgers", {"coordinates": []}, "`coordinates` must be a list of 1 axes for burgers, got 0"),
        ("burgers", {"coordinates": [np.zeros(4)]}, "`coordinates` along x must increase from point to point"),
        ("burgers", {"coordinates": [np.zeros((4, 1))]}, r"`coordinates along x` must be a row .* got shape \[4, 1\]"),
        ("burgers", {"times": None}, "`times` must be given for burgers: one for each frame"),
        ("burgers", {"times": [0.0, 0.0]}, "`times` must increase from frame to frame"),
        ("burgers", {"times": [0.0]}, "`times` must have 2 entries or more for burgers, got 1"),
        ("burgers", {"times": [0.0, np.nan]}, "`times` must be a row of finite numbers"),
        ("darcy", {"times": [0.0]}, "`times` must be left out for darcy, which stores none"),
        ("burgers", {"made_with": {"x": object()}}, "`made_with` must be plain numbers, strings, lists and dicts"),
        ("incompressible", {"coordinates": [np.arange(8), np.arange(6)]}, r"must be the cell centres \(i \+ 1/2\)/8"),
    ],
)
def test_wrong_settings(pde, change, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        PDEBenchWriter(tmp_path / "a.h5", pde, **{**settings(BY_NAME[pde]), **change})
    assert not list(tmp_path.iterdir())


def test_writing_streams(tmp_path):
    """A file of 160 MB goes through a process that may grow by a fifth of it."""
    code = """
import resource, sys
import numpy as np
from flare_datasets.pdebench import write_pdebench

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

space = [(np.arange(64) + 0.5) / 64] * 2
draw = lambda i: np.full((64, 64, 50, 4), i, dtype="f4")
write_pdebench(sys.argv[1] + "/small.h5", "compressible_2d", draw, num_samples=2, coordinates=space, times=range(50))
before = peak()
write_pdebench(sys.argv[1] + "/large.h5", "compressible_2d", draw, num_samples=50, coordinates=space, times=range(50))
print(peak() - before)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code, tmp_path], env=env, capture_output=True, text=True, check=True)
    assert (tmp_path / "large.h5").stat().st_size > 160e6
    assert int(out.stdout) < 32e6
    (tmp_path / "large.h5").unlink()


def test_numbers_of_the_fixtures_are_not_all_alike():
    assert len(np.unique(numbers(4, 4))) == 16
