"""Files of the one-dimensional families: draws, solved in batches, in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm import tqdm

from flare_datasets.config import check_integer
from flare_datasets.pdebench.solvers.one_d_config import OneDConfig
from flare_datasets.pdebench.writer import PDEBenchWriter


@torch.no_grad()
def generate(
    path: str | Path,
    config: OneDConfig,
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Make a PDEBench file of a one-dimensional family with the solvers here; `open_pdebench` reads it.

    ```python
    from flare_datasets.pdebench.solvers.burgers import BurgersConfig
    from flare_datasets.pdebench.solvers.one_d_generation import generate

    generate("1D_Burgers_Sols_Nu0.01.hdf5", BurgersConfig(nu=0.01, num_samples=100))
    ```

    Finished samples are kept in `<path>.parts` until the file is written: call again after an interruption, and
    generation goes on; it costs at most the batch at hand. Every sample has its own seed and its own time steps, so it
    does not depend on interruptions or on `batch_size`, but for rounding.

    Args:
        path: file to write; the reader knows the boundary of `compressible_1d` from published names only.
        config: what to draw; its class tells the family.
        batch_size: samples solved at a time.
        device: where, as torch names it.
        progress: show a progress bar on stderr.
        overwrite: make the file anew where it, or its parts, were made with other settings.

    Returns:
        `path`. A file that was made with the same settings is returned at once.

    Raises:
        ConfigError: a setting is wrong.
        StoreError: `path` or `<path>.parts` exists and was made with other settings.

    Good values: 64 on a CPU; on a GPU as many as fit, since a step costs there about the same for 1 and for 1,000.
    """
    check_integer("batch_size", batch_size, 1)
    writer = PDEBenchWriter(
        path,
        config.pde,
        num_samples=config.num_samples,
        coordinates=[config.points],
        times=config.times,
        parameters=config.attributes,
        made_with=config.made_with(),
        overwrite=overwrite,
    )
    missing = writer.missing()
    bar = tqdm(
        total=config.num_samples,
        initial=config.num_samples - len(missing),
        desc=writer.path.name,
        unit="sample",
        file=sys.stderr,
        disable=not progress,
    )
    with bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            for i, values in zip(batch, config.solve(batch, torch.device(device)).cpu(), strict=True):
                writer.write(i, values)
                bar.update()
    return writer.finish()
