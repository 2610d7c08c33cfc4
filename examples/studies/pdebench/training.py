"""Training for a number of steps and rollouts afterwards: the same loop, schedule and measures for every model.

How long a step takes is measured first, on a GPU without other work; so models that get the same time get it whatever
else runs while they train. The series are on the device, and a step takes its samples from there by numbers that are
drawn before it: so each step is a CUDA graph on a GPU, one for each depth.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contestants import OWN_STEPS, OnGrid, OnMesh
from torch import Tensor

from flare_connect.metrics.pdebench import PDEBenchErrors, PDEBenchMetrics
from flare_connect.train import UnrollConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import steps as common

UNROLLS = {
    "teacher": UnrollConfig(own_steps=0),
    "noise": UnrollConfig(own_steps=0, noise=0.03),
    "noise of all sizes": UnrollConfig(own_steps=0, noise=0.3, decades=2.0),
    "pushforward": UnrollConfig(own_steps=OWN_STEPS),
    "noisy pushforward": UnrollConfig(own_steps=OWN_STEPS, noise=0.3, decades=2.0),
    "unrolled": UnrollConfig(own_steps=OWN_STEPS, through=True),
}
TIMED = 0.5
FARTHEST = 3.0  # times the largest value of a column that was learned from: what no rollout has to do with
DRAWN = 256  # batches whose numbers are brought to the device at once


class Feed:
    """The samples of a step, taken from all series by numbers on the device.

    Args:
        model: whose batch and window count.
        series: of the training split, on the device.
        unroll: how the model learns to live with its own errors.
        seed: of the draws.
    """

    def __init__(self, model: OnMesh | OnGrid, series: Tensor, unroll: UnrollConfig, seed: int) -> None:
        self.series, self.unroll = series, unroll
        self.generator = torch.Generator().manual_seed(seed)
        self.window = model.window + unroll.own_steps
        if self.window > series.shape[1]:
            raise ValueError(f"a sample needs {self.window} frames, the series have {series.shape[1]}")
        # The number of each sample, and of its first frame.
        self.drawn = torch.zeros(2, model.batch, dtype=torch.long, device=series.device)
        self.coming = self._numbers()

    def draw(self) -> None:
        """Take other samples in the next step."""
        self.drawn.copy_(next(self.coming))

    def batch(self) -> Tensor:
        """`[B, W, *X, V]`."""
        samples, firsts = self.drawn[..., None]
        frames = firsts + torch.arange(self.window, device=firsts.device)
        return self.series[samples, frames]

    def depths(self) -> Iterator[int]:
        """How many own predictions come first in each step, drawn along with its samples."""
        while True:
            self.draw()
            yield int(torch.randint(self.unroll.own_steps + 1, (), generator=self.generator))

    def _numbers(self) -> Iterator[Tensor]:
        """Of batch after batch. Many are copied at once: while it copies, the host waits for all steps before."""
        firsts = self.series.shape[1] - self.window + 1
        while True:
            size = DRAWN, self.drawn.shape[1]
            parts = [torch.randint(count, size, generator=self.generator) for count in (len(self.series), firsts)]
            yield from torch.stack(parts, dim=1).to(self.series.device)


def train(
    model: OnMesh | OnGrid, series: Tensor, *, unroll: UnrollConfig, steps: int, learning_rate: float, seed: int,
    captured: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Train in place; the weights in the end are the averaged ones.

    Args:
        model: its statistics fitted; where it is, training is.
        series: of the training split, as many frames as are learned from.
        unroll: how the model learns to live with its own errors.
        steps: of the optimiser.
        learning_rate: peak of one cycle over them.
        seed: of samples and depths.
        captured: on a GPU, as CUDA graphs.

    Returns:
        Seconds to train that went by, and peak memory where there is a GPU.
    """
    feed = Feed(model, series, unroll, seed)
    optimiser, calls = _steps(model, feed, learning_rate, captured)
    spent = common.go(model, optimiser, calls, feed.depths(), steps=steps, learning_rate=learning_rate)
    return {"wall_seconds": round(spent, 1)} | common.peak(series.device)


def step_time(
    model: OnMesh | OnGrid, series: Tensor, *, unroll: UnrollConfig, seconds: float, captured: bool = True
) -> dict[str, Any]:
    """How long a step of `train` takes, the mean over the depths; the averaging of weights left out."""
    feed = Feed(model, series, unroll, 0)
    _, calls = _steps(model, feed, 1e-6, captured)
    found = common.time_of(calls, series.device, seconds, lambda _: feed.draw())
    return {"step_ms": round(found, 3)} | common.peak(series.device)


@torch.no_grad()
def errors(model: OnMesh | OnGrid, series: Tensor, initial: int, frames: int, chunk: int = 0) -> PDEBenchErrors:
    """Errors of rollouts from the first frames of each series.

    Args:
        model: trained.
        series: `[B, T, *X, V]`.
        initial: frames that are given.
        frames: at which rollouts end, the given ones included.
        chunk: series at a time; 0 for as many as fit.
    """
    model.eval()
    metrics = PDEBenchMetrics(initial_step=initial, mode="exact")
    for truth in _parts(series[:, :frames], chunk):
        coming = model.frames_after(truth[:, :initial])
        found = torch.stack([next(coming).float() for _ in range(frames - initial)], dim=1)
        # What has left all bounds is an error of some size, and not none.
        found = torch.nan_to_num(found, 1e6, 1e6, -1e6).clamp(-1e6, 1e6)
        both = torch.cat([truth[:, :initial], found], dim=1)
        metrics.update(both.movedim(1, -2), truth.movedim(1, -2))
    return metrics.compute()


@torch.no_grad()
def strayed(
    model: OnMesh | OnGrid, series: Tensor, initial: int, frames: int, largest: Tensor, chunk: int = 0
) -> float:
    """The share of rollouts that leave all bounds, of which no truth need be known; arguments as of `errors`.

    Args:
        model: trained.
        series: `[B, T, *X, V]`.
        initial: frames that are given.
        frames: at which rollouts end, the given ones included.
        largest: size of the largest values that were learned from `[V]`.
        chunk: series at a time; 0 for as many as fit.
    """
    model.eval()
    gone = []
    for given in _parts(series[:, :initial], chunk):
        coming = model.frames_after(given)
        out = torch.zeros(len(given), dtype=torch.bool, device=series.device)
        for _ in range(frames - initial):
            # What is no number is not within any bounds either.
            out |= ~(next(coming).abs() <= FARTHEST * largest).flatten(1).all(1)
        gone.append(out)
    return float(torch.cat(gone).float().mean())


def split_errors(found: PDEBenchErrors, initial: int, horizon: int) -> dict[str, dict[str, Any]]:
    """Columns of the rows "horizon" and "twice": every error over the frames learned from, and over those after these.

    The second also has the error of each frame, and by how much it grows from one to the next, fitted to all.
    """
    steps = found.steps()
    cut = horizon - initial
    rows = {
        "horizon": {name: float(value[:cut].mean()) for name, value in steps.items()},
        "twice": {name: float(value[cut:].mean()) for name, value in steps.items()},
    }
    curve = steps["nrmse"]
    per_step = {"nrmse_per_step": [round(float(value), 7) for value in curve], "growth": growth(curve)}
    rows["twice"] |= per_step
    return {split: {name: _finite(value) for name, value in row.items()} for split, row in rows.items()}


def growth(curve: Tensor) -> float:
    """By how much an error grows a step, 0.01 being one per cent: the slope of its logarithm by least squares."""
    logs = curve.double().clamp_min(1e-12).log()
    place = torch.arange(len(logs), dtype=torch.float64) - (len(logs) - 1) / 2
    return float((place @ logs / place.square().sum()).expm1()) if len(logs) > 1 else 0.0


@torch.no_grad()
def cost(model: OnMesh | OnGrid, series: Tensor, initial: int, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Milliseconds a step of a rollout of one series, and the most memory that it takes, for numbers of steps."""
    model.eval()
    device, rows = series.device, []
    for count in (3, *counts):  # the first is not kept: what is made once on first use is no part of a step
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        coming = model.frames_after(series[:1, :initial])
        next(coming)
        common.synchronise(device)
        start = time.perf_counter()
        for _ in range(count):
            next(coming)
        common.synchronise(device)
        spent = time.perf_counter() - start
        rows.append({"rollout_steps": count, "rollout_ms": round(1e3 * spent / count, 3)} | common.peak(device))
    return rows[1:]


def _parts(series: Tensor, chunk: int) -> tuple[Tensor, ...]:
    """So many series at a time; of 0 as many as fit."""
    return series.split(chunk or max(1, 2**18 // series[0, 0].numel()))


def _steps(
    model: OnMesh | OnGrid, feed: Feed, learning_rate: float, captured: bool
) -> tuple[torch.optim.Optimizer, list[common.Call]]:
    model.train()
    feed.draw()

    def loss(depth: int) -> Tensor:
        return model.loss(feed.batch(), feed.unroll, depth)

    depths = range(feed.unroll.own_steps + 1)
    return common.steps_of(model, [partial(loss, depth) for depth in depths], learning_rate, captured=captured)


def _finite(value: Any) -> Any:
    """JSON has no NaN: an error that the grid does not have is None."""
    return None if isinstance(value, float) and value != value else value
