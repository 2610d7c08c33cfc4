"""Runs shared out over GPUs, and the file that their rows go into."""

import gc
import json
import math
import queue
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from flare_connect.files import write_atomically

Row = dict[str, Any]
Work = Callable[[Any], list[Row]]


class Results:
    """The rows of one data set, written after each run. A job is a dataclass with `stage`, `model` and `steps`.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found: list[Row] = json.loads(path.read_text()) if path.is_file() else []
        self.rows = [row for row in found if "failed" not in row]  # what failed is tried again

    def has(self, job: Any) -> bool:
        """Whether the run was made before, with these settings."""
        settings = asdict(job)
        del settings["steps"]  # follow from the rest
        return any(all(row[k] == value for k, value in settings.items()) for row in self._done(job.stage))

    def add(self, rows: list[Row]) -> None:
        """Keep rows, on disk too."""
        self.rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row, sort_keys=True) for row in self.rows)  # a row is a line
        write_atomically(self.path, f"[\n{lines}\n]\n".encode())

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
            if row[error] is not None and all(row[key] == value for key, value in wanted.items()):
                tried[row[setting]] = min(row[error], tried.get(row[setting], math.inf))
        return min((each for each in values if each in tried), key=tried.__getitem__, default=values[len(values) // 2])

    def steps(self, seconds: float, **wanted: Any) -> int:
        """How many fit into a time, by the row of stage "time" that has what is wanted."""
        timed = (
            row["step_ms"] for row in self._done("time") if all(row[key] == value for key, value in wanted.items())
        )
        # One that failed is tried all the same, and fails with its own error.
        return max(1, round(1e3 * seconds / next(timed, 1e3 * seconds)))

    def check_machine(self, machine: str) -> None:
        """Stops where steps were timed on another machine, whose time would not be the same time."""
        other = next((row["machine"] for row in self._done("time") if row["machine"] != machine), None)
        if other is not None:
            raise SystemExit(
                f"steps in {self.path} were timed on {other!r}, here is {machine!r}: give --results another folder"
            )

    def _done(self, stage: str) -> list[Row]:
        return [row for row in self.rows if row["stage"] == stage and "failed" not in row]


class Crew:
    """Processes that share the GPUs and stay from stage to stage, since to start one takes longer than a short run.

    Args:
        work: from a device to what makes the rows of a job there; called once in each process, so it is pickled.
        per_gpu: processes on each GPU; without any there is one, on the CPU.
        common: columns of every row.
        told: a line about a row.
        alone: stages of which only one job is on a GPU at a time: the work of others shows in times, even what comes
            before they train.
    """

    def __init__(
        self, work: Callable[[torch.device], Work], per_gpu: int, common: Row, told: Callable[[Row], str],
        alone: tuple[str, ...] = ("time",),
    ) -> None:  # fmt: skip
        self.work, self.common, self.told, self.alone = work, common, told, alone
        self.num_gpus = torch.cuda.device_count()
        self.places = [f"cuda:{i}" for _ in range(per_gpu) for i in range(self.num_gpus)] or ["cpu"]
        # New processes, since CUDA may have started in this one.
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

    def run(self, jobs: list[Any], results: Results) -> None:
        """Every run that is not in the results yet, all of one stage."""
        waiting = deque(job for job in jobs if not results.has(job))
        alone = bool(waiting) and waiting[0].stage in self.alone
        chosen = range(max(1, self.num_gpus) if alone else len(self.places))
        busy: dict[int, Any] = {}
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
                print(f"[{count}/{total}] {self.told(row)}", flush=True)

    def _give(self, i: int, job: Any) -> None:
        if i not in self.workers:
            waiting = self.context.SimpleQueue()
            process = self.context.Process(
                target=_serve, args=(self.work, i, self.places[i], waiting, self.done), daemon=True
            )
            process.start()
            self.workers[i] = process, waiting
        self.workers[i][1].put(job)

    def _next(self, busy: dict[int, Any]) -> tuple[int, list[Row]]:
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


def _serve(start: Callable[[torch.device], Work], number: int, place: str, waiting: Any, done: Any) -> None:
    device = torch.device(place)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    work = None
    while (job := waiting.get()) is not None:
        try:
            work = work or start(device)
            torch.manual_seed(job.seed)
            if device.type == "cuda":
                torch.cuda.set_device(device)
                torch.cuda.reset_peak_memory_stats()
            rows = work(job)
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
