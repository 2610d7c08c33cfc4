"""Tables and curves from the results."""

import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import contestants
from sets import SETS

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import curves
from rows import Row, first, read
from rows import trained as rows_of_trained
from wording import NOTHING, counted, grid, number, origin, shared, spread

from flare_connect.files import write_atomically
from flare_connect.metrics.pdebench import METRICS

WRITTEN = "<!-- Written by `python examples/studies/pdebench/run.py --report`; change that, not this. -->"
MANY = 1e4  # an error from which on a rollout has left all bounds
COLUMNS = {"horizon": "frames learned from", "twice": "as many after them"}


def write(results: Path) -> None:
    """Every table into `<results>/tables.md`, the errors of each frame into `<results>/<set>.svg`."""
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "tables.md", (text(results) + "\n").encode())
    print(results / "tables.md")
    for name in SETS:
        if (rows := trained(read(results / f"{name}.json"))) and draw(results / f"{name}.svg", rows):
            print(results / f"{name}.svg")


def text(results: Path) -> str:
    """Every table of a folder of results: what the documentation shows."""
    parts = [section for name in SETS if (section := _section(read(results / f"{name}.json")))]
    return "\n\n".join([WRITTEN, *(parts or ["No rows yet."])])


def table(rows: Iterable[Row]) -> str:
    """The nRMSE over the frames learned from and those after them, and how much it grows a step."""
    rows = trained(rows)
    body, means = [], {}
    for split in COLUMNS:
        for model in _models(rows):
            found = [row["nrmse"] for row in _of(rows, model, split)]
            means[split, model] = statistics.mean(found) if found and None not in found else math.inf
    for model in _models(rows):
        cells = []
        for split in COLUMNS:
            cell = _bounded([row["nrmse"] for row in _of(rows, model, split)])
            least = min(means[split, other] for other in _models(rows))
            cells.append(f"**{cell}**" if means[split, model] == least < MANY else cell)
        grows = [100 * row["growth"] for row in _of(rows, model, "twice")]
        cells.append(f"{statistics.mean(grows):.1f} %" if grows else NOTHING)
        body.append([model, *cells])
    return grid(["nRMSE", *COLUMNS.values(), "growth a step"], body)


def trained(rows: Iterable[Row]) -> list[Row]:
    """Rows of what was trained to the end, as the validation split has it best."""
    return rows_of_trained(rows, "unroll", "learning_rate", error="val_nrmse")


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """The error of each frame, the median over the seeds; whether there was one."""
    found = curves.medians([row for model in _models(rows) for row in _of(rows, model, "twice")], "nrmse_per_step")
    if not found:
        return False
    one = rows[0]
    curves.draw(
        path, {name: [value if value < MANY else math.nan for value in line] for name, line in found.items()},
        title=SETS[one["dataset"]].title, x="frame", y="nRMSE", first=one["initial"], mark=one["horizon"],
        marked="learned until here",
    )  # fmt: skip
    return True


def _section(every: Sequence[Row]) -> str:
    """Everything of one data set; "" where nothing was trained."""
    rows = trained(every)
    if not rows:
        return ""
    name = rows[0]["dataset"]
    parts = [f"## {SETS[name].title} (`{name}`)", _caption(rows), table(rows)]
    parts += [_metrics(rows, split) for split in COLUMNS]
    parts += [_costs(rows, every), _memory(every)]
    failed = dict.fromkeys(
        f"{row['model']} ({row['stage']}: {row['failed'].split(':')[0]})" for row in every if "failed" in row
    )
    parts += [f"Failed: {'; '.join(failed)}." if failed else ""]
    return "\n\n".join(filter(None, parts))


def _metrics(rows: Sequence[Row], split: str) -> str:
    """Every error of PDEBench."""
    names = [name for name in METRICS if name != "nrmse" and any(row.get(name) is not None for row in rows)]
    body = []
    for model in _models(rows):
        mine = _of(rows, model, split)
        body.append([model, *(_bounded([row.get(name) for row in mine]) for name in names)])
    return grid([COLUMNS[split], *names], body)


def _costs(rows: Sequence[Row], every: Sequence[Row]) -> str:
    """What each model is, how it was trained and what it takes."""
    body = []
    for model in _models(rows):
        row = _of(rows, model, "twice")[0]
        step = first(every, "step_ms", stage="time", model=model, unroll=row["unroll"])
        rolled = first(every, "rollout_ms", stage="cost", model=model, rollout_steps=max(_counts(every), default=0))
        memory = max((each["gpu_peak_mib"] for each in rows if each["model"] == model and "gpu_peak_mib" in each),
                     default=None)  # fmt: skip
        tried = {each["learning_rate"] for each in every if (each["stage"], each["model"]) == ("tune", model)}
        rate = f"{row['learning_rate']:g}" + (f" of {len(tried)}" if tried else "") if row["learning_rate"] else NOTHING
        body.append([
            model, f"{row['params']:,}", row["unroll"] if row["params"] else NOTHING, rate,
            number(step, ".1f"), number(row["steps"] if row["params"] else None), number(memory),
            number(rolled, ".2f"),
        ])  # fmt: skip
    titles = ["model", "parameters", "trained", "learning rate", "ms a step", "steps", "GPU memory, MiB",
              "ms a step of a rollout"]  # fmt: skip
    return grid(titles, body)


def _memory(every: Sequence[Row]) -> str:
    """The most memory of rollouts of one series, by their length; "" where no GPU could tell."""
    rows = [row for row in every if row["stage"] == "cost" and "gpu_peak_mib" in row]
    counts = _counts(rows)
    body = [
        [model, *(str(first(rows, "gpu_peak_mib", model=model, rollout_steps=count)) for count in counts)]
        for model in _models(rows)
    ]
    return grid(["MiB of a rollout, by its steps", *counts], body) if body else ""


def _caption(rows: Sequence[Row]) -> str:
    one = rows[0]
    learned = [row for row in rows if row["params"]] or rows
    seconds = shared({row["model"]: f"{row['seconds']:g} s" for row in learned})
    seeds = shared({model: counted(_of(learned, model, "twice")) for model in _models(learned)})
    return (
        f"{one['train_series']:,} series of {one['points']} points along each axis and {one['frames']} frames, "
        f"of which {one['horizon']} were learned from; {one['initial']} were given. "
        f"Trained for {seconds}. {seeds}. {origin(rows)}: `{one['command']}`."
    )


def _bounded(values: Sequence[float | None]) -> str:
    """Mean and spread; or that a rollout has left all bounds."""
    if not values or None in values:
        return NOTHING
    known = [value for value in values if value is not None]
    return "unbounded" if max(known) >= MANY else spread(known)


def _models(rows: Iterable[Row]) -> list[str]:
    """In the order of the contestants."""
    found = dict.fromkeys(row["model"] for row in rows)
    return sorted(found, key=lambda name: contestants.NAMES.index(name) if name in contestants.NAMES else len(found))


def _of(rows: Iterable[Row], model: str, split: str) -> list[Row]:
    return [row for row in rows if (row["model"], row["split"]) == (model, split)]


def _counts(rows: Iterable[Row]) -> list[int]:
    return sorted({row["rollout_steps"] for row in rows if "rollout_steps" in row})
