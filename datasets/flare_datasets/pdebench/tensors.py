"""A split of a file as a map-style torch data set, in the shapes that PDEBench's models take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer
from flare_datasets.pdebench.file import PDEBenchFile, PDEBenchIndexError
from flare_datasets.pdebench.opening import open_pdebench


class PDEBenchSample(NamedTuple):
    """One sample; a `DataLoader` adds the axis of the batch in front.

    Attributes:
        initial: what the model is given `[X[, Y[, Z]], initial_step, V]`; the coefficient `[X, Y, 1, 1]` of Darcy flow.
        frames: all frames, the given ones included `[X[, Y[, Z]], T, V]`.
        grid: coordinates `[X[, Y[, Z]], d]`.
        static: what does not vary in time `[X[, Y[, Z]], W]`: coefficient, force; W is 0 where there is nothing.
    """

    initial: Tensor
    frames: Tensor
    grid: Tensor
    static: Tensor


class PDEBenchDataset(Dataset[PDEBenchSample]):
    """A split of a PDEBench file; each sample is read when it is asked for, also in `DataLoader` workers.

    ```python
    train = PDEBenchDataset(open_pdebench(path, reduced_resolution=4), "train")
    for initial, frames, grid, static in DataLoader(train, batch_size=8, shuffle=True, num_workers=2):
        ...
    ```

    Args:
        file: an open file with its strides, or a path, which is read without any.
        split: "train", "test", or "val", which is the same as "test".
        initial_step: frames that the model is given; as published by default: 10, for one-dimensional
            reaction-diffusion 5. Darcy flow is given its coefficient and no frame.

    Raises:
        ConfigError: there is no such split, it is empty, or the file has too few frames.
        StoreError: the file cannot be read.
    """

    def __init__(self, file: PDEBenchFile | str | Path, split: str, *, initial_step: int | None = None):
        self.file = file if isinstance(file, PDEBenchFile) else open_pdebench(file)
        self.indices = self.file.split(split)
        self.initial_step = checked_initial_step(self.file, initial_step)
        self._grid = torch.from_numpy(self.file.grid)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[PDEBenchSample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> PDEBenchSample:
        """Reads one sample; negative indices count from the end.

        Raises:
            StoreError: there is no such sample, or it is damaged or not finite.
        """
        i = number_in_split(self.indices, index)
        frames, static = torch.from_numpy(self.file.read(i)), torch.from_numpy(self.file.static(i))
        initial = frames[..., : self.initial_step, :] if self.initial_step else static[..., None, :]
        return PDEBenchSample(initial, frames, self._grid, static)


def checked_initial_step(file: PDEBenchFile, initial_step: int | None) -> int:
    """How many frames a model is given; the family's own number by default.

    Raises:
        ConfigError: it is no such number, or leaves nothing to predict.
    """
    usual = file.family.initial_step
    if initial_step is None:
        initial_step = usual
    check_integer("initial_step", initial_step, 0)
    if usual == 0 and initial_step:
        raise ConfigError(
            f"`initial_step` must be 0 for {file.family.name}, which is given its coefficient and no frame, got "
            f"{initial_step}"
        )
    if usual and not 1 <= initial_step < file.num_frames:
        raise ConfigError(
            f"`initial_step` must be from 1 to {file.num_frames - 1}, since {file.path} has {file.num_frames} frames "
            f"with `reduced_resolution_t={file.options.reduced_resolution_t}`, got {initial_step}"
        )
    return initial_step


def number_in_split(indices: np.ndarray, index: int) -> int:
    """Number in the file of sample `index` of a split.

    Raises:
        StoreError: the split has no such sample.
    """
    if not -len(indices) <= index < len(indices):
        raise PDEBenchIndexError(
            f"the split has {len(indices)} samples, 0 to {len(indices) - 1}; there is no sample {index}"
        )
    return int(indices[index])
