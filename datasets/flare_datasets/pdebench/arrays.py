"""Arrays out of files that nobody vouches for: what is missing, misshapen or damaged is said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from flare_connect.errors import FlareConnectError, StoreError

_MEND = "the file is truncated or damaged: generate it again or copy it again"


def open_file(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        StoreError: it is missing, no HDF5 file, or truncated.
    """
    if not path.exists():
        raise StoreError(f"{path} does not exist; generate it, or check the path")
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give the HDF5 file itself")
    try:
        if not h5py.is_hdf5(path):
            path.open("rb").close()  # a file that may not be read looks the same
            raise StoreError(f"{path} is not an HDF5 file; give a PDEBench file, .hdf5 or .h5")
        try:
            return h5py.File(path, "r", locking=False)  # file systems of clusters often have no locks
        except OSError as error:
            if "locking" not in str(error):
                raise
            return h5py.File(path, "r")  # this process has the file open already, with a lock
    except PermissionError as error:
        raise StoreError(f"{path} cannot be opened for reading: permission denied") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be opened ({error}); {_MEND}") from error


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Turn what HDF5 raises on a damaged file into a `StoreError` that says what was being read."""
    try:
        yield
    except FlareConnectError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{what} of {path} cannot be read ({error}); {_MEND}") from error


def find_array(file: h5py.File, name: str, path: Path, shape: Sequence[int] | None = None) -> Any:
    """An array of real numbers in a file, not yet read.

    Args:
        file: an open file.
        name: the array's place in it.
        path: for messages.
        shape: what it must be; None takes any.

    Raises:
        StoreError: it is not there, no array of numbers, or of another shape.
    """
    with reading(repr(name), path):
        item = file.get(name)
        is_array = isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu"
    if item is None:
        raise StoreError(f"{path} has no {name!r}, which files of its kind have: it is incomplete; generate it again")
    if not is_array:
        raise StoreError(f"{name!r} of {path} is no array of real numbers; PDEBench files hold float32 there")
    if shape is not None and item.shape != tuple(shape):
        raise StoreError(
            f"{name!r} of {path} has shape {list(item.shape)}, but the rest of the file asks for {list(shape)}; "
            "generate it again"
        )
    return item


def read_vector(file: h5py.File, name: str, path: Path, length: int, *, extra: bool = False) -> np.ndarray:
    """Coordinates along an axis, or times `[length]`, float32.

    Args:
        file: an open file.
        name: the array's place in it.
        path: for messages.
        length: how many there must be.
        extra: allow an entry more at the end, and cut it.

    Raises:
        StoreError: they are not there, are more or fewer, or not finite.
    """
    item = find_array(file, name, path)
    if item.shape != (length,) and not (extra and item.shape == (length + 1,)):
        more = f" or [{length + 1}]" if extra else ""
        raise StoreError(f"{name!r} of {path} must have shape [{length}]{more}, got {list(item.shape)}")
    with reading(repr(name), path):
        values = np.asarray(item[:length], dtype=np.float32)
    if not np.isfinite(values).all():
        raise StoreError(f"{name!r} of {path} holds NaN or infinite values; generate the file again")
    return values
