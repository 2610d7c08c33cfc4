"""Runs shared out over GPUs."""

import gc
import queue
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from rows import Results, Row

Work = Callable[[Any], list[Row]]


class Crew:
    """Processes that share the GPUs and stay from stage to stage, since to start one takes longer than a short run.

    Args:
        work: from a device to what makes the rows of a job there; called once in each process, so it is pickled.
        per_gpu: processes on each GPU; without any there is one, on the CPU.
        common: columns of every row.
        told: a line about a row.
        alone: stages of which only one job is on a GPU at a time: the work of others shows in times, even what comes
            before they train.

    A job that finds no memory beside others is given again to one of those, and there is a process less on that GPU.
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
        self.left_out: set[int] = set()

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
        busy: dict[int, Any] = {}
        count, total = 0, len(waiting)
        while waiting or busy:
            for i in range(max(1, self.num_gpus)) if alone else self._rest():
                if waiting and i not in busy:
                    busy[i] = waiting.popleft()
                    self._give(i, busy[i])
            i, found = self._next(busy)
            job = busy.pop(i)
            if not alone and _lacks_memory(found) and self._beside(i):
                self.left_out.add(i)
                waiting.appendleft(job)
                print(f"no memory on {self.places[i]}: a process less there, and what failed is made again", flush=True)
                continue
            settings = asdict(job) | self.common
            rows = [row | settings for row in found]
            results.add(rows)
            count += 1
            for row in rows:
                print(f"[{count}/{total}] {self.told(row)}", flush=True)

    def _rest(self) -> list[int]:
        """Who has not been left out."""
        return [i for i in range(len(self.places)) if i not in self.left_out]

    def _beside(self, i: int) -> bool:
        """Whether others are on the device of one."""
        return any(self.places[j] == self.places[i] for j in self._rest() if j != i)

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


def _lacks_memory(found: list[Row]) -> bool:
    """Whether that may be why a job failed; cuBLAS does not say so in so many words."""
    told = str(found[0].get("failed", "")) if found else ""
    return "memory" in told or "CUBLAS_STATUS_" in told


def take_times(crew: Crew, jobs: list[Any], results: Results) -> None:
    """Runs of stage "time", first with steps as CUDA graphs; where a step cannot be captured, without.

    Only on a GPU is there a difference.

    Args:
        crew: who runs.
        jobs: with `captured`.
        results: where rows go.
    """
    crew.run(jobs, results)
    crew.run([replace(job, captured=False) for job in jobs if not results.has(job)], results)


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
