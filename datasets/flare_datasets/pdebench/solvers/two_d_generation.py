"""What the generators of two-dimensional families share: settings, seeds, batches that are written as solved."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer
from flare_datasets.pdebench.solvers.two_d_grids import Times, cell_centres
from flare_datasets.pdebench.writer import PDEBenchWriter

_MOST_MODES = 64


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

    pde: ClassVar[str]
    bounds: ClassVar[tuple[float, float]]
    at_once: ClassVar[int] = 16  # samples solved at once
    version: ClassVar[int] = 1  # raised whenever the same settings would give other samples

    num_samples: int
    resolution: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("num_samples", self.num_samples, 1)
        check_integer("resolution", self.resolution, 4, 4096)
        check_integer("seed", self.seed, 0)

    @property
    def times(self) -> Times | None:
        """Times of the frames `[T]`; None where there is no time."""
        return None

    @property
    def parameters(self) -> dict[str, float]:
        """Numbers of the whole file."""
        return {}

    def solve(self, numbers: Sequence[int], place: torch.device) -> tuple[Tensor, Tensor | None]:
        """Draw samples and solve for them: `[B, X, Y, T, V]`, and `[B, X, Y, W]` where there are static arrays."""
        raise NotImplementedError

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


def generate(
    path: str | Path,
    config: GridConfig,
    *,
    batch_size: int | None = None,
    device: str | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a file in the published layout; call again after an interruption to go on.

    Args:
        path: file to write.
        config: what to draw; its class says of which family.
        batch_size: samples solved at once, the family's own number by default; an interruption costs those at hand.
            Samples do not depend on it, but for rounding.
        device: where to solve; a GPU where there is one by default.
        progress: show a progress bar on stderr.
        overwrite: make the file anew where it was made with something else.

    Returns:
        `path`. A file that was made with the same settings is returned at once.

    Raises:
        StoreError: `path` was made with other settings, or is no such file.
        ConfigError: `batch_size` is no positive number, or a solver cannot go on.
    """
    batch_size = config.at_once if batch_size is None else batch_size
    check_integer("batch_size", batch_size, 1)
    axis = cell_centres(config.resolution, *config.bounds).numpy()
    writer = PDEBenchWriter(
        path,
        config.pde,
        num_samples=config.num_samples,
        coordinates=[axis, axis],
        times=config.times,
        parameters=config.parameters,
        made_with={
            "generator": f"flare_datasets.pdebench.solvers.{config.pde}",
            "version": config.version,
            **asdict(config),
        },
        overwrite=overwrite,
    )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    missing = writer.missing()
    bar = tqdm(total=len(missing), desc=writer.path.name, unit="sample", file=sys.stderr, disable=not progress)
    with bar, torch.no_grad():
        for start in range(0, len(missing), batch_size):
            numbers = missing[start : start + batch_size]
            values, static = config.solve(numbers, place)
            for row, i in enumerate(numbers):
                writer.write(i, values[row], None if static is None else static[row])
            bar.update(len(numbers))
    return writer.finish()
