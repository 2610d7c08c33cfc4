"""Training as in `04_language_model.py`, on a GPU with its steps as CUDA graphs."""

import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from variants import LM

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import steps as common


class Case(NamedTuple):
    """What steps are of.

    Attributes:
        draw: what a step is to see, always of the same shapes.
        loss: of that.
    """

    draw: Callable[[], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]


class Trained(NamedTuple):
    """Norms of the gradients [steps] before they were clipped, and seconds without what comes before the first step."""

    norms: Tensor
    seconds: float


def minimise(model: nn.Module, cases: Sequence[Case], steps: int, rate: float, clip: float = 1.0) -> Trained:
    """Steps of the cases in turn, with the optimiser and the schedule of the example."""
    device = next(model.parameters()).device
    seen = [[x.clone() for x in case.draw()] for case in cases]
    norm, norms = torch.zeros((), device=device), torch.zeros(steps, device=device)
    optimiser, calls = common.steps_of(
        model, [partial(case.loss, *each) for case, each in zip(cases, seen, strict=True)], rate,
        tried=len(cases), clip=clip, norm=norm, betas=(0.9, 0.95), weight_decay=0.1,
    )  # fmt: skip
    rise = max(steps // 10, 1)
    common.synchronise(device)
    start = time.perf_counter()
    for i, turn in zip(range(steps), itertools.cycle(range(len(cases))), strict=False):
        if i >= len(cases):  # what was drawn above is of the first steps
            for kept, new in zip(seen[turn], cases[turn].draw(), strict=True):
                kept.copy_(new)
        common.set_rate(optimiser, rate * min((i + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * i / steps)))
        calls[turn]()
        norms[i].copy_(norm)
    common.synchronise(device)
    return Trained(norms, time.perf_counter() - start)


def train_text(
    model: nn.Module, text: Tensor, *, length: int, batch: int, steps: int, rate: float, bf16: bool, clip: float,
    seed: int,
) -> Trained:  # fmt: skip
    """On windows drawn at random."""
    chance = torch.Generator(text.device).manual_seed(seed)

    def draw() -> tuple[Tensor, ...]:
        return (torch.randint(len(text) - length, (batch, 1), generator=chance, device=text.device),)

    def loss(first: Tensor) -> Tensor:
        return LM.next_byte(model, text, first, length, bf16).mean()

    return minimise(model, [Case(draw, loss)], steps, rate, clip)
