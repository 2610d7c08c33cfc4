"""What `isolated.py` runs as a script: reads a file with PyVista within a memory limit, and writes what it found.

    python -P child.py SOURCE TARGET STEP BYTES

Imports nothing of ours, which would take longer than most files do. Leaves TARGET with a suffix of VTK's, TARGET.times
and TARGET.said, each where there is something to say.
"""

import sys
from pathlib import Path
from typing import Any

import pyvista
from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow

_SUFFIXES = {"MultiBlock": ".vtm", "PolyData": ".vtp", "ImageData": ".vti", "RectilinearGrid": ".vtr"}
_SUFFIXES |= {"StructuredGrid": ".vts"}


def main(source: str, target: str, step: int, memory: int) -> None:
    """Reads and writes; ends the process with a message where there is no such step."""
    window = vtkStringOutputWindow()
    vtkOutputWindow.SetInstance(window)
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    _limit(memory)
    times: list[float] = []
    try:
        data = _read(source, step, times)
    finally:
        if window.GetOutput():
            Path(target + ".said").write_text(window.GetOutput())
    if times:
        Path(target + ".times").write_text(" ".join(map(repr, times)))
    if data is not None and (data.n_blocks if isinstance(data, pyvista.MultiBlock) else data.n_cells):
        data.save(target + _SUFFIXES.get(type(data).__name__, ".vtu"))


def _read(source: str, step: int, times: list[float]) -> Any:
    reader = pyvista.get_reader(source)
    if hasattr(reader, "time_values"):
        times += [float(time) for time in reader.time_values]
        if times and not -len(times) <= step < len(times):
            sys.exit(f"there is no step {step}; the file has {len(times)}")
        if times:
            reader.set_active_time_value(times[step])
    if hasattr(reader.reader, "SetUse64BitFloats"):
        reader.reader.SetUse64BitFloats(True)
    return reader.read()


def _limit(memory: int) -> None:
    """Asks the system for no more than so many bytes beyond what is taken now; Linux alone tells what that is."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
