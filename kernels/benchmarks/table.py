"""Writes the tables of `kernels/README.md` from the results: `python kernels/benchmarks/table.py`."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BESIDE = ("sdpa", "sdpa_flash", "sdpa_cudnn", "flashslice", "plain", "padded")
NOT_YET = "Not measured on a GPU for this version yet."
Row = dict[str, Any]


def speed() -> Iterator[str]:
    """A line for each case, size and direction: ours, what stands beside it, and the share of the bound."""
    rows = [row for kind in ("gpu", "cpu") for row in read(f"mixer_{kind}.json")]
    names = [name for name in BESIDE if any(row["impl"] == name for row in rows)]
    yield "| case | ours ms | bound, by | share | " + " | ".join(f"{name} ms (ratio)" for name in names) + " |"
    yield "|---" * (4 + len(names)) + "|"

    def key(row: Row) -> tuple[Any, ...]:
        return (*(row[name] for name in ("machine", "case", "dtype", "H", "D", "M", "N", "direction")), row["graph"])

    same: dict[Any, dict[str, Row]] = {}
    for row in rows:
        same.setdefault(key(row), {})[row["impl"]] = row
    for found in same.values():
        if "ours" not in found:
            continue
        ours = found["ours"]
        cells = [f"{found[n]['ms']:.3g} ({found[n]['ms'] / ours['ms']:.1f}×)" if n in found else "" for n in names]
        many = f"{ours['B']} meshes, " if ours["B"] > 1 else ""
        case = f"{ours['case']}, {many}N={ours['N']:,}, C={ours['H'] * ours['D']}, M={ours['M']}, {ours['dtype']}"
        how = f"{ours['direction']}{', CUDA graph' if ours['graph'] else ''}"
        share = f"{ours['bound_ms'] / ours['ms']:.0%}"
        bound = f"{ours['bound_ms']:.3g}, {ours['bound_by']}"
        yield f"| {case}, {how} | {ours['ms']:.3g} | {bound} | {share} | " + " | ".join(cells) + " |"
    yield ""
    if not any("CPU" not in row["machine"] for row in rows):
        yield "GPU rows are not measured for this version yet."
        yield ""
    yield "Machines: " + "; ".join(sorted({row["machine"] for row in rows})) + "."


def accuracy() -> Iterator[str]:
    """A line for each dtype and size of the scores, a column for the output and each gradient."""
    rows = read("accuracy_gpu.json")
    if not rows:
        yield NOT_YET
        return
    yield from errors(rows, {"dtype": "dtype", "std of scores": "logit_std"})


def errors(rows: list[Row], labels: dict[str, str]) -> Iterator[str]:
    """A line for each group of quantities; what labels are called, and the columns that they are of."""
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    yield f"| {' | '.join((*labels, *quantities))} | {rows[0]['repeats']} repeats |"
    yield "|---" * (len(labels) + len(quantities) + 1) + "|"
    for label, same in itertools.groupby(rows, lambda row: [row[name] for name in labels.values()]):
        found = list(same)
        cells = [*map(str, label), *(f"{row['error']:.0e} / {row['plain_error']:.0e}{_over(row)}" for row in found)]
        equal = "same bits" if all(row["bitwise_equal"] for row in found) else "DIFFERENT"
        yield f"| {' | '.join(cells)} | {equal} |"


def _over(row: Row) -> str:
    return "" if row["error"] <= row["error_budget"] else " OVER THE BUDGET"


def edges() -> Iterator[str]:
    """A line for each operator along edges, graph and direction."""
    rows = [row for row in read("edge_mean_gpu.json") if row["impl"] != "plan"]
    if not rows:
        yield NOT_YET
        return
    columns = ("operator", "N", "edges", "numbering", "C", "dtype", "direction", "ours ms", "bound, by", "peak MiB")
    yield "| " + " | ".join((*columns, "pyg ms (ratio)", "peak MiB")) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    names = ("case", "N", "edges", "numbering", "C", "dtype", "direction", "graph")
    same: dict[Any, dict[str, Row]] = {}
    for row in rows:
        same.setdefault(tuple(row[name] for name in names), {})[row["impl"]] = row
    for (case, n, num_edges, numbering, channels, dtype, direction, graph), found in same.items():
        if len(found) < 2:
            continue
        ours, pyg = found["ours"], found["pyg"]
        how = f"{direction}{', CUDA graph' if graph else ''}"
        yield (
            f"| {case} | {n:,} | {num_edges:,} | {numbering} | {channels} | {dtype} | {how} "
            f"| {ours['ms']:.3g} | {ours['bound_ms']:.3g}, {ours['bound_by']} | {ours['peak_mib']:.0f} "
            f"| {pyg['ms']:.3g} ({pyg['ms'] / ours['ms']:.1f}×) | {pyg['peak_mib']:.0f} |"
        )
    yield ""
    yield "Machines: " + "; ".join(sorted({row["machine"] for row in rows})) + "."


def decode() -> Iterator[str]:
    """A line for each number of sequences and of latents: a token in a CUDA graph after histories of each length."""
    rows = [row for row in read("decode_gpu.json") if row["graph"]]
    if not rows:
        yield NOT_YET
        return
    histories = sorted({row["history"] for row in rows})
    yield "| sequences | M | impl | bound µs | MiB kept | " + " | ".join(f"µs after {n:,}" for n in histories) + " |"
    yield "|---" * (5 + len(histories)) + "|"
    same: dict[Any, dict[int, Row]] = {}
    for row in rows:
        same.setdefault((row["B"], row["M"] or "", row["impl"]), {})[row["history"]] = row
    for (batch, latents, impl), found in same.items():
        last = found[max(found)]
        cells = [f"{found[n]['us']:.3g}" if n in found else "" for n in histories]
        kept = f"{last['bound_us']:.3g} | {last['state_bytes'] / 2**20:.3g}"
        yield f"| {batch} | {latents} | {impl} | {kept} | " + " | ".join(cells) + " |"
    yield ""
    yield "Machines: " + "; ".join(sorted({row["machine"] for row in rows})) + "."


def causal() -> Iterator[str]:
    """Ours along a sequence, memory for each token, and what stands beside it, by latents and tokens."""
    labels = {"M": "M", "N": "N", "scores": "scores"}
    yield from comparison("causal_gpu.json", labels, ("fa2", "cudnn", "chunked", "fla"), apart=("M", "scores"))


def block_causal() -> Iterator[str]:
    """Ours along time steps of points."""
    labels = {"case": "case", "T": "steps", "N": "points"}
    beside = ("mixer", "mixer_steps", "apart", "sdpa_masked", "flex")
    yield from comparison("block_causal_gpu.json", labels, beside)


def comparison(
    file: str, labels: dict[str, str], beside: tuple[str, ...], apart: tuple[str, ...] = ()
) -> Iterator[str]:
    """A line for each size and direction of ours.

    Args:
        file: where rows are.
        labels: columns that tell sizes apart, and what they are called.
        beside: implementations to compare with.
        apart: labels that some of these do not have, so that their rows stand beside all of ours.
    """
    every = read(file)
    rows = [row for row in every if "ms" in row]
    if not rows:
        yield NOT_YET
    else:
        names = [name for name in beside if any(row["impl"] == name for row in rows)]
        columns = (*labels.values(), "direction", "ours ms", "in a CUDA graph", "bound, by", "share", "peak MiB")
        yield f"| {' | '.join((*columns, 'KiB a row', *(f'{name} ms (ratio, in graphs)' for name in names)))} |"
        yield "|---" * (len(columns) + 1 + len(names)) + "|"

    def same(row: Row, ours: Row, graph: bool) -> bool:
        alike = all(row.get(name) == ours[name] or (name in apart and row.get(name) is None) for name in labels)
        return alike and row["direction"] == ours["direction"] and row["graph"] is graph

    def find(impl: str, ours: Row, graph: bool) -> float | None:
        return next((row["ms"] for row in rows if row["impl"] == impl and same(row, ours, graph)), None)

    mine = [row for row in rows if row["impl"] == "ours" and not row["graph"]]
    for ours in sorted(mine, key=lambda row: [row[name] for name in labels]):
        graph = find("ours", ours, True)
        cells = [f"{ours[name]:,}" if isinstance(ours[name], int) else ours[name] for name in labels]
        cells += [ours["direction"], f"{ours['ms']:.3g}", "" if graph is None else f"{graph:.3g}"]
        share = ours["bound_ms"] / min(ours["ms"], graph or ours["ms"])
        cells += [f"{ours['bound_ms']:.3g}, {ours['bound_by']}", f"{share:.0%}"]
        peak = ours["peak_mib"]
        cells += ["", ""] if peak is None else [f"{peak:.0f}", f"{peak * 1024 / ours['N']:.2f}"]
        for name in names:
            other, in_graph = (find(name, ours, each) for each in (False, True))
            ratios = [] if other is None else [f"{other / ours['ms']:.2g}×"]
            ratios += [] if in_graph is None or graph is None else [f"{in_graph / graph:.2g}×"]
            cells.append("" if other is None else f"{other:.3g} ({', '.join(ratios)})")
        yield f"| {' | '.join(cells)} |"
    failed = [row for row in every if "failed" in row]
    if failed:
        yield ""
        yield "Not measured:"
        yield ""
    for row in failed:
        what = [row["impl"], *(f"{label}={row[name]}" for name, label in labels.items() if row.get(name) is not None)]
        how = f"{row.get('direction') or ''}{', CUDA graph' if row.get('graph') else ''}"
        yield f"- {', '.join(what)}{f', {how}' if how else ''}: {row['failed']}"
    if rows:
        yield ""
        yield "Machines: " + "; ".join(sorted({row["machine"] for row in rows})) + "."


def causal_accuracy() -> Iterator[str]:
    """Errors along a sequence, and what became of random draws."""
    rows = read("causal_accuracy_gpu.json")
    measured = [row for row in rows if "quantity" in row]
    if not measured:
        yield NOT_YET
        return
    yield from errors(measured, {"dtype": "dtype", "N": "N", "scores": "scores"})
    yield ""
    draws = [row for row in rows if "draws" in row]
    count, bad = (sum(row[name] for row in draws) for name in ("draws", "not_finite"))
    yield f"Random sequences: {count:,}, of which {bad or 'none'} had a number that is not finite."
    for row in rows:
        if "failed" in row:
            what = [f"{name}={row[name]}" for name in ("case", "dtype", "N", "M", "scores") if name in row]
            yield f"\nNot measured: {', '.join(what)}: {row['failed']}"


def read(name: str) -> list[Row]:
    path = HERE / "results" / name
    return json.loads(path.read_text()) if path.is_file() else []


if __name__ == "__main__":
    text = README.read_text()
    for section in (speed, accuracy, edges, decode, causal, block_causal, causal_accuracy):
        name, lines = section.__name__, section()
        table = "\n".join(lines)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S
        )
    README.write_text(text)
    print(README)
