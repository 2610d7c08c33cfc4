"""Training for a given time: the same loop, loss, schedule and precision for every model.

Samples keep the batches that a seed deals them into, and batches take turns in a new order each epoch: so indices are
looked up once a batch, and on a GPU each step is a CUDA graph. A step of models of this size is thousands of short
kernels, and without graphs the time to start them from Python would be what is compared.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.models import FlareConnect
from flare_connect.models.features import collate, segments_of
from flare_connect.train.losses import relative_l2, relative_l2_loss

BATCH, CLIP, WEIGHT_DECAY, WARMUP, EMA, LEAST_RANK = 8, 1.0, 1e-4, 0.05, 0.999, 4


class Batch:
    """Some graphs as one, with everything that does not change from step to step.

    Args:
        model: who reads them, its statistics fitted.
        graphs: some of one split.
        rank: latents to use; None for all.
    """

    def __init__(self, model: FlareConnect, graphs: list[Data], rank: int | None = None) -> None:
        self.segments = segments_of(batch := collate(graphs))
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
    seconds: float,
    learning_rate: float,
    seed: int,
    alone: AbstractContextManager[Any] | None = None,
    nested: bool = False,
) -> dict[str, Any]:
    """Train in place for about `seconds`; the weights in the end are the averaged ones.

    Args:
        model: on the device of the graphs, its statistics fitted.
        graphs: of the training split.
        seconds: of the steps; what comes before them and evaluation are not counted.
        learning_rate: peak of one cycle over that time.
        seed: of batches and their order.
        alone: held while time is counted, so that runs that share a GPU take turns.
        nested: half of the batches are at a lower rank, drawn evenly on a logarithmic scale from `LEAST_RANK` on.

    Returns:
        Steps, epochs, seconds, and peak memory where there is a GPU.
    """
    generator = torch.Generator().manual_seed(seed)
    dealt = torch.randperm(len(graphs), generator=generator).tolist()
    firsts = range(0, max(len(dealt) - BATCH + 1, 1), BATCH)
    ranks = _ranks(len(firsts), model.config.architecture.num_latents, generator) if nested else [None] * len(firsts)
    batches = [
        Batch(model, [graphs[i] for i in dealt[first : first + BATCH]], rank)
        for first, rank in zip(firsts, ranks, strict=True)
    ]
    model.train()
    optimiser, steps = _steps(model, batches, learning_rate)
    averaged = [p.detach().clone() for p in model.parameters()]
    order = _order(len(batches), generator)
    with alone or nullcontext():
        _synchronise(batches)
        count, start = 0, time.perf_counter()
        while (share := (time.perf_counter() - start) / seconds) < 1:
            _set_rate(optimiser, learning_rate * _cycle(share))
            steps[next(order)]()
            count += 1
            decay = min(EMA, (1 + count) / (10 + count))
            torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
            if count % 8 == 0:
                _synchronise(batches)  # the host must not run ahead of the clock
        spent = time.perf_counter() - start
    with torch.no_grad():
        for p, mean in zip(model.parameters(), averaged, strict=True):
            p.copy_(mean)
            p.grad = None
    found: dict[str, Any] = {"steps": count, "epochs": round(count / len(batches), 2)}
    found["train_seconds"] = round(spent, 1)
    found["step_ms"] = round(1e3 * spent / count, 3)
    if batches[0].target.is_cuda:
        found["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated(batches[0].target.device) / 2**20)
    return found


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
