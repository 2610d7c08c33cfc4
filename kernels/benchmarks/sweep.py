"""Times tile sizes of every kernel and writes the table of launches: `python kernels/benchmarks/sweep.py`.

Run it once on each new kind of GPU. Compiling is most of the work and runs in as many processes as there are cores.
`--m 64 --d 16 --bytes 2 --kernels gather` sweeps a part and leaves the other rows as they are.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from unittest import mock

import measure
import torch
from torch import Tensor
from tqdm import tqdm

import flare_kernels as fk

KERNELS = ("gather", "scatter", "latent_grad", "point_grad")
HEADS = 8
BLOCKS_N, WARPS, STAGES = (32, 64, 128), (4, 8), (1, 3, 4)
Job = tuple[str, int, int, int]
Config = tuple[int, int, int, int]
AGAIN = "this process lost its GPU before"
_lost = False


def configs(job: Job) -> Iterator[Config]:
    """(block_m, block_n, warps, stages) worth trying: what fits into registers and shared memory, about."""
    kernel, m, d, size = job
    both = kernel == "point_grad"
    # Up to 64 latents are always one block: see `ALWAYS_ONE_BLOCK`.
    blocks_m = {min(m, 128)} | ({64} if m >= 128 else set()) | ({32} if both and m >= 128 else set())
    for block_m, block_n, warps, stages in itertools.product(sorted(blocks_m), BLOCKS_N, WARPS, STAGES):
        # What the rows of the products are; eight warps want 128 of them.
        height = block_n if kernel in ("scatter", "point_grad") else block_m
        registers = block_m * block_n * (3 if both else 1) / (32 * warps)
        shared = stages * block_n * d * size * (3 if both else 2)
        if (warps == 8 and height < 128) or (size == 4 and stages > 2) or (block_m < min(m, 128) and stages == 3):
            continue
        if 8 <= registers <= 200 and shared < 160_000 and block_n * d <= 128 * 128:
            yield block_m, block_n, warps, stages


def work(job: Job, num_rows: int) -> Any:
    """A call of the operator on random data."""
    import flare_kernels.triton_mixer.ops  # noqa: F401 (registers the operators)

    kernel, m, d, size = job
    dtype = torch.bfloat16 if size == 2 else torch.float32
    latents = m if m < 256 else 512
    torch.manual_seed(0)
    q = torch.randn(HEADS, latents, d, device="cuda", dtype=dtype)
    k, v, dy = (torch.randn(num_rows, HEADS, d, device="cuda", dtype=dtype) for _ in range(3))
    plan = (None, None, 1, num_rows, 0)
    z = torch.randn(1, HEADS, latents, d, device="cuda")
    lse = torch.full((num_rows, HEADS), 8.0 + d**0.5, device="cuda")
    lse_m = torch.full((1, HEADS, latents), 20.0, device="cuda")
    none, rest = (None, None, None), (d**-0.5, "ieee")
    flare = torch.ops.flare_connect
    return {
        "gather": lambda: flare.gather(q, k, v, None, *none, *plan, *rest),
        "scatter": lambda: flare.scatter(q, k, z, *none, *plan, *rest, True),
        "latent_grad": lambda: flare.latent_grad(q, k, dy, lse, *none, *plan, *rest),
        "point_grad": lambda: flare.point_grad(
            q, k, v, dy, dy, None, z, z, lse_m, lse, None, None, False, *none, *none, *plan, *rest
        ),
    }[kernel]


def with_config(job: Job, config: Config) -> Any:
    """Make one kernel use one tile, whatever the table says."""
    from flare_kernels.triton_mixer import ops, sizes

    def tile(kernel: str, *key: int) -> sizes.Tile:
        return sizes.Tile(*config) if kernel == job[0] else sizes.tile(kernel, *key)

    return mock.patch.object(ops, "tile", tile)


def one_chunk() -> None:
    """Few programs with many tiles each: the loops that a large mesh has, on a small one."""
    from flare_kernels.triton_mixer import sizes

    sizes.PROGRAMS = HEADS


def try_one(job: Job, config: Config) -> tuple[Job, Config, str | None]:
    """Fill the compiler's cache on disk; the message if the configuration cannot run, or computes something else.

    A compiler may be wrong for some tiles and not for others (Triton 3.6 was: dq of 16 latents by 64 dims), so that the
    fastest configuration has to show that it is right before it is timed.
    """
    _, m, d, size = job
    dtype = torch.bfloat16 if size == 2 else torch.float32
    latents = m if m < 256 else 512
    torch.manual_seed(0)
    shapes = (HEADS, latents, d), *3 * [(1000, HEADS, d)]
    *inputs, dy = (torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes)

    def outcome(impl: str, *inputs: Tensor) -> list[Tensor]:
        leaves = [x.requires_grad_() for x in inputs]
        y = fk.mixer(*leaves, scale=d**-0.5, impl=impl)
        return [y.detach().double(), *(x.double() for x in torch.autograd.grad(y, leaves, dy.to(y.dtype)))]

    try:
        truth, plain = outcome("reference", *(x.double() for x in inputs)), outcome("reference", *inputs)
        with with_config(job, config):
            ours = outcome("triton", *inputs)
        torch.cuda.synchronize()
    except torch.AcceleratorError as error:
        # From here on every call of this process fails.
        global _lost
        wrong, _lost = AGAIN if _lost else f"WRONG: {error}", True
        return job, config, wrong
    except Exception as error:
        return job, config, f"{type(error).__name__}: {error}"
    for name, x, near, true in zip(("y", "dq", "dk", "dv"), ours, plain, truth, strict=True):
        error, allowed = (
            (x - true).abs().max(),
            2 * (near - true).abs().max() + torch.finfo(dtype).eps * true.abs().max(),
        )
        # Not the budget itself, which `tests/kernels` holds the table to: one draw may pass it by a little.
        if not error <= 4 * allowed:
            return job, config, f"WRONG {name}: error {error:.2e}, budget {allowed:.2e}"
    return job, config, None


def main(args: argparse.Namespace) -> None:
    from flare_kernels.triton_mixer.sizes import TABLE

    jobs = list(itertools.product(args.kernels, args.m, args.d, args.bytes))
    tasks = [(job, config) for job in jobs for config in configs(job)]
    runnable: dict[Job, list[Config]] = {job: [] for job in jobs}
    context = multiprocessing.get_context("spawn")
    while tasks:
        again = []
        with ProcessPoolExecutor(args.processes, mp_context=context, initializer=one_chunk) as pool:
            futures = [pool.submit(try_one, *task) for task in tasks]
            for future in tqdm(as_completed(futures), total=len(tasks), desc="compile", mininterval=20):
                job, config, error = future.result()
                if error is None:
                    runnable[job].append(config)
                elif error == AGAIN:
                    again.append((job, config))
                elif args.verbose or "WRONG" in error:
                    print(job, config, error.splitlines()[0][:200])
        tasks = again
    rows = json.loads(TABLE.read_text())["rows"]
    for job in jobs:
        kernel, m, d, size = job
        call = work(job, args.points if m < 256 else args.points // 4)
        times = {}
        for config in sorted(runnable[job]):
            with with_config(job, config):
                times[config] = statistics.median(measure.timed(call, torch.device("cuda"), 7).times)
        ranked = sorted(times, key=lambda config: times[config])
        if not ranked:
            print(f"{job}: nothing ran; the row stays as it was")
            continue
        print(job, " ".join(f"{config}:{times[config]:.3f}" for config in ranked[: args.show]), flush=True)
        block_m, block_n, warps, stages = ranked[0]
        rows[kernel] = [row for row in rows[kernel] if (row["m"], row["d"], row["bytes"]) != (m, d, size)]
        rows[kernel].append(
            {
                "m": m, "d": d, "bytes": size, "block_m": block_m, "block_n": block_n, "num_warps": warps,
                "num_stages": stages, "ms": round(times[ranked[0]], 4),
            }
        )  # fmt: skip
        write(Path(args.out or TABLE), rows)


def write(out: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One row a line, after each kernel: a sweep that is cut short keeps what it found."""
    for found in rows.values():
        found.sort(key=lambda row: (row["bytes"], row["m"], row["d"]))
    machine = json.dumps(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    lines = [f' "{name}": [\n' + ",\n".join("  " + json.dumps(row) for row in rows[name]) + "\n ]" for name in rows]
    out.write_text(f'{{"machine": {machine}, "rows": {{\n' + ",\n".join(lines) + "\n}}\n")
    print(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=KERNELS)
    parser.add_argument("--m", nargs="+", type=int, default=[16, 32, 64, 128, 256], help="latents; 256: more than 128")
    parser.add_argument("--d", nargs="+", type=int, default=[16, 32, 64], help="head dim")
    parser.add_argument("--bytes", nargs="+", type=int, default=[2, 4], help="of an element")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--show", type=int, default=3, help="fastest configurations to print")
    parser.add_argument("--out", help="file to write instead of the table")
    parser.add_argument("--verbose", action="store_true")
    main(parser.parse_args())
