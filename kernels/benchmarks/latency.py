"""How long the first call takes: `python kernels/benchmarks/latency.py [--out FILE]`, on a GPU.

Forward and backward with nothing compiled before (an empty cache of the compiler), for several sizes of latents and
dims; then again with other numbers of points, which must compile nothing. Before them a trivial kernel: what Triton
itself takes to start.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()

import exponentials
import measure
import torch

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/latency.py"
CASES = [(64, 16, torch.bfloat16), (64, 8, torch.bfloat16), (128, 32, torch.bfloat16), (512, 16, torch.bfloat16)]


def call(num_points: int, latents: int, dim: int, dtype: torch.dtype) -> float:
    """Seconds of one forward and backward."""
    q = torch.randn(8, latents, dim, device="cuda", dtype=dtype, requires_grad=True)
    k, v = (torch.randn(num_points, 8, dim, device="cuda", dtype=dtype, requires_grad=True) for _ in range(2))
    torch.cuda.synchronize()
    start = time.perf_counter()
    fk.mixer(q, k, v, scale=1.0).sum().backward()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latency_gpu.json")
    args = parser.parse_args()
    torch.randn(1, device="cuda", requires_grad=True).sum().backward()
    import flare_kernels.triton_mixer.autograd

    x = torch.zeros(1024, device="cuda")
    start = time.perf_counter()
    exponentials.exp_kernel[(1,)](x, 1024)
    torch.cuda.synchronize()
    alone = time.perf_counter() - start
    print(f"a first kernel of Triton, whatever it does: {alone:.2f} s")
    rows = [{"case": "latency of Triton", "first_s": alone} | measure.provenance(COMMAND, torch.device("cuda"))]
    for latents, dim, dtype in [*CASES, (64, 16, torch.float32)]:
        first = call(30_000, latents, dim, dtype)
        others = max(call(n, latents, dim, dtype) for n in (30_001, 1_003, 777_216))
        row = {"case": "latency", "H": 8, "M": latents, "D": dim, "dtype": str(dtype).removeprefix("torch.")}
        rows.append(row | {"first_s": first, "other_n_s": others} | measure.provenance(COMMAND, torch.device("cuda")))
        print(f"M={latents} D={dim} {dtype}: first {first:.2f} s, another N {others:.3f} s", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    print(args.out)
