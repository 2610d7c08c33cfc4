"""What a run of the study is: a model trained, or timed, and the rows that tell of it."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import contestants
import numpy as np
import torch
import training
from preparing import Prepared, with_costs

from flare_connect.models.statistics import typical_cost

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import rows
from crew import Crew
from rows import Results as Results
from rows import Row
from wording import file_name

TYPICAL = 200  # meshes whose median cost is that of all
COMMAND = "python examples/studies/topology/run.py"
Stage = Literal["time", "tune", "train"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a model.

    Attributes:
        stage: "time": how long a step takes; "tune": a training, on a third of the meshes, only compared on the
            validation split; "train": one whose errors are results.
        model: of `contestants.NAMES`.
        harmonic: with the harmonic inputs.
        seed: of weights and batches.
        learning_rate: peak of its cycle.
        seconds: time on a GPU without other work.
        steps: which fit into it; 0 in stage "time", which finds that out.
    """

    stage: Stage
    model: str
    harmonic: bool
    seed: int = 0
    learning_rate: float = 0.0
    seconds: float
    steps: int = 0


def crew(prepared: Prepared, per_gpu: int, out: Path) -> Crew:
    """Processes that work on a data set.

    Args:
        prepared: the data set; its graphs are files that all of them map.
        per_gpu: how many on each GPU.
        out: where models and pictures go.
    """
    return Crew(partial(Work, prepared, out), per_gpu, provenance(prepared), _told)


def _told(row: Row) -> str:
    error = row.get("rel_l2", row.get("val_rel_l2"))
    name = f"{row['model']}{' + harmonic' if row['harmonic'] else ''}"
    return rows.told(row, name, "" if error is None else f"{error:.4f}")


class Work:
    """Runs on a device, with the graphs that it has brought there.

    Args:
        prepared: what is worked on.
        out: where models and pictures go.
        device: where.
    """

    def __init__(self, prepared: Prepared, out: Path, device: torch.device) -> None:
        self.prepared, self.out, self.device = prepared, out, device
        self.kept: dict[bool, Any] = {}
        self.statistics: dict[tuple[bool, bool], Any] = {}

    def __call__(self, job: Job) -> list[Row]:
        """The rows of a run."""
        if job.harmonic not in self.kept:
            self.kept.clear()
            # Training graphs are brought there as batches; as graphs too they would take the place of another run.
            self.kept[job.harmonic] = {
                name: self.prepared.view(name, job.harmonic, torch.device("cpu") if name == "train" else self.device)
                for name in self.prepared.shelves
            }
        kind = job.harmonic, contestants.loads_apart(job.model)
        if kind not in self.statistics:
            self.statistics[kind] = self.prepared.statistics(*kind)
        return _run(self.prepared, self.kept[job.harmonic], self.statistics[kind], job, self.device, self.out)


def _run(prepared: Prepared, graphs: Any, statistics: Any, job: Job, device: torch.device, out: Path) -> list[Row]:
    model = contestants.make(job.model, prepared.around(job.harmonic))
    arch = contestants.architecture(job.model)
    graphs = {split: with_costs(each, arch) for split, each in graphs.items()}
    for name, value in model.state_dict().items():
        if name in statistics:
            value.copy_(statistics[name])
    if arch.num_scales:
        seen = graphs["train"][:: max(1, len(graphs["train"]) // TYPICAL)]
        model.typical_cost.copy_(typical_cost(seen))
    model.to(device)
    nested = job.model in contestants.NESTED
    facts: Row = {"params": contestants.parameters(model)}
    if job.stage == "time":
        found = training.step_time(model, graphs["train"], seconds=job.seconds, nested=nested)
        return [facts | found | {"split": "none"}]
    # Tried on some: to get ready for all of them takes longer than to train for a third of the time.
    some = graphs["train"][: len(graphs["train"]) // 3] if job.stage == "tune" else graphs["train"]
    facts |= training.train(model, some, steps=job.steps, learning_rate=job.learning_rate, seed=job.seed, nested=nested)
    # Apart from the validation error: what was not learned.
    seen = [graph.to(device) for graph in graphs["train"][: len(graphs["val"])]]
    facts |= {"train_rel_l2": training.error_of(model, seen), "val_rel_l2": training.error_of(model, graphs["val"])}
    if job.stage == "tune":
        return [facts | {"split": "val"}]
    if job.model in contestants.SETTINGS:  # peers have no folder that `from_pretrained` reads
        model.save_pretrained(out / "models" / _named(prepared, job) / f"seed{job.seed}")
    found = []
    for split, called in prepared.study.splits.items():
        guesses = [prepared.study.scalar(guess).cpu() for guess in training.predictions(model, graphs[split])]
        truths = [prepared.study.scalar(graph.y).cpu() for graph in graphs[split]]
        known = prepared.errors(split)
        errors = [each.of(guess, truth) for each, guess, truth in zip(known, guesses, truths, strict=True)]
        found.append(facts | {"split": called} | means(errors))
        if job.seed == 0:
            _keep(prepared, split, [each.mesh for each in known], guesses, truths, errors, job, out)
    return found


def means(errors: list[dict[str, float]]) -> Row:
    """Of every error over the meshes that have it, and the error of each mesh."""
    found: Row = {}
    for name in dict.fromkeys(name for each in errors for name in each):
        values = np.array([each.get(name, np.nan) for each in errors])
        known = values[np.isfinite(values)]
        found[name] = float(known.mean()) if len(known) else None
    return found | {"rel_l2_per_mesh": [round(each["rel_l2"], 5) for each in errors]}


def _keep(
    prepared: Prepared, split: str, meshes: list, guesses: list, truths: list, errors: list, job: Job, out: Path
) -> None:
    """The mesh with the largest error and the one in the middle, for pictures."""
    order = sorted(range(len(errors)), key=lambda i: errors[i]["rel_l2"])
    for called, i in (("worst", order[-1]), ("median", order[len(order) // 2])):
        path = out / "kept" / f"{_named(prepared, job)}-{split}-{called}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        mesh = meshes[i]
        np.savez_compressed(
            path, pos=mesh.pos.numpy().astype(np.float32), cells=mesh.cells["triangle"].numpy().astype(np.int32),
            guess=guesses[i].numpy(), truth=truths[i].numpy(), index=prepared.indices[split][i],
            rel_l2=errors[i]["rel_l2"], output=prepared.study.measured,
        )  # fmt: skip


def _named(prepared: Prepared, job: Job) -> str:
    """A file's name for a model."""
    return f"{prepared.study.name}-{file_name(job.model)}{'-harmonic' if job.harmonic else ''}"


def provenance(prepared: Prepared) -> Row:
    """Columns that every row has; the seed is that of the run."""
    return rows.provenance(COMMAND, dataset=prepared.study.name, train_meshes=len(prepared.indices["train"]))
