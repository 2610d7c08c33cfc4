"""Any PDEBench file, opened without being told its kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flare_datasets.pdebench.file import PDEBenchFile
from flare_datasets.pdebench.options import ReadOptions


def open_pdebench(
    path: str | Path,
    *,
    pde: str | None = None,
    parameters: Mapping[str, float] | None = None,
    reduced_resolution: int = 1,
    reduced_resolution_t: int = 1,
    reduced_batch: int = 1,
    test_ratio: float = 0.1,
    allow_nonfinite: bool = False,
) -> PDEBenchFile:
    """Open a PDEBench file of any family; what it holds is found from the keys, shapes and attributes inside it.

    ```python
    file = open_pdebench("1D_Burgers_Sols_Nu0.01.hdf5", reduced_resolution=4, reduced_resolution_t=5)
    file.parameters, file.shape, file.num_frames  # {"Nu": 0.01}, (256,), 41
    file[0]  # [X, T, V], read now
    ```

    Where the name says something else than the contents there is a warning, and the contents count. The name is asked
    for what attributes lack: parameters, whether compressible flow is periodic, and the family of a one-dimensional
    `tensor` without attributes, which the contents alone leave open between three.

    Args:
        path: an HDF5 file.
        pde: a name in `FAMILIES`, for a file that neither its attributes nor its name tell; an error where the contents
            are of another kind.
        parameters: numbers that neither attributes nor name tell; they stand above both.
        reduced_resolution: stride on every spatial axis.
        reduced_resolution_t: stride on time.
        reduced_batch: stride on samples.
        test_ratio: share of the samples for the test: the first ones of an array file, the last ones of a group file.
        allow_nonfinite: give samples with NaN or infinite values instead of refusing them.

    Raises:
        StoreError: the file is missing, no HDF5 file, truncated, of another kind, or lacks an attribute.
        ConfigError: a setting is wrong.

    Good values: `file.family.usual` has the two strides of the published results.
    """
    options = ReadOptions(
        reduced_resolution=reduced_resolution,
        reduced_resolution_t=reduced_resolution_t,
        reduced_batch=reduced_batch,
        test_ratio=test_ratio,
        allow_nonfinite=allow_nonfinite,
    )
    return PDEBenchFile(path, options, pde, parameters or {})
