"""Runs shared out over GPUs, and the file that their rows go into."""

import json
import multiprocessing
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import contestants
import numpy as np
import preparing
import torch
import training

from flare_connect.files import replacing, write_atomically

sys.path.insert(0, str(Path(__file__).parents[3] / "kernels" / "benchmarks"))
import measure

COMMAND = "python examples/studies/flow/run.py"
Row = dict[str, Any]
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
    """

    stage: Stage
    model: str
    size: str
    seed: int = 0
    learning_rate: float = 0.0
    seconds: float
    steps: int = 0


class Results:
    """The rows, written after each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found: list[Row] = json.loads(path.read_text()) if path.is_file() else []
        self.rows = [row for row in found if "failed" not in row]  # what failed is tried again

    def has(self, job: Job) -> bool:
        """Whether the run was made before, with these settings."""
        settings = asdict(job)
        del settings["steps"]  # follow from the rest
        return any(all(row[k] == value for k, value in settings.items()) for row in self.rows if "failed" not in row)

    def add(self, rows: list[Row]) -> None:
        """Keep rows, on disk too."""
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row, sort_keys=True) for row in self.rows)  # a row is a line
        write_atomically(self.path, f"[\n{lines}\n]\n".encode())

    def best_rate(self, model: str, rates: list[float]) -> float:
        """The tried learning rate whose validation error was least."""
        tried = {row["learning_rate"]: row["val_nrmse"] for row in self._of("tune", model)}
        return min((rate for rate in rates if rate in tried), key=tried.__getitem__, default=rates[len(rates) // 2])

    def steps(self, model: str, seconds: float) -> int:
        """How many of a model fit into a time, by its row of stage "time"."""
        # One that failed is tried all the same, and fails with its own error.
        return max(1, round(1e3 * seconds / next((row["step_ms"] for row in self._of("time", model)), 1e3 * seconds)))

    def check_machine(self, machine: str) -> None:
        """Stops where steps were timed on another machine, whose time would not be the same time."""
        other = next((r["machine"] for r in self.rows if r["stage"] == "time" and r["machine"] != machine), None)
        if other is not None:
            raise SystemExit(
                f"steps in {self.path} were timed on {other!r}, here is {machine!r}: give --results another folder"
            )

    def _of(self, stage: Stage, model: str) -> list[Row]:
        return [r for r in self.rows if r["stage"] == stage and r["model"] == model and "failed" not in r]


class Crew:
    """Processes that share the GPUs; where there is none, one process on the CPU.

    Args:
        path: of the data.
        size: of the models.
        per_gpu: how many on each GPU.
        out: where models and pictures go.
    """

    def __init__(self, path: Path, size: str, per_gpu: int, out: Path) -> None:
        self.settings, self.per_gpu = (path, size, out), per_gpu
        self.common = provenance()
        self.pool: ProcessPoolExecutor | None = None
        self.places: list[str] = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(self, jobs: list[Job], results: Results, *, alone: bool = False) -> None:
        """Every run that is not in the results yet; `alone`: one at a time, since the work of others shows in times."""
        waiting = [job for job in jobs if not results.has(job)]
        if not waiting:
            return
        gpus = torch.cuda.device_count()
        places = [f"cuda:{i}" for _ in range(self.per_gpu) for i in range(gpus)] or ["cpu"]
        pool = self._pool(places[:1] if alone else places)
        submitted = {pool.submit(_rows, job): job for job in waiting}
        for done, future in enumerate(as_completed(submitted), 1):
            rows = [row | asdict(submitted[future]) | self.common for row in future.result()]
            results.add(rows)
            for row in rows:
                print(f"[{done}/{len(waiting)}] {_told(row)}", flush=True)

    def _pool(self, places: list[str]) -> ProcessPoolExecutor:
        """Those who work in these places; they stay from stage to stage, since to start takes long."""
        if self.pool is None or self.places != places:
            self._end()
            context = multiprocessing.get_context("spawn")  # CUDA may have started in this process
            free = context.SimpleQueue()
            for place in places:
                free.put(place)
            self.places = places
            self.pool = ProcessPoolExecutor(
                len(places), mp_context=context, initializer=_start, initargs=(free, *self.settings)
            )
        return self.pool

    def _end(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        self.pool = None


def provenance() -> Row:
    """Columns that every row has; the seed is that of the run."""
    common = measure.provenance(COMMAND, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    del common["seed"]
    return common | {"dataset": "holed_channels"}


def _told(row: Row) -> str:
    error = row.get("nrmse", row.get("val_nrmse"))
    found = f"{row['step_ms']} ms a step" if "step_ms" in row else error if error is None else round(error, 4)
    settings = f"seed {row['seed']}, lr {row['learning_rate']:g}, {row['split']}"
    return f"{row['stage']} {row['model']}, {settings}: {row.get('failed', found)}"


_here: dict[str, Any] = {}


def _start(free: Any, path: Path, size: str, out: Path) -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    graphs = preparing.Graphs.of(path, size)
    _here.update(device=torch.device(free.get()), graphs=graphs, statistics=graphs.statistics(), out=out)


def _rows(job: Job) -> list[Row]:
    try:
        return _run(job)
    except Exception as error:
        traceback.print_exc()
        return [{"split": "none", "failed": f"{type(error).__name__}: {error}"[:300]}]


def _run(job: Job) -> list[Row]:
    graphs, device = _here["graphs"], _here["device"]
    torch.manual_seed(job.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats()
    if job.model == "persistence":
        return [_errors(split, _idle(graphs.splits[split])) for split in preparing.SPLITS]
    model = contestants.make(job.model, graphs.around, job.size)
    for name, value in model.state_dict().items():
        if name in _here["statistics"]:
            value.copy_(_here["statistics"][name])
    model.to(device)
    facts: Row = {"params": contestants.parameters(model)}
    trainer = training.Trainer(model, graphs.splits["train"], contestants.CONTESTANTS[job.model].unroll, job.seed)
    if job.stage == "time":
        return [facts | training.step_time(trainer, seconds=job.seconds) | {"split": "none"}]
    facts |= training.train(trainer, steps=job.steps, learning_rate=job.learning_rate)
    facts["val_nrmse"] = float(training.errors_of(model, graphs.splits["val"]).mean())
    if job.stage == "tune":
        return [facts | {"split": "val"}]
    facts["rollout_ms"] = training.rollout_ms(model, graphs.splits["test"][0])
    rows = []
    for split in preparing.SPLITS:
        errors = training.errors_of(model, graphs.splits[split])
        rows.append(facts | _errors(split, errors))
        if job.seed == 0:
            _keep(model, job, split, errors)
    return rows


def _idle(graphs: list[Any]) -> torch.Tensor:
    """Errors of the first frame for all times."""
    found = []
    for graph in graphs:
        batch = training.collate([graph])
        guess = graph.frames[:, :1].expand(-1, graph.frames.shape[1] - 1, -1)
        found.append(training.rollout_errors(guess, batch, list(_here["graphs"].around.fields.values())))
    return torch.cat(found, dim=1)


def _errors(split: str, errors: torch.Tensor) -> Row:
    """What a row says of errors [T, B, F]."""
    fields = _here["graphs"].around.fields
    return {
        "split": preparing.SPLITS[split],
        "nrmse": float(errors.mean()),
        "nrmse_per_step": [round(float(e), 5) for e in errors.mean((1, 2))],
        "nrmse_per_mesh": [round(float(e), 5) for e in errors.mean((0, 2))],
    } | {f"nrmse_{name}": float(errors[..., i].mean()) for i, name in enumerate(fields)}


def _keep(model: Any, job: Job, split: str, errors: torch.Tensor) -> None:
    """A rollout for pictures: of the same series for all models, whatever their errors."""
    place = errors.shape[1] // 2
    with torch.no_grad():
        graph = training.collate([_here["graphs"].splits[split][place]]).to(model.device)
        guess = training.rolled_out(model, graph, 1).cpu().numpy()
    path = _here["out"] / "kept" / f"{job.model.replace(', ', '_').replace(' ', '_')}-{split}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, guess=guess.astype(np.float16), place=place)
