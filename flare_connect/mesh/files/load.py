"""One function for every mesh file: `load_mesh`."""

import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import MeshError, MeshReadError
from flare_connect.mesh.files.abaqus import read_sets
from flare_connect.mesh.files.quiet import quiet
from flare_connect.mesh.files.via_meshio import from_meshio
from flare_connect.mesh.files.vtk import from_pyvista
from flare_connect.mesh.mesh import Mesh

# which library reads a format best; the other one is tried if it fails (measured on real files)
_PYVISTA = (
    *(".vtu", ".vtk", ".vtp", ".vti", ".vtr", ".vts", ".pvtu", ".pvtp", ".vtm", ".vtmb", ".pvd", ".case"),
    *(".stl", ".obj", ".ply", ".e", ".ex2", ".exo", ".exii", ".cgns"),
)
_MESHIO = (
    *(".msh", ".inp", ".bdf", ".nas", ".fem", ".med", ".xdmf", ".xmf", ".mesh", ".meshb", ".off", ".su2"),
    *(".avs", ".ugrid", ".f3grid", ".h5m", ".tec", ".ele", ".node", ".vol"),
)
EXTENSIONS: tuple[str, ...] = _PYVISTA + _MESHIO
"""File extensions that `load_mesh` knows."""


def load_mesh(path: str | Path, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads a mesh file: cells, fields, sets.

    Args:
        path: a file whose extension names its format.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        MeshReadError: the file is missing, of an unknown format, unreadable or without cells; the message says what was
            tried and why each failed.
        MeshError: the file was read, but its mesh is not usable.
    """
    path = Path(path)
    if not path.exists():
        raise MeshReadError(f"{path} does not exist; check the path")
    if path.is_dir():
        raise MeshReadError(f"{path} is a folder; give the mesh file itself")
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise MeshReadError(f"{path}: the extension {extension!r} is not known; known are {', '.join(EXTENSIONS)}")
    readers: list[tuple[str, Callable[[Path], Any], Callable[..., Mesh]]] = [
        ("PyVista", _read_pyvista, from_pyvista),
        ("meshio", _read_meshio, from_meshio),
    ]
    if extension in _MESHIO:
        readers.reverse()
    reasons = []
    for name, read, convert in readers:
        try:
            raw = read(path)
        except Exception as error:
            reasons.append(f"{name}: {_reason(error)}")
            if name == "PyVista" and extension.startswith((".vt", ".pvt")) and reasons == [f"PyVista: {_NO_CELLS}"]:
                break  # the format's own library read it: the other one cannot know better
            continue
        try:
            mesh = convert(raw, allow_nonfinite=allow_nonfinite)
            if getattr(raw, "named_sets", None) is not None:
                mesh.sets = raw.named_sets
            return mesh
        except MeshError as error:
            raise type(error)(f"{path}: {error}") from error
        except Exception as error:
            reasons.append(f"{name}: {_reason(error)}")
    if all(reason.endswith(_NO_CELLS) for reason in reasons):
        raise MeshReadError(f"{path} holds no cells; a point cloud has no mesh to work on")
    raise MeshReadError(f"{path} cannot be read. Tried {'; '.join(reasons)}")


_NO_CELLS = "no cells found"


class _Failed(Exception):
    """A library gave no mesh, and said so in its own way."""


def _read_pyvista(path: Path) -> Any:
    import pyvista

    with quiet() as messages:
        try:
            reader = pyvista.get_reader(path)
        except ValueError as error:
            raise _Failed("has no reader for this format") from error
        try:
            grid = reader.read()
        finally:
            # VTK does not raise: it writes "ERROR: In <file>, line <n> <class> (<address>): <what>" and goes on; where
            # PyVista does raise, it is with the last of these, while the first one is the cause
            errors = re.findall(r"ERROR: In .*?\): *([^\n]+)", messages(), flags=re.DOTALL)
            if errors:
                raise _Failed(errors[0])
    if grid is None or not grid.n_cells:
        raise _Failed(_NO_CELLS)
    return grid


def _read_meshio(path: Path) -> Any:
    import meshio

    with quiet(), redirect_stderr(StringIO()) as text, redirect_stdout(text):
        try:
            m = meshio.read(path)
        except SystemExit as error:  # it prints what is wrong, then ends the program
            said = text.getvalue().strip().removeprefix("Error:")
            raise _Failed(" ".join(said.split()) or "gave up on the file") from error
    if not any(len(block.data) for block in m.cells):
        raise _Failed(_NO_CELLS)
    if path.suffix.lower() == ".inp":
        m.named_sets = read_sets(path, [(block.type, np.asarray(block.data)) for block in m.cells], len(m.points))
        if m.named_sets is not None:  # meshio's own are incomplete, and those of nested sets unusable
            m.point_sets, m.cell_sets = {}, {}
    return m


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, _Failed):
        return text
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
