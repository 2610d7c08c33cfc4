"""Speed and memory of the mixer, in one run: implementations side by side, and the physical bound of the case.

Run from the repository: `python kernels/benchmarks/mixer.py [--quick] [--out FILE]`. Refuses to write a row whose
correctness check is red. A row names the case, its sizes, milliseconds (median), the bound and the machine.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/mixer.py"
# H, M, D; C = H·D = 128 is the width of a mid-sized surrogate.
HEADS, LATENTS, DIM = 8, 64, 16


def main(num_points: list[int], dtypes: list[torch.dtype], repeats: int, out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ceilings = measure_ceilings(device)
    rows = []
    for n in num_points:
        for dtype in dtypes:
            for impl in ("sdpa", "reference"):
                rows += bench(impl, n, dtype, device, repeats, ceilings)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    print(out)


def bench(impl: str, n: int, dtype: torch.dtype, device: torch.device, repeats: int, ceilings: dict) -> list[dict]:
    """Rows of one implementation, forward and forward+backward."""
    q, k, v = (draw(shape, dtype, device) for shape in ((HEADS, LATENTS, DIM), (n, HEADS, DIM), (n, HEADS, DIM)))
    error, budget = check(q, k, v, impl)
    if error > budget:
        raise SystemExit(f"{impl} {dtype} N={n}: error {error:.2e} over budget {budget:.2e}; no speed is reported")
    for tensor in (q, k, v):
        tensor.requires_grad_()
    gradient = draw((n, HEADS, DIM), dtype, device)

    def forward() -> Tensor:
        return fk.mixer(q, k, v, scale=1.0, impl=impl)

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), gradient)

    rows = []
    for direction, work in (("fwd", forward), ("fwd+bwd", both)):
        times, peak = timed(work, device, repeats)
        bound, bound_by = physical_bound(n, dtype, direction, ceilings)
        rows.append(
            {
                "case": "mixer", "impl": impl, "B": 1, "N": n, "H": HEADS, "M": LATENTS, "D": DIM,
                "dtype": str(dtype).removeprefix("torch."), "direction": direction,
                "ms": statistics.median(times), "ms_min": min(times), "ms_max": max(times), "peak_mib": peak,
                "bound_ms": bound, "bound_by": bound_by, "error": error, "error_budget": budget,
                "command": COMMAND, "commit": commit(), "date": datetime.date.today().isoformat(),
                "machine": machine(device), "seed": 0,
            }
        )  # fmt: skip
        print(
            f"{impl:>10} N={n:>8} {dtype} {direction:>8}: {rows[-1]['ms']:9.3f} ms, bound {bound:.3f} ms ({bound_by})"
        )
    return rows


def check(q: Tensor, k: Tensor, v: Tensor, impl: str) -> tuple[float, float]:
    """Error against the fp64 oracle, and the error that plain torch in this dtype would be allowed."""
    cut = slice(0, 20_000)
    truth = fk.mixer(q.double(), k[cut].double(), v[cut].double(), scale=1.0, impl="reference")
    plain = fk.mixer(q, k[cut], v[cut], scale=1.0, impl="reference")
    ours = fk.mixer(q, k[cut], v[cut], scale=1.0, impl=impl)
    allowed = 2 * (plain.double() - truth).abs().max() + torch.finfo(q.dtype).eps * truth.abs().max()
    return float((ours.double() - truth).abs().max()), float(allowed)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> tuple[list[float], float | None]:
    """Milliseconds of each repeat after warming up, and the peak memory of one."""
    for _ in range(3):
        work()
    if device.type == "cpu":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
        return times, None
    torch.cuda.reset_peak_memory_stats()
    work()
    peak = torch.cuda.max_memory_allocated() / 2**20
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events], peak


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Bytes a second of a copy and floating-point operations a second of a matrix product, on this machine."""
    n = 2**28 if device.type == "cuda" else 2**24
    x = torch.randn(n, device=device)
    y = torch.empty_like(x)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    copy = statistics.median(timed(lambda: y.copy_(x), device, 10)[0])
    product = statistics.median(timed(lambda: a @ a, device, 10)[0])
    return {"bytes": 2 * 4 * n / (copy * 1e-3), "flops": 2 * size**3 / (product * 1e-3)}


def physical_bound(n: int, dtype: torch.dtype, direction: str, ceilings: dict[str, float]) -> tuple[float, str]:
    """The larger of bytes over bandwidth and operations over matrix rate; each tensor moved once."""
    tensors, products = (4, 4) if direction == "fwd" else (11, 12)
    # Forward: K twice (Z is complete only after all of K and V), V, Y. Backward adds dY, K, V and the gradients.
    by_bytes = tensors * n * HEADS * DIM * dtype.itemsize / ceilings["bytes"]
    by_flops = products * 2 * n * HEADS * LATENTS * DIM / ceilings["flops"]
    return 1e3 * max(by_bytes, by_flops), "bytes" if by_bytes > by_flops else "matmul"


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(shape[0])
    return torch.randn(shape, generator=generator).to(device, dtype)


def machine(device: torch.device) -> str:
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return f"{name}, torch {torch.__version__}"


def commit() -> str:
    try:
        return subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    sizes = [10_000] if args.quick else [10_000, 100_000, 1_000_000] if cuda else [10_000, 100_000]
    main(
        sizes,
        [torch.float32, torch.bfloat16] if cuda else [torch.float32],
        repeats=5 if args.quick else 20,
        out=args.out or Path(__file__).parent / "results" / f"mixer_{'gpu' if cuda else 'cpu'}.json",
    )
