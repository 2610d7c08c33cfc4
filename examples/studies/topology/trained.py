"""Trained models read from their folders, and the rows that are measured with them."""

import hashlib
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jobs
import measure
import torch
from sets import SETS, StudySet
from torch import Tensor
from torch_geometric.data import Data

from flare_connect.models import FlareConnect
from flare_connect.models.pretrained import WEIGHTS

Row = dict[str, Any]
# Of a case, what a new row may have otherwise than the one in whose place it comes.
_SETTINGS = {"weights", "num_meshes", "trained_nodes"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model of a folder.

    Attributes:
        name: of the folder; where that is `seed<number>`, as `run.py` names them, of the folder around it.
        seed: that number, else 0.
        weights: a digest of them, so that another training is not taken for this one.
        study: the data set that it reads and predicts.
        model: ready to predict.
    """

    name: str
    seed: int
    weights: str
    study: StudySet
    model: FlareConnect

    @property
    def latents(self) -> int:
        """M, which it was trained with; 0 without attention."""
        arch = self.model.config.architecture
        return arch.num_latents if arch.attention else 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured once: the first columns of a row."""

    dataset: str
    split: str
    model: str
    seed: int
    weights: str
    num_meshes: int


class Rows(jobs.Results):
    """Rows of a command, one for each case, on disk.

    Args:
        path: file of the rows.
        command: in every row.
        device: where models are.
    """

    def __init__(self, path: Path, command: str, device: torch.device) -> None:
        super().__init__(path)
        self.common = measure.provenance(command, device)

    def find(self, case: Case) -> Row | None:
        """The row of a case, if it was measured."""
        columns = asdict(case)
        # A row without these columns is of another kind of case.
        return next((row for row in self.rows if all(row.get(k, self) == v for k, v in columns.items())), None)

    def put(self, case: Case, trained: Trained, found: Row) -> None:
        """Keep a row, in place of one of the same case with other weights or meshes."""
        row = self.common | facts(trained) | asdict(case) | found
        place = asdict(case).keys() - _SETTINGS
        self.rows = [old for old in self.rows if any(old.get(key, self) != row[key] for key in place)]
        self.add([row])


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folders: Iterable[Path], device: torch.device) -> list[Trained]:
    """The models of folders that `FlareConnect.save_pretrained` wrote; stops where one is of no use here."""
    found: list[Trained] = []
    for folder in map(Path.resolve, folders):
        model = FlareConnect.from_pretrained(folder, device=device)
        study = next((study for study in SETS.values() if _fits(study, model)), None)
        if study is None:
            raise SystemExit(
                f"{folder} reads {[*model.config.conditions, *model.config.inputs]} and predicts "
                f"{[*model.config.outputs]}, as no data set of the study does ({', '.join(SETS)})"
            )
        numbered = re.fullmatch(r"seed(\d+)", folder.name)
        name, seed = (folder.parent.name, int(numbered[1])) if numbered else (folder.name, 0)
        if any((other.study.name, other.name, other.seed) == (study.name, name, seed) for other in found):
            raise SystemExit(f"two models are called {name!r}, seed {seed}: give one of the folders another name")
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]
        found.append(Trained(name=name, seed=seed, weights=digest, study=study, model=model))
    return found


@torch.no_grad()
def predict(trained: Trained, graph: Data, rank: int | None = None) -> Tensor:
    """What errors are of, `[N]` on a mesh, in physical units, on the CPU."""
    model = trained.model
    found: Tensor = trained.study.scalar(model.output_statistics.inverse(model(graph, rank).float()))
    return found.cpu()


def facts(trained: Trained) -> Row:
    """Columns that tell of a model."""
    params = jobs.contestants.parameters(trained.model)
    return {"params": params, "latents": trained.latents, "harmonic": bool(trained.model.config.harmonic)}


def table(rows: Sequence[Row], column: str, cell: Callable[[Row], float], title: str) -> str:
    """A line for each model, a column for each value of `column`; where there are several seeds, their mean."""
    columns = sorted({row[column] for row in rows})
    lines = [f"| {title} | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [[cell(row) for row in rows if (row["model"], row[column]) == (model, value)] for value in columns]
        lines.append(f"| {model} | " + " | ".join(f"{statistics.mean(c):.3f}" if c else "–" for c in found) + " |")
    return "\n".join(lines)


def _fits(study: StudySet, model: FlareConnect) -> bool:
    config = model.config
    return (set(config.outputs), set(config.conditions), set(config.inputs)) == (
        {study.output}, set(study.conditions), set(study.inputs),
    )  # fmt: skip
