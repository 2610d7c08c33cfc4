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

_CHILD = """
import resource, sys
import pyvista
source, target, step, memory = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow
window = vtkStringOutputWindow()
vtkOutputWindow.SetInstance(window)
vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
pages = int(open("/proc/self/statm").read().split()[0]) if sys.platform == "linux" else 0
if pages:
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
try:
    reader = pyvista.get_reader(source)
    times = []
    if hasattr(reader, "time_values"):
        times = [float(t) for t in reader.time_values]
        if times:
            if not -len(times) <= step < len(times):
                sys.exit(f"step {step} of {len(times)}")
            reader.set_active_time_value(times[step])
    if hasattr(reader.reader, "SetUse64BitFloats"):
        reader.reader.SetUse64BitFloats(True)
    data = reader.read()
finally:
    said = window.GetOutput() or ""
    if said:
        open(target + ".said", "w").write(said)
if times:
    open(target + ".times", "w").write(" ".join(map(repr, times)))
empty = data is None or not data.n_cells if not isinstance(data, pyvista.MultiBlock) else not data.n_blocks
if not empty:
    suffix = ".vtm" if isinstance(data, pyvista.MultiBlock) else pyvista_suffix(data)
    data.save(target + suffix)
"""
_SUFFIX = """
def pyvista_suffix(data):
    return {"UnstructuredGrid": ".vtu", "PolyData": ".vtp", "ImageData": ".vti", "RectilinearGrid": ".vtr"}.get(
        type(data).__name__, ".vts")
"""


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
        command = [sys.executable, "-c", _SUFFIX + _CHILD, str(path.absolute()), str(target), str(step)]
        try:
            done = subprocess.run(
                [*command, str(MEMORY_LIMIT + 30 * size)],
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
