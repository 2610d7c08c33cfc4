"""What the benchmarks of causal FLARE share: errors against fp64, and rows of implementations of which any may fail."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measure
import torch
from mixer import evaluate
from torch import Tensor

Row = dict[str, Any]
Inputs = dict[str, Tensor]
# From tensors by name and the name of an implementation to the output.
Call = Callable[[Inputs, str], Tensor]
# Orders of its sums in which plain torch is computed: in one of them a few numbers may be right by luck.
ORDERS = 4
# Columns that are said as rows come.
SAID = ("ms", "bound_ms", "peak_mib", "error", "plain_error", "error_budget", "draws", "not_finite")


class Error(NamedTuple):
    """Largest error against fp64, that of plain torch in the same dtype, and the largest value."""

    ours: float
    plain: float
    largest: float

    def budget(self, dtype: torch.dtype) -> float:
        """What is allowed: twice the error of plain torch and a rounding of the largest value."""
        return 2 * self.plain + torch.finfo(dtype).eps * self.largest


def outcomes(call: Call, impl: str, plain: str, inputs: Inputs) -> tuple[Inputs, list[Inputs], Inputs]:
    """Output and gradients by name: of `impl`, of plain torch in several orders of the head dim, and in fp64."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    gradient = measure.draw(tuple(inputs["v"].shape), inputs["v"].dtype, inputs["v"].device, 9)

    def turned(seed: int) -> Inputs:
        order = torch.randperm(inputs["k"].shape[-1], generator=torch.Generator().manual_seed(seed))
        order = order.to(inputs["k"].device)
        return evaluate(
            lambda: call(leaves | {name: leaves[name][..., order] for name in ("q", "k")}, plain), leaves, gradient
        )

    ours = evaluate(lambda: call(leaves, impl), leaves, gradient)
    others = [turned(seed) for seed in range(ORDERS)]
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    return ours, others, evaluate(lambda: call(exact, plain), exact, gradient.double())


def errors(call: Call, impl: str, plain: str, inputs: Inputs) -> dict[str, Error]:
    """Errors of the output and of each gradient."""
    ours, others, truth = outcomes(call, impl, plain, inputs)

    def off(x: Tensor, true: Tensor) -> float:
        return float((x.double() - true).abs().max())

    return {
        name: Error(off(ours[name], true), max(off(x[name], true) for x in others), float(true.abs().max()))
        for name, true in truth.items()
    }


def checked(call: Call, impl: str, plain: str, inputs: Inputs, dtype: torch.dtype) -> tuple[Row, str | None]:
    """Columns of the error of the output, and what is wrong, if anything is."""
    try:
        found = errors(call, impl, plain, inputs)
    except Exception as problem:  # whatever a kernel under test may do
        return {}, reason(problem)
    over = [
        f"{name} {error.ours:.2g} > {error.budget(dtype):.2g}"
        for name, error in found.items()
        if not error.ours <= error.budget(dtype)
    ]
    columns = {"error": found["y"].ours, "error_budget": found["y"].budget(dtype)}
    return columns, f"outside of the error budget: {', '.join(over)}" if over else None


def timings(
    work: Callable[[], Tensor], leaves: Sequence[Tensor], device: torch.device, repeats: int, graphs: bool = True
) -> Iterator[Row]:
    """Columns of both directions, with and without the host; where something fails, the reason instead of a time."""
    gradient = None

    def both() -> Any:
        return torch.autograd.grad(work(), leaves, gradient)

    for graph, direction in itertools.product(
        (False, True) if graphs and device.type == "cuda" else (False,), ("fwd", "fwd+bwd")
    ):
        row: Row = {"direction": direction, "graph": graph}
        try:
            if gradient is None:
                y = work().detach()
                gradient = measure.draw(tuple(y.shape), y.dtype, device, 9)
                del y
            run = both if direction == "fwd+bwd" else work
            run()  # compiles, so that it is not taken for a slow call
            row |= measure.timed(measure.captured(run) if graph else run, device, repeats).row()
            if graph:
                row["peak_mib"] = None  # the graph has its memory already
        except Exception as problem:  # of memory, of an implementation that does not take these sizes, …
            row["failed"] = reason(problem)
        yield row
        if "failed" in row and not graph and direction == "fwd":
            return


def kernels_run(device: torch.device) -> bool:
    """Whether impl="triton" can be asked for: on a GPU, or in Triton's interpreter."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def reason(problem: Exception) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:200]


class Sheet:
    """Rows of a results file, written as they come; what is measured again takes the place of what was there."""

    def __init__(self, out: Path, origin: Row, fresh: bool):
        self._out, self._origin, self._start = out, origin, time.perf_counter()
        self._rows: list[Row] = json.loads(out.read_text()) if out.is_file() and not fresh else []

    def begin(self, base: Row) -> None:
        """Forget the rows of this implementation and size."""
        self._rows = [row for row in self._rows if any(row.get(name) != value for name, value in base.items())]

    def add(self, row: Row) -> None:
        """Write a row, and say it."""
        self._rows.append(row | self._origin)
        measure.save(self._out, self._rows)
        what = " ".join(str(row[name]) for name in ("case", "impl", "dtype", "scores") if row.get(name) is not None)
        what += "".join(f" {name}={row[name]}" for name in ("T", "N", "M") if row.get(name) is not None)
        what += "".join(f" {row[name]}" for name in ("direction", "quantity") if row.get(name) is not None)
        result = row.get("failed") or " ".join(f"{name}={row[name]:.4g}" for name in SAID if row.get(name) is not None)
        seconds = time.perf_counter() - self._start
        print(f"{seconds:6.1f} s {what}{' graph' if row.get('graph') else ''}: {result}", flush=True)
