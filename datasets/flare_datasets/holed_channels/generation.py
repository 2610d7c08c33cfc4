"""The whole data set of channels in one file."""

from __future__ import annotations

from pathlib import Path

from flare_datasets.generation import Generator
from flare_datasets.holed_channels.config import HoledChannelConfig
from flare_datasets.holed_channels.sample import UNITS, draw_sample

GENERATOR_VERSION = 1
"""Raised whenever the same configuration would give other samples."""

_GENERATOR = Generator(
    name="flare_datasets.holed_channels",
    version=GENERATOR_VERSION,
    title="holed channels",
    unit="channel",
    units=UNITS,
    draw=draw_sample,
    compress=True,
)


def generate(
    path: str | Path,
    config: HoledChannelConfig,
    *,
    num_workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Make a data set of flows: one compressed HDF5 file with those of its splits that are not empty.

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
    """
    return _GENERATOR.generate(path, config, num_workers=num_workers, progress=progress, overwrite=overwrite)
