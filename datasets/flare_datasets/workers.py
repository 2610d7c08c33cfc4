"""Samples drawn in parallel processes, which load neither torch nor h5py."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from flare_connect.errors import ConfigError, MeshError
from flare_datasets.config import SplitConfig

MAX_ATTEMPTS = 5

Drawn = tuple[dict[str, Any], list[str]]
"""A sample as numpy arrays, by argument of `Mesh.from_arrays`; and why earlier draws of it were given up."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def draw_with_retries(attempt: Callable[[Any, int, int], dict[str, Any]], config: SplitConfig, index: int) -> Drawn:
    """Draw sample `index` with `attempt(config, index, number)`, anew where meshing or solving it fails.

    Raises:
        ConfigError: there is no such index.
        MeshError: five draws in a row failed; the message gives each cause.
        ImportError: what the generator needs is not installed.
    """
    config.split_of(index)
    given_up: list[str] = []
    for number in range(MAX_ATTEMPTS):
        try:
            return attempt(config, index, number), given_up
        except (ImportError, ConfigError):
            raise  # another draw would not help
        except Exception as error:  # gmsh raises plain Exception
            given_up.append(f"{type(error).__name__}: {error}")
    causes = "; ".join(given_up)
    raise MeshError(f"sample {index} could not be made in {MAX_ATTEMPTS} draws (seed {config.seed}): {causes}")


def draw_samples(
    draw: Callable[[Any, int], Drawn], config: SplitConfig, indices: Sequence[int], num_workers: int
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """Draw samples in any order: index, arrays and failed attempts of each, as it is finished.

    Args:
        draw: from configuration and index; a function of a module, which workers import.
        config: given to `draw`.
        indices: samples to draw.
        num_workers: processes; 0 draws in this one.
    """
    if num_workers == 0:
        for index in indices:
            yield index, *draw(config, index)
        return
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            num_workers,
            mp_context=multiprocessing.get_context("spawn"),  # gmsh and BLAS do not survive a fork
            initializer=_start_worker,
            initargs=(draw, config),
        )
        try:
            for future in as_completed([pool.submit(_work, index) for index in indices]):
                yield future.result()
        finally:
            # After an error or Ctrl-C: no other sample is begun.
            pool.shutdown(wait=True, cancel_futures=True)


_task: tuple[Callable[[Any, int], Drawn], SplitConfig]


def _start_worker(draw: Callable[[Any, int], Drawn], config: SplitConfig) -> None:
    global _task
    _task = draw, config
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent winds up
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A worker would wait for ever for more work from a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(index: int) -> tuple[int, dict[str, Any], list[str]]:
    draw, config = _task
    return index, *draw(config, index)


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
