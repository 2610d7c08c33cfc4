"""Words and tables in Markdown for what rows say."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rows import Row

NOTHING = "–"


def counted(rows: Iterable[Row]) -> str:
    """How many seeds rows are of, as words."""
    seeds = len({row["seed"] for row in rows})
    return f"{seeds} seed{'s' * (seeds != 1)}"


def origin(rows: Iterable[Row]) -> str:
    """Machines and commits of rows, as words."""
    rows = list(rows)
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    machines = "; ".join(dict.fromkeys(row["machine"] for row in rows))
    return f"{machines}; commit{'s' * (len(commits) > 1)} {', '.join(commits)}"


def shared(facts: Mapping[str, str]) -> str:
    """Name → fact, as words: what most have, then what others have and which."""
    usual = statistics.mode(facts.values())
    others = dict.fromkeys(fact for fact in facts.values() if fact != usual)
    found = [usual]
    for fact in others:
        found.append(f"{fact} for " + ", ".join(f"`{name}`" for name, has in facts.items() if has == fact))
    return "; ".join(found)


def grid(titles: Sequence[Any], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [list(map(str, titles)), ["---"] * len(titles), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value: float | None, form: str = ",") -> str:
    """A number in a form; a dash for none."""
    return NOTHING if value is None else format(value, form)


def file_name(model: str) -> str:
    """A model's name without what is awkward in the name of a file."""
    return model.replace(", ", "_").replace(" ", "_")


def spread(values: Sequence[float]) -> str:
    """Mean to three digits ± standard deviation of the runs, where there are several; a dash for none."""
    if not values:
        return NOTHING
    mean = statistics.mean(values)
    decimals = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 3
    return f"{mean:.{decimals}f}" + (f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else "")
