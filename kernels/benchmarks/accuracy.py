"""Errors of the mixer and its gradients, small and large scores: `python kernels/benchmarks/accuracy.py [--out FILE]`.

Each row: the largest error against fp64 beside that of plain torch in the same dtype, both in units of the largest
value, for scores of standard deviation 1, 8 and 40; and whether 50 repeats gave the same bits.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import measure
import torch
from mixer import evaluate, mixer

COMMAND = "python kernels/benchmarks/accuracy.py"
SIZE = {"B": 1, "N": 20_000, "H": 8, "M": 64, "D": 16}


def rows_of(dtype: torch.dtype, std: float, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """A row for the output and one for each gradient."""
    inputs, works, oracle = mixer(SIZE, dtype, device)
    inputs["q"].data *= std / SIZE["D"] ** 0.5
    gradient = measure.draw(tuple(inputs["v"].shape), dtype, device, 9)
    ours, plain = evaluate(works["ours"], inputs, gradient), evaluate(oracle, inputs, gradient)
    again = [evaluate(works["ours"], inputs, gradient) for _ in range(repeats)]
    for x in inputs.values():
        x.data = x.detach().double()
    truth = evaluate(oracle, inputs, gradient.double())
    rows = []
    for name, true in truth.items():
        largest = true.abs().max()
        found = {"ours": ours[name], "plain": plain[name]}
        errors = {key: float((x.double() - true).abs().max() / largest) for key, x in found.items()}
        row = {
            "case": "accuracy", **SIZE, "dtype": str(dtype).removeprefix("torch."), "logit_std": std, "quantity": name,
            "error": errors["ours"], "plain_error": errors["plain"],
            "error_budget": 2 * errors["plain"] + torch.finfo(dtype).eps,
            "repeats": repeats, "bitwise_equal": all(torch.equal(x[name], ours[name]) for x in again),
        }  # fmt: skip
        print(
            f"{row['dtype']:>8} std {std:>2} {name:>2}: {row['error']:.1e}, plain {row['plain_error']:.1e}", flush=True
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = [torch.bfloat16, torch.float16] if device.type == "cuda" else []
    out = args.out or Path(__file__).parent / "results" / f"accuracy_{'gpu' if half else 'cpu'}.json"
    origin = measure.provenance(COMMAND, device)
    found = []
    for dtype, std in itertools.product([torch.float32, *half], (1, 8, 40)):
        found += [row | origin for row in rows_of(dtype, std, device, args.repeats)]
        measure.save(out, found)
    print(out)
