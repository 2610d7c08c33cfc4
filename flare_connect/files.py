"""Writing files so that they are either the old ones or the new ones, whatever happens in between."""

import os
from pathlib import Path


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write through a temporary file in the same folder, flushed to the disk, then renamed.

    Raises:
        OSError: if the folder is missing or not writable; the old file is untouched then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
