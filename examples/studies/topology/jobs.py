"""Runs shared out over GPUs, and the file that their rows go into."""

import gc
import json
import queue
import sys
import traceback
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import contestants
import numpy as np
import torch
import training
from preparing import Prepared, with_costs

from flare_connect.files import write_atomically
from flare_connect.models.statistics import typical_cost

sys.path.insert(0, str(Path(__file__).parents[3] / "kernels" / "benchmarks"))
import measure

TYPICAL = 200  # meshes whose median cost is that of all
COMMAND = "python examples/studies/topology/run.py"
Row = dict[str, Any]
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


class Results:
    """The rows of one data set, written after each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found: list[Row] = json.loads(path.read_text()) if path.is_file() else []
        self.rows = [row for row in found if "failed" not in row]  # what failed is tried again

    def has(self, job: Job) -> bool:
        """Whether the run was made before, with these settings."""
        settings = asdict(job)
        del settings["steps"]  # follow from the rest
        return any("failed" not in row and all(row[k] == value for k, value in settings.items()) for row in self.rows)

    def add(self, rows: list[Row]) -> None:
        """Keep rows, on disk too."""
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row, sort_keys=True) for row in self.rows)  # a row is a line
        write_atomically(self.path, f"[\n{lines}\n]\n".encode())

    def best_rate(self, model: str, rates: list[float]) -> float:
        """The tried learning rate whose validation error was least."""
        tried = {
            row["learning_rate"]: row["val_rel_l2"]
            for row in self.rows
            if row["stage"] == "tune" and "failed" not in row and row["model"] == model
        }
        return min((rate for rate in rates if rate in tried), key=tried.__getitem__, default=rates[len(rates) // 2])

    def steps(self, model: str, seconds: float) -> int:
        """How many of a model fit into a time, by its row of stage "time"."""
        timed = (
            row["step_ms"]
            for row in self.rows
            if row["stage"] == "time" and "failed" not in row and row["model"] == model
        )
        # One that failed is tried all the same, and fails with its own error.
        return max(1, round(1e3 * seconds / next(timed, 1e3 * seconds)))

    def check_machine(self, machine: str) -> None:
        """Stops where steps were timed on another machine, whose time would not be the same time."""
        other = next(
            (row["machine"] for row in self.rows if row["stage"] == "time" and row["machine"] != machine), None
        )
        if other is not None:
            raise SystemExit(
                f"steps in {self.path} were timed on {other!r}, here is {machine!r}: give --results another folder"
            )


class Crew:
    """Processes that share the GPUs and stay from stage to stage, since to start one takes longer than a short run.

    Args:
        prepared: what they work on.
        per_gpu: how many on each GPU; without any there is one, on the CPU.
        out: where models and pictures go.
    """

    def __init__(self, prepared: Prepared, per_gpu: int, out: Path) -> None:
        self.prepared, self.out, self.common = prepared, out, provenance(prepared)
        self.num_gpus = torch.cuda.device_count()
        self.places = [f"cuda:{i}" for _ in range(per_gpu) for i in range(self.num_gpus)] or ["cpu"]
        # New processes, since CUDA may have started in this one; the graphs are files that all map.
        self.context = torch.multiprocessing.get_context("spawn")
        self.done = self.context.Queue()
        self.workers: dict[int, tuple[Any, Any]] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        for process, waiting in self.workers.values():
            waiting.put(None)
            if kind is not None:  # an error or Ctrl-C: nobody is waited for
                process.terminate()
        for process, _ in self.workers.values():
            process.join()

    def run(self, jobs: list[Job], results: Results) -> None:
        """Every run that is not in the results yet, all of one stage."""
        waiting = deque(job for job in jobs if not results.has(job))
        # Only one a GPU where time is taken: the work of others shows in it, even what comes before they train.
        alone = bool(waiting) and waiting[0].stage == "time"
        chosen = range(max(1, self.num_gpus) if alone else len(self.places))
        busy: dict[int, Job] = {}
        count, total = 0, len(waiting)
        while waiting or busy:
            for i in chosen:
                if waiting and i not in busy:
                    busy[i] = waiting.popleft()
                    self._give(i, busy[i])
            i, found = self._next(busy)
            settings = asdict(busy.pop(i)) | self.common
            rows = [row | settings for row in found]
            results.add(rows)
            count += 1
            for row in rows:
                print(f"[{count}/{total}] {_told(row)}", flush=True)

    def _give(self, i: int, job: Job) -> None:
        if i not in self.workers:
            waiting = self.context.SimpleQueue()
            process = self.context.Process(
                target=_work, args=(self.prepared, i, self.places[i], waiting, self.done, self.out), daemon=True
            )
            process.start()
            self.workers[i] = process, waiting
        self.workers[i][1].put(job)

    def _next(self, busy: dict[int, Job]) -> tuple[int, list[Row]]:
        """Who is done, and the rows of the run."""
        while True:
            try:
                i, rows, leaves = self.done.get(timeout=5)
            except queue.Empty:
                dead = next((i for i in busy if not self.workers[i][0].is_alive()), None)
                if dead is None:
                    continue
                code = self.workers.pop(dead)[0].exitcode
                told = f"its process died (exit status {code}), perhaps for lack of memory: lower `--per_gpu`"
                return dead, [{"split": "none", "failed": told}]
            if leaves:
                self.workers.pop(i)
            return i, rows


def _told(row: Row) -> str:
    error = row.get("rel_l2", row.get("val_rel_l2"))
    name = f"{row['model']}{' + harmonic' if row['harmonic'] else ''}"
    found = f"{row['step_ms']} ms a step" if "step_ms" in row else error if error is None else round(error, 4)
    settings = f"seed {row['seed']}, lr {row['learning_rate']:g}, {row['split']}"
    return f"{row['stage']} {name}, {settings}: {row.get('failed', found)}"


def _work(prepared: Prepared, number: int, place: str, waiting: Any, done: Any, out: Path) -> None:
    device = torch.device(place)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    kept: dict[bool, Any] = {}
    statistics: dict[tuple[bool, bool], Any] = {}
    while (job := waiting.get()) is not None:
        try:
            if job.harmonic not in kept:
                kept.clear()
                # Training graphs are brought there as batches; as graphs too they would take the place of another run.
                kept[job.harmonic] = {
                    name: prepared.view(name, job.harmonic, torch.device("cpu") if name == "train" else device)
                    for name in prepared.shelves
                }
            kind = job.harmonic, contestants.loads_apart(job.model)
            if kind not in statistics:
                statistics[kind] = prepared.statistics(*kind)
            rows = _run(prepared, kept[job.harmonic], statistics[kind], job, device, out)
        except Exception as error:
            traceback.print_exc()
            rows = [{"split": "none", "failed": f"{type(error).__name__}: {error}"[:300]}]
        # What failed in the middle of a capture leaves a device on which nothing works; another process takes over.
        leaves = device.type == "cuda" and "failed" in rows[0]
        done.put((number, rows, leaves))
        if leaves:
            return
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()  # what this process keeps, others on the device lack


def _run(prepared: Prepared, graphs: Any, statistics: Any, job: Job, device: torch.device, out: Path) -> list[Row]:
    torch.manual_seed(job.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats()
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
    rows = []
    for split, called in prepared.study.splits.items():
        guesses = [prepared.study.scalar(guess).cpu() for guess in training.predictions(model, graphs[split])]
        truths = [prepared.study.scalar(graph.y).cpu() for graph in graphs[split]]
        known = prepared.errors(split)
        errors = [each.of(guess, truth) for each, guess, truth in zip(known, guesses, truths, strict=True)]
        rows.append(facts | {"split": called} | means(errors))
        if job.seed == 0:
            _keep(prepared, split, [each.mesh for each in known], guesses, truths, errors, job, out)
    return rows


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
    model = job.model.replace(", ", "_").replace(" ", "_")
    return f"{prepared.study.name}-{model}{'-harmonic' if job.harmonic else ''}"


def provenance(prepared: Prepared) -> Row:
    """Columns that every row has; the seed is that of the run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    common = measure.provenance(COMMAND, device)
    del common["seed"]
    return common | {"dataset": prepared.study.name, "train_meshes": len(prepared.indices["train"])}
