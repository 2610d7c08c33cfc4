"""Speed and memory of causal FLARE along a sequence of tokens beside causal attention, in one run.

Run from the repository: `python kernels/benchmarks/causal.py [--quick] [--impls ours fa2 …] [--m …] [--n …]`. No speed
of ours is written when its result or a gradient is outside of its error budget. An implementation that fails leaves a
row with the reason, `failed`, and the others go on. What is measured again takes the place of its rows.

Implementations: `ours`, the kernels, on a GPU (elsewhere only in Triton's interpreter, which says nothing of speed);
`chunked`, the same in plain torch, where it does not take too long; `fa2` and `cudnn`, causal
`scaled_dot_product_attention` with one backend, whose work does not depend on M; `sdpa`, the same with the backend that
torch picks, on a CPU; `fla`, `chunk_gla` of the package fla-core with the gate of causal FLARE: the operator alone,
with queries, keys and gates made beforehand. It tries hundreds of configurations first, so it is measured only where
`--impls` names it, best one `--m` at a time.

`scores` says what the inputs are: "std 1" and "std 40" are standard deviations of the scores, "rising by 2" adds to
them a write gate that grows by so much a token, for which kernels take spans in parts; "by 8", latents one by one.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import gated
import measure
import torch
import torch.nn.functional as F
import trials
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from trials import Inputs, Row, Sheet

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/causal.py"
BACKENDS = {"fa2": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
IMPLS = ("fa2", "cudnn", "sdpa", "ours", "chunked", "fla")
LONGEST_IN_PLAIN_TORCH = LONGEST_CHECKED = 8192
FEW = 5  # repeats of what takes long


class Sizes(NamedTuple):
    """What is measured."""

    heads: int
    dim: int
    lengths: tuple[int, ...]
    latents: tuple[int, ...]
    dtype: torch.dtype
    repeats: int


def sizes(cuda: bool, quick: bool) -> Sizes:
    """The rows of the project's goals; `--quick` only shows that it runs."""
    dtype = torch.bfloat16 if cuda else torch.float32
    if quick:
        return Sizes(2, 16, (100, 200), (16,), dtype, 3)
    if not cuda:
        return Sizes(16, 32, (2048, 8192), (64,), dtype, 5)
    return Sizes(16, 32, (2048, 8192, 65_536, 131_072), (32, 64, 128, 256), dtype, 30)


def inputs_of(size: Row, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Queries, keys and values by name."""
    std = float(size["scores"].removeprefix("std ")) if "std" in size["scores"] else 1.0
    shapes = (size["H"], size["M"], size["D"]), *2 * [(size["N"], size["H"], size["D"])]
    q, k, v = (measure.draw(shape, dtype, device, seed) for seed, shape in enumerate(shapes))
    return {"q": q * (std / math.sqrt(size["D"])), "k": k, "v": v}


def call_of(size: Row, device: torch.device) -> trials.Call:
    """The operator on such inputs."""
    rise = float(size["scores"].removeprefix("rising by ")) if size["scores"].startswith("rising") else 0.0
    rising = rise * torch.arange(size["N"], device=device) if rise else None

    def call(x: Inputs, impl: str) -> Tensor:
        return fk.causal_mixer(x["q"], x["k"], x["v"], scale=1.0, log_weights=rising, impl=impl)

    return call


def bound(size: Row, element_bytes: int, direction: str, limits: dict[str, float]) -> tuple[float, str]:
    """Milliseconds that no implementation can go below, and what binds.

    Forward: K, V, Y once; 3 products (scores, into the latents, out of them), 2 exponentials a score. Backward: K, V,
    dY, dK, dV once, which takes room for what the forward knows; 8 products, 2 exponentials. States stay on the chip.
    """
    both = direction == "fwd+bwd"
    numbers = size["N"] * size["H"] * size["D"]
    scores = size["N"] * size["H"] * size["M"]
    by = {
        "bytes": numbers * element_bytes * (8 if both else 3) / limits["bytes"],
        "matmul": (11 if both else 3) * 2 * scores * size["D"] / limits["matmul"],
        "exps": (4 if both else 2) * scores / limits["exps"],
    }
    which = max(by, key=lambda name: by[name])
    return 1e3 * by[which], which


def attending(impl: str, size: Row, dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Tensor], Inputs]:
    """Causal attention on tensors [1, H, N, D] that are laid out for it."""
    shape = (1, size["H"], size["N"], size["D"])
    x = {name: measure.draw(shape, dtype, device, seed).requires_grad_() for seed, name in enumerate("qkv")}

    def work() -> Tensor:
        if impl == "sdpa":
            return F.scaled_dot_product_attention(*x.values(), is_causal=True)
        with sdpa_kernel(BACKENDS[impl]):
            return F.scaled_dot_product_attention(*x.values(), is_causal=True)

    return work, x


def attention(impl: str, base: Row, wanted: Sizes, device: torch.device) -> Iterator[Row]:
    """Rows of causal attention, in CUDA graphs where the host might matter."""
    try:
        work, x = attending(impl, base, wanted.dtype, device)
    except Exception as problem:
        yield {"failed": trials.reason(problem)}
        return
    graphs = base["N"] <= LONGEST_IN_PLAIN_TORCH
    yield from trials.timings(work, [*x.values()], device, wanted.repeats, graphs)


def mixing(impl: str, base: Row, error: Row, wanted: Sizes, device: torch.device) -> Iterator[Row]:
    """Rows of causal FLARE: "triton" or "chunked"."""
    try:
        x = {name: t.requires_grad_() for name, t in inputs_of(base, wanted.dtype, device).items()}
        call = call_of(base, device)
    except Exception as problem:
        yield {"failed": trials.reason(problem)}
        return
    repeats = wanted.repeats if impl == "triton" else min(wanted.repeats, FEW)
    for row in trials.timings(lambda: call(x, impl), [*x.values()], device, repeats, impl == "triton"):
        yield row | error


def by_fla(base: Row, wanted: Sizes, device: torch.device) -> Iterator[Row]:
    """Rows of gated linear attention, after its output was compared with fp64."""
    if not find_spec("fla"):
        yield {"failed": "left out: the package fla-core is not installed"}
        return
    if device.type != "cuda":
        yield {"failed": "left out: the package fla-core runs on a GPU"}
        return
    try:
        error, wrong = agreement(base, wanted.dtype, device)
        if wrong is not None:
            yield error | {"failed": wrong}
            return
        x = inputs_of(base, wanted.dtype, device)
        work, leaves = gated.prepared(*x.values(), 1.0)
    except Exception as problem:
        yield {"failed": trials.reason(problem)}
        return
    for row in trials.timings(work, leaves, device, wanted.repeats):
        yield row | error


def agreement(base: Row, dtype: torch.dtype, device: torch.device) -> tuple[Row, str | None]:
    """Columns of the error of gated linear attention, and what is wrong.

    It is allowed four times our budget: its queries and keys are rounded before it sees them.
    """
    size = base | {"N": min(base["N"], LONGEST_CHECKED)}
    x, call = inputs_of(size, dtype, device), call_of(size, device)
    with torch.no_grad():
        y = gated.prepared(*x.values(), 1.0)[0]()[0].double()
        true = call({name: t.double() for name, t in x.items()}, "chunked")
        plain = call(x, "chunked").double()
    off = trials.Error(*(float((each - true).abs().max()) for each in (y, plain)), float(true.abs().max()))
    allowed = 4 * off.budget(dtype)
    wrong = None if off.ours <= allowed else f"left out: it is off by {off.ours:.2g}, where {allowed:.2g} is allowed"
    return {"error": off.ours, "error_budget": allowed}, wrong


def run(args: argparse.Namespace, device: torch.device, limits: dict[str, float], sheet: Sheet) -> None:
    """Everything that was asked for, baselines first."""
    wanted = sizes(device.type == "cuda", args.quick)
    lengths, latents = args.n or wanted.lengths, args.m or wanted.latents
    kind = {"case": "causal", "B": 1, "H": wanted.heads, "D": wanted.dim, "dtype": str(wanted.dtype)[6:]}

    def record(base: Row, rows: Iterator[Row]) -> None:
        sheet.begin(base)
        for row in rows:
            if "ms" in row and base["M"] is not None:
                row["bound_ms"], row["bound_by"] = bound(base, wanted.dtype.itemsize, row["direction"], limits)
            sheet.add(base | row)
        if device.type == "cuda":
            torch.cuda.empty_cache()

    for impl in args.impls:
        if impl in (*BACKENDS, "sdpa"):
            for n in lengths:
                base = kind | {"impl": impl, "N": n, "M": None, "scores": None}
                record(base, attention(impl, base, wanted, device))
            continue
        for m in latents:
            if impl == "fla" and device.type == "cuda" and find_spec("fla"):
                gated.compile_ahead(wanted.heads, m, wanted.dim)
            # What the package tries at first, it keeps for all lengths: best for long ones.
            cases = [(n, "std 1") for n in (reversed(lengths) if impl == "fla" else lengths)]
            if impl == "ours" and m == 64 and LONGEST_CHECKED in lengths:
                cases += [(LONGEST_CHECKED, scores) for scores in ("std 40", "rising by 2", "rising by 8")]
            found: dict[str, tuple[Row, str | None]] = {}
            for n, scores in cases:
                base = kind | {"impl": impl, "N": n, "M": m, "scores": scores}
                if impl == "fla":
                    record(base, by_fla(base, wanted, device))
                elif impl == "chunked":
                    if n <= LONGEST_IN_PLAIN_TORCH:
                        record(base, mixing("chunked", base, {}, wanted, device))
                else:
                    if scores not in found:
                        found[scores] = check(base | {"N": min(max(lengths), LONGEST_CHECKED)}, wanted.dtype, device)
                    error, wrong = found[scores]
                    rows = mixing("triton", base, error, wanted, device)
                    record(base, rows if wrong is None else iter([error | {"failed": wrong}]))


def check(size: Row, dtype: torch.dtype, device: torch.device) -> tuple[Row, str | None]:
    """Columns of our error, and what is wrong."""
    return trials.checked(call_of(size, device), "triton", "chunked", inputs_of(size, dtype, device), dtype)


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = measure.ceilings(device)
    print({name: f"{rate:.3g}" for name, rate in limits.items()}, flush=True)
    if args.impls is None:
        without = {"fla", "sdpa"} if device.type == "cuda" else {"fla", *BACKENDS}
        without |= set() if trials.kernels_run(device) else {"ours"}
        args.impls = [impl for impl in IMPLS if impl not in without]
    run(args, device, limits, Sheet(args.out, measure.provenance(COMMAND, device), fresh=args.quick))
    print(args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--impls", nargs="+", choices=IMPLS, help="all but fla, if not given")
    parser.add_argument("--m", nargs="+", type=int, help="numbers of latents")
    parser.add_argument("--n", nargs="+", type=int, help="numbers of tokens")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    args.out = args.out or measure.results("causal", args.quick)
    return args


if __name__ == "__main__":
    main(arguments())
