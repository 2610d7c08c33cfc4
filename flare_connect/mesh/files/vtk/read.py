"""Files that VTK reads: in this process where the file is known to be sound, else in one of its own."""

import re
from pathlib import Path
from typing import Any

from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.quiet import quiet
from flare_connect.mesh.files.vtk.from_vtk import from_pyvista
from flare_connect.mesh.files.vtk.isolated import read_isolated
from flare_connect.mesh.files.vtk.verified import is_sound
from flare_connect.mesh.mesh import Mesh


def read_vtk(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads a file with PyVista.

    Raises:
        FailedError: VTK cannot read it, or finds no cells.
        MeshError: its arrays do not make a mesh.
    """
    data, times = vtk_data(path, step)
    if data is None:
        raise FailedError(NO_CELLS)
    mesh = from_pyvista(data, allow_nonfinite=allow_nonfinite)
    mesh.time_steps = times
    return mesh


def vtk_data(path: Path, step: int) -> tuple[Any, list[float]]:
    """The PyVista data set of a file, None where it is empty, and the times that the file holds.

    Raises:
        FailedError: VTK cannot read it.
    """
    import pyvista

    if path.suffix.lower() not in pyvista.core.utilities.reader.CLASS_READERS:
        raise FailedError("has no reader for this format")
    if not is_sound(path):
        data, times, said = read_isolated(path, step)
        _raise_first_error(said)
        return data, times
    with quiet() as messages:
        try:
            data = pyvista.get_reader(path).read()
        finally:
            # where PyVista raises, it is with the last of VTK's messages, while the first one is the cause
            _raise_first_error(messages())
    return (data if data is not None and data.n_cells else None), []


def _raise_first_error(messages: str) -> None:
    """VTK does not raise: it writes "ERROR: In <file>, line <n> <class> (<address>): <what>" and goes on."""
    errors = re.findall(r"ERROR: In .*?\): *([^\n]+)", messages, flags=re.DOTALL)
    if errors:
        raise FailedError(errors[0])
