"""Files in the published layouts, written sample by sample: resumable, and whole or absent."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from flare_connect.errors import ConfigError, StoreError
from flare_connect.files import replacing
from flare_datasets.config import check_integer
from flare_datasets.pdebench.checks import checked_coordinates, checked_parameters, checked_times, summary_of
from flare_datasets.pdebench.contents import stored_shape
from flare_datasets.pdebench.families import AXES, Family, Stored, family_of
from flare_datasets.pdebench.parts import SampleParts, compare, read_json, write_json

_DTYPE = np.dtype("<f4")
_MOST_GROUPS = 10_000  # names of four digits sort as numbers up to here


class PDEBenchWriter:
    """Writes a PDEBench file sample by sample, in any order and from any number of processes.

    Samples are kept in `<path>.parts` until `finish` packs them into the file in one step, so that an interruption
    costs at most the sample at hand, and there is never half a file. `<path>.json` keeps what it was made with; the
    file itself holds nothing but what published ones hold.

    ```python
    writer = PDEBenchWriter("1D_Burgers_Sols_Nu0.01.hdf5", "burgers", num_samples=100, coordinates=[x], times=t,
                            parameters={"Nu": 0.01}, made_with={"seed": 0})
    for i in writer.missing():
        writer.write(i, solve(i))  # [X, T, 1]
    writer.finish()
    ```

    Args:
        path: file to write; `open_pdebench` reads it under any name, official loaders under the published one.
        pde: a name in `FAMILIES`.
        num_samples: N.
        coordinates: places of the points along each axis `[X]`, increasing.
        times: times of the frames `[T]`, increasing; none for Darcy flow. Where published files hold one entry more
            than there are frames, it is added: a step after the last.
        parameters: beta, Nu, rho, … of the whole file; those of the family are required.
        made_with: what determines the samples, the generator's settings and seed; plain JSON values.
        overwrite: make the file anew where it, or its parts, were made with something else.

    Raises:
        ConfigError: a setting is wrong.
        StoreError: the path, or its parts, hold something else.
    """

    def __init__(
        self,
        path: str | Path,
        pde: str,
        *,
        num_samples: int,
        coordinates: Sequence[Any],
        times: Any = None,
        parameters: Mapping[str, float] | None = None,
        made_with: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ):
        self.path = Path(path)
        self.family: Family = family_of(pde)
        check_integer("num_samples", num_samples, 1, _MOST_GROUPS if self.family.layout == "group" else None)
        self.num_samples = num_samples
        self._coordinates = checked_coordinates(self.family, coordinates)
        self._times, self.num_frames = checked_times(self.family, times)
        self.parameters = checked_parameters(self.family, parameters or {})
        self.shape: tuple[int, ...] = tuple(len(x) for x in self._coordinates)
        """Points along each axis."""
        self._manifest = self._describe(made_with or {})
        self._note = self.path.with_name(self.path.name + ".json")
        self._parts: SampleParts | None = None
        folder = self.path.with_name(self.path.name + ".parts")
        replaced = overwrite and self._make_room(folder)
        self.finished: bool = not replaced and self._is_made(folder)
        """Whether the file is there already, made with the same settings; then nothing is missing."""
        if self.finished:
            if folder.exists():  # killed between writing the file and removing the parts
                SampleParts(folder, self._manifest).remove()
        else:
            self._note.unlink(missing_ok=True)  # of a file that is gone
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._parts = SampleParts(folder, self._manifest)

    def missing(self) -> list[int]:
        """Samples that are still to be written; it reads those that are there once, to see that they are whole."""
        return [] if self._parts is None else self._parts.missing(self.num_samples)

    def write(self, index: int, values: Any, static: Any = None) -> None:
        """Keep one sample.

        Args:
            index: which one, from 0.
            values: `[X[, Y[, Z]], T, V]`, array or tensor, as `PDEBenchFile` gives it.
            static: `[X[, Y[, Z]], W]` where the family has such: the coefficient of Darcy flow, the force.

        Raises:
            StoreError: the shape is wrong, a value is not finite, or there is no such sample.
        """
        if self._parts is None:
            raise StoreError(f"{self.path} is finished; choose another path, or pass overwrite=True and other settings")
        if not 0 <= index < self.num_samples:
            raise StoreError(f"{self.path} has {self.num_samples} samples, counted from 0; there is no sample {index}")
        wide = (*self.shape, self.num_frames, len(self.family.channels))
        arrays = self._split(index, "values", self.family.fields, values, wide)
        if self.family.static:
            flat = (*self.shape, len(self.family.static_channels))
            arrays |= self._split(index, "static", self.family.static, static, flat)
        elif static is not None:
            raise StoreError(f"sample {index} has `static`, but {self.family.name} stores nothing of the kind")
        self._parts.write(index, arrays)

    def finish(self) -> Path:
        """Pack all samples into the file and remove the parts.

        Returns:
            The file's path.

        Raises:
            StoreError: a sample is missing or damaged; no file is left then.
        """
        if self._parts is None:
            return self.path
        with replacing(self.path) as temporary, h5py.File(temporary, "w") as file:
            self._write_head(file)
            for i in range(self.num_samples):
                self._write_sample(file, i, self._parts.read(i))
        write_json(self._note, self._manifest | {"bytes": self.path.stat().st_size})
        self._parts.remove()
        self._parts, self.finished = None, True
        return self.path

    def _split(
        self, index: int, what: str, arrays: Sequence[Stored], values: Any, shape: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Values in memory's layout as the arrays of the file, without the axis of samples."""
        given = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        if values is None or given.shape != shape:
            got = "none" if values is None else f"shape {list(given.shape)}"
            raise StoreError(f"sample {index}: `{what}` must have shape {list(shape)}, got {got}")
        with np.errstate(over="ignore"):
            given = given.astype(_DTYPE)
        if not np.isfinite(given).all():
            raise StoreError(f"sample {index}: `{what}` is NaN or infinite as float32; leave this sample out")
        found, start = {}, 0
        for stored in arrays:
            part = given[..., start : start + len(stored.channels)]
            start += len(stored.channels)
            if what == "values":
                part = np.moveaxis(part, self.family.dim, 0)
            found[stored.key] = np.ascontiguousarray(part if stored.trailing else part[..., 0])
        return found

    def _write_head(self, file: h5py.File) -> None:
        file.attrs.update(self.parameters)
        if self.family.layout == "group":
            return
        for stored in (*self.family.fields, *self.family.static):
            frames = self.num_frames if stored in self.family.fields else None
            file.create_dataset(stored.key, stored_shape(stored, self.num_samples, frames, self.shape), dtype=_DTYPE)
        if self.family.times == "sample":
            file.create_dataset("t", data=np.tile(self._times, (self.num_samples, 1)))
            return
        for axis, values in zip(AXES, self._coordinates, strict=False):
            file.create_dataset(f"{axis}-coordinate", data=values)
        if self.family.times == "shared":
            file.create_dataset("t-coordinate", data=self._times)

    def _write_sample(self, file: h5py.File, i: int, arrays: Mapping[str, np.ndarray]) -> None:
        if self.family.layout == "array":
            for key, values in arrays.items():
                file[key][i] = values
            return
        group = file.create_group(f"{i:04d}")
        for key, values in arrays.items():
            group.create_dataset(key, data=values)
        for axis, values in zip(AXES, self._coordinates, strict=False):
            group.create_dataset(f"grid/{axis}", data=values)
        group.create_dataset("grid/t", data=self._times)

    def _describe(self, made_with: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept beside the file; long arrays by a hash."""
        try:
            settings = json.loads(json.dumps(dict(made_with)))
        except TypeError as error:
            raise ConfigError(f"`made_with` must be plain numbers, strings, lists and dicts: {error}") from error
        return {
            "pde": self.family.name,
            "num_samples": self.num_samples,
            "parameters": self.parameters,
            "made_with": settings,
            **{axis: summary_of(x) for axis, x in zip(AXES, self._coordinates, strict=False)},
            "t": summary_of(self._times),
        }

    def _is_made(self, folder: Path) -> bool:
        if not self.path.exists():
            return False
        if self._note.exists():
            there = read_json(self._note)
            size = there.pop("bytes", None)
            compare(there, self._manifest, self.path)
            if size == self.path.stat().st_size:
                return True
        elif folder.exists():  # killed between writing the file and the note: the parts tell whether it is ours
            return False
        raise StoreError(f"{self.path} exists and was not made here; choose another path or pass overwrite=True")

    def _make_room(self, folder: Path) -> bool:
        """Remove what was made with other settings, all but the file itself, which stays until the new one is whole."""
        try:
            if self.path.exists():
                self._is_made(folder)
            if folder.exists():
                SampleParts(folder, self._manifest)
        except StoreError:
            shutil.rmtree(folder, ignore_errors=True)
            self._note.unlink(missing_ok=True)
            return True
        return False


def write_pdebench(
    path: str | Path,
    pde: str,
    draw: Callable[[int], Any],
    *,
    num_samples: int,
    coordinates: Sequence[Any],
    times: Any = None,
    parameters: Mapping[str, float] | None = None,
    made_with: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write a PDEBench file from a function that makes its samples; call again after an interruption to go on.

    Args:
        path: file to write.
        pde: a name in `FAMILIES`.
        draw: from the number of a sample to `[X[, Y[, Z]], T, V]`, or to (that, static) where the family has static
            arrays; called once for each sample that is not there yet.
        num_samples: see `PDEBenchWriter`, as the following.
        coordinates: places of the points along each axis.
        times: times of the frames.
        parameters: beta, Nu, rho, … of the whole file.
        made_with: what determines the samples.
        overwrite: make the file anew where it was made with something else.
        progress: show a progress bar on stderr.

    Returns:
        The file's path. A file that was made with the same settings is returned at once.

    Raises:
        ConfigError: a setting is wrong.
        StoreError: a sample does not fit, or the path holds something else.
    """
    writer = PDEBenchWriter(
        path,
        pde,
        num_samples=num_samples,
        coordinates=coordinates,
        times=times,
        parameters=parameters,
        made_with=made_with,
        overwrite=overwrite,
    )
    for i in tqdm(writer.missing(), desc=writer.path.name, unit="sample", file=sys.stderr, disable=not progress):
        values, static = draw(i) if writer.family.static else (draw(i), None)
        writer.write(i, values, static)
    return writer.finish()
