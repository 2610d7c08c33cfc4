"""Training for a number of steps, and rollouts: the same loop, loss, schedule and precision for every model.

How long a step takes is measured first, alone; so models that get the same time get it whatever else runs while they
train, and a run can be made again step by step. Series keep the batches that a seed deals them into, so that what
follows from meshes alone is laid out once. The window of a batch is taken from its frames by a number on the device,
drawn before the step: so on a GPU each step is a CUDA graph, one for each batch and depth.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from flare_connect.errors import InputError
from flare_connect.models import FlareRollout
from flare_connect.models.features import collate
from flare_connect.models.unrolled import Unrolled
from flare_connect.train import UnrollConfig
from flare_connect.train.rollout_module import rolled_out, rollout_errors, window_loss

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import steps as common

BATCH, WINDOW = 4, 6
TIMED_BATCHES = 8
ROLLED = 20  # steps of a rollout that are timed
LARGEST = 1e3  # what an error of a rollout that has left all bounds counts


class Feed:
    """The batches of series that a model learns from, on its device, and the window that the next step sees.

    Args:
        model: its statistics fitted; where it is, training is.
        graphs: of the training split, with frames.
        unroll: how it is taught.
        seed: of batches and windows.
        batch: series of a step.
        window: frames of a step.
        limit: the most batches; None for all.

    Raises:
        InputError: if the series are shorter than a window.
    """

    def __init__(
        self, model: FlareRollout, graphs: list[Data], unroll: UnrollConfig, seed: int, *, batch: int = BATCH,
        window: int = WINDOW, limit: int | None = None,
    ) -> None:  # fmt: skip
        self.model, self.unroll, self.num_depths = model, unroll, unroll.own_steps + 1
        self.known = model.config.history - 1  # frames before a window, of which changes are taken
        num_frames = graphs[0].frames.shape[1]
        if num_frames < window:
            raise InputError(f"a window has {window} frames, the series have {num_frames}: make longer series")
        self.num_firsts = num_frames - window + 1
        self.generator = torch.Generator().manual_seed(seed)
        self.batches: list[tuple[Batch, Unrolled]] = []
        for each in common.dealt(len(graphs), batch, self.generator, limit):
            together = collate([graphs[i] for i in each]).to(model.device)
            self.batches.append((together, Unrolled.of(together, window - 1, model.reads.architecture)))
        self.first = torch.zeros((), dtype=torch.long, device=model.device)
        self.offsets = torch.arange(-self.known, window, device=model.device)

    def steps(self, learning_rate: float, *, captured: bool) -> tuple[torch.optim.Optimizer, list[common.Call]]:
        """The optimiser, and a step on each batch at each depth; arguments as of `common.steps_of`."""
        self.model.train()
        losses = [
            partial(self.loss, place, depth) for place in range(len(self.batches)) for depth in range(self.num_depths)
        ]
        return common.steps_of(self.model, losses, learning_rate, captured=captured)

    def loss(self, place: int, depth: int) -> Tensor:
        """Of the window of a batch, after so many of the model's own predictions, in half precision on a GPU."""
        graph, unrolled = self.batches[place]
        # Before the first frame of a series stands that frame itself: nothing is known to have changed.
        window = graph.frames.index_select(1, (self.first + self.offsets).clamp_min(0))
        with torch.autocast(window.device.type, torch.bfloat16, enabled=window.is_cuda):
            return window_loss(
                self.model, graph, window, self.unroll, depth, unrolled=unrolled, known=self.known
            )  # fmt: skip

    def order(self) -> Iterator[int]:
        """Which step comes next, its window drawn: batches in a new order each epoch, each at a depth of its own."""
        for place in common.shuffled(len(self.batches), self.generator):
            self.draw()
            yield place * self.num_depths + self._below(self.num_depths)

    def draw(self) -> None:
        """Take another window in the next step."""
        self.first.fill_(self._below(self.num_firsts))

    def _below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))


def train(
    model: FlareRollout, graphs: list[Data], *, unroll: UnrollConfig, steps: int, learning_rate: float, seed: int,
    captured: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Train in place; the weights in the end are the averaged ones.

    Args:
        model: its statistics fitted; where it is, training is.
        graphs: of the training split, with frames.
        unroll: how it is taught.
        steps: of the optimiser.
        learning_rate: peak of one cycle over them.
        seed: of batches, windows and depths.
        captured: on a GPU, as CUDA graphs.

    Returns:
        Epochs, seconds to train that went by, and peak memory where there is a GPU.
    """
    feed = Feed(model, graphs, unroll, seed)
    optimiser, calls = feed.steps(learning_rate, captured=captured)
    spent = common.go(model, optimiser, calls, feed.order(), steps=steps, learning_rate=learning_rate)
    epochs = round(steps / len(feed.batches), 2)
    return {"epochs": epochs, "wall_seconds": round(spent, 1)} | common.peak(model.device)


def step_time(
    model: FlareRollout, graphs: list[Data], *, unroll: UnrollConfig, seconds: float, captured: bool = True
) -> dict[str, Any]:
    """How long a step of `train` takes, the mean over depths and some batches; the averaging of weights left out."""
    feed = Feed(model, graphs, unroll, seed=0, limit=TIMED_BATCHES)
    _, calls = feed.steps(1e-6, captured=captured)
    found = common.time_of(calls, model.device, seconds, lambda _: feed.draw())
    return {"step_ms": round(found, 3)} | common.peak(model.device)


@torch.no_grad()
def errors_of(model: FlareRollout, graphs: list[Data], batch: int = BATCH) -> Tensor:
    """Relative L2 `[T, B, F]` of each frame, mesh and field of rollouts from the first frame."""
    model.eval()
    found = []
    for first in range(0, len(graphs), batch):
        together = collate(graphs[first : first + batch]).to(model.device)
        rolled = rolled_out(model, together, 1)
        found.append(rollout_errors(rolled, together, list(model.config.fields.values())))
    return torch.cat(found, dim=1).nan_to_num(LARGEST, LARGEST).clamp_max(LARGEST).cpu()


def idle_errors(graphs: list[Data], widths: list[int]) -> Tensor:
    """Relative L2 `[T, B, F]` of the first frame for all times; `widths` are the columns of each field."""
    found = []
    for graph in graphs:
        guess = graph.frames[:, :1].expand(-1, graph.frames.shape[1] - 1, -1)
        found.append(rollout_errors(guess, collate([graph]), widths))
    return torch.cat(found, dim=1)


@torch.no_grad()
def rollout_ms(model: FlareRollout, graph: Data) -> float:
    """Milliseconds of a step of a rollout on one mesh."""
    model.eval()
    graph = collate([graph]).to(model.device)
    frame, state = model(graph, graph.frames[:, :1])
    unrolled = Unrolled.of(graph, 1, model.reads.architecture)

    def step() -> None:
        nonlocal frame, state
        frame, state = model(graph, frame, state=state, unrolled=unrolled)

    return round(common.time_of([step] * ROLLED, model.device, seconds=0.0), 3)
