"""What the generators of two-dimensional families share: settings, seeds, batches that are written as solved."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer
from flare_datasets.pdebench.solvers.two_d_grids import Times, cell_centres
from flare_datasets.pdebench.writer import PDEBenchWriter

_MOST_MODES = 64

Draw = Callable[[Sequence[int], torch.device], tuple[Tensor, Tensor | None]]
"""From numbers of samples to `[B, X, Y, T, V]`, and `[B, X, Y, W]` where the family has static arrays."""


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Settings of every family.

    Args:
        num_samples: N.
        resolution: cells along each side.
        seed: same seed, same samples; sample i does not change with `num_samples`.

    Raises:
        ConfigError: a value is out of range.
    """

    num_samples: int
    resolution: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("num_samples", self.num_samples, 1)
        check_integer("resolution", self.resolution, 4, 4096)
        check_integer("seed", self.seed, 0)

    def rng(self, index: int) -> np.random.Generator:
        """Random numbers of a sample, the same whatever batch or machine solves it."""
        return np.random.default_rng([self.seed, index])


def check_positive(name: str, value: Any, most: float = math.inf) -> None:
    """Raise `ConfigError` unless `value` is a number above 0 and not above `most`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.0 < value <= most or not math.isfinite(value):
        bound = "" if most == math.inf else f" and not above {most:g}"
        raise ConfigError(f"`{name}` must be a number above 0{bound}, got {value!r}")


def cosine_field(rng: np.random.Generator, resolution: int, amplitude: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    r"""A Gaussian random field $\sum_{k} s(|k|) \xi_k c_k(x) c_l(y)$ at cell centres of the unit square `[X, Y]`.

    $\xi$ are normal, $c$ cosines of mean square 1 with $k, l < 64$. The same random numbers give the same field at
    every resolution, but for the modes that are too fine for it.

    Args:
        rng: draws 64 × 64 numbers.
        resolution: cells along each side.
        amplitude: $s$, of $|k| = \sqrt{k^2 + l^2}$ in half waves; the mean, k = 0, is left out.
    """
    k = np.arange(_MOST_MODES)
    size = np.hypot(k[:, None], k)
    size[0, 0] = 1.0
    weights = amplitude(size) * rng.standard_normal(size.shape)
    weights[0, 0] = 0.0
    waves = np.cos(np.pi / resolution * np.outer(k, np.arange(resolution) + 0.5))
    waves[1:] *= math.sqrt(2.0)
    waves[resolution:] = 0.0
    return torch.from_numpy(waves.T @ weights @ waves)


def generate_in_batches(
    path: str | Path,
    pde: str,
    config: GridConfig,
    draw: Draw,
    *,
    version: int,
    bounds: tuple[float, float],
    times: Times | None,
    parameters: dict[str, float] | None = None,
    batch_size: int,
    device: str | None,
    progress: bool,
    overwrite: bool,
) -> Path:
    """Write a file, solving `batch_size` samples at once; arguments as in each family's `generate`.

    `version` is raised whenever the same configuration would give other samples.
    """
    check_integer("batch_size", batch_size, 1)
    axis = cell_centres(config.resolution, *bounds).numpy()
    writer = PDEBenchWriter(
        path,
        pde,
        num_samples=config.num_samples,
        coordinates=[axis, axis],
        times=times,
        parameters=parameters,
        made_with={"generator": f"flare_datasets.pdebench.solvers.{pde}", "version": version, **asdict(config)},
        overwrite=overwrite,
    )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    missing = writer.missing()
    bar = tqdm(total=len(missing), desc=writer.path.name, unit="sample", file=sys.stderr, disable=not progress)
    with bar, torch.no_grad():
        for start in range(0, len(missing), batch_size):
            numbers = missing[start : start + batch_size]
            values, static = draw(numbers, place)
            for row, i in enumerate(numbers):
                writer.write(i, values[row], None if static is None else static[row])
            bar.update(len(numbers))
    return writer.finish()
