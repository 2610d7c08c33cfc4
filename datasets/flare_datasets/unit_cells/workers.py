"""Samples drawn in parallel processes, which load neither torch nor h5py."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from flare_datasets.unit_cells.config import UnitCellConfig
from flare_datasets.unit_cells.sample import draw_sample

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def draw_samples(
    config: UnitCellConfig, indices: Sequence[int], num_workers: int
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """Draw samples in any order: index, arrays and failed attempts of each, as it is finished (see `draw_sample`)."""
    if num_workers == 0:
        for index in indices:
            yield index, *draw_sample(config, index)
        return
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            num_workers,
            mp_context=multiprocessing.get_context("spawn"),  # gmsh and BLAS do not survive a fork
            initializer=_start_worker,
            initargs=(config,),
        )
        try:
            for future in as_completed([pool.submit(_work, index) for index in indices]):
                yield future.result()
        finally:
            # After an error or Ctrl-C: no other sample is begun.
            pool.shutdown(wait=True, cancel_futures=True)


_config: UnitCellConfig


def _start_worker(config: UnitCellConfig) -> None:
    global _config
    _config = config
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent winds up
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A worker would wait for ever for more work from a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(index: int) -> tuple[int, dict[str, Any], list[str]]:
    return index, *draw_sample(_config, index)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """BLAS reads these variables when it is loaded, so they must be there before a worker starts."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
