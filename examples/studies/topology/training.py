"""Training for a given time: the same loop, loss, schedule and precision for every model."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.models import FlareConnect
from flare_connect.models.features import collate, segments_of
from flare_connect.train.losses import relative_l2, relative_l2_loss

BATCH, CLIP, WEIGHT_DECAY, WARMUP, EMA = 8, 1.0, 1e-4, 0.05, 0.999


def train(model: FlareConnect, graphs: list[Data], *, seconds: float, learning_rate: float, seed: int) -> dict:
    """Train in place for about `seconds`; the weights in the end are the averaged ones.

    Args:
        model: on the device of the graphs, its statistics fitted.
        graphs: of the training split.
        seconds: of the steps, evaluation not counted.
        learning_rate: peak of one cycle over that time.
        seed: of the order of samples.

    Returns:
        Steps, epochs, seconds, and peak memory where there is a GPU.
    """
    device = graphs[0].x.device
    widths = list(model.config.outputs.values())
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda"
    )
    averaged = [p.detach().clone() for p in model.parameters()]
    order = _order(len(graphs), seed)
    model.train()

    def gradients() -> None:
        batch = collate([graphs[i] for i in next(order)])
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            prediction = model(batch)
        target = model.output_statistics(batch.y)
        relative_l2_loss(prediction.float(), target, segments_of(batch), widths).backward()

    gradients()  # what is compiled once is not training time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    steps, start = 0, time.perf_counter()
    while (share := (time.perf_counter() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _cycle(share)
        gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        steps += 1
        decay = min(EMA, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
        if device.type == "cuda" and steps % 8 == 0:
            torch.cuda.synchronize(device)  # the host must not run ahead of the clock
    with torch.no_grad():
        for p, mean in zip(model.parameters(), averaged, strict=True):
            p.copy_(mean)
    found = {"steps": steps, "epochs": round(steps * BATCH / len(graphs), 2)}
    found["train_seconds"] = round(time.perf_counter() - start, 1)
    if device.type == "cuda":
        found["gpu_peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


@torch.no_grad()
def predictions(model: FlareConnect, graphs: list[Data]) -> list[Tensor]:
    """The output of each mesh, in physical units, in float32."""
    model.eval()
    return [model.output_statistics.inverse(model(graph).float()) for graph in graphs]


def error_of(model: FlareConnect, graphs: list[Data]) -> float:
    """Mean relative L2 over meshes."""
    widths = list(model.config.outputs.values())
    found = [
        relative_l2(guess, graph.y, segments_of(graph), widths).mean()
        for guess, graph in zip(predictions(model, graphs), graphs, strict=True)
    ]
    return float(torch.stack(found).mean())


def _cycle(share: float) -> float:
    """Rises in a line, falls as a cosine."""
    if share < WARMUP:
        return max(share / WARMUP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP)))


def _order(count: int, seed: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        shuffled = torch.randperm(count, generator=generator).tolist()
        for first in range(0, max(count - BATCH + 1, 1), BATCH):
            yield shuffled[first : first + BATCH]
