"""Timing, ceilings of the machine and physical bounds, shared by the benchmarks."""

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Timing(NamedTuple):
    """Milliseconds of the repeats, and the peak memory of one call beyond what was there before, in MiB."""

    times: list[float]
    peak_mib: float | None

    def row(self) -> dict[str, Any]:
        """The columns that a results file has."""
        return {
            "ms": statistics.median(self.times),
            "ms_min": min(self.times),
            "ms_max": max(self.times),
            "peak_mib": self.peak_mib,
        }


def timed(work: Callable[[], object], device: torch.device, repeats: int, seconds: float = 1.0) -> Timing:
    """Time calls one after another, at most for about `seconds`, after warming up.

    On a GPU events are set around each call while calls are queued: what is measured is the kernels where they take
    longer than the host needs to start them, and else the host, as in a program that does nothing but call.
    """
    start = time.perf_counter()
    for _ in range(3):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    once = (time.perf_counter() - start) / 3
    repeats = max(3, min(repeats, int(seconds / once)))
    if device.type == "cpu":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
        return Timing(times, None)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return Timing([begin.elapsed_time(end) for begin, end in events], peak)


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """The work as a CUDA graph, to see it without the host."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def ceilings(device: torch.device) -> dict[str, float]:
    """Bytes, matrix operations and exponentials a second that this machine reaches."""
    cuda = device.type == "cuda"
    x = torch.randn(2**28 if cuda else 2**24, device=device)
    y = torch.empty_like(x)
    size = 8192 if cuda else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    copy = statistics.median(timed(lambda: y.copy_(x), device, 10).times)
    product = statistics.median(timed(lambda: a @ a, device, 10).times)
    return {
        "bytes": 2 * 4 * x.numel() / (copy * 1e-3),
        "matmul": 2 * size**3 / (product * 1e-3),
        "exps": _exp_rate(device) if cuda else float("inf"),
    }


def save(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows there are, so that a run that is cut short has not measured in vain."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    temporary.replace(out)


def results(name: str, quick: bool) -> Path:
    """Where the rows of a benchmark go unless something else is said."""
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    return Path(__file__).parent / "results" / f"{name}_{kind}{'_quick' if quick else ''}.json"


def _exp_rate(device: torch.device) -> float:
    from exponentials import TURNS, exp_kernel

    x = torch.zeros(2**22, device=device)
    work = lambda: exp_kernel[(x.numel() // 1024,)](x, BLOCK=1024, num_warps=4)  # noqa: E731
    return TURNS.value * x.numel() / (statistics.median(timed(work, device, 10).times) * 1e-3)


def bound(
    case: dict[str, int], element_bytes: int, direction: str, limits: dict[str, float], cost_bytes: int = 0
) -> tuple[float, str]:
    """Milliseconds that no implementation can go below, and what binds.

    Forward: K twice (Z is complete only after all of K and V), V, Y; 4 products, 2 exponentials a score. Backward: K
    and dY for dZ, then K, V, dY, dK, dV; 8 products, 2 exponentials. Costs are read once a pass.
    """
    both = direction == "fwd+bwd"
    numbers = case["N"] * case["H"] * case["D"]
    scores = case["N"] * case["H"] * case["M"]
    moved = numbers * element_bytes * (11 if both else 4) + cost_bytes * (4 if both else 2)
    by = {
        "bytes": moved / limits["bytes"],
        "matmul": (12 if both else 4) * 2 * scores * case["D"] / limits["matmul"],
        "exps": (4 if both else 2) * scores / limits["exps"],
    }
    which = max(by, key=lambda name: by[name])
    return 1e3 * by[which], which


def provenance(command: str, device: torch.device) -> dict[str, Any]:
    """Columns that say where a row comes from."""
    return {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(device),
        "seed": 0,
    }


def machine(device: torch.device) -> str:
    """Name, and versions of what computes on it."""
    if device.type == "cuda":
        import triton

        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def commit() -> str:
    """The commit of the checkout."""
    try:
        return subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """Normal numbers, the same on every device where they are few, made on the GPU where they are many."""
    place = device if device.type == "cuda" and torch.Size(shape).numel() > 2**24 else torch.device("cpu")
    generator = torch.Generator(place).manual_seed(seed + shape[0])
    return torch.randn(shape, generator=generator, device=place).to(device, dtype)
