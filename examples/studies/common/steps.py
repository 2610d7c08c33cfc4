"""Steps of a training, on a GPU as CUDA graphs, and the loop over them.

A step of a small model is thousands of short kernels, and without graphs the time to start them from Python would be
what is compared.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from flare_connect.models.replayed import stream_aside

CLIP, WEIGHT_DECAY, WARMUP, EMA = 1.0, 1e-4, 0.05, 0.999
Call = Callable[[], None]


def steps_of(
    model: nn.Module, losses: Sequence[Callable[[], Tensor]], learning_rate: float, *, captured: bool = True,
    tried: int = 4, clip: float = CLIP, norm: Tensor | None = None, **adam: Any,
) -> tuple[torch.optim.Optimizer, list[Call]]:  # fmt: skip
    """The optimiser, and a step for each loss.

    Args:
        model: on its device, in training.
        losses: each computed anew at every call; on a GPU from tensors that stay where they are.
        learning_rate: of the first step.
        captured: on a GPU, as CUDA graphs.
        tried: losses that are computed once before, for what is made on first use.
        clip: the largest norm of a gradient.
        norm: where each step writes the norm of its gradient.
        adam: further settings of the optimiser.
    """
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    settings: dict[str, Any] = {"weight_decay": WEIGHT_DECAY, "fused": True, "capturable": on_gpu} | adam
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(learning_rate, device=device) if on_gpu else learning_rate, **settings
    )

    def step(loss: Callable[[], Tensor]) -> None:
        optimiser.zero_grad()
        loss().backward()
        found = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if norm is not None:
            norm.copy_(found)
        optimiser.step()

    untouched = [p.detach().clone() for p in model.parameters()]
    with torch.cuda.device(device) if on_gpu else nullcontext():
        aside = stream_aside() if on_gpu and captured else None
    with torch.cuda.stream(aside) if aside else nullcontext():
        if aside:
            aside.wait_stream(torch.cuda.default_stream(device))
        for loss in losses[:tried]:
            step(loss)  # what is compiled once is not training time, and cannot happen within a graph
        with torch.no_grad():
            for p, start in zip(model.parameters(), untouched, strict=True):
                p.copy_(start)
            for state in optimiser.state.values():
                for value in state.values():
                    value.zero_()
        if aside is None:
            return optimiser, [lambda each=loss: step(each) for loss in losses]  # type: ignore[misc]
        torch.cuda.synchronize(device)
        pool, graphs = torch.cuda.graph_pool_handle(), []
        for loss in losses:
            graph = torch.cuda.CUDAGraph()
            optimiser.zero_grad()
            # Another process or thread may do with the device what it likes meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            step(loss)
            graph.capture_end()
            graphs.append(graph)
    torch.cuda.default_stream(device).wait_stream(aside)
    return optimiser, [graph.replay for graph in graphs]


def go(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    calls: Sequence[Call],
    order: Iterator[int],
    *,
    steps: int,
    learning_rate: float,
) -> float:
    """Train in place over one cycle of the learning rate; the weights in the end are the averaged ones.

    Args:
        model: whose weights are learned.
        optimiser: with the calls from `steps_of`.
        calls: a step each.
        order: which call comes next, without end.
        steps: of the optimiser.
        learning_rate: peak of the cycle.

    Returns:
        Seconds that went by.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    averaged = [p.detach().clone() for p in parameters]
    start = time.perf_counter()
    for count in range(1, steps + 1):
        set_rate(optimiser, learning_rate * cycle((count - 1) / steps))
        calls[next(order)]()
        decay = min(EMA, (1 + count) / (10 + count))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
        if count % 64 == 0:
            synchronise(device)  # a queue that the device falls behind on would only grow
    synchronise(device)
    spent = time.perf_counter() - start
    with torch.no_grad():
        for p, mean in zip(parameters, averaged, strict=True):
            p.copy_(mean)
            p.grad = None
    return spent


def time_of(
    calls: Sequence[Call], device: torch.device, seconds: float, before: Callable[[int], object] = int
) -> float:
    """Milliseconds of a call, the mean over the calls of the fastest round.

    Args:
        calls: a round of them.
        device: where they work.
        seconds: to measure for, at least two rounds.
        before: called with the number of each call before it, as in training.
    """
    rounds: list[float] = []
    while len(rounds) < 2 or sum(rounds) < seconds:
        synchronise(device)
        start = time.perf_counter()
        for i, call in enumerate(calls):
            before(i)
            call()
        synchronise(device)
        rounds.append(time.perf_counter() - start)
    return 1e3 * min(rounds) / len(calls)


def peak(device: torch.device) -> dict[str, int]:
    """The most memory that was held, where there is a GPU to tell."""
    return {"gpu_peak_mib": round(torch.cuda.max_memory_allocated(device) / 2**20)} if device.type == "cuda" else {}


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cycle(share: float) -> float:
    """Rises in a line, falls as a cosine."""
    if share < WARMUP:
        return max(share / WARMUP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP)))


def dealt(count: int, size: int, generator: torch.Generator, limit: int | None = None) -> list[list[int]]:
    """Numbers below `count` in batches, once and for all; the last few that fill none are left out.

    Args:
        count: of samples.
        size: of a batch; one smaller batch where there are not so many samples.
        generator: that deals.
        limit: the most batches; None for all.
    """
    order = torch.randperm(count, generator=generator).tolist()
    return [order[first : first + size] for first in range(0, max(count - size + 1, 1), size)[:limit]]


def shuffled(count: int, generator: torch.Generator) -> Iterator[int]:
    """Numbers below `count`, all of them in a new order again and again."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Of the steps that follow, captured ones too."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # the graphs read it there
        else:
            group["lr"] = rate
