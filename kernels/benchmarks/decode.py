"""Time and memory of one token more beside attention with a cache of keys and values, in one run.

Run from the repository: `python kernels/benchmarks/decode.py [--quick] [--out FILE]`. No speed is written when our
result or a state is outside of its error budget. Implementations: `ours`, the kernel, on a GPU; `plain`, the same in
plain torch; `sdpa`, one call of `scaled_dot_product_attention` on a cache of all that came before, which it only reads.

A call takes some tokens one after another, with the same numbers in each; times are of one of them. Eagerly they are
what the host needs where that takes longer, in a CUDA graph what the GPU needs. The bound is the bytes that a token
must move at the rate of a large copy; a small state stays in the cache of the GPU, which is faster than that.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/decode.py"
HEADS, DIM = 16, 32
Work = Callable[[], Any]


class Sizes(NamedTuple):
    """What is measured."""

    histories: tuple[int, ...]
    latents: tuple[int, ...]
    batches: tuple[int, ...]
    dtype: torch.dtype
    tokens: int  # of a call
    repeats: int


def sizes(cuda: bool, quick: bool) -> Sizes:
    """`--quick` only shows that it runs."""
    dtype = torch.bfloat16 if cuda else torch.float32
    if quick:
        return Sizes((100, 1000), (32,), (2,), dtype, 4, 3)
    if not cuda:
        return Sizes((1000, 100_000), (64,), (1,), dtype, 16, 10)
    return Sizes((1000, 100_000, 1_000_000), (32, 64, 128, 256), (1, 8), dtype, 64, 30)


def state_after(q: Tensor, keys: Tensor, values: Tensor, batch: int) -> fk.LatentState:
    """What latents know after a history [N, H, D], the same for each sequence: a gather, which needs no steps."""
    z, lse = fk.gather(q, keys, values, scale=1.0, return_lse=True)
    kept_in = torch.promote_types(values.dtype, torch.float32)
    return fk.LatentState(*(x.to(kept_in).expand(batch, *x.shape[1:]).contiguous() for x in (lse, z)))


def check(latents: int, dtype: torch.dtype, device: torch.device, impl: str) -> dict[str, tuple[float, float]]:
    """Errors of 16 tokens and of the state after them against fp64, and what plain torch would be allowed."""
    q, keys, values = inputs(latents, 1016, dtype, device)
    begun = state_after(q, keys[:1000], values[:1000], 1)

    def run(impl: str, dtype: torch.dtype, kept_in: torch.dtype) -> dict[str, Tensor]:
        state = fk.LatentState(*(x.to(kept_in, copy=True) for x in begun))
        steps = zip(keys[1000:, None].to(dtype), values[1000:, None].to(dtype), strict=True)
        y = [fk.decode_step(q.to(dtype), k, v, state, scale=1.0, impl=impl) for k, v in steps]
        return {"y": torch.cat(y), **state._asdict()}

    ours, plain = run(impl, dtype, torch.float32), run("reference", dtype, torch.float32)
    errors = {}
    for name, true in run("reference", torch.float64, torch.float64).items():
        rounding = torch.finfo(ours[name].dtype).eps * true.abs().max()
        allowed = 2 * (plain[name].double() - true).abs().max() + rounding
        errors[name] = (float((ours[name].double() - true).abs().max()), float(allowed))
    return errors


def inputs(latents: int, history: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, with which scores have standard deviation 1, keys and values."""
    keys, values = (measure.draw((history, HEADS, DIM), dtype, device, seed) for seed in (1, 2))
    return measure.draw((HEADS, latents, DIM), dtype, device) * DIM**-0.5, keys, values


def decoding(q: Tensor, k: Tensor, v: Tensor, state: fk.LatentState, impl: str, tokens: int) -> Work:
    """Some tokens, one after another."""

    def work() -> None:
        for _ in range(tokens):
            fk.decode_step(q, k, v, state, scale=1.0, impl=impl)

    return work


def attending(q: Tensor, keys: Tensor, values: Tensor, batch: int, tokens: int) -> Work:
    """As many tokens that read a cache [B, H, N, D] which is laid out for them."""
    cache = [x.transpose(0, 1).repeat(batch, 1, 1, 1) for x in (keys, values)]

    def work() -> None:
        for _ in range(tokens):
            F.scaled_dot_product_attention(q, *cache, scale=1.0)

    return work


def timings(
    base: dict[str, Any], work: Work, moved: int, wanted: Sizes, device: torch.device, limits: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Rows of one implementation, with and without the host."""
    for graph in (False, True) if device.type == "cuda" else (False,):
        try:
            timing = measure.timed(measure.captured(work) if graph else work, device, wanted.repeats)
        except RuntimeError as problem:  # of memory, say
            print(f"{base}: {str(problem).splitlines()[0][:100]}")
            continue
        found = timing.row()
        row = {
            **base, "H": HEADS, "D": DIM, "dtype": str(wanted.dtype).removeprefix("torch."), "graph": graph,
            "bound_us": 1e6 * moved / limits["bytes"], "bound_by": "bytes", "peak_mib": found["peak_mib"],
            **{name.replace("ms", "us"): 1e3 * found[name] / wanted.tokens for name in ("ms", "ms_min", "ms_max")},
        }  # fmt: skip
        print(
            f"{row['impl']:>5} B={row['B']} history={row['history']:>8} M={row['M'] or '':>3}"
            f"{' graph' if graph else ''}: {row['us']:9.2f} us a token, bound {row['bound_us']:.3f}, "
            f"{row['state_bytes'] / 2**20:.2f} MiB kept",
            flush=True,
        )
        yield row


def rows_of(
    history: int, batch: int, wanted: Sizes, device: torch.device, limits: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Rows of one history: attention, then each number of latents."""
    size, base = wanted.dtype.itemsize, {"case": "decode", "B": batch, "history": history}
    token = [measure.draw((batch, HEADS, DIM), wanted.dtype, device, seed) for seed in (3, 4)]
    _, keys, values = inputs(1, history, wanted.dtype, device)
    kept = 2 * batch * history * HEADS * DIM * size
    given = {"impl": "sdpa", "M": None, "state_bytes": kept}
    try:
        work = attending(token[0][:, :, None], keys, values, batch, wanted.tokens)
    except torch.cuda.OutOfMemoryError:
        print(f"sdpa B={batch} history={history}: {kept / 2**30:.0f} GiB do not fit")
    else:
        yield from timings(base | given, work, kept, wanted, device, limits)
        del work
    for latents in wanted.latents:
        q = inputs(latents, 1, wanted.dtype, device)[0]
        for name, impl in (("ours", "triton"), ("plain", "reference")):
            if name == "ours" and device.type != "cuda":
                continue
            errors = check(latents, wanted.dtype, device, impl)
            wrong = {of: pair for of, pair in errors.items() if not pair[0] <= pair[1]}
            if wrong:
                raise SystemExit(f"{name} M={latents}: (error, budget) {wrong}; no speed is reported")
            state = state_after(q, keys, values, batch)
            kept = sum(x.numel() * x.element_size() for x in state)
            moved = 2 * kept + size * (q.numel() + 3 * token[0].numel())  # k, v, y
            error, budget = errors["y"]
            given = {"impl": name, "M": latents, "state_bytes": kept, "error": error, "error_budget": budget}
            work = decoding(q, *token, state, impl, wanted.tokens)
            yield from timings(base | given, work, moved, wanted, device, limits)


def main(quick: bool, out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits, wanted = measure.ceilings(device), sizes(device.type == "cuda", quick)
    print({name: f"{rate:.3g}" for name, rate in limits.items()})
    rows: list[dict[str, Any]] = []
    origin = measure.provenance(COMMAND, device)
    for batch in wanted.batches:
        for history in wanted.histories:
            for row in rows_of(history, batch, wanted, device, limits):
                rows.append(row | origin)
            measure.save(out, rows)
    print(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    args = parser.parse_args()
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    name = f"decode_{kind}{'_quick' if args.quick else ''}.json"
    main(args.quick, args.out or Path(__file__).parent / "results" / name)
