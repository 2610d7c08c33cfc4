"""Time and memory of a training step of the model, with our kernels and with two SDPA calls, in one run.

    python examples/studies/training_speed/run.py               # on a GPU
    python examples/studies/training_speed/run.py --largest     # the most points that a step fits into this GPU
    python examples/studies/training_speed/run.py --profile     # where the time of a step goes
    python examples/studies/training_speed/run.py --quick       # a tiny step, on anything: only to see it run

The learned part of a `FlareConnect` on points drawn at random, without message passing: 8 blocks, 8 heads, 64 latents,
keys and values from perceptrons with 3 hidden layers, AdamW. Writes `results/training_speed_gpu.json`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from flare_connect.files import write_atomically
from flare_connect.models.config import Architecture
from flare_connect.models.trunk import Trunk
from flare_kernels import Segments

sys.path.insert(0, str(Path(__file__).parents[3] / "kernels" / "benchmarks"))
import measure

COMMAND = "python examples/studies/training_speed/run.py"
FEATURES, OUTPUTS = 16, 4
AGAIN = ("nothing", "blocks")
Step = dict[str, Any]


def main(quick: bool, out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Step] = []
    for n, precision in [(2_000, "32")] if quick else [(50_000, "32"), (50_000, "bf16"), (1_000_000, "bf16")]:
        ours = [(p, again) for p in {"32": ["32"]}.get(precision, ["bf16", "bf16-stream"]) for again in AGAIN]
        for compiled in (False,) if quick else (False, True):
            # Compiled, only what one would choose: compiling takes longer than the steps.
            ours_here = [("auto", choice) for choice in (ours[-2:] if compiled else ours)]
            for impl, choice in [("sdpa", (precision, "nothing")), *ours_here]:
                rows.append(row_of(n, 64, impl, choice, compiled, device))
                save(out, rows, device)
    print(out)


def row_of(n: int, channels: int, impl: str, choice: tuple[str, str], compiled: bool, device: torch.device) -> Step:
    """Median time and peak memory of a step; `choice` is the precision and what is computed again."""
    precision, recompute = choice
    os.environ["FLARE_KERNELS_IMPL"] = impl
    row: Step = {
        "case": "model_step", "impl": "ours" if impl == "auto" else impl, "B": 1, "N": n, "H": 8, "M": 64,
        "D": channels // 8, "dtype": precision, "direction": "fwd+bwd+update", "recompute": recompute,
        "compiled": compiled,
    }  # fmt: skip
    try:
        step = training_step(n, channels, precision, recompute, compiled, device)
        start = time.perf_counter()
        for _ in range(3):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        row["first_steps_s"] = time.perf_counter() - start
        timing = measure.timed(step, device, 10, seconds=2.0)
        row |= {
            **timing.row(),
            "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
        }
        print({key: row[key] for key in ("impl", "N", "dtype", "recompute", "compiled", "ms", "peak_mib")}, flush=True)
    except torch.OutOfMemoryError:
        row |= {"ms": None, "peak_mib": None}
        print({key: row[key] for key in ("impl", "N", "dtype", "recompute", "compiled")}, "does not fit", flush=True)
    finally:
        del os.environ["FLARE_KERNELS_IMPL"]
        torch.compiler.reset()
        if device.type == "cuda":
            step = None
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return row


def training_step(n: int, channels: int, precision: str, recompute: str, compiled: bool, device: torch.device) -> Any:
    """A function that does one step: forward, backward, update."""
    torch.manual_seed(0)
    arch = Architecture(
        channels=channels, num_blocks=8, num_heads=8, num_latents=64, num_kv_layers=3, anchors="none",
        message_passing=False, boundary_tokens=False, quadrature=False,
    )  # fmt: skip
    trunk = Trunk(arch, features=FEATURES, edge_features=0, conditions=2, outputs=OUTPUTS).to(device)
    trunk.recompute = recompute
    trunk.stream = torch.bfloat16 if precision == "bf16-stream" else None
    if compiled:
        for block in trunk.blocks:
            block.compile(dynamic=True)
    optimiser = torch.optim.AdamW(trunk.parameters(), lr=1e-4, fused=device.type == "cuda")
    x = torch.randn(n, FEATURES, device=device)
    target = torch.randn(n, OUTPUTS, device=device)
    condition = torch.randn(1, 2, device=device)
    segments = Segments.uniform(1, n, device)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision != "32"):
            y = trunk(x, condition, segments=segments)
        (y.float() - target).square().mean().backward()
        optimiser.step()

    return step


def largest(device: torch.device, out: Path) -> None:
    """The most points whose step fits, C = 128, in steps of two million."""
    rows = json.loads(out.read_text()) if out.is_file() else []
    rows = [row for row in rows if row["case"] != "largest"]
    for compiled in (False, True):
        fits, n = None, 4_000_000
        while n <= 32_000_000:
            row = row_of(n, 128, "auto", ("bf16-stream", "layers"), compiled, device)
            if row["ms"] is None:
                break
            fits, n = row | {"case": "largest"}, n + 2_000_000
        if fits:
            rows.append(fits | measure.provenance(COMMAND + " --largest", device))
            write_atomically(out, json.dumps(rows, indent=1, sort_keys=True).encode() + b"\n")


def profile(device: torch.device) -> None:
    """Kernels of a step by time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for n, precision in ((50_000, "32"), (1_000_000, "bf16-stream")):
        step = training_step(n, 64, precision, "nothing", False, device)
        for _ in range(3):
            step()
        with profiler(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(3):
                step()
            torch.cuda.synchronize()
        kernels = sorted(found.key_averages(), key=lambda kernel: -kernel.device_time_total)
        total = sum(kernel.device_time_total for kernel in kernels) / 3e3
        print(f"N={n} {precision}: {total:.1f} ms of kernels a step")
        for kernel in kernels[:14]:
            print(f"  {kernel.device_time_total / 3e3:8.2f} ms  {kernel.count // 3:5d} ×  {kernel.key[:90]}")
        wall = statistics.median(measure.timed(step, device, 10).times)
        print(f"  step {wall:.1f} ms")


def save(out: Path, rows: list[Step], device: torch.device) -> None:
    kept = [row for row in json.loads(out.read_text()) if row["case"] == "largest"] if out.is_file() else []
    content = [row | measure.provenance(COMMAND, device) for row in rows] + kept
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = "quick" if args.quick else "gpu" if place.type == "cuda" else "cpu"
    target = args.out or Path(__file__).parent / "results" / f"training_speed_{kind}.json"
    if args.profile:
        profile(place)
    elif args.largest:
        largest(place, target)
    else:
        main(args.quick, target)
