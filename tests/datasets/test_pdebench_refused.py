"""Files and settings that cannot be right: each is refused with one sentence that names the value and the mend."""

import os
import warnings

import h5py
import numpy as np
import pytest
from fixtures_pdebench import BY_NAME

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.pdebench import PDEBenchDataset, PDEBenchGraphs, open_pdebench


def test_no_such_file(tmp_path):
    with pytest.raises(StoreError, match=r"none\.h5 does not exist; generate it, or check the path"):
        open_pdebench(tmp_path / "none.h5")
    with pytest.raises(StoreError, match="is a folder; give the HDF5 file itself"):
        open_pdebench(tmp_path)


def test_no_hdf5(tmp_path):
    path = tmp_path / "2D_rdb_NA_NA.h5"
    for content in (b"", b"no data", b"PK\x03\x04" * 1000):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="is not an HDF5 file; give a PDEBench file"):
            open_pdebench(path)


@pytest.mark.parametrize("pde", ["burgers", "shallow_water"])
def test_truncated(pde, tmp_path):
    path = BY_NAME[pde].write(tmp_path)
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(StoreError, match="the file is truncated or damaged: generate it again or copy it again"):
        open_pdebench(path)


def test_damaged_sample(tmp_path):
    path = tmp_path / "x.h5"
    case = BY_NAME["burgers"]
    with h5py.File(case.write(tmp_path), "r") as raw, h5py.File(path, "w") as packed:
        packed.attrs["Nu"] = 0.1
        packed.create_dataset("tensor", data=raw["tensor"], chunks=(1, 21, 16), compression="gzip", fletcher32=True)
        packed["x-coordinate"], packed["t-coordinate"] = raw["x-coordinate"][()], raw["t-coordinate"][()]
        chunk = packed["tensor"].id.get_chunk_info(7)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + 20)
        file.write(b"damage" * 20)
    with open_pdebench(path) as file:
        np.testing.assert_array_equal(file[6], case.values[6])
        with pytest.raises(StoreError, match=r"sample 7 of .* cannot be read .*the file is truncated or damaged"):
            file[7]


@pytest.mark.parametrize("pde", ["burgers", "compressible_2d", "shallow_water"])
def test_damaged_headers_are_refused_or_read(pde, tmp_path):
    path, rng, refused = BY_NAME[pde].write(tmp_path), np.random.default_rng(2), 0
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, 6_000, size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an attribute that was hit is not what the name says
            try:
                with open_pdebench(path, allow_nonfinite=True) as file:
                    assert file[0].shape == (*file.shape, file.num_frames, len(file.channels))
            except StoreError:
                refused += 1
    assert 10 < refused < 90


def another_store(file):
    file["ptr"], file["pos/data"] = [0, 1], [[0.0, 0.0]]


def no_arrays(file):
    file.attrs["beta"] = 1.0


def two_axes(file):
    file["tensor"] = np.zeros((4, 16), "f4")


def text(file):
    file["tensor"] = ["a", "b"]


def group_in_place(file):
    file.create_group("tensor")


def wide_groups(file):
    file["0000/data"] = np.zeros((11, 8, 6, 5), "f4")


def no_samples(file):
    file["tensor"], file.attrs["beta"] = np.zeros((0, 21, 16), "f4"), 1.0


def darcy_in_time(file):
    file["tensor"], file["nu"] = np.zeros((3, 2, 8, 6), "f4"), np.zeros((3, 8, 6), "f4")


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (another_store, "an HDF5 file but none of PDEBench: it holds 'pos', 'ptr', where 'tensor', 'density'"),
        (no_arrays, "none of PDEBench: it holds nothing"),
        (two_axes, r"'tensor' of .* must have 3 or 4 axes, got shape \[4, 16\]"),
        (text, "'tensor' of .* is no array of real numbers"),
        (group_in_place, "'tensor' of .* is no array of real numbers"),
        (wide_groups, r"must be \[T, X, 1\] or \[T, X, Y, 1 or 2\], got \[11, 8, 6, 5\]"),
        (no_samples, r"holds no samples: '/tensor' has shape \[0, 21, 16\]"),
        (darcy_in_time, "must hold 1 frame, since Darcy flow is steady, got 2"),
    ],
)
def test_another_kind_of_file(fill, says, tmp_path):
    path = tmp_path / "2D_rdb_NA_NA.h5"
    with h5py.File(path, "w") as raw:
        fill(raw)
    with pytest.raises(StoreError, match=says):
        open_pdebench(path)


@pytest.mark.parametrize(
    ("pde", "key", "value", "says"),
    [
        ("burgers", "x-coordinate", None, "has no 'x-coordinate', which files of its kind have"),
        ("burgers", "x-coordinate", np.zeros(15), r"'x-coordinate' of .* must have shape \[16\], got \[15\]"),
        ("burgers", "x-coordinate", np.zeros(16), "'x-coordinate' of .* must increase from point to point"),
        ("burgers", "x-coordinate", np.full(16, np.nan), "'x-coordinate' of .* holds NaN or infinite values"),
        ("compressible_2d", "Vy", None, "has no 'Vy'"),
        ("compressible_2d", "pressure", np.zeros((10, 11, 8, 5)), r"'pressure' of .* has shape \[10, 11, 8, 5\], but"),
        ("darcy", "nu", None, "has no 'nu'"),
        ("incompressible", "particles", None, "has no 'particles'"),
        ("incompressible", "force", np.zeros((3, 8, 6)), r"asks for \[3, 8, 6, 2\]"),
        ("shallow_water", "0000/grid/y", None, "has no '0000/grid/y'"),
    ],
)
def test_incomplete_files(pde, key, value, says, tmp_path):
    path = BY_NAME[pde].write(tmp_path)
    with h5py.File(path, "r+") as raw:
        del raw[key]
        if value is not None:
            raw[key] = value
    with pytest.raises(StoreError, match=says):
        open_pdebench(path)


def test_faults_that_only_a_sample_shows(tmp_path):
    path = BY_NAME["shallow_water"].write(tmp_path)
    with h5py.File(path, "r+") as raw:
        del raw["0004/data"], raw["0005/grid/t"], raw["0006/data"], raw["0007/grid/t"]
        raw["0006/data"], raw["0007/grid/t"] = np.zeros((11, 8, 5, 1)), np.zeros(13)
    with open_pdebench(path) as file:
        with pytest.raises(StoreError, match="has no '0004/data'"):
            file[4]
        with pytest.raises(StoreError, match="has no '0005/grid/t'"):
            file.times(5)
        with pytest.raises(StoreError, match=r"'0006/data' of .* has shape \[11, 8, 5, 1\], but .* \[11, 8, 6, 1\]"):
            file[6]
        with pytest.raises(StoreError, match=r"'0007/grid/t' of .* must have shape \[11\] or \[12\], got \[13\]"):
            file.times(7)
    path = BY_NAME["burgers"].write(tmp_path)
    with h5py.File(path, "r+") as raw:
        del raw["t-coordinate"]
    with pytest.raises(StoreError, match="has no 't-coordinate'"):
        open_pdebench(path).times()


def test_no_such_sample(tmp_path):
    with open_pdebench(BY_NAME["burgers"].write(tmp_path), reduced_batch=2) as file:
        for index in (5, -6):
            with pytest.raises(IndexError, match=rf"has 5 samples, 0 to 4; there is no sample {index}"):
                file[index]
        with pytest.raises(StoreError, match="the split has 5 samples, 0 to 4; there is no sample 5"):
            PDEBenchDataset(open_pdebench(file.path, test_ratio=0.5), "test")[5]


def test_values_that_are_not_finite(tmp_path):
    path = BY_NAME["compressible_2d"].write(tmp_path)
    with h5py.File(path, "r+") as raw:
        raw["Vx"][3, 6:] = np.nan
        raw["pressure"][4, 2, 1, 1] = np.inf
    with open_pdebench(path, reduced_resolution_t=2) as file:
        message = r"sample 3 of .* holds 144 NaN or infinite values, first in frame 6, channel 'Vx': leave it out"
        with pytest.raises(StoreError, match=message):
            file[3]
        with pytest.raises(StoreError, match=r"first in frame 2, channel 'pressure'.*allow_nonfinite=True"):
            file[4]
        assert np.isfinite(file.read(3, slice(0, 3))).all()
    with open_pdebench(path, allow_nonfinite=True) as file:
        assert np.isnan(file[3][..., 6:, 2]).all()
    path = BY_NAME["darcy"].write(tmp_path)
    with h5py.File(path, "r+") as raw:
        raw["nu"][0, 0, 0] = np.nan
    with pytest.raises(StoreError, match=r"sample 0 of .* holds 1 NaN or infinite values, channel 'nu'"):
        open_pdebench(path).static(0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reduced_resolution": 0}, "`reduced_resolution` must be a whole number of 1 or more, got 0"),
        ({"reduced_resolution": 2.0}, "`reduced_resolution` must be a whole number of 1 or more, got 2.0"),
        ({"reduced_resolution": 16}, "`reduced_resolution` must be below 16, since there are 16 points along an axis"),
        ({"reduced_resolution_t": -1}, "`reduced_resolution_t` must be a whole number of 1 or more, got -1"),
        ({"reduced_resolution_t": 21}, "`reduced_resolution_t` must be below 21, since there are 21 frames, got 21"),
        ({"reduced_batch": 10}, "`reduced_batch` must be below 10, since there are 10 samples, got 10"),
        ({"reduced_batch": True}, "`reduced_batch` must be a whole number"),
        ({"test_ratio": 1.5}, r"`test_ratio` must be a number in \[0, 1\], got 1.5"),
        ({"allow_nonfinite": 1}, "`allow_nonfinite` must be true or false, got 1"),
        ({"pde": "burger"}, "`pde` must be one of advection, burgers, .*, got 'burger'"),
    ],
)
def test_wrong_settings(settings, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        open_pdebench(BY_NAME["burgers"].write(tmp_path), **settings)


def test_another_kind_than_was_asked_for(tmp_path):
    with pytest.raises(StoreError, match="was to be of the kind 'darcy', but its contents are of 'burgers'"):
        open_pdebench(BY_NAME["burgers"].write(tmp_path), pde="darcy")


def test_frames_that_a_model_is_given(tmp_path):
    path = BY_NAME["burgers"].write(tmp_path)
    with pytest.raises(ConfigError, match=r"`initial_step` must be from 1 to 20, since .* has 21 frames .*, got 21"):
        PDEBenchDataset(path, "train", initial_step=21)
    with pytest.raises(ConfigError, match=r"from 1 to 4, since .* 5 frames with `reduced_resolution_t=5`, got 10"):
        PDEBenchDataset(open_pdebench(path, reduced_resolution_t=5), "train")
    with pytest.raises(ConfigError, match=r"`initial_step` must be a whole number of 0 or more, got 1\.5"):
        PDEBenchDataset(path, "train", initial_step=1.5)
    with pytest.raises(ConfigError, match="must be 0 for darcy, which is given its coefficient"):
        PDEBenchDataset(BY_NAME["darcy"].write(tmp_path), "train", initial_step=1)
    with pytest.raises(ConfigError, match="`split`"):
        PDEBenchGraphs(path, "valid")
