"""Tables in Markdown from the rows of a data set, and captions that say where their figures come from.

Figures are means over seeds, with their standard deviation. What was trained for another time, or at another learning
rate, is never in the same cell.
"""

import math
import shlex
import statistics
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import contestants
from sets import SETS

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from rows import Row
from wording import NOTHING, counted, file_name, grid, origin, shared, spread

HARMONIC = " + harmonic"


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A model in a table: runs that differ in nothing but the seed.

    Attributes:
        model: of `contestants.NAMES`.
        harmonic: with the harmonic inputs.
        seconds: of training.
        rows: one for each seed and split.
    """

    model: str
    harmonic: bool
    seconds: float
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """In tables."""
        return self.model + HARMONIC * self.harmonic

    def values(self, metric: str, split: str) -> list[float]:
        """Of an error, from the seeds that have it."""
        found = [row.get(metric) for row in self.rows if row["split"] == split]
        return [value for value in found if value is not None and math.isfinite(value)]


def is_peer(model: str) -> bool:
    """Whether ours is compared with it, rather than with and without parts."""
    return model in contestants.PEERS or model.startswith("FLARE")


def called(folder: str, dataset: str) -> str:
    """A model's name in tables, from that of the folder into which `run.py` put it."""
    harmonic, seen = folder.endswith("-harmonic"), trained_on(folder, dataset)
    plain = folder.removeprefix(f"{seen}-").removesuffix("-harmonic")
    names = {file_name(name): name for name in contestants.NAMES}
    return names.get(plain, plain) + HARMONIC * harmonic + f", trained on `{seen}`" * (seen != dataset)


def trained_on(folder: str, dataset: str) -> str:
    """The data set that the folder of a model names, or else this one."""
    return next((name for name in SETS if folder.startswith(f"{name}-")), dataset)


def trained(rows: Iterable[Row]) -> list[Line]:
    """What was trained to the end, in the order of `contestants.NAMES`, without the harmonic inputs first."""
    groups: dict[tuple[str, bool, float], dict[float, list[Row]]] = {}
    for row in rows:
        if row["stage"] == "train" and "failed" not in row:
            rates = groups.setdefault((row["model"], row["harmonic"], row["seconds"]), {})
            rates.setdefault(row["learning_rate"], []).append(row)
    lines = [
        # Where the tuning was repeated and came to another rate, what was trained at the former one is there too.
        Line(model=model, harmonic=harmonic, seconds=seconds, rows=tuple(min(rates.values(), key=_validation)))
        for (model, harmonic, seconds), rates in groups.items()
    ]
    order = {name: i for i, name in enumerate(contestants.NAMES)}
    return sorted(lines, key=lambda line: (line.harmonic, order.get(line.model, len(order)), line.model))


def longest(lines: Iterable[Line]) -> list[Line]:
    """Of each model, with and without the harmonic inputs, what was trained for the longest time."""
    found: dict[str, Line] = {}
    for line in lines:
        if line.name not in found or line.seconds > found[line.name].seconds:
            found[line.name] = line
    return list(found.values())


def parts(lines: Sequence[Line]) -> list[Line]:
    """Ours with parts on and off, and ours for as long as these were trained, or else for the longest time."""
    changed = [line for line in longest(lines) if line.model != "ours" and not is_peer(line.model)]
    found: list[Line] = []
    for harmonic in (False, True):
        mine = [line for line in changed if line.harmonic == harmonic]
        ours = [line for line in lines if (line.model, line.harmonic) == ("ours", harmonic)]
        alike = [line for line in ours if line.seconds in {other.seconds for other in mine}]
        found += [*(alike or longest(ours)), *mine] if mine else []
    return found


def errors(lines: Sequence[Line], splits: Sequence[str], metric: str, title: str, *, compared: bool = False) -> str:
    """One error of every line, a column for each split; the least with and without the harmonic inputs is bold.

    Not where ours is missing, for then most others are.

    Args:
        lines: in this order.
        splits: columns, in this order.
        metric: key of the rows.
        title: what the first column is headed.
        compared: whether the end says how many times that of ours the least error of the peers is, and of those
            without a part of ours.

    Returns:
        The table; "" where no row has this error.
    """
    means = _means(lines, splits, metric)
    if not means:
        return ""
    best = {
        (harmonic, split): min((m for (a, s), m in means.items() if (a.harmonic, s) == (harmonic, split)), default=None)
        for harmonic in {line.harmonic for line in lines if line.model == "ours"}
        for split in splits
    }
    names, body = _with_times(lines), []
    for line in lines:
        cells = [_cell(line, split, metric) for split in splits]
        least = [means.get((line, split), math.nan) == best.get((line.harmonic, split)) for split in splits]
        body.append([names[line], *(f"**{cell}**" if it else cell for cell, it in zip(cells, least, strict=True))])
    for said, peers in _peers(lines).items() if compared else ():
        for harmonic, found in ratios(lines, splits, metric, peers).items():
            times = [f"{found[split]:.2f}" if split in found else NOTHING for split in splits]
            body.append([f"*{said} / ours{HARMONIC * harmonic}*", *times])
    return grid([title, *splits], body)


def ratios(
    lines: Sequence[Line], splits: Sequence[str], metric: str, peers: Container[str] = contestants.NAMES
) -> dict[bool, dict[str, float]]:
    """Least error of the peers over that of ours, with or without the harmonic inputs → split → ratio.

    Only peers of these names that were trained for as long as ours are looked at.
    """
    means, found = _means(lines, splits, metric), {}
    for ours in (line for line in lines if line.model == "ours"):
        alike = (ours.harmonic, ours.seconds)
        others = [line for line in lines if is_peer(line.model) and line.model in peers]
        others = [line for line in others if (line.harmonic, line.seconds) == alike]
        least = {s: min((means[peer, s] for peer in others if (peer, s) in means), default=None) for s in splits}
        ratio = {s: m / means[ours, s] for s, m in least.items() if m is not None and means.get((ours, s))}
        if ratio:
            found[ours.harmonic] = ratio
    return found


def times_ours(lines: Sequence[Line]) -> dict[str, float]:
    """Parts on and off → their relative L2 on meshes like those trained on, over that of ours of as long a training."""
    found = {}
    for line in lines:
        ours = next((o for o in lines if (o.model, o.harmonic, o.seconds) == ("ours", False, line.seconds)), None)
        if line.model in contestants.PARTS and ours is not None and not line.harmonic:
            means = _means([line, ours], ["id"], "rel_l2")
            if len(means) == 2:
                found[line.model] = means[line, "id"] / means[ours, "id"]
    return found


def behind(lines: Sequence[Line], splits: Sequence[str], titles: Mapping[str, str]) -> str:
    """In which errors on which splits a peer is better than ours, as words; "" where none is."""
    lost: dict[str, list[str]] = {}
    for metric, title in titles.items():
        for harmonic, found in ratios(lines, splits, metric).items():
            for split in (split for split, ratio in found.items() if ratio < 1):
                lost.setdefault(split + HARMONIC * harmonic, []).append(title)
    places = "; ".join(f"{place} ({', '.join(metrics)})" for place, metrics in lost.items())
    return f"A peer is better than ours at: {places}." if lost else ""


def cost(lines: Sequence[Line], rows: Sequence[Row]) -> str:
    """What each model is and takes, of its runs without the harmonic inputs where there are such."""
    first: dict[str, Line] = {}
    for line in lines:
        first.setdefault(line.model, line)
    body = []
    for model, line in first.items():
        row, rates = line.rows[0], _tried(rows, model)
        chosen = f" of {len(rates)}" if row["learning_rate"] in rates else ", not tuned"
        step = next(
            (r["step_ms"] for r in rows if (r["stage"], r["model"]) == ("time", model) and "failed" not in r), None
        )
        memory = max((r["gpu_peak_mib"] for r in line.rows if "gpu_peak_mib" in r), default=None)
        body.append([
            model, f"{row['params']:,}", NOTHING if step is None else f"{step:.1f}", f"{line.seconds:g}",
            f"{row['steps']:,}", f"{row['epochs']:.1f}", f"{row['learning_rate']:g}{chosen}",
            NOTHING if memory is None else f"{memory / 1024:.1f}",
        ])  # fmt: skip
    titles = ["model", "parameters", "ms a step", "training, s", "steps", "epochs", "learning rate", "GPU memory, GiB"]
    return grid(titles, body)


def caption(lines: Sequence[Line], rows: Sequence[Row]) -> str:
    """How long, how often, on what and from which commit the lines were trained, and the commands.

    Args:
        lines: of the tables.
        rows: all of the data set.
    """
    mine = [row for line in lines for row in line.rows]
    meshes = ", ".join(f"{count:,}" for count in sorted({row["train_meshes"] for row in mine}))
    meshes += f" meshes of {SETS[mine[0]['dataset']].sizes()}"
    facts = [
        f"Trained on {meshes} for {shared({line.name: f'{line.seconds:g} s' for line in lines})}",
        shared({line.name: counted(line.rows) for line in lines}),
        origin(mine),
    ]
    return ". ".join(facts) + ":\n\n```sh\n" + "\n".join(_commands(lines, rows)) + "\n```"


def unfinished(rows: Iterable[Row]) -> str:
    """Which trainings failed and why, as words; "" where none did."""
    rows = list(rows)
    done = {line.name for line in trained(rows)}
    failed = {
        row["model"] + HARMONIC * row["harmonic"]: row["failed"].split(":")[0]
        for row in rows
        if row["stage"] == "train" and "failed" in row
    }
    missing = [f"{name} ({why})" for name, why in failed.items() if name not in done]
    return f"Not trained to the end: {'; '.join(missing)}." if missing else ""


def _peers(lines: Iterable[Line]) -> dict[str, list[str]]:
    """With which peers ours is compared, by what the line of it is called."""
    names = [line.model for line in lines if is_peer(line.model)]
    plain = [name for name in names if not contestants.loads_apart(name)]
    return {"best peer": names} | ({"best peer, loads not apart": plain} if len(plain) < len(names) else {})


def _means(lines: Iterable[Line], splits: Sequence[str], metric: str) -> dict[tuple[Line, str], float]:
    """Of every line and split that has the error."""
    cells = {(line, split): line.values(metric, split) for line in lines for split in splits}
    return {key: statistics.mean(values) for key, values in cells.items() if values}


def _cell(line: Line, split: str, metric: str) -> str:
    """Mean and spread; where some seeds have no such error, of how many they are."""
    values = line.values(metric, split)
    seeds = len({row["seed"] for row in line.rows})
    return spread(values) + (f" ({len(values)} of {seeds})" if 0 < len(values) < seeds else "")


def _validation(rows: list[Row]) -> float:
    found = statistics.mean(row.get("val_rel_l2", math.inf) for row in rows)
    return math.inf if math.isnan(found) else found


def _tried(rows: Iterable[Row], model: str) -> set[float]:
    """Learning rates among which that of a model was chosen."""
    return {
        row["learning_rate"] for row in rows
        if (row["stage"], row["model"]) == ("tune", model) and "failed" not in row
    }  # fmt: skip


def _with_times(lines: Sequence[Line]) -> dict[Line, str]:
    """Names, with the time of training where lines differ in it."""
    differ = len({line.seconds for line in lines}) > 1
    return {line: line.name + (f", {line.seconds:g} s" if differ else "") for line in lines}


def _commands(lines: Sequence[Line], rows: Sequence[Row]) -> list[str]:
    """A call for each time of training that makes its lines, and for each learning rate where none was tried."""
    found = []
    tuned = {seconds: False for seconds in dict.fromkeys(line.seconds for line in lines)}
    for line in lines:
        tuned[line.seconds] |= bool(_tried(rows, line.model))

    def call(line: Line) -> tuple[float, float]:
        return line.seconds, 0.0 if tuned[line.seconds] else line.rows[0]["learning_rate"]

    for seconds, rate in dict.fromkeys(map(call, lines)):
        alike = [line for line in lines if call(line) == (seconds, rate)]
        row = alike[0].rows[0]
        models = list(dict.fromkeys(line.model for line in alike))
        kinds, seeds = {line.harmonic for line in alike}, 1 + max(r["seed"] for line in alike for r in line.rows)
        options = ["--sets", row["dataset"], "--seconds", f"{seconds:g}", "--seeds", str(seeds)]
        if set(models) != set(contestants.of(SETS[row["dataset"]])):
            options += ["--models", *models]
        if len(kinds) == 1:
            options += ["--harmonic", "with" if kinds == {True} else "without"]
        if rate:
            options += ["--learning_rate", f"{rate:g}"]
        found.append(f"{row['command']} {shlex.join(options)}")
    return found
