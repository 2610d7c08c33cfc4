"""A whole data set: samples made in parallel, resumable at any time, packed into one file."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.config import SplitConfig
from flare_datasets.workers import Drawn, draw_samples

if TYPE_CHECKING:
    # At run time only where it is used: workers import the caller's script, and with it this file, but need no torch.
    from flare_connect.mesh import Mesh, MeshParts

_LOG = logging.getLogger("flare_datasets")


@dataclass(frozen=True, kw_only=True)
class Generator:
    """How the samples of one data set are made.

    Args:
        name: kept in the file.
        version: kept in the file; raised whenever the same configuration would give other samples.
        title: what the progress bar says.
        unit: one sample, in a word.
        units: unit of every field.
        draw: a sample from configuration and index; a function of a module that loads no torch, for workers.
        compress: make the file small, see `write_store`.
    """

    name: str
    version: int
    title: str
    unit: str
    units: Mapping[str, str]
    draw: Callable[[Any, int], Drawn]
    compress: bool = False

    def generate(
        self,
        path: str | Path,
        config: SplitConfig,
        *,
        num_workers: int | None = None,
        progress: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Make the data set `config` in one HDF5 file; arguments and errors as in `unit_cells.generate`."""
        from flare_connect.mesh import write_store

        path = Path(path)
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"`num_workers` must be 0 or more, got {num_workers}")
        parameters = {"generator": self.name, "generator_version": self.version, **config.parameters()}
        folder = path.with_name(path.name + ".parts")
        if path.exists() and _is_made(path, parameters, overwrite):
            if folder.exists():  # killed between writing the file and removing the parts
                _open_parts(folder, parameters, overwrite=False).remove()
            return path

        path.parent.mkdir(parents=True, exist_ok=True)
        parts = _open_parts(folder, parameters, overwrite)
        missing = parts.missing(config.num_samples)
        if missing:
            count = min(_num_cpus() if num_workers is None else num_workers, len(missing))
            self._make(config, parts, missing, count, progress)
        write_store(
            path,
            (parts.read(index) for index in range(config.num_samples)),
            splits=_splits(config),
            generator=self.name,
            generator_version=self.version,
            seed=config.seed,
            parameters=parameters,
            compress=self.compress,
        )
        parts.remove()
        return path

    def _make(
        self,
        config: SplitConfig,
        parts: MeshParts,
        missing: Sequence[int],
        num_workers: int,
        progress: bool,
    ) -> None:
        bar = tqdm(
            total=config.num_samples,
            initial=config.num_samples - len(missing),
            desc=self.title,
            unit=self.unit,
            file=sys.stderr,
            disable=not progress,
        )
        redrawn = []
        with bar:
            for index, arrays, given_up in draw_samples(self.draw, config, missing, num_workers):
                parts.write(index, as_mesh(arrays, self.units))
                bar.update()
                if given_up:
                    redrawn.append(index)
                    _LOG.warning("sample %d was drawn %d times: %s", index, len(given_up) + 1, "; ".join(given_up))
        if redrawn:
            _LOG.warning("%d of %d samples were drawn more than once: %s", len(redrawn), len(missing), sorted(redrawn))


def as_mesh(arrays: Mapping[str, Any], units: Mapping[str, str]) -> Mesh:
    """The mesh of the arrays that a generator drew."""
    from flare_connect.mesh import Mesh

    return Mesh.from_arrays(**arrays, units=units)


def _is_made(path: Path, parameters: dict, overwrite: bool) -> bool:
    from flare_connect.mesh import MeshStore

    try:
        with MeshStore(path) as store:
            found = store.attrs["parameters"]
    except StoreError as error:
        if overwrite:
            return False
        raise StoreError(f"{path} exists and is no data set ({error}); remove it or pass overwrite=True") from error
    if found == parameters:
        return True
    if overwrite:
        return False
    names = sorted(found.keys() | parameters.keys())
    differ = [name for name in names if found.get(name) != parameters.get(name)]
    detail = ", ".join(f"{name} (there {found.get(name)!r}, here {parameters.get(name)!r})" for name in differ)
    raise StoreError(f"{path} was made with other parameters: {detail}; choose another path or pass overwrite=True")


def _open_parts(folder: Path, parameters: dict, overwrite: bool) -> MeshParts:
    from flare_connect.mesh import MeshParts

    try:
        return MeshParts(folder, parameters)
    except StoreError:
        if not overwrite:
            raise
    shutil.rmtree(folder)
    return MeshParts(folder, parameters)


def _splits(config: SplitConfig) -> dict[str, np.ndarray]:
    ends = np.cumsum(config.counts)
    starts = [0, *ends[:-1]]
    return {name: np.arange(a, b) for name, a, b in zip(config.splits, starts, ends, strict=True) if b > a}


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
