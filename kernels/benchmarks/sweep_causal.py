"""Times launch constants of the kernels by which tokens read latents: `python kernels/benchmarks/sweep_causal.py`.

Prints the fastest; what is to stay is written by hand into `flare_kernels/triton_causal/ops.py`. A configuration is
(tokens of a span, spans of a group, warps, stages), of which the last two are those of the kernels that answer. Forward
times are of all of `causal_mixer`, since shorter groups are more work for the scan; for the backward pass the forward
one keeps the constants of `ops`, but for span and group. All of them are in CUDA graphs. As in `sweep.py`, what is
compared with fp64 first also fills the compiler's cache, in as many processes as there are cores.
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple
from unittest import mock

import measure
import torch
import trials
from causal import call_of, inputs_of
from torch import Tensor

HEADS, DIM = 16, 32
SPANS, GROUPS, WARPS, STAGES = (32, 64, 128), (1, 2, 4, 8, 16), (4, 8), (1, 2, 3)
CHECKED = 1000  # tokens
AGAIN = "this process lost its GPU before"
_lost = False


class Config(NamedTuple):
    """What is tried."""

    span: int
    of_group: int
    warps: int
    stages: int


def configs() -> list[Config]:
    """What is worth trying: tiles of scores that fit into registers, about."""
    every = (Config(*each) for each in itertools.product(SPANS, GROUPS, WARPS, STAGES))
    return [c for c in every if 8 <= c.span * c.span / (32 * c.warps) <= 64]


@contextlib.contextmanager
def constants(config: Config) -> Iterator[None]:
    """Make the kernels use them."""
    from flare_kernels.triton_causal import ops

    how = config.warps, config.stages
    with mock.patch.multiple(
        ops, SPAN=config.span, SPANS_OF_GROUP=config.of_group, PROGRAMS=1, _ANSWER_LAUNCH=how, _ANSWER_GRAD_LAUNCH=how
    ):
        yield


def as_shipped(span: int | None = None, of_group: int | None = None) -> Config:
    """What `ops` says of the forward pass, with another span or group if one is given."""
    from flare_kernels.triton_causal import ops

    return Config(span or ops.SPAN, of_group or ops.SPANS_OF_GROUP, *ops._ANSWER_LAUNCH)


def size_of(latents: int, n: int) -> dict[str, Any]:
    """As `causal` has it."""
    return {"N": n, "H": HEADS, "M": latents, "D": DIM, "scores": "std 1"}


@functools.cache
def _known(latents: int) -> tuple[list[trials.Inputs], trials.Inputs]:
    """What plain torch finds, and fp64."""
    device, size = torch.device("cuda"), size_of(latents, CHECKED)
    _, plain, truth = trials.outcomes(
        call_of(size, device), "chunked", "chunked", inputs_of(size, torch.bfloat16, device)
    )
    return plain, truth


def try_one(latents: int, config: Config) -> tuple[int, Config, str | None]:
    """Compile both kernels; the message if they cannot run, or compute something else."""
    global _lost
    device, size = torch.device("cuda"), size_of(latents, CHECKED)
    try:
        plain, truth = _known(latents)
        x = {name: t.requires_grad_() for name, t in inputs_of(size, torch.bfloat16, device).items()}
        gradient = measure.draw(tuple(x["v"].shape), torch.bfloat16, device, 9)
        with constants(config):
            ours = trials.evaluate(lambda: call_of(size, device)(x, "triton"), x, gradient)
        torch.cuda.synchronize()
    except torch.AcceleratorError as error:
        # From here on every call of this process fails.
        wrong, _lost = AGAIN if _lost else f"WRONG: {error}", True
        return latents, config, wrong
    except Exception as error:
        return latents, config, trials.reason(error)
    for name, true in truth.items():
        off, near = (float((each.double() - true).abs().max()) for each in (ours[name], plain[0][name]))
        allowed = trials.Error(off, near, float(true.abs().max())).budget(torch.bfloat16)
        # Not the budget itself: one draw may pass it by a little.
        if not off <= 4 * allowed:
            return latents, config, f"WRONG {name}: error {off:.2e}, budget {allowed:.2e}"
    return latents, config, None


def runnable(latents: list[int], processes: int) -> dict[int, list[Config]]:
    """The configurations that are right, compiled."""
    tasks, found = [(m, config) for m in latents for config in configs()], {m: [] for m in latents}
    context = multiprocessing.get_context("spawn")
    while tasks:
        again = []
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for future in as_completed([pool.submit(try_one, *task) for task in tasks]):
                m, config, wrong = future.result()
                if wrong is None:
                    found[m].append(config)
                elif wrong == AGAIN:
                    again.append((m, config))
                else:
                    print(m, tuple(config), wrong.splitlines()[0][:160], flush=True)
        tasks = again
    return found


def median(work: Any) -> float:
    """Milliseconds in a CUDA graph."""
    return statistics.median(measure.timed(measure.captured(work), torch.device("cuda"), 7, 0.2).times)


def sweep(latents: int, n: int, right: list[Config], show: int) -> None:
    """Print the fastest of one size in both directions."""
    device, size = torch.device("cuda"), size_of(latents, n)
    x = {name: t.requires_grad_() for name, t in inputs_of(size, torch.bfloat16, device).items()}
    gradient, call = measure.draw(tuple(x["v"].shape), torch.bfloat16, device, 9), call_of(size, device)

    def forward(config: Config) -> Tensor:
        with constants(config):
            return call(x, "triton")

    def both(config: Config) -> Any:
        y = forward(as_shipped(config.span, config.of_group))
        with constants(config):
            return torch.autograd.grad(y, list(x.values()), gradient)

    for direction, work in (("fwd", forward), ("fwd+bwd", both)):
        times = {}
        for config in sorted(right):
            try:
                times[config] = median(lambda work=work, config=config: work(config))
            except Exception as problem:
                print(f"M={latents} N={n} {direction} {tuple(config)}: {trials.reason(problem)}", flush=True)
        ranked = sorted(times, key=lambda config: times[config])
        best = "  ".join(f"{tuple(config)} {times[config]:.4f}" for config in ranked[:show])
        shipped = times.get(as_shipped(), float("nan"))
        print(f"M={latents} N={n} {direction}: shipped {shipped:.4f} ms; {best}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", nargs="+", type=int, default=[64, 128], help="latents")
    parser.add_argument("--n", nargs="+", type=int, default=[8192, 65_536], help="tokens")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--show", type=int, default=6, help="fastest configurations to print")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("times kernels on a GPU; there is none")
    found = runnable(args.m, args.processes)
    for m, n in itertools.product(args.m, args.n):
        sweep(m, n, found[m], args.show)
