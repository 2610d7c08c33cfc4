"""Speed and memory of block-causal FLARE, along time steps of points, beside the mixer and block-causal attention.

Run from the repository: `python kernels/benchmarks/block_causal.py [--quick] [--impls ours flex …] [--out FILE]`. No
speed of ours is written when its result or a gradient is outside of its error budget. An implementation that fails
leaves a row with the reason, `failed`, and the others go on. What is measured again takes the place of its rows.

Implementations: `ours`, all of it on kernels, on a GPU (elsewhere only in Triton's interpreter, which says nothing of
speed); `apart`, the same where points are read by keys of their own, here the same numbers; `mixer`, the mixer of all
points as one mesh; `mixer_steps`, the mixer of each step alone, what `ours` is without the running softmax; `flex`,
FlexAttention of each point with all points of its step and of all before, compiled, with a mask of whole blocks;
`sdpa_masked`, the same by `scaled_dot_product_attention` with a mask [N, N], which is not counted as its memory, where
that fits. The case `block_causal_anchored` has costs of two scales in fp16, the same in both halves.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import measure
import torch
import torch.nn.functional as F
import trials
from torch import Tensor
from trials import Inputs, Row, Sheet

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/block_causal.py"
CASES = ("block_causal", "block_causal_anchored")
MIXERS = ("ours", "apart", "mixer", "mixer_steps")
ATTENTION = ("sdpa_masked", "flex")
SCALES = 2
TILE = 128  # rows and columns of a block of the mask
LARGEST_MASK = 2**32


class Sizes(NamedTuple):
    """What is measured."""

    heads: int
    dim: int
    latents: int
    points: int  # of a step
    steps: tuple[int, ...]
    checked: tuple[int, int]  # steps, points
    dtype: torch.dtype
    repeats: int


def sizes(cuda: bool, quick: bool) -> Sizes:
    """`--quick` only shows that it runs."""
    dtype = torch.bfloat16 if cuda else torch.float32
    if quick:
        return Sizes(2, 16, 16, TILE, (3,), (3, 40), dtype, 3)
    if not cuda:
        return Sizes(8, 16, 64, 512, (4, 16), (4, 512), dtype, 5)
    return Sizes(8, 16, 64, 4096, (16, 64), (16, 512), dtype, 30)


def inputs_of(size: Row, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Queries, keys and values by name, and slopes where there are costs; scores have a standard deviation of 1."""
    shapes = (size["H"], size["M"], size["D"]), *2 * [(size["N"], size["H"], size["D"])]
    q, k, v = (measure.draw(shape, dtype, device, seed) for seed, shape in enumerate(shapes))
    x = {"q": q / math.sqrt(size["D"]), "k": k, "v": v}
    if size["case"] == "block_causal_anchored":
        slopes = torch.linspace(0.1, 2, size["H"], device=device)
        x |= {"slope_encode": slopes, "slope_decode": slopes.clone()}
    return x


def calls_of(size: Row, device: torch.device) -> dict[str, trials.Call]:
    """The operators on such inputs, by the name of the implementation."""
    steps = fk.Segments.uniform(size["T"], size["points"], device)
    values = scales = None
    if size["case"] == "block_causal_anchored":
        generator = torch.Generator(device).manual_seed(0)
        shape = (size["N"], SCALES, size["M"])
        values = (torch.rand(shape, device=device, generator=generator, dtype=torch.float16) * 4).permute(0, 2, 1)
        scales = torch.arange(size["H"], device=device) % SCALES

    def costs(x: Inputs) -> dict[str, Any]:
        if values is None:
            return {}
        slopes = {"cost": x["slope_encode"], "cost_decode": x["slope_decode"]}
        return {name: fk.Cost(values=values, slope=slope, head_scale=scales) for name, slope in slopes.items()}

    def along(x: Inputs, impl: str, apart: bool = False) -> Tensor:
        return fk.block_causal_mixer(
            x["q"], x["k"], x["v"], scale=1.0, steps=steps, k_decode=x["k"] if apart else None, impl=impl, **costs(x)
        )

    def alone(x: Inputs, ptr: fk.Segments | None) -> Tensor:
        return fk.mixer(x["q"], x["k"], x["v"], scale=1.0, ptr=ptr, **costs(x))

    return {
        "ours": along, "apart": lambda x, impl: along(x, impl, apart=True), "mixer": lambda x, _: alone(x, None),
        "mixer_steps": lambda x, _: alone(x, steps),
    }  # fmt: skip


def attending(
    impl: str, size: Row, dtype: torch.dtype, device: torch.device
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Block-causal attention on tensors [1, H, N, D] that are laid out for it."""
    shape = (1, size["H"], size["N"], size["D"])
    x = [measure.draw(shape, dtype, device, seed).requires_grad_() for seed in range(3)]
    if impl == "sdpa_masked":
        if size["N"] ** 2 > LARGEST_MASK:
            raise MemoryError(f"left out: a mask of {size['N']:,}² numbers")
        step = torch.arange(size["N"], device=device) // size["points"]
        mask = torch.zeros(size["N"], size["N"], device=device, dtype=dtype)
        mask.masked_fill_(step[:, None] < step[None, :], -torch.inf)
        return lambda: F.scaled_dot_product_attention(*x, attn_mask=mask), x
    from torch.nn.attention.flex_attention import flex_attention

    blocks = whole_blocks(size["T"], size["points"], device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(*x, block_mask=blocks), x


def whole_blocks(num_steps: int, points: int, device: torch.device) -> Any:
    """The mask of FlexAttention: no block of it is seen in part, so no mask is looked at within one.

    Raises:
        ValueError: if steps do not end where blocks do.
    """
    from torch.nn.attention.flex_attention import BlockMask

    if points % TILE:
        raise ValueError(f"`points` must be divisible by {TILE}, got {points}")
    rows = num_steps * points // TILE
    row = torch.arange(rows, device=device, dtype=torch.int32)
    seen = (row // (points // TILE) + 1) * (points // TILE)
    columns = row.expand(1, 1, rows, rows).contiguous()
    return BlockMask.from_kv_blocks(
        torch.zeros_like(seen)[None, None], columns, seen[None, None], columns, BLOCK_SIZE=TILE,
        mask_mod=lambda batch, head, reading, read: read // points <= reading // points,
    )  # fmt: skip


def rows_of(impl: str, base: Row, error: Row, wanted: Sizes, device: torch.device) -> Iterator[Row]:
    """Rows of one implementation; no gradients of slopes are asked for, as in the benchmark of the mixer."""
    try:
        if impl in ATTENTION:
            work, leaves = attending(impl, base, wanted.dtype, device)
        else:
            x = {name: t.requires_grad_() for name, t in inputs_of(base, wanted.dtype, device).items()}
            call = calls_of(base, device)[impl]
            work, leaves = (lambda: call(x, "triton")), [x[name] for name in "qkv"]
    except Exception as problem:
        yield {"failed": trials.reason(problem)}
        return
    for row in trials.timings(work, leaves, device, wanted.repeats, graphs=impl in MIXERS):
        yield row | error


def run(args: argparse.Namespace, device: torch.device, limits: dict[str, float], sheet: Sheet) -> None:
    """Everything that was asked for, what takes longest last."""
    wanted = sizes(device.type == "cuda", args.quick)
    kind = {"B": 1, "H": wanted.heads, "D": wanted.dim, "M": wanted.latents, "dtype": str(wanted.dtype)[6:]}

    def record(base: Row, rows: Iterator[Row]) -> None:
        sheet.begin(base)
        costs = base["N"] * base["M"] * SCALES * 2 if base["case"] == "block_causal_anchored" else 0
        for row in rows:
            if "ms" in row and base["impl"] in MIXERS:
                best = measure.bound(base, wanted.dtype.itemsize, row["direction"], limits, costs)
                row["bound_ms"], row["bound_by"] = best
            sheet.add(base | row)
        if device.type == "cuda":
            torch.cuda.empty_cache()

    for impl in args.impls:
        for case in CASES if impl in MIXERS else CASES[:1]:
            error: Row = {}
            wrong = None
            if impl == "ours":
                num_steps, points = wanted.checked
                small = kind | {"case": case, "T": num_steps, "points": points, "N": num_steps * points}
                error, wrong = check(small, wanted.dtype, device)
            for num_steps in wanted.steps:
                base = kind | {
                    "case": case, "impl": impl, "T": num_steps, "points": wanted.points, "N": num_steps * wanted.points
                }  # fmt: skip
                rows = rows_of(impl, base, error, wanted, device)
                record(base, rows if wrong is None else iter([error | {"failed": wrong}]))


def check(size: Row, dtype: torch.dtype, device: torch.device) -> tuple[Row, str | None]:
    """Columns of our error, and what is wrong."""
    call, x = calls_of(size, device)["ours"], inputs_of(size, dtype, device)
    return trials.checked(call, "triton", "reference", x, dtype)


def main(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = measure.ceilings(device)
    print({name: f"{rate:.3g}" for name, rate in limits.items()}, flush=True)
    if args.impls is None:
        args.impls = [*(MIXERS if trials.kernels_run(device) else MIXERS[2:]), "sdpa_masked"]
        args.impls += ["flex"] if device.type == "cuda" else []  # on a CPU it wants a C++ compiler
    run(args, device, limits, Sheet(args.out, measure.provenance(COMMAND, device), fresh=args.quick))
    print(args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--impls", nargs="+", choices=(*MIXERS, *ATTENTION), help="all, if not given")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    args.out = args.out or measure.results("block_causal", args.quick)
    main(args)
