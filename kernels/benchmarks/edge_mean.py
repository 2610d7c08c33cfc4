"""Speed and memory of messages and of weighted differences along edges beside PyG, in one run.

Run from the repository: `python kernels/benchmarks/edge_mean.py [--quick] [--out FILE]`. No speed is written when our
result or a gradient is outside of its error budget. Implementations: `ours`; `pyg`, the same message through PyG's
`MessagePassing`, rows and edge features in the dtype of the row; `plan`, sorting the edges, once a batch. Values of
which differences are taken are in float32.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import MessagePassing

import flare_kernels as fk

COMMAND = "python kernels/benchmarks/edge_mean.py"
FEATURES = 5
Inputs = dict[str, Tensor]
Work = Callable[[], Any]


class ByPyG(MessagePassing):
    """The message as PyG sends it."""

    def __init__(self) -> None:
        super().__init__(aggr="mean")

    def forward(self, source: Tensor, target: Tensor, edge: Tensor, edge_index: Tensor) -> Tensor:
        """The mean of the messages."""
        return self.propagate(edge_index, source=source, target=target, edge=edge, size=(len(source), len(source)))

    def message(self, source_j: Tensor, target_i: Tensor, edge: Tensor) -> Tensor:
        """What an edge brings."""
        return F.gelu(source_j + target_i + edge, approximate="tanh")


class DifferencesByPyG(MessagePassing):
    """Weighted differences as PyG sends them."""

    def __init__(self) -> None:
        super().__init__(aggr="mean")

    def forward(self, values: Tensor, source: Tensor, target: Tensor, edge: Tensor, edge_index: Tensor) -> Tensor:
        """Their mean."""
        size = (len(source), len(source))
        return self.propagate(edge_index, values=values, source=source, target=target, edge=edge, size=size)

    def message(self, values_i: Tensor, values_j: Tensor, source_j: Tensor, target_i: Tensor, edge: Tensor) -> Tensor:
        """What an edge brings."""
        return F.softsign(source_j + target_i + edge) * (values_j - values_i)


def triangles(num_nodes: int, numbering: str) -> tuple[Tensor, int]:
    """Directed edges [2, Ne] of about this many nodes on a grid, six at most of them; and how many nodes there are."""
    side = math.isqrt(num_nodes)
    nodes = torch.arange(side * side).view(side, side)
    if numbering == "random":
        nodes = torch.randperm(side * side, generator=torch.Generator().manual_seed(0))[nodes]
    pairs = ((nodes[:, :-1], nodes[:, 1:]), (nodes[:-1], nodes[1:]), (nodes[:-1, :-1], nodes[1:, 1:]))
    one_way = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in pairs], 1)
    return torch.cat([one_way, one_way.flip(0)], 1), side * side


def problem(
    size: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[Inputs, dict[str, Work], Callable[[], Tensor]]:
    """Inputs, implementations, and the reference."""
    edge_index, n = triangles(size["N"], size["numbering"])
    edge_index = edge_index.to(device)
    size |= {"N": n, "edges": edge_index.shape[1]}
    differences = size["case"] == "edge_difference"
    shapes = {"source": (n, size["C"]), "target": (n, size["C"]), "weight": (size["C"], FEATURES)}
    inputs = {
        name: measure.draw(shape, dtype, device, seed).requires_grad_()
        for seed, (name, shape) in enumerate(shapes.items())
    }
    if differences:
        values = measure.draw((n, size["C"]), torch.float32, device, 4).requires_grad_()
        inputs = {"values": values, **inputs}
    attr = measure.draw((size["edges"], FEATURES), dtype, device, 3)
    plan, pyg = fk.EdgePlan.from_edges(edge_index, n), DifferencesByPyG() if differences else ByPyG()
    operator = fk.edge_difference if differences else fk.edge_mean

    def run(impl: str) -> Tensor:
        *rows, weight = inputs.values()
        return operator(*rows, attr.to(rows[-1].dtype), weight, plan, impl=impl)

    works: dict[str, Work] = {
        "ours": lambda: run("auto"),
        "pyg": lambda: pyg(*[*inputs.values()][:-1], F.linear(attr, inputs["weight"]), edge_index),
    }
    if not differences:
        works["plan"] = lambda: fk.EdgePlan.from_edges(edge_index, n)
    return inputs, works, lambda: run("reference")


def sizes(cuda: bool, quick: bool) -> Iterator[tuple[dict[str, Any], torch.dtype]]:
    for case in ("edge_mean", "edge_difference"):
        base = {"case": case, "N": 41_000, "C": 64, "numbering": "grid"}
        if quick or not cuda:
            yield base | {"N": 4000 if quick else 41_000}, torch.bfloat16 if cuda else torch.float32
            continue
        yield base, torch.bfloat16
        yield base | {"numbering": "random"}, torch.bfloat16
        yield base | {"C": 128}, torch.bfloat16
        yield base, torch.float32
        yield base | {"N": 10**6}, torch.bfloat16
        yield base | {"N": 10**6, "numbering": "random"}, torch.bfloat16


def check(size: dict[str, Any], dtype: torch.dtype, device: torch.device) -> dict[str, tuple[float, float]]:
    """Error of our output and gradients where fp64 has room, and what plain torch would be allowed."""
    inputs, works, reference = problem(size | {"N": min(size["N"], 20_000)}, dtype, device)
    out = next(iter(inputs.values()))
    gradient = measure.draw(tuple(out.shape), out.dtype, device, 9)
    ours, plain = evaluate(works["ours"], inputs, gradient), evaluate(reference, inputs, gradient)
    for x in inputs.values():
        x.data = x.detach().double()
    errors = {}
    for name, true in evaluate(reference, inputs, gradient.double()).items():
        allowed = 2 * (plain[name].double() - true).abs().max() + torch.finfo(ours[name].dtype).eps * true.abs().max()
        errors[name] = (float((ours[name].double() - true).abs().max()), float(allowed))
    return errors


def evaluate(work: Work, inputs: Inputs, gradient: Tensor) -> Inputs:
    """Output and gradients by name."""
    y = work()
    found = torch.autograd.grad(y, list(inputs.values()), gradient)
    return {"y": y.detach()} | {f"d{name}": x for name, x in zip(inputs, found, strict=True)}


def bound(size: dict[str, Any], element_bytes: int, direction: str, limits: dict[str, float]) -> tuple[float, str]:
    """Milliseconds that no implementation can go below, and what binds.

    Forward: the tensors of rows in and one out, features and two numbers an edge, and of messages an exponential. Each
    of the two passes of the backward: the same and a gradient in, its gradients out, and the edges again. Values of
    differences and what belongs to them is in four bytes.
    """
    both = direction == "fwd+bwd"
    passes = 3 if both else 1
    differences = size["case"] == "edge_difference"
    # Source and target are read in each pass, their gradients written once; so are values, output and gradient.
    narrow, wide = (8 if both else 2), (9 if both else 2)
    rows = (
        size["N"]
        * size["C"]
        * (narrow * element_bytes + wide * 4 if differences else (11 if both else 3) * element_bytes)
    )
    by = {"bytes": (rows + passes * size["edges"] * (FEATURES * element_bytes + 8)) / limits["bytes"]}
    if not differences:
        by["exps"] = passes * size["edges"] * size["C"] / limits["exps"]
    which = max(by, key=lambda name: by[name])
    return 1e3 * by[which], which


def rows_of(
    size: dict[str, Any], dtype: torch.dtype, device: torch.device, repeats: int, limits: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Rows of one size: every implementation, both directions, with and without the host."""
    errors = check(dict(size), dtype, device)
    wrong = {name: pair for name, pair in errors.items() if not pair[0] <= pair[1]}
    if wrong:
        raise SystemExit(f"{size} {dtype}: (error, budget) {wrong}; no speed is reported")
    inputs, works, _ = problem(size, dtype, device)
    out = next(iter(inputs.values()))
    gradient = measure.draw(tuple(out.shape), out.dtype, device, 9)
    for impl, work in works.items():
        for direction in ("fwd",) if impl == "plan" else ("fwd", "fwd+bwd"):

            def both(work: Work = work) -> Any:
                return torch.autograd.grad(work(), list(inputs.values()), gradient)

            for graph in (False, True) if device.type == "cuda" else (False,):
                run = both if direction == "fwd+bwd" else work
                try:
                    timing = measure.timed(measure.captured(run) if graph else run, device, repeats)
                except RuntimeError as failure:
                    print(f"{impl} {direction}: {str(failure).splitlines()[0][:100]}")
                    continue
                best, bound_by = bound(size, dtype.itemsize, direction, limits)
                row = {
                    "impl": impl, **size, "E": FEATURES,
                    "dtype": str(dtype).removeprefix("torch."), "direction": direction, "graph": graph,
                    "bound_ms": best, "bound_by": bound_by, **timing.row(),
                }  # fmt: skip
                if impl == "ours":
                    row |= {"error": errors["y"][0], "error_budget": errors["y"][1]}
                print(
                    f"{size['case']:>15} {impl:>5} N={size['N']:>8} {size['numbering']:>6} C={size['C']:>4} "
                    f"{row['dtype']:>8} {direction:>8}{' graph' if graph else ''}: {row['ms']:9.3f} ms, "
                    f"bound {best:.3f} ({bound_by})",
                    flush=True,
                )
                yield row


def main(quick: bool, out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = measure.ceilings(device)
    print({name: f"{rate:.3g}" for name, rate in limits.items()})
    rows: list[dict[str, Any]] = []
    origin = measure.provenance(COMMAND, device)
    for size, dtype in sizes(device.type == "cuda", quick):
        rows += [row | origin for row in rows_of(size, dtype, device, 5 if quick else 30, limits)]
        measure.save(out, rows)
    print(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, few repeats")
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    args = parser.parse_args()
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    name = f"edge_mean_{kind}{'_quick' if args.quick else ''}.json"
    main(args.quick, args.out or Path(__file__).parent / "results" / name)
