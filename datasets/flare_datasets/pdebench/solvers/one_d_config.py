"""What the settings of the one-dimensional generators have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import ConfigError
from flare_datasets.config import check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class OneDConfig(ABC):
    """Settings of a file: how many samples, points and frames, and the seed.

    Points are the centres of equal cells; the first frame is the initial state. The draw of sample `i` follows from
    (`seed`, `i`) alone, and the same seed gives advection and Burgers the same initial states.

    Attributes:
        pde: the family, a name in `FAMILIES`.
        version: raised whenever the same settings would give other samples.
    """

    pde: ClassVar[str]
    version: ClassVar[int] = 1

    num_samples: int = 1_000
    num_points: int = 1_024
    num_frames: int = 201
    end_time: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from JSON or YAML
                object.__setattr__(self, field.name, tuple(value))
        check_integer("num_samples", self.num_samples, 1)
        check_integer("num_points", self.num_points, 16, 1_000_000)
        check_integer("num_frames", self.num_frames, 2, 1_000_000)
        check_integer("seed", self.seed, 0)
        check_number("end_time", self.end_time, 1e-6, 1e6)

    @property
    def domain(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return (0.0, 1.0)

    @property
    def points(self) -> np.ndarray:
        """Centres of the cells `[X]`."""
        low, high = self.domain
        return low + (high - low) * (np.arange(self.num_points) + 0.5) / self.num_points

    @property
    def times(self) -> np.ndarray:
        """Times of the frames `[T]`, from 0 to `end_time`."""
        return np.linspace(0.0, self.end_time, self.num_frames)

    def made_with(self) -> dict[str, Any]:
        """What determines the samples, as kept beside the file."""
        return {"generator": f"flare_datasets.pdebench.solvers.{self.pde}", "version": self.version, **asdict(self)}

    @property
    @abstractmethod
    def attributes(self) -> dict[str, float]:
        """Numbers that the file carries."""

    @abstractmethod
    def solve(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Draw samples and solve for them: `[N, X, T, V]`, float64."""


def check_states(**states: Tensor) -> None:
    """Raise `ConfigError` unless all are finite float64 tensors `[N, X]` of one shape with 8 points or more."""
    shapes = {name: list(state.shape) for name, state in states.items()}
    if len(set(map(tuple, shapes.values()))) > 1:
        raise ConfigError(f"initial states must have one shape [N, X], got {shapes}")
    for name, state in states.items():
        if state.ndim != 2 or state.shape[1] < 8 or state.dtype != torch.float64 or not bool(state.isfinite().all()):
            raise ConfigError(
                f"`{name}` must be finite float64 values [N, X] with 8 points or more, got {list(state.shape)}, "
                f"{state.dtype}"
            )


def checked_times(times: Any) -> list[float]:
    """Times of frames as numbers; the first is that of the initial state.

    Raises:
        ConfigError: there are none, or they do not increase.
    """
    found = [float(t) for t in times]
    if not found or not np.isfinite(found).all() or not (np.diff(found) > 0).all():
        raise ConfigError(f"`times` must be finite and increase, the first that of the initial state, got {found[:5]}")
    return found
