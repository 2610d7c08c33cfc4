"""From a file of PDEBench to a prepared data set, which models are trained on."""

from __future__ import annotations

from pathlib import Path

from flare_connect.errors import StoreError
from flare_connect.mesh import write_store
from flare_datasets.config import check_number
from flare_datasets.pdebench.file import PDEBenchFile
from flare_datasets.pdebench.graphs import PDEBenchGraphs


def prepare_pdebench(
    file: PDEBenchFile, path: str | Path, *, val_fraction: float = 0.05, progress: bool = True
) -> dict[str, range]:
    """Pack a file into a data set of series: a mesh a sample, each channel a point field `[N, T]`.

    The split "test" is the published one. What is judged in the end has no say in the training: PDEBench validates on
    its test split, this takes "val" from the rest, its last samples.

    Args:
        file: an open file, with its strides.
        path: data set to write; an existing one is replaced in one step at the end.
        val_fraction: share of what is trained on, to validate; at least one sample.
        progress: show a progress bar.

    Returns:
        Split → samples of the data set.

    Raises:
        ConfigError: `val_fraction` is no number between 0 and 1, or a split is empty.
        StoreError: the file is damaged, or has too few samples.
    """
    check_number("val_fraction", val_fraction, 0.0, 0.9)
    train, test = (PDEBenchGraphs(file, split) for split in ("train", "test"))
    held = max(1, round(val_fraction * len(train)))
    if held >= len(train):
        raise StoreError(f"{file.path} has {len(train)} samples to train on, {held} of which would validate: take more")
    ends = (len(train) - held, len(train), len(train) + len(test))
    splits = {"train": range(ends[0]), "val": range(ends[0], ends[1]), "test": range(ends[1], ends[2])}
    parameters = {name: getattr(file.options, name) for name in ("reduced_resolution", "reduced_resolution_t")}
    write_store(
        path, (mesh for part in (train, test) for mesh in part), splits=splits, progress=progress,
        generator=f"pdebench {file.family.name}", generator_version=1, seed=0,
        parameters=parameters | {"file": file.path.name, **file.parameters},
    )  # fmt: skip
    return splits
