"""Writing files so that they are either the old ones or the new ones, whatever happens in between."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file in the same folder to write to; in the end it is flushed to the disk, then renamed.

    Raises:
        OSError: if the folder is missing or not writable; the old file is untouched then, as after any error within.
    """
    path = Path(path)
    # Threads of one process may write the same file too, as a cache of equal meshes does.
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a whole file; see `replacing`.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_leftovers(folder: str | Path) -> None:
    """Delete what processes that were killed while writing left in a folder; living processes keep theirs."""
    for leftover in Path(folder).glob(".*.tmp"):
        if not _is_being_written(leftover):
            leftover.unlink(missing_ok=True)


def _is_being_written(leftover: Path) -> bool:
    match = re.fullmatch(r".*\.(\d+)\.tmp", leftover.name)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return int(match[1]) != os.getpid()
