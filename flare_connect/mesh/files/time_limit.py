"""An end to work that a damaged file makes endless."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TooLongError(Exception):
    """The time is up."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `TooLongError` in this thread once the time is up; C code that does not return cannot be ended.

    A library that reads as many lines as a file claims to have goes on for ever when the claim is damaged.
    """
    thread, done, lock = threading.get_ident(), threading.Event(), threading.Lock()

    def watch() -> None:
        if done.wait(seconds):
            return
        with lock:
            if not done.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLongError))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            done.set()
        watcher.join()
