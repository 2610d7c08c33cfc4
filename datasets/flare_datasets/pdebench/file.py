"""One PDEBench file, read lazily: a sequence of samples `[X[, Y[, Z]], T, V]`, each by slices, whatever the layout."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from flare_connect.errors import StoreError
from flare_datasets.pdebench.arrays import find_array, open_file, read_vector, reading
from flare_datasets.pdebench.contents import Contents, inspect, stored_shape
from flare_datasets.pdebench.families import Family, Stored
from flare_datasets.pdebench.options import ReadOptions, split_range

_BLOCK_BYTES = 1 << 24  # frames that are read at a time, before the stride in space


class PDEBenchIndexError(StoreError, IndexError):
    """There is no sample of this number; also an IndexError, as Python expects of sequences."""


class PDEBenchFile:
    """A PDEBench file: a sequence of samples that are read when they are asked for; make it with `open_pdebench`.

    Memory does not depend on the size of the file: a read holds one sample, after the strides, and a block of frames.
    The file is opened anew in each process, so it can be pickled and used in data-loader workers.

    Attributes:
        path: the file.
        family: which kind of file it is.
        parameters: numbers of the whole file: beta, Nu, rho, M, eta, zeta, what there is.
        boundary: "periodic" or "trans" where the file's name says so.
        channels: names of the V channels.
        static_channels: names of what does not vary in time: `nu` of Darcy flow, the force.
        shape: points along each axis, after the stride.
        num_frames: T, after the stride.
        coordinates: places along each axis `[X]`, after the stride, float32.
        period: length of the domain along each axis if it is repeated: the spacing times the number of points.
        options: strides and the rest.
    """

    def __init__(self, path: str | Path, options: ReadOptions, pde: str | None, parameters: Mapping[str, float]):
        self.path = Path(path)
        self.options = options
        self._file: h5py.File | None = None
        self._pid = -1
        with open_file(self.path) as file, reading("the index", self.path):
            self._contents: Contents = inspect(file, self.path, pde, parameters)
        found = self._contents
        options.check_against(found.shape, found.num_frames, found.num_samples)
        self.family: Family = found.family
        self.parameters: dict[str, float] = found.parameters
        self.boundary: str | None = found.boundary
        self.channels: tuple[str, ...] = found.family.channels
        self.static_channels: tuple[str, ...] = found.family.static_channels
        self.coordinates: tuple[np.ndarray, ...] = tuple(x[:: options.reduced_resolution] for x in found.coordinates)
        self.shape: tuple[int, ...] = tuple(len(x) for x in self.coordinates)
        self.period: tuple[float, ...] = tuple(_period(x) for x in found.coordinates)
        self.num_frames: int = len(self._frames)

    def __len__(self) -> int:
        return -(-self._contents.num_samples // self.options.reduced_batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> PDEBenchFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_pid": -1}

    def __getitem__(self, index: int) -> np.ndarray:
        """One sample `[X[, Y[, Z]], T, V]`; see `read`."""
        return self.read(index)

    @property
    def periodic(self) -> bool:
        """Whether the domain repeats; of compressible flow the file's name tells."""
        return self.boundary == "periodic" if self.family.periodic is None else self.family.periodic

    @property
    def grid(self) -> np.ndarray:
        """Coordinates of all points `[X[, Y[, Z]], d]`, float32."""
        return np.stack(np.meshgrid(*self.coordinates, indexing="ij"), axis=-1)

    def split(self, name: str) -> np.ndarray:
        """Samples of a split: the test samples are the first of an array file and the last of a group file.

        Args:
            name: "train", "test" or "val", which is the same as "test".

        Raises:
            ConfigError: there is no such split, or it is empty.
        """
        chosen = split_range(name, len(self), self.options.test_ratio, self.family.layout == "array")
        return np.arange(chosen.start, chosen.stop)

    def read(self, index: int, frames: slice = slice(None)) -> np.ndarray:
        """One sample, or some frames of it.

        Args:
            index: which one, after `reduced_batch`; negative ones count from the end.
            frames: which frames, after `reduced_resolution_t`.

        Returns:
            `[X[, Y[, Z]], T, V]`, float32.

        Raises:
            StoreError: there is no such sample, the file is damaged, or values are not finite.
        """
        i = self._index(index)
        chosen = self._frames[frames]
        out = np.empty((*self.shape, len(chosen), len(self.channels)), dtype=np.float32)
        self._fill(i, self.family.fields, out, chosen)
        return out

    def static(self, index: int) -> np.ndarray:
        """What does not vary in time `[X[, Y[, Z]], W]`, float32; W is 0 where there is nothing of the kind.

        Raises:
            StoreError: as `read`.
        """
        i = self._index(index)
        out = np.empty((*self.shape, 1, len(self.static_channels)), dtype=np.float32)
        self._fill(i, self.family.static, out, None)
        return out[..., 0, :]

    def times(self, index: int = 0) -> np.ndarray:
        """Times of the frames `[T]`, float32; one 0 for Darcy flow. Array files have the same for all samples.

        Raises:
            StoreError: as `read`.
        """
        i = self._index(index)
        length, file = self._contents.num_frames, self._open()
        if self.family.times == "none":
            return np.zeros(1, dtype=np.float32)
        if self.family.layout == "group":
            found = read_vector(file, f"{self._contents.keys[i]}/grid/t", self.path, length, extra=True)
        elif self.family.times == "sample":
            item = find_array(file, "t", self.path, (self._contents.num_samples, length))
            with reading("'t'", self.path):
                found = np.asarray(item[i], dtype=np.float32)
        else:
            found = read_vector(file, "t-coordinate", self.path, length, extra=True)
        return found[:: self.options.reduced_resolution_t]

    def close(self) -> None:
        """Closes the file; it opens again on next use."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    @property
    def _frames(self) -> range:
        return range(0, self._contents.num_frames, self.options.reduced_resolution_t)

    def _index(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise PDEBenchIndexError(
                f"{self.path} has {len(self)} samples, 0 to {len(self) - 1}; there is no sample {index}"
            )
        return int(index) % len(self) * self.options.reduced_batch

    def _open(self) -> h5py.File:
        # a forked process must not share the parent's file handle: it opens its own and leaves that one alone
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = open_file(self.path), os.getpid()
        return self._file

    def _fill(self, i: int, arrays: tuple[Stored, ...], out: np.ndarray, frames: range | None) -> None:
        """Read arrays of sample `i` of the file into `out` `[X…, T, V]`; `frames` None is an array without time."""
        found, file, start = self._contents, self._open(), 0
        key = found.keys[i] if found.keys else None
        times = None if frames is None else found.num_frames
        for stored in arrays:
            name = stored.key if key is None else f"{key}/{stored.key}"
            shape = stored_shape(stored, None if key else found.num_samples, times, found.shape)
            item = find_array(file, name, self.path, shape)
            channels = slice(start, start + len(stored.channels))
            start = channels.stop
            with reading(f"sample {i}", self.path), np.errstate(over="ignore"):
                where = () if key else (i,)
                if frames is None:
                    self._place(item[where][None], stored, out[..., channels])
                elif len(frames):
                    self._read_blocks(item, where, stored, frames, out[..., channels])
        if not self.options.allow_nonfinite:
            self._check_finite(i, out, frames)

    def _read_blocks(self, item: Any, where: tuple, stored: Stored, frames: range, out: np.ndarray) -> None:
        """Whole frames, a few at a time: strides in space inside HDF5 are slow, whole samples may be gigabytes."""
        frame_bytes = int(np.prod(item.shape[len(where) + 1 :])) * item.dtype.itemsize
        count = max(1, _BLOCK_BYTES // frame_bytes)
        if item.chunks is not None:  # a block ends where a chunk does, so that none is unpacked twice
            chunk = item.chunks[len(where)]
            whole = chunk // math.gcd(chunk, frames.step)
            count = -(-count // whole) * whole
        for start in range(0, len(frames), count):
            part = frames[start : start + count]
            low, high = min(part[0], part[-1]), max(part[0], part[-1])
            block = item[(*where, slice(low, high + 1, abs(part.step)))]
            self._place(block if part.step > 0 else block[::-1], stored, out[..., start : start + len(part), :])

    def _place(self, block: np.ndarray, stored: Stored, out: np.ndarray) -> None:
        """Frames `[T, X…[, V]]` at full resolution into `[X…, T, V]`."""
        stride = slice(None, None, self.options.reduced_resolution)
        reduced = block[(slice(None), *([stride] * self.family.dim))]
        reduced = reduced if stored.trailing else reduced[..., None]
        out[...] = np.moveaxis(reduced, 0, self.family.dim)

    def _check_finite(self, i: int, out: np.ndarray, frames: range | None) -> None:
        finite = np.isfinite(out)
        if finite.all():
            return
        bad = ~finite.all(axis=tuple(range(self.family.dim)))  # [T, V]
        frame, channel = np.argwhere(bad)[0]
        names = self.static_channels if frames is None else self.channels
        place = "" if frames is None else f" first in frame {frames[int(frame)]},"
        raise StoreError(
            f"sample {i} of {self.path} holds {int((~finite).sum())} NaN or infinite values,{place} channel "
            f"{names[int(channel)]!r}: leave it out, or pass allow_nonfinite=True"
        )


def _period(coordinates: np.ndarray) -> float:
    if len(coordinates) < 2:
        return 1.0
    spacing = (float(coordinates[-1]) - float(coordinates[0])) / (len(coordinates) - 1)
    return spacing * len(coordinates)
