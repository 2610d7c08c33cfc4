"""Writing a mesh to a file."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.files.quiet import quiet
from flare_connect.mesh.files.to_vtk import polydata, to_pyvista
from flare_connect.mesh.files.via_meshio import to_meshio
from flare_connect.mesh.mesh import Mesh

# extension → meshio's name of the format, for those it can write
_MESHIO_FORMATS = {
    ".msh": "gmsh",  # meshio alone would pick ANSYS, which holds no fields
    ".xdmf": "xdmf",
    ".xmf": "xdmf",
    ".med": "med",
    ".inp": "abaqus",
    ".bdf": "nastran",
    ".nas": "nastran",
    ".fem": "nastran",
    ".mesh": "medit",
    ".off": "off",
    ".obj": "obj",
    ".ply": "ply",
    ".stl": "stl",
    ".su2": "su2",
    ".ugrid": "ugrid",
}
_KEEPS_FIELDS = ("gmsh", "xdmf", "med")
_VTK_FORMATS = (".vtu", ".vtk", ".vtp")


def save(mesh: Mesh, path: str | Path) -> None:
    """Writes a mesh to a file; vtu, vtk and vtp by PyVista, the others by meshio.

    The file is written beside its place and moved there in one step. What the format cannot hold is named in a warning.

    Raises:
        MeshError: the extension is not known, or the format cannot hold these cells.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in _VTK_FORMATS and extension not in _MESHIO_FORMATS:
        known = ", ".join((*_VTK_FORMATS, *_MESHIO_FORMATS))
        raise MeshError(f"cannot write {path.name!r}: the extension {extension!r} is not one of {known}")
    if extension == ".vtp":
        data = polydata(mesh)
        write: Callable[[Path], None] = data.save
    elif extension in _VTK_FORMATS:
        write = to_pyvista(mesh).save
    else:
        write = _meshio_writer(mesh, _MESHIO_FORMATS[extension], path.name)
    # a folder, since some formats come in two files, one of which names the other
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        try:
            with quiet():
                write(Path(folder, path.name))
        except (Exception, SystemExit) as error:
            raise MeshError(f"cannot write {path.name!r}: {error or type(error).__name__}") from error
        written = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)
        if not written or written[-1].name != path.name:
            raise MeshError(f"cannot write {path.name!r}: the writer left no file")
        for file in written:
            os.replace(file, path.parent / file.name)


def _meshio_writer(mesh: Mesh, file_format: str, name: str) -> Callable[[Path], None]:
    if file_format == "gmsh" and len(mesh.cells) > 1:
        # its 4.1 and 2.2 writers leave files that it cannot read back (meshio 5.3.5)
        kinds = ", ".join(mesh.cells)
        raise MeshError(
            f"cannot write {name!r}: meshio writes one kind of cell to .msh, not {kinds}; write a .vtu file"
        )
    m = to_meshio(mesh)
    lost = ["units"] * bool(mesh.units) + ["periodic_pairs"] * (mesh.periodic_pairs is not None)
    lost += [f"global {n!r}" for n in mesh.global_data]
    m.field_data = {}  # gmsh would take them for the names of physical groups
    if file_format not in _KEEPS_FIELDS:
        lost += [f"field {n!r}" for n in (*m.point_data, *m.cell_data)]
        m.point_data, m.cell_data = {}, {}
    if file_format == "gmsh":
        m.point_data = _gmsh_widths(m.point_data, lambda values, part: part(values))
        m.cell_data = _gmsh_widths(m.cell_data, lambda blocks, part: [part(values) for values in blocks])
    if lost:
        warnings.warn(f"{name!r} cannot hold {', '.join(lost)}; a .vtu file can", stacklevel=4)
    return lambda path: m.write(path, file_format=file_format)


def _gmsh_widths(
    data: dict[str, Any], over: Callable[[Any, Callable[[np.ndarray], np.ndarray]], Any]
) -> dict[str, Any]:
    """Gmsh holds fields of 1, 3 or 9 components: pairs are padded with 0, others written one component a field."""
    out: dict[str, Any] = {}
    for name, values in data.items():
        first = values[0] if isinstance(values, list) else values
        width = first.shape[1] if first.ndim == 2 else 1
        if width in (1, 3, 9):
            out[name] = values
        elif width == 2:
            out[name] = over(values, lambda array: np.pad(array, ((0, 0), (0, 1))))
        else:
            out |= {f"{name}_{i}": over(values, _column(i)) for i in range(width)}
    return out


def _column(i: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array[:, i]
