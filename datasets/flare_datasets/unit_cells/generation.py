"""The whole data set: samples made in parallel, resumable at any time, packed into one file."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.unit_cells.config import SPLITS, UnitCellConfig
from flare_datasets.unit_cells.sample import as_mesh
from flare_datasets.unit_cells.workers import draw_samples

if TYPE_CHECKING:
    # At run time only where it is used: workers import the caller's script, and with it this file, but need no torch.
    from flare_connect.mesh import MeshParts

GENERATOR = "flare_datasets.unit_cells"
GENERATOR_VERSION = 1
"""Raised whenever the same configuration would give other samples."""

_LOG = logging.getLogger("flare_datasets")


def generate(
    path: str | Path,
    config: UnitCellConfig,
    *,
    num_workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Make a data set of unit cells, one HDF5 file with the non-empty splits of "train", "test", "shift" and "val".

    Finished samples are kept in `<path>.parts` until the file is written: call again after an interruption, whatever it
    was, and generation goes on from there. The result does not depend on interruptions or on the number of workers.

    Args:
        path: file to write.
        config: what to draw.
        num_workers: processes; as many as there are CPUs by default; 0 works in this process. Processes are spawned, so
            a script that calls this must do so under `if __name__ == "__main__":`.
        progress: show a progress bar on stderr.
        overwrite: make the data set anew where `path`, or its parts, were made with other parameters.

    Returns:
        `path`. A file that was made with the same parameters is returned at once.

    Raises:
        StoreError: `path` or `<path>.parts` exists and was made with other parameters, or is no data set.
        MeshError: a sample failed five times.
        ConfigError: `num_workers` is negative.
        ImportError: gmsh or scikit-fem is not installed.

    Good values: `num_workers` left out. A sample takes about half a second of one core at 1,000 nodes.
    """
    from flare_connect.mesh import write_store

    path = Path(path)
    if num_workers is not None and num_workers < 0:
        raise ConfigError(f"`num_workers` must be 0 or more, got {num_workers}")
    parameters = {"generator": GENERATOR, "generator_version": GENERATOR_VERSION, **config.parameters()}
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
        _make(config, parts, missing, count, progress)
    write_store(
        path,
        (parts.read(index) for index in range(config.num_samples)),
        splits=_splits(config),
        generator=GENERATOR,
        generator_version=GENERATOR_VERSION,
        seed=config.seed,
        parameters=parameters,
    )
    parts.remove()
    return path


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


def _splits(config: UnitCellConfig) -> dict[str, np.ndarray]:
    ends = np.cumsum(config.counts)
    starts = [0, *ends[:-1]]
    return {name: np.arange(a, b) for name, a, b in zip(SPLITS, starts, ends, strict=True) if b > a}


def _make(config: UnitCellConfig, parts: MeshParts, missing: Sequence[int], num_workers: int, progress: bool) -> None:
    bar = tqdm(
        total=config.num_samples,
        initial=config.num_samples - len(missing),
        desc="unit cells",
        unit="cell",
        file=sys.stderr,
        disable=not progress,
    )
    redrawn = []
    with bar:
        for index, arrays, given_up in draw_samples(config, missing, num_workers):
            parts.write(index, as_mesh(arrays))
            bar.update()
            if given_up:
                redrawn.append(index)
                _LOG.warning("sample %d was drawn %d times: %s", index, len(given_up) + 1, "; ".join(given_up))
    if redrawn:
        _LOG.warning("%d of %d samples were drawn more than once: %s", len(redrawn), len(missing), sorted(redrawn))


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
