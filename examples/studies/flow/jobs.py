"""What a run of the study is: a model timed or trained, and the rows that tell of it."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import contestants
import numpy as np
import preparing
import torch

from flare_connect.files import replacing

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import rows
from crew import Crew
from rows import Row
from wording import file_name

COMMAND = "python examples/studies/flow/run.py"
Stage = Literal["time", "tune", "train"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a model.

    Attributes:
        stage: "time": how long a step takes; "tune": a training that is only compared on the validation split; "train":
            one whose errors are results.
        model: of `contestants.CONTESTANTS`, or "persistence", the first frame for all times, of stage "train".
        size: of `contestants.SIZES`.
        seed: of weights, batches and windows.
        learning_rate: peak of its cycle.
        seconds: time on a device without other work.
        steps: which fit into it; 0 in stage "time", which finds that out.
        captured: on a GPU, steps as CUDA graphs.
    """

    stage: Stage
    model: str
    size: str
    seed: int = 0
    learning_rate: float = 0.0
    seconds: float
    steps: int = 0
    captured: bool = True


class Work:
    """Runs on a device.

    Args:
        data: the file of series.
        size: of the models.
        out: where rollouts for pictures go.
        device: where.
    """

    def __init__(self, data: Path, size: str, out: Path, device: torch.device) -> None:
        self.out, self.device = out, device
        self.graphs = preparing.Graphs.of(data, size)
        self.statistics = self.graphs.statistics()

    def __call__(self, job: Job) -> list[Row]:
        """The rows of a run."""
        import training  # loads Lightning, for which the process that gives the work out need not wait

        splits = self.graphs.splits
        if job.model == "persistence":
            widths = list(self.graphs.around.fields.values())
            errors = {split: training.idle_errors(splits[split], widths) for split in ("val", *preparing.SPLITS)}
            facts: Row = {"val_nrmse": float(errors.pop("val").mean())}
            return [facts | self._errors(split, each) for split, each in errors.items()]
        model = contestants.make(job.model, self.graphs.around, job.size)
        for name, value in model.state_dict().items():
            if name in self.statistics:
                value.copy_(self.statistics[name])
        model.to(self.device)
        facts = {"params": contestants.parameters(model)}
        options: dict[str, Any] = {"unroll": contestants.CONTESTANTS[job.model].unroll, "captured": job.captured}
        if job.stage == "time":
            facts |= training.step_time(model, splits["train"], seconds=job.seconds, **options)
            # Here, where no other run is on the device.
            facts["rollout_ms"] = training.rollout_ms(model, splits["test"][0])
            return [facts | {"split": "none"}]
        options |= {"steps": job.steps, "learning_rate": job.learning_rate, "seed": job.seed}
        facts |= training.train(model, splits["train"], **options)
        facts["val_nrmse"] = float(training.errors_of(model, splits["val"]).mean())
        if job.stage == "tune":
            return [facts | {"split": "val"}]
        # As many series as validation has: how far what was learned goes beyond the series that it was learned from.
        facts["train_nrmse"] = float(training.errors_of(model, splits["train"][: len(splits["val"])]).mean())
        found = []
        for split in preparing.SPLITS:
            errors = training.errors_of(model, splits[split])
            found.append(facts | self._errors(split, errors))
            if job.seed == 0:
                self._keep(model, job, split)
        return found

    def _errors(self, split: str, errors: torch.Tensor) -> Row:
        """What a row says of errors `[T, B, F]`."""
        return {
            "split": preparing.SPLITS[split],
            "nrmse": float(errors.mean()),
            "nrmse_per_step": [round(float(e), 5) for e in errors.mean((1, 2))],
            "nrmse_per_mesh": [round(float(e), 5) for e in errors.mean((0, 2))],
        } | {f"nrmse_{name}": float(errors[..., i].mean()) for i, name in enumerate(self.graphs.around.fields)}

    def _keep(self, model: Any, job: Job, split: str) -> None:
        """A rollout for pictures: of the same series for all models, whatever their errors."""
        import training

        place = len(self.graphs.splits[split]) // 2
        with torch.no_grad():
            graph = training.collate([self.graphs.splits[split][place]]).to(model.device)
            guess = training.rolled_out(model, graph, 1).cpu().numpy()
        path = self.out / "kept" / f"{file_name(job.model)}-{split}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, guess=guess.astype(np.float16), place=place)


def crew(data: Path, size: str, per_gpu: int, out: Path) -> Crew:
    """Processes that work on the series; arguments as of `Work`."""
    return Crew(partial(Work, data, size, out), per_gpu, rows.provenance(COMMAND, dataset="holed_channels"), told)


def told(row: Row) -> str:
    """A row as a line."""
    error = row.get("nrmse", row.get("val_nrmse"))
    return rows.told(row, row["model"], "" if error is None else f"nRMSE {error:.4g}")
