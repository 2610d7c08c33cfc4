"""Reading a file with VTK in a process of its own.

VTK's parsers trust what a file says about itself: a damaged one makes some of them write past their arrays or ask for
all memory, which ends the program. Files that cannot be vouched for beforehand (see `verified`) are read here. The
child writes what it read as a plain VTK file and ends; if it crashes, only the child does.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flare_connect.mesh.files.failed import FailedError

TIME_LIMIT = 20.0  # seconds, and as many more as there are tens of megabytes
MEMORY_LIMIT = 2**30  # bytes beyond what the child starts with, and 30 times the size of the file


def read_isolated(path: Path, step: int) -> tuple[Any, list[float], str]:
    """Reads with PyVista in a child process, within limits of memory and time.

    Returns:
        The data set (None where it is empty), the times in the file, and VTK's messages.

    Raises:
        FailedError: the child crashed, or did not end in time.
    """
    import pyvista

    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    with tempfile.TemporaryDirectory(prefix="flare_connect_") as folder:
        target = Path(folder, "read")
        child, limit = Path(__file__).with_name("child.py"), MEMORY_LIMIT + 30 * size
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(child), str(path.absolute()), str(target), str(step), str(limit)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIME_LIMIT + size / 1e7,
                cwd=folder,
            )
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"took more than {error.timeout:.0f} s, as no sound file of its size does") from None
        said = target.with_suffix(".said").read_text() if target.with_suffix(".said").exists() else ""
        if done.returncode < 0:
            raise FailedError(f"VTK's reader crashed on it (signal {-done.returncode}); the file is damaged")
        if done.returncode and not said:
            raise FailedError(done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else "no mesh found")
        times = target.with_suffix(".times")
        found = [float(word) for word in times.read_text().split()] if times.exists() else []
        written = [file for file in Path(folder).iterdir() if file.suffix.startswith(".vt") and file.is_file()]
        return (pyvista.read(written[0]) if written else None), found, said
