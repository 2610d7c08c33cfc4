"""Random sums of sines on a circle: the initial states of most one-dimensional families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WINDOW = ((0.1, 0.45), (0.55, 0.9))  # where it begins and ends; the paper gives no numbers


@dataclass(frozen=True, kw_only=True)
class Waves:
    r"""Functions on the circle $[0, 1)$: $\pm \sum_k A_k \sin(2 \pi n_k x + \varphi_k)$, some folded or cut.

    Attributes:
        amplitude: $A$ `[N, K]`.
        number: $n$ `[N, K]`, whole.
        phase: $\varphi$ `[N, K]`.
        sign: 1 or -1 `[N]`, applied last.
        folded: whether the absolute value is taken `[N]`.
        window: the function is 0 outside of (begin, end) `[N, 2]`.
    """

    amplitude: Tensor
    number: Tensor
    phase: Tensor
    sign: Tensor
    folded: Tensor
    window: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Values at places `x [...]`, of any real number: `[N, ...]`."""
        place = torch.remainder(x, 1.0)
        wide = (-1,) + (1,) * x.ndim
        total = torch.zeros((len(self.sign), *x.shape), dtype=x.dtype, device=x.device)
        for a, n, phase in zip(self.amplitude.T, self.number.T, self.phase.T, strict=True):
            total += a.view(wide) * torch.sin(2 * math.pi * n.view(wide) * place + phase.view(wide))
        total = torch.where(self.folded.view(wide), total.abs(), total) * self.sign.view(wide)
        begin, end = self.window[:, 0].view(wide), self.window[:, 1].view(wide)
        return total * ((place >= begin) & (place < end))


def draw_waves(
    seeds: Sequence[Sequence[int]],
    device: torch.device,
    *,
    num_waves: int = 2,
    max_number: int = 8,
    fold_probability: float = 0.1,
    window_probability: float = 0.1,
) -> Waves:
    r"""Draw a function for each seed.

    $A$ is drawn evenly from (0, 1), $n$ from 1 to `max_number`, $\varphi$ from $(0, 2 \pi)$.

    Args:
        seeds: entropy of each function.
        device: where the numbers are kept.
        num_waves: K.
        max_number: largest $n$.
        fold_probability: share of functions whose absolute value is taken, half of them with a minus before it.
        window_probability: share of functions that are 0 outside of a window.

    Good values: the defaults, which follow the paper; it does not say where windows are.

    Source: arXiv 2210.07182.
    """
    drawn = [_draw(np.random.default_rng(list(seed)), num_waves, max_number) for seed in seeds]
    numbers = torch.as_tensor(np.stack([d[0] for d in drawn]), dtype=torch.float64, device=device)
    coins = torch.as_tensor(np.stack([d[1] for d in drawn]), dtype=torch.float64, device=device)
    ends = torch.as_tensor(np.stack([d[2] for d in drawn]), dtype=torch.float64, device=device)
    folded, cut = coins[:, 0] < fold_probability, coins[:, 2] < window_probability
    return Waves(
        amplitude=numbers[:, 0],
        number=numbers[:, 1],
        phase=numbers[:, 2],
        sign=torch.where(folded & (coins[:, 1] < 0.5), -1.0, 1.0).to(torch.float64),
        folded=folded,
        window=torch.where(cut[:, None], ends, ends.new_tensor([0.0, 1.0])),
    )


def _draw(rng: np.random.Generator, count: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Everything is drawn, used or not: another share of windows leaves the waves as they are.
    waves = np.stack([rng.random(count), rng.integers(1, most + 1, count), 2 * np.pi * rng.random(count)])
    return waves, rng.random(3), np.array([rng.uniform(*ends) for ends in _WINDOW])
