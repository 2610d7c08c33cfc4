"""Training for a number of steps, and rollouts: the same loop, loss, schedule and precision for every model.

How long a step takes is measured first, alone; so models that get the same time get it whatever else runs while they
train, and a run can be made again step by step. Samples keep the batches that a seed deals them into, so that what
follows from meshes alone is laid out once.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from flare_connect.models import FlareRollout
from flare_connect.models.features import collate
from flare_connect.models.unrolled import Unrolled
from flare_connect.train import UnrollConfig
from flare_connect.train.rollout_module import rolled_out, rollout_errors, window_loss

BATCH, WINDOW, CLIP, WEIGHT_DECAY, WARMUP, EMA = 4, 6, 1.0, 1e-4, 0.05, 0.999
LARGEST = 1e3  # what an error of a rollout that has left all bounds counts


class Trainer:
    """A model, the batches of its training graphs, and a step on one of them.

    Args:
        model: its statistics fitted; where it is, training is.
        graphs: of the training split, with frames.
        unroll: how it is taught.
        seed: of batches, windows and noise.
        batch: series of a step.
        window: frames of a step.
    """

    def __init__(
        self, model: FlareRollout, graphs: list[Data], unroll: UnrollConfig, seed: int, batch: int = BATCH,
        window: int = WINDOW,
    ) -> None:  # fmt: skip
        self.model, self.unroll, self.window = model, unroll, window
        self.draws = torch.Generator().manual_seed(seed)
        dealt = torch.randperm(len(graphs), generator=self.draws).tolist()
        firsts = range(0, max(len(dealt) - batch + 1, 1), batch)  # the last few that fill none are left out
        arch = model.reads.architecture
        self.batches: list[tuple[Batch, Unrolled]] = []
        for first in firsts:
            together = collate([graphs[i] for i in dealt[first : first + batch]]).to(model.device)
            self.batches.append((together, Unrolled.of(together, window - 1, arch)))
        on_gpu = model.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=WEIGHT_DECAY, fused=on_gpu)
        self.order: list[int] = []

    def step(self, rate: float) -> None:
        """One window of a batch; batches take turns in a new order each epoch."""
        if not self.order:
            self.order = torch.randperm(len(self.batches), generator=self.draws).tolist()
        graph, unrolled = self.batches[self.order.pop()]
        first = self._drawn(graph.frames.shape[1] - self.window + 1)
        depth = self._drawn(self.unroll.own_steps + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        window = graph.frames[:, first : first + self.window]
        with torch.autocast(window.device.type, torch.bfloat16, enabled=window.is_cuda):
            loss = window_loss(self.model, graph, window, self.unroll, depth, unrolled=unrolled)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def _drawn(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.draws))


def train(trainer: Trainer, *, steps: int, learning_rate: float) -> dict[str, Any]:
    """Train in place; the weights in the end are the averaged ones.

    Args:
        trainer: of a model.
        steps: of the optimiser.
        learning_rate: peak of one cycle over them.

    Returns:
        Epochs, seconds that went by, and peak memory where there is a GPU.
    """
    model = trainer.model.train()
    averaged = [p.detach().clone() for p in model.parameters()]
    trainer.wait()
    start = time.perf_counter()
    for count in range(1, steps + 1):
        trainer.step(learning_rate * _cycle((count - 1) / steps))
        decay = min(EMA, (1 + count) / (10 + count))
        torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
        if count % 64 == 0:
            trainer.wait()  # a queue that the device falls behind on would only grow
    trainer.wait()
    spent = time.perf_counter() - start
    with torch.no_grad():
        for p, mean in zip(model.parameters(), averaged, strict=True):
            p.copy_(mean)
            p.grad = None
    return {"epochs": round(steps / len(trainer.batches), 2), "wall_seconds": round(spent, 1)} | _peak(model)


def step_time(trainer: Trainer, *, seconds: float) -> dict[str, Any]:
    """How long a step of `train` takes: the mean over a time, after what is only done once."""
    trainer.model.train()
    for _ in range(6):
        trainer.step(1e-6)
    trainer.wait()
    start, count = time.perf_counter(), 0
    while count < 6 or time.perf_counter() - start < seconds:
        for _ in range(3):
            trainer.step(1e-6)
        trainer.wait()
        count += 3
    return {"step_ms": round(1e3 * (time.perf_counter() - start) / count, 3)} | _peak(trainer.model)


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


@torch.no_grad()
def rollout_ms(model: FlareRollout, graph: Data, repeats: int = 20) -> float:
    """Milliseconds of a step of a rollout on one mesh."""
    graph = collate([graph]).to(model.device)
    frame, state = model(graph, graph.frames[:, :1])
    unrolled, times = Unrolled.of(graph, 1, model.reads.architecture), []
    for _ in range(repeats):
        start = time.perf_counter()
        frame, state = model(graph, frame, state=state, unrolled=unrolled)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter() - start)
    return round(1e3 * sorted(times)[repeats // 2], 3)


def _peak(model: FlareRollout) -> dict[str, int]:
    on_gpu = model.device.type == "cuda"
    return {"gpu_peak_mib": round(torch.cuda.max_memory_allocated(model.device) / 2**20)} if on_gpu else {}


def _cycle(share: float) -> float:
    """Rises in a line, falls as a cosine."""
    if share < WARMUP:
        return max(share / WARMUP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP)))
