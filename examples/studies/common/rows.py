"""Rows of runs, and the file that they go into."""

import json
import math
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from flare_connect.files import write_atomically

sys.path.insert(0, str(Path(__file__).parents[3] / "kernels" / "benchmarks"))
import measure

Row = dict[str, Any]


class Results:
    """The rows of one data set, written after each run. A job is a dataclass with `stage`, `model` and `steps`.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [row for row in read(path) if "failed" not in row]  # what failed is tried again

    def has(self, job: Any) -> bool:
        """Whether the run was made before, with these settings."""
        settings = asdict(job)
        del settings["steps"]  # follow from the rest
        return any(_fits(row, settings) for row in self._done(job.stage))

    def add(self, rows: list[Row]) -> None:
        """Keep rows, on disk too."""
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.rows)

    def best(self, setting: str, error: str, values: list[Any], **wanted: Any) -> Any:
        """The value of a setting whose error on the validation split was least where it was tried.

        Args:
            setting: key of the rows of stage "tune".
            error: likewise.
            values: among which to choose; the one in the middle where none was tried.
            wanted: what those rows have.
        """
        tried: dict[Any, float] = {}
        for row in self._done("tune"):
            if row[error] is not None and _fits(row, wanted):
                tried[row[setting]] = min(row[error], tried.get(row[setting], math.inf))
        return min((each for each in values if each in tried), key=tried.__getitem__, default=values[len(values) // 2])

    def steps(self, seconds: float, **wanted: Any) -> int:
        """How many fit into a time, by the row of stage "time" that has what is wanted."""
        # One that failed is tried all the same, and fails with its own error.
        step_ms = first(self._done("time"), "step_ms", **wanted) or 1e3 * seconds
        return max(1, round(1e3 * seconds / step_ms))

    def timed(self, **wanted: Any) -> bool:
        """Whether a row of stage "time" has what is wanted."""
        return first(self._done("time"), "step_ms", **wanted) is not None

    def fitted(self, job: Any, **wanted: Any) -> Any:
        """A training with as many steps as fit into its seconds, captured where its step could be.

        Args:
            job: has `captured` too.
            wanted: what the row of stage "time" has.
        """
        captured = any(_fits(row, wanted | {"captured": True}) for row in self._done("time"))
        return replace(job, steps=self.steps(job.seconds, captured=captured, **wanted), captured=captured)

    def check_machine(self, machine: str) -> None:
        """Stops where steps were timed on another machine, whose time would not be the same time."""
        other = next((row["machine"] for row in self._done("time") if row["machine"] != machine), None)
        if other is not None:
            raise SystemExit(
                f"steps in {self.path} were timed on {other!r}, here is {machine!r}: give --results another folder"
            )

    def _done(self, stage: str) -> list[Row]:
        return [row for row in self.rows if row["stage"] == stage and "failed" not in row]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else []


def write(path: Path, rows: Iterable[Row]) -> None:
    """A file of rows, each a line."""
    lines = ",\n".join(json.dumps(row, sort_keys=True) for row in rows)
    write_atomically(path, f"[\n{lines}\n]\n".encode())


def first(rows: Iterable[Row], key: str, **wanted: Any) -> Any:
    """What the first row with a key has there, among those that have what is wanted; None without any."""
    return next((row[key] for row in rows if key in row and _fits(row, wanted)), None)


def trained(rows: Iterable[Row], *settings: str, error: str) -> list[Row]:
    """Rows of what was trained to the end: the longest, and of these the setting with the least validation error.

    Args:
        rows: of all stages.
        settings: keys in which trainings of one model may differ, besides the seed.
        error: key of the validation error.
    """
    rows = [row for row in rows if row["stage"] == "train" and "failed" not in row]
    found: list[Row] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        longest = max(row["seconds"] for row in mine)
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in mine:
            if row["seconds"] == longest:
                groups.setdefault(tuple(row[key] for key in settings), []).append(row)
        found += min(groups.values(), key=lambda each: statistics.mean(row[error] for row in each))
    return found


def provenance(command: str, **columns: Any) -> Row:
    """Columns of every row of a data set; the seed is that of the run."""
    common = measure.provenance(command, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    del common["seed"]
    return common | columns


def told(row: Row, name: str, found: str, *settings: str) -> str:
    """A row as a line.

    Args:
        row: of a run.
        name: of what was run.
        found: what came of it, unless it is the time of a step or it failed.
        settings: of the run, besides seed and learning rate.
    """
    if "step_ms" in row:
        found = f"{row['step_ms']} ms a step"
    parts = [name, f"seed {row['seed']}", f"lr {row['learning_rate']:g}", *settings, row["split"]]
    return f"{row['stage']} {', '.join(parts)}: {row.get('failed', found)}"


def _fits(row: Row, wanted: Row) -> bool:
    return all(row.get(key) == value for key, value in wanted.items())
