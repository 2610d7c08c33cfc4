"""What a run of the study is: a model timed, trained or rolled out, and the rows that tell of it."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import contestants
import torch
import training
from sets import GridSet, load

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import rows
from crew import Crew
from rows import Row
from wording import file_name

COMMAND = "python examples/studies/pdebench/run.py"
Stage = Literal["time", "tune", "train", "cost"]
# Numbers of steps of a rollout whose memory is compared.
COUNTS = (10, 100, 1_000)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a model.

    Attributes:
        stage: "time": how long a step takes; "tune": a training that is only compared on the validation split;
            "train": one whose errors are results; "cost": what a step of a rollout takes.
        model: of `contestants.NAMES`.
        unroll: of `training.UNROLLS`.
        learning_rate: peak of its cycle.
        seed: of weights and samples.
        seconds: time on a GPU without other work.
        steps: which fit into it; 0 in stages that find that out or do not train.
        captured: on a GPU, steps as CUDA graphs.
    """

    stage: Stage
    model: str
    unroll: str = "none"
    learning_rate: float = 0.0
    seed: int = 0
    seconds: float = 0.0
    steps: int = 0
    captured: bool = True


class Work:
    """Runs on a device, with the series that it has brought there.

    Args:
        study: the data set.
        data: its file.
        counts: of the steps of a rollout in stage "cost".
        out: where models of ours go.
        device: where.
    """

    def __init__(self, study: GridSet, data: Path, counts: tuple[int, ...], out: Path, device: torch.device) -> None:
        self.study, self.counts, self.out, self.device = study, counts, out, device
        self.series = load(study, data, device)

    def __call__(self, job: Job) -> list[Row]:
        """The rows of a run."""
        study = self.study
        model = contestants.make(job.model, study, self.series["train"].shape[-1])
        learned = self.series["train"][:, model.earliest : study.horizon]
        model.fit_statistics(learned)
        model.to(self.device)
        facts: Row = {"params": contestants.parameters(model), "split": "none"}
        if job.stage == "cost":
            found = training.cost(model, self.series["test"], study.initial, self.counts)
            return [facts | row for row in found]
        options: dict[str, Any] = {"unroll": training.UNROLLS.get(job.unroll), "captured": job.captured}
        if job.stage == "time":
            return [facts | training.step_time(model, learned, seconds=training.TIMED, **options)]
        if contestants.parameters(model):
            options |= {"steps": job.steps, "learning_rate": job.learning_rate, "seed": job.seed}
            facts |= training.train(model, learned, **options)
            facts["epochs"] = round(job.steps * model.batch / len(learned), 2)
        validation = training.errors(model, self.series["val"], study.initial, study.horizon)
        largest = learned.flatten(0, -2).abs().amax(0)
        facts["val_strayed"] = training.strayed(model, self.series["val"], study.initial, study.frames, largest)
        facts["val_nrmse"] = validation.scalars()["nrmse"] + facts["val_strayed"]
        if job.stage == "tune":
            return [facts | {"split": "val"}]
        if isinstance(model, contestants.OnMesh):
            folder = self.out / "models" / f"{study.name}-{file_name(job.model)}"
            model.model.save_pretrained(folder / f"seed{job.seed}")
        found = training.errors(model, self.series["test"], study.initial, study.frames)
        parts = training.split_errors(found, study.initial, study.horizon)
        return [facts | {"split": split} | row for split, row in parts.items()]


def crew(study: GridSet, data: Path, counts: tuple[int, ...], per_gpu: int, out: Path) -> Crew:
    """Processes that work on a data set; arguments as of `Work`."""
    common = rows.provenance(
        COMMAND, dataset=study.name, train_series=study.counts[0], points=study.size, horizon=study.horizon,
        frames=study.frames, initial=study.initial,
    )  # fmt: skip
    return Crew(partial(Work, study, data, counts, out), per_gpu, common, told, alone=("time", "cost"))


def told(row: Row) -> str:
    """A row as a line."""
    value = row.get("nrmse", row.get("val_nrmse"))
    found = f"nRMSE {value:.4g}" if value is not None else ""
    if "rollout_ms" in row:
        found = f"{row['rollout_ms']} ms a step of a rollout of {row['rollout_steps']}"
    return f"{row['dataset']} {rows.told(row, row['model'], found, row['unroll'])}"
