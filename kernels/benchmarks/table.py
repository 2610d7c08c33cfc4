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
        yield "Not measured on a GPU for this version yet."
        return
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    yield "| dtype | std of scores | " + " | ".join(quantities) + " | 50 repeats |"
    yield "|---" * (3 + len(quantities)) + "|"
    for (dtype, std), same in itertools.groupby(rows, lambda row: (row["dtype"], row["logit_std"])):
        found = list(same)
        cells = [f"{row['error']:.0e} / {row['plain_error']:.0e}" for row in found]
        equal = "same bits" if all(row["bitwise_equal"] for row in found) else "DIFFERENT"
        yield f"| {dtype} | {std} | " + " | ".join(cells) + f" | {equal} |"


def edges() -> Iterator[str]:
    """A line for each operator along edges, graph and direction."""
    rows = [row for row in read("edge_mean_gpu.json") if row["impl"] != "plan"]
    if not rows:
        yield "Not measured on a GPU for this version yet."
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
        yield "Not measured on a GPU for this version yet."
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


def read(name: str) -> list[Row]:
    path = HERE / "results" / name
    return json.loads(path.read_text()) if path.is_file() else []


if __name__ == "__main__":
    text = README.read_text()
    for name, lines in (("speed", speed()), ("accuracy", accuracy()), ("edges", edges()), ("decode", decode())):
        table = "\n".join(lines)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S
        )
    README.write_text(text)
    print(README)
