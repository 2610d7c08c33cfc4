"""Linear advection on a circle, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flare_datasets.config import check_integer, check_number
from flare_datasets.pdebench.solvers.one_d_config import OneDConfig
from flare_datasets.pdebench.solvers.one_d_waves import draw_waves


def solve_advection(initial: Callable[[Tensor], Tensor], beta: float, points: Any, times: Any) -> Tensor:
    r"""Solve $u_t + \beta u_x = 0$ on a circle: $u(t, x) = u_0(x - \beta t)$, exact to rounding.

    Args:
        initial: $u_0$: from places `[...]` to values `[N, ...]`; it has the period of the circle.
        beta: speed, in lengths per time.
        points: places `[X]`, in the unit of the circle.
        times: times `[T]`.

    Returns:
        `[N, X, T]`, float64.

    Good values: `draw_waves(…)` as `initial`; speeds of 0.1 to 7 over a time of 2.

    Source: arXiv 2210.07182.
    """
    points = torch.as_tensor(points, dtype=torch.float64)
    return initial(points[:, None] - beta * torch.as_tensor(times, dtype=torch.float64, device=points.device))


@dataclass(frozen=True, kw_only=True)
class WaveConfig(OneDConfig):
    """Settings of the families that begin with `draw_waves`; see there, and `OneDConfig`."""

    num_waves: int = 2
    max_number: int = 8
    fold_probability: float = 0.1
    window_probability: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_waves", self.num_waves, 1, 1_000)
        check_integer("max_number", self.max_number, 1, self.num_points // 4)
        check_number("fold_probability", self.fold_probability, 0.0, 1.0)
        check_number("window_probability", self.window_probability, 0.0, 1.0)

    def draw(self, indices: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
        """Initial states of these samples."""
        return draw_waves(
            [(self.seed, i) for i in indices],
            device,
            num_waves=self.num_waves,
            max_number=self.max_number,
            fold_probability=self.fold_probability,
            window_probability=self.window_probability,
        )


@dataclass(frozen=True, kw_only=True)
class AdvectionConfig(WaveConfig):
    """What to draw: advection of random waves.

    Args:
        beta: speed, in domain lengths per time.
        num_samples: N.
        num_points: X, centres of equal cells on (0, 1).
        num_frames: T, from time 0 to `end_time`.
        end_time: of the last frame.
        seed: same seed, same samples.
        num_waves: sines in a sum.
        max_number: largest number of periods in the domain.
        fold_probability: share of samples whose absolute value is taken.
        window_probability: share of samples that are 0 outside of a window.

    Raises:
        ConfigError: a value is out of range.

    Good values: the defaults are those of the published files, but for their 10,000 samples; beta 0.1 to 7.
    """

    pde: ClassVar[str] = "advection"

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, -1e3, 1e3)

    @property
    def attributes(self) -> dict[str, float]:
        """The speed."""
        return {"beta": self.beta}

    def solve(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Draw samples and move them: `[N, X, T, 1]`."""
        points = torch.as_tensor(self.points, device=device)
        return solve_advection(self.draw(indices, device), self.beta, points, self.times)[..., None]
