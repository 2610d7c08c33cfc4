"""Every published layout is known from the inside, and read in the same shape by slices."""

import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from fixtures_pdebench import ALL, BY_NAME, numbers

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.pdebench import FAMILIES, open_pdebench


def test_there_is_a_case_of_every_family():
    assert sorted(case.pde for case in ALL) == sorted(FAMILIES)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.pde)
def test_every_layout_in_memory(case, tmp_path):
    with open_pdebench(case.write(tmp_path)) as file:
        assert file.family.name == case.pde
        assert file.parameters == pytest.approx(case.parameters)
        assert len(file) == len(case.values)
        assert file.shape == case.values.shape[1 : 1 + case.dim]
        assert file.num_frames == case.values.shape[-2]
        assert file.channels == FAMILIES[case.pde].channels
        assert len(file.channels) == case.values.shape[-1]
        for i, sample in enumerate(file):
            assert sample.dtype == np.float32
            np.testing.assert_array_equal(sample, case.values[i])
            expected = case.static[i] if case.static is not None else np.zeros((*file.shape, 0))
            np.testing.assert_array_equal(file.static(i), expected)
            np.testing.assert_array_equal(file.times(i), [0] if case.pde == "darcy" else case.times)
        np.testing.assert_array_equal(file[-1], case.values[-1])
        np.testing.assert_array_equal(file.grid, np.stack(np.meshgrid(*case.coordinates, indexing="ij"), axis=-1))


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.pde)
def test_kind_is_known_without_the_name(case, tmp_path):
    if case.pde in ("advection", "burgers", "reaction_diffusion"):
        assert case.attributes  # what tells them apart
    with open_pdebench(case.write(tmp_path, "renamed.bin")) as file:
        assert file.family.name == case.pde
        assert file.parameters == (case.parameters if case.attributes else {})
        assert file.boundary is None


def test_channels_of_compressible_flow_are_in_the_published_order(tmp_path):
    case = BY_NAME["compressible_3d"]
    with open_pdebench(case.write(tmp_path)) as file, h5py.File(file.path) as raw:
        assert file.channels == ("density", "pressure", "Vx", "Vy", "Vz")
        for v, name in enumerate(file.channels):
            np.testing.assert_array_equal(file[4][..., v], np.moveaxis(raw[name][4], 0, -1))


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.pde)
def test_reductions_are_plain_strides(case, tmp_path):
    time = 1 if case.pde == "darcy" else 3
    path = case.write(tmp_path)
    with open_pdebench(path, reduced_resolution=3, reduced_resolution_t=time, reduced_batch=2) as file:
        space = (slice(None, None, 3),) * case.dim
        kept = case.values[(slice(None, None, 2), *space, slice(None, None, time))]
        assert len(file) == len(kept)
        assert file.num_frames == kept.shape[-2]
        for i, sample in enumerate(file):
            np.testing.assert_array_equal(sample, kept[i])
        if case.static is not None:
            np.testing.assert_array_equal(file.static(1), case.static[(2, *space)])
        for axis in range(case.dim):
            np.testing.assert_array_equal(file.coordinates[axis], case.coordinates[axis][::3])
        assert len(file.times(0)) == file.num_frames
        assert file.grid.shape == (*file.shape, case.dim)


def test_some_frames_of_a_sample(tmp_path):
    case = BY_NAME["compressible_2d"]
    with open_pdebench(case.write(tmp_path), reduced_resolution_t=2) as file:
        whole = file[3]
        for frames in (
            slice(0, 2),
            slice(2, None),
            slice(None, None, 2),
            slice(3, 3),
            slice(None, None, -1),
            slice(-1, 6),
        ):
            np.testing.assert_array_equal(file.read(3, frames), whole[..., frames, :])


@pytest.mark.parametrize("block", [1, 700, 1 << 30])
@pytest.mark.parametrize("chunks", [None, (2, 4, 3, 4)])
def test_size_of_blocks_and_chunks_does_not_matter(block, chunks, tmp_path, monkeypatch):
    monkeypatch.setattr("flare_datasets.pdebench.file._BLOCK_BYTES", block)
    case = BY_NAME["compressible_2d"]
    path = case.write(tmp_path)
    with h5py.File(path, "r+") as raw:
        values = raw["density"][()]
        del raw["density"]
        raw.create_dataset("density", data=values, chunks=chunks)
    with open_pdebench(path, reduced_resolution=2, reduced_resolution_t=3) as file:
        np.testing.assert_array_equal(file[5], case.values[5, ::2, ::2, ::3])


def test_time_of_one_entry_more_is_cut(tmp_path):
    case = BY_NAME["advection"]
    path = case.write(tmp_path)
    with h5py.File(path) as raw:
        assert raw["t-coordinate"].shape == (22,)
    with open_pdebench(path, reduced_resolution_t=5) as file:
        np.testing.assert_array_equal(file.times(), case.times[::5])
    with h5py.File(path, "r+") as raw:
        del raw["t-coordinate"]
        raw["t-coordinate"] = case.times
    with open_pdebench(path) as file:
        np.testing.assert_array_equal(file.times(), case.times)


def test_splits_are_the_published_ones(tmp_path):
    array, groups = BY_NAME["burgers"].write(tmp_path), BY_NAME["shallow_water"].write(tmp_path)
    with open_pdebench(array, test_ratio=0.2) as file:
        assert file.split("test").tolist() == file.split("val").tolist() == [0, 1]
        assert file.split("train").tolist() == list(range(2, 10))
    with open_pdebench(groups, test_ratio=0.2) as file:
        assert file.split("test").tolist() == file.split("val").tolist() == [8, 9]
        assert file.split("train").tolist() == list(range(8))
    with open_pdebench(array) as file:
        assert file.split("test").tolist() == [0]
    with open_pdebench(groups) as file:
        assert file.split("test").tolist() == [9]
    with open_pdebench(array, reduced_batch=2) as file:
        with pytest.raises(ConfigError, match=r"split 'test' of 5 samples is empty with `test_ratio=0.1`"):
            file.split("test")
        with pytest.raises(ConfigError, match="`split` must be 'train', 'val' or 'test', got 'valid'"):
            file.split("valid")


def test_groups_are_sorted_by_name(tmp_path):
    path = tmp_path / "any.h5"
    values = numbers(4, 11, 8, 6, 1)
    with h5py.File(path, "w", track_order=True) as raw:
        for i in (2, 0, 3, 1):
            raw[f"{i:04d}/data"] = values[i]
            for axis, size in (("x", 8), ("y", 6), ("t", 11)):
                raw[f"{i:04d}/grid/{axis}"] = np.linspace(-2.5, 2.5, size, dtype="f4")
    with open_pdebench(path) as file:
        np.testing.assert_array_equal(file[2], np.moveaxis(values[2], 0, 2))


@pytest.mark.parametrize(
    ("name", "parameters", "boundary"),
    [
        ("1D_Burgers_Sols_Nu4.0.hdf5", {"Nu": 4.0}, None),
        ("ReacDiff_Nu1.0_Rho10.0.hdf5", {"Nu": 1.0, "rho": 10.0}, None),
        (
            "2D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5",
            {"M": 1.0, "eta": 1e-8, "zeta": 1e-8},
            "periodic",
        ),
        ("1D_CFD_Shock_Eta1.e-8_Zeta1.e-8_trans_Train.hdf5", {"eta": 1e-8, "zeta": 1e-8}, "trans"),
        ("2D_DarcyFlow_beta100.0_Train.hdf5", {"beta": 100.0}, None),
        ("2D_rdb_NA_NA.h5", {}, None),
    ],
)
def test_names_tell_parameters(name, parameters, boundary):
    from flare_datasets.pdebench.names import boundary_in_name, parameters_in_name

    assert parameters_in_name(f"some/Nu7_folder/{name}") == parameters
    assert boundary_in_name(name) == boundary


def test_contents_stand_above_the_name(tmp_path):
    burgers = BY_NAME["burgers"]
    path = burgers.write(tmp_path, "1D_Advection_Sols_beta0.4.hdf5")
    with pytest.warns(UserWarning, match="named like a file of 'advection', but its contents are of 'burgers'"):
        assert open_pdebench(path).parameters == {"Nu": 0.001}
    path = burgers.write(tmp_path, "1D_Burgers_Sols_Nu0.1.hdf5")
    with pytest.warns(UserWarning, match="has Nu=0.001 inside, which its name does not say"):
        assert open_pdebench(path).parameters == {"Nu": 0.001}


def test_name_and_arguments_complete_what_attributes_lack(tmp_path):
    path = BY_NAME["burgers"].write(tmp_path)
    with h5py.File(path, "r+") as raw:
        del raw.attrs["Nu"]
    with open_pdebench(path) as file:
        assert (file.family.name, file.parameters) == ("burgers", {"Nu": 0.001})
    other = path.rename(tmp_path / "other.h5")
    with open_pdebench(other, pde="advection", parameters={"beta": 2.0}) as file:
        assert (file.family.name, file.parameters) == ("advection", {"beta": 2.0})
    with pytest.raises(StoreError, match=r"lacks the attribute 'beta', 'Nu' or 'rho'.*pass `pde` and `parameters`"):
        open_pdebench(other)
    with pytest.raises(StoreError, match=r"lacks the attribute 'beta' of advection.*pass `parameters=\{'beta': …\}`"):
        open_pdebench(other, pde="advection")


def test_periodic_domains(tmp_path):
    periodic = {case.pde: open_pdebench(case.write(tmp_path)).periodic for case in ALL}
    assert {name for name, is_so in periodic.items() if is_so} == {
        "advection", "burgers", "reaction_diffusion", "compressible_1d", "compressible_3d",
    }  # fmt: skip


def test_it_can_be_pickled_and_closed(tmp_path):
    case = BY_NAME["burgers"]
    file = open_pdebench(case.write(tmp_path), reduced_resolution=2)
    before = file[1]
    again = pickle.loads(pickle.dumps(file))
    np.testing.assert_array_equal(again[1], before)
    file.close()
    np.testing.assert_array_equal(file[1], before)
    file.close()
    again.close()


MEASURE = """
import resource, sys
import h5py, numpy as np
from flare_datasets.pdebench import open_pdebench

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def read(path, count):
    with open_pdebench(path, reduced_resolution=2, reduced_resolution_t=4) as file:
        for i in np.linspace(0, len(file) - 1, count).astype(int):
            last = file[i]
        return last

read(sys.argv[1], 2)
before = peak()
last = read(sys.argv[2], 100)
print(peak() - before, last.shape, float(last[3, 5, 0]))
"""


def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path):
    """200 GB are declared; only the last sample is stored."""
    paths = [tmp_path / "small.hdf5", tmp_path / "large.hdf5"]
    for path, count in zip(paths, (2, 243_000), strict=True):
        with h5py.File(path, "w") as raw:
            data = raw.create_dataset("tensor", (count, 201, 1024), dtype="f4", chunks=(1, 201, 1024))
            assert path == paths[0] or data.nbytes > 200e9
            data[-1] = 1.5
            raw["x-coordinate"] = np.linspace(0, 1, 1024, dtype="f4")
            raw["t-coordinate"] = np.linspace(0, 2, 202, dtype="f4")
            raw.attrs["beta"] = 0.1
    assert paths[1].stat().st_size < 10e6
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    grown, rest = out.split(maxsplit=1)
    assert rest.strip() == "(512, 51, 1) 1.5"
    assert int(grown) < 8e6, grown


def test_reading_needs_no_torch(tmp_path):
    path = BY_NAME["shallow_water"].write(tmp_path)
    code = (
        "import sys; from flare_datasets.pdebench import open_pdebench; open_pdebench(sys.argv[1])[0];"
        "print([m for m in ('torch', 'pyvista', 'meshio', 'lightning') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
