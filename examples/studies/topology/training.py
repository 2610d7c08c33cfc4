"""Training for a number of steps: the same loop, loss, schedule and precision for every model.

How long a step takes is measured first, on a GPU without other work; so models that get the same time get it whatever
else runs while they train, and a run can be made again step by step.

Samples keep the batches that a seed deals them into, and batches take turns in a new order each epoch: so indices are
looked up once a batch, and on a GPU each step is a CUDA graph. A step of models of this size is thousands of short
kernels, and without graphs the time to start them from Python would be what is compared.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.models import FlareConnect
from flare_connect.models.features import collate, segments_of
from flare_connect.train.losses import relative_l2, relative_l2_loss

BATCH, CLIP, WEIGHT_DECAY, WARMUP, EMA, LEAST_RANK = 8, 1.0, 1e-4, 0.05, 0.999, 4
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
    averaged = [p.detach().clone() for p in model.parameters()]
    order = _order(len(batches), generator)
    start = time.perf_counter()
    for count in range(1, steps + 1):
        _set_rate(optimiser, learning_rate * _cycle((count - 1) / steps))
        calls[next(order)]()
        decay = min(EMA, (1 + count) / (10 + count))
        torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
        if count % 64 == 0:
            _synchronise(batches)  # a queue that the device falls behind on would only grow
    _synchronise(batches)
    spent = time.perf_counter() - start
    with torch.no_grad():
        for p, mean in zip(model.parameters(), averaged, strict=True):
            p.copy_(mean)
            p.grad = None
    return {
        "epochs": round(steps / len(batches), 2),
        "ready_seconds": round(start - begun, 1),
        "wall_seconds": round(spent, 1),
    } | _peak(batches)


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
    rounds: list[float] = []
    while len(rounds) < 2 or sum(rounds) < seconds:
        _synchronise(batches)
        start = time.perf_counter()
        for call in calls:
            call()
        _synchronise(batches)
        rounds.append(time.perf_counter() - start)
    return {"step_ms": round(1e3 * min(rounds) / len(calls), 3)} | _peak(batches)


def _peak(batches: list[Batch]) -> dict[str, int]:
    target = batches[0].target
    return {"gpu_peak_mib": round(torch.cuda.max_memory_allocated(target.device) / 2**20)} if target.is_cuda else {}


def _batches(
    model: FlareConnect,
    graphs: list[Data],
    generator: torch.Generator,
    nested: bool,
    size: int = BATCH,
    limit: int | None = None,
) -> list[Batch]:
    """The graphs as they are dealt once into batches; the last few that fill none are left out."""
    dealt = torch.randperm(len(graphs), generator=generator).tolist()
    firsts = range(0, max(len(dealt) - size + 1, 1), size)[:limit]
    ranks = _ranks(len(firsts), model.config.architecture.num_latents, generator) if nested else [None] * len(firsts)
    return [
        Batch(model, [graphs[i] for i in dealt[first : first + size]], rank)
        for first, rank in zip(firsts, ranks, strict=True)
    ]


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
) -> tuple[torch.optim.Optimizer, list[Callable[[], None]]]:
    """The optimiser, and a step on each batch."""
    device = batches[0].target.device
    on_gpu = device.type == "cuda"
    widths = list(model.config.outputs.values())
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(learning_rate, device=device) if on_gpu else learning_rate,
        weight_decay=WEIGHT_DECAY, fused=True, capturable=on_gpu,
    )  # fmt: skip

    def step(batch: Batch) -> None:
        optimiser.zero_grad()
        batch.loss(model, widths).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()

    untouched = [p.detach().clone() for p in model.parameters()]
    aside = torch.cuda.Stream(device) if on_gpu else None
    with torch.cuda.stream(aside) if aside else nullcontext():
        if aside:
            aside.wait_stream(torch.cuda.default_stream(device))
        for batch in batches[:3]:  # what is compiled once is not training time, and cannot happen within a graph
            step(batch)
        with torch.no_grad():
            for p, start in zip(model.parameters(), untouched, strict=True):
                p.copy_(start)
            for state in optimiser.state.values():
                for value in state.values():
                    value.zero_()
        if aside is None:
            return optimiser, [lambda b=batch: step(b) for batch in batches]  # type: ignore[misc]
        torch.cuda.synchronize(device)
        pool, graphs = torch.cuda.graph_pool_handle(), []
        for batch in batches:
            graph = torch.cuda.CUDAGraph()
            optimiser.zero_grad()
            # Another process or thread may do with the device what it likes meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            step(batch)
            graph.capture_end()
            graphs.append(graph)
    torch.cuda.default_stream(device).wait_stream(aside)
    return optimiser, [graph.replay for graph in graphs]


def _ranks(count: int, most: int, generator: torch.Generator) -> list[int | None]:
    draws = torch.rand(count, 2, generator=generator).tolist()
    return [None if coin < 0.5 else round(LEAST_RANK * (most / LEAST_RANK) ** place) for coin, place in draws]


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # the graphs read it there
        else:
            group["lr"] = rate


def _synchronise(batches: list[Batch]) -> None:
    if batches[0].target.is_cuda:
        torch.cuda.synchronize(batches[0].target.device)


def _cycle(share: float) -> float:
    """Rises in a line, falls as a cosine."""
    if share < WARMUP:
        return max(share / WARMUP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP)))


def _order(count: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
