"""Training for a number of steps: the same loop, loss, schedule and precision for every model.

How long a step takes is measured first, on a GPU without other work; so models that get the same time get it whatever
else runs while they train, and a run can be made again step by step.

Samples keep the batches that a seed deals them into, and batches take turns in a new order each epoch: so indices are
looked up once a batch, and on a GPU each step is a CUDA graph.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.models import FlareConnect
from flare_connect.models.features import collate, segments_of
from flare_connect.train.losses import relative_l2, relative_l2_loss

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import steps as common

BATCH, LEAST_RANK = 8, 4
TIMED_BATCHES = 8


class Batch:
    """Some graphs as one, with everything that does not change from step to step, on the device of the model.

    Args:
        model: who reads them, its statistics fitted.
        graphs: some of one split, on any device.
        rank: latents to use; None for all.
    """

    def __init__(self, model: FlareConnect, graphs: list[Data], rank: int | None = None) -> None:
        self.segments = segments_of(batch := collate(graphs).to(model.device))
        self.truth: Tensor = batch.y
        self.target = model.output_statistics(batch.y)
        self.inputs = model.trunk_inputs(batch) | {"rank": rank}
        if find := getattr(model.trunk, "surroundings", None):
            joint = self.inputs["joint"]
            self.inputs["surroundings"] = find(
                self.inputs["x"][:, : model.config.dim], self.segments, batch.boundary_index,
                None if joint is None else joint.token_segments,
            )  # fmt: skip

    def loss(self, model: FlareConnect, widths: list[int]) -> Tensor:
        """Of a forward pass, in half precision on a GPU."""
        device = self.target.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            prediction = model.trunk(**self.inputs)
        return relative_l2_loss(prediction.float(), self.target, self.segments, widths)


def train(
    model: FlareConnect,
    graphs: list[Data],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    nested: bool = False,
) -> dict[str, Any]:
    """Train in place; the weights in the end are the averaged ones.

    Args:
        model: its statistics fitted; where it is, training is.
        graphs: of the training split.
        steps: of the optimiser.
        learning_rate: peak of one cycle over them.
        seed: of batches and their order.
        nested: half of the batches are at a lower rank, drawn evenly on a logarithmic scale from `LEAST_RANK` on.

    Returns:
        Epochs, seconds to get ready and to train that went by, and peak memory where there is a GPU.
    """
    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    batches = _batches(model, graphs, generator, nested)
    model.train()
    optimiser, calls = _steps(model, batches, learning_rate)
    order, start = common.shuffled(len(batches), generator), time.perf_counter()
    spent = common.go(model, optimiser, calls, order, steps=steps, learning_rate=learning_rate)
    return {
        "epochs": round(steps / len(batches), 2),
        "ready_seconds": round(start - begun, 1),
        "wall_seconds": round(spent, 1),
    } | common.peak(model.device)


def step_time(
    model: FlareConnect,
    graphs: list[Data],
    *,
    seconds: float,
    nested: bool = False,
    batch: int = BATCH,
) -> dict[str, Any]:
    """How long a step of `train` takes, the averaging of weights left out.

    Args:
        model: where it is, time is taken; not changed by much, but not to be used afterwards.
        graphs: of the training split.
        seconds: to measure for, at least two rounds over `TIMED_BATCHES`.
        nested: as for `train`.
        batch: meshes of a step.

    Returns:
        `step_ms`, the mean over the batches of the fastest round; peak memory where there is a GPU.
    """
    batches = _batches(model, graphs, torch.Generator().manual_seed(0), nested, batch, TIMED_BATCHES)
    model.train()
    _, calls = _steps(model, batches, learning_rate=1e-6)
    found = common.time_of(calls, model.device, seconds)
    return {"step_ms": round(found, 3)} | common.peak(model.device)


def _batches(
    model: FlareConnect,
    graphs: list[Data],
    generator: torch.Generator,
    nested: bool,
    size: int = BATCH,
    limit: int | None = None,
) -> list[Batch]:
    """The graphs as they are dealt once into batches; the last few that fill none are left out."""
    dealt = common.dealt(len(graphs), size, generator, limit)
    ranks = _ranks(len(dealt), model.config.architecture.num_latents, generator) if nested else [None] * len(dealt)
    return [Batch(model, [graphs[i] for i in each], rank) for each, rank in zip(dealt, ranks, strict=True)]


@torch.no_grad()
def predictions(model: FlareConnect, graphs: list[Data]) -> list[Tensor]:
    """The output of each mesh, in physical units, in float32."""
    model.eval()
    found: list[Tensor] = []
    for first in range(0, len(graphs), BATCH):
        batch = Batch(model, graphs[first : first + BATCH])
        outputs = model.output_statistics.inverse(model.trunk(**batch.inputs).float())
        found += outputs.split(batch.segments.lengths)
    return found


def error_of(model: FlareConnect, graphs: list[Data]) -> float:
    """Mean relative L2 over meshes."""
    widths = list(model.config.outputs.values())
    found = [
        relative_l2(guess, graph.y, segments_of(graph), widths).mean()
        for guess, graph in zip(predictions(model, graphs), graphs, strict=True)
    ]
    return float(torch.stack(found).mean())


def _steps(
    model: FlareConnect, batches: list[Batch], learning_rate: float
) -> tuple[torch.optim.Optimizer, list[common.Call]]:
    """The optimiser, and a step on each batch."""
    widths = list(model.config.outputs.values())
    return common.steps_of(model, [partial(batch.loss, model, widths) for batch in batches], learning_rate)


def _ranks(count: int, most: int, generator: torch.Generator) -> list[int | None]:
    draws = torch.rand(count, 2, generator=generator).tolist()
    return [None if coin < 0.5 else round(LEAST_RANK * (most / LEAST_RANK) ** place) for coin, place in draws]
