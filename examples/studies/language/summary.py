"""Tables in Markdown from the rows of the study."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flare_connect.files import write_atomically

Row = dict[str, Any]
WRITTEN = "<!-- Written by `python examples/studies/language/run.py --report`; change that, not this. -->"
MISSING = "Not measured yet."
NOTHING = "–"
RATE = "rate (of those tried)"
TITLES = {"text": "Text", "stability": "Stability", "recall": "Associative recall"}


def write(results: Path) -> None:
    """Every table into `<results>/tables.md`."""
    write_atomically(results / "tables.md", f"{WRITTEN}\n\n{page(results)}\n".encode())
    print(results / "tables.md")


def page(results: Path) -> str:
    """The tables of a folder of results: what a GPU gave, then what the sizes of the example gave."""
    example = results / "language_cpu.json"
    parts = sorted(path for path in results.glob("language*.json") if path != example)
    whole, small = (
        [row for path in paths for row in json.loads(path.read_text())]
        for paths in (parts, [example] if example.is_file() else [])
    )
    return "\n\n".join(
        [text(whole), *(["## At the sizes of the example, on a CPU", text(small, "###")] if small else [])]
    )


def text(rows: Sequence[Row], level: str = "##") -> str:
    """A section for each stage."""
    sections = []
    for stage, table in (("text", _text), ("stability", _stability), ("recall", _recall)):
        mine = [row for row in rows if row["stage"] == stage]
        sections += [f"{level} {TITLES[stage]}", *([_origin(mine), table(mine)] if mine else [MISSING])]
    return "\n\n".join(sections)


def _text(rows: Sequence[Row]) -> str:
    """A line for each model, at the rate that was best for it."""
    head = [
        "model",
        "latents",
        "parameters",
        "bits per byte",
        "rate (of those tried)",
        "ms a step",
        "norm, median",
        "largest",
    ]
    body = []
    for model in _models(rows):
        mine = [row for row in rows if row["model"] == model]
        rates = sorted({row["learning_rate"] for row in mine})
        rate = min(rates, key=lambda rate: _mean(mine, rate, "bits_per_byte"))
        best = [row for row in mine if row["learning_rate"] == rate]
        body.append([
            model, best[0]["num_latents"] or NOTHING, f"{best[0]['params']:,}",
            _spread([row["bits_per_byte"] for row in best]), f"{rate:g} ({len(rates)})",
            _milliseconds(best, named=len({row["machine"] for row in rows}) > 1), _short(best[0]["norm_median"]),
            _short(best[0]["norm_max"]),
        ])  # fmt: skip
    return _grid(head, body)


def _stability(rows: Sequence[Row]) -> str:
    """A line for each run."""
    head = ["model", "rate", "bits per byte", "norm, median", "99th percentile", "largest", "steps not finite"]
    keys = "bits_per_byte", "norm_median", "norm_p99", "norm_max"
    body = [
        [row["model"], f"{row['learning_rate']:g}", *(_short(row[key]) for key in keys), row["norm_not_finite"]]
        for row in rows
    ]
    return _grid(head, body)


def _recall(rows: Sequence[Row]) -> str:
    """A line for each model and number of latents, a column for each case."""
    cases = sorted({(row["length"], row["pairs"]) for row in rows})
    head = [
        "model",
        "latents",
        "parameters",
        *(f"{length}, {pairs}" for length, pairs in cases),
        "rate (of those tried)",
    ]
    body = []
    for model in _models(rows):
        for latents in sorted({row["num_latents"] for row in rows if row["model"] == model}):
            mine = [row for row in rows if (row["model"], row["num_latents"]) == (model, latents)]
            rates = sorted({row["learning_rate"] for row in mine})
            rate = max(rates, key=lambda rate: _mean(mine, rate, "accuracy"))
            found = {(row["length"], row["pairs"]): row["accuracy"] for row in mine if row["learning_rate"] == rate}
            values = (f"{found[case]:.3f}" if case in found else NOTHING for case in cases)
            params = f"{mine[0]['params']:,}"
            body.append([model, latents or NOTHING, params, *values, f"{rate:g} ({len(rates)})"])
    return _grid(head, body)


def _models(rows: Iterable[Row]) -> list[str]:
    """In the order in which they came."""
    return list(dict.fromkeys(row["model"] for row in rows))


def _mean(rows: Iterable[Row], rate: float, key: str) -> float:
    """Of the runs at a rate; infinite where one gave nothing."""
    found = [row[key] for row in rows if row["learning_rate"] == rate]
    return math.inf if None in found else statistics.mean(found)


def _origin(rows: Sequence[Row]) -> str:
    """Where figures come from, and the sizes that all rows share."""
    first = rows[0]
    made = {
        "machine": ", ".join(sorted({row["machine"] for row in rows})),
        "products": ", ".join(sorted({row["dtype"] for row in rows})),
        "operator": ", ".join(sorted({row["impl"] for row in rows})),
    }
    sizes = (
        f"{first['blocks']} blocks of {first['channels']} channels and {first['heads']} heads, {first['steps']:,} steps"
    )
    sizes += (
        f" of {first['batch']} × {first['length']} bytes"
        if "batch" in first
        else f" of {first['batch_tokens']:,} tokens"
    )
    seeds = len({row["seed"] for row in rows})
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    told = "; ".join(f"{name} {value}" for name, value in made.items())
    return f"{sizes}; {seeds} seed{'s' * (seeds > 1)}. {told}; commit {commits}: `{first['command']}`."


def _spread(values: Sequence[float | None]) -> str:
    """A mean, with the standard deviation over seeds where there are some."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "not finite"
    mean = f"{statistics.mean(known):.3f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.3f}"


def _milliseconds(rows: Sequence[Row], *, named: bool) -> str:
    """A CPU has other work beside, and tells no times; nor does a GPU that has. Where there are several, of which."""
    if any("CPU" in row["machine"] or row["ms"] is None for row in rows):
        return NOTHING
    found = f"{statistics.median(row['ms'] for row in rows):.1f}"
    return f"{found}, {rows[0]['machine'].split(',')[0].removeprefix('NVIDIA ')}" if named else found


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _grid(head: Sequence[Any], body: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
