"""Writing a mesh to a file."""

import importlib
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flare_connect.errors import MeshError
from flare_connect.mesh.files.med import med_order
from flare_connect.mesh.files.quiet import quiet
from flare_connect.mesh.files.via_meshio import to_meshio
from flare_connect.mesh.files.vtk.to_vtk import polydata, to_pyvista
from flare_connect.mesh.mesh import Mesh

# extension → meshio's name of the format, for those it can write
_MESHIO_FORMATS = {
    ".xdmf": "xdmf",
    ".xmf": "xdmf",
    ".med": "med",
    ".mesh": "medit",
    ".off": "off",
    ".obj": "obj",
    ".ply": "ply",
    ".stl": "stl",
    ".su2": "su2",
}
_KEEPS_FIELDS = ("xdmf", "med")
# those that are written here: module and function, which returns what the format cannot hold
_OWN = {
    ".msh": ("gmsh.write", "write_gmsh"),
    ".inp": ("abaqus.write", "write_abaqus"),
    ".bdf": ("nastran.write", "write_nastran"),
    ".nas": ("nastran.write", "write_nastran"),
    ".fem": ("nastran.write", "write_nastran"),
    ".vtkhdf": ("vtk.hdf", "write_vtkhdf"),
}
_VTK_FORMATS = (".vtu", ".vtk", ".vtp")
# formats from which meshio would silently leave out what they cannot hold
_SIMPLE = ("vertex", "line", "triangle", "quad", "tetra", "hexahedron", "wedge", "pyramid")
_HOLDS = {
    "stl": ("triangle",),
    "off": ("triangle",),
    "obj": ("triangle", "quad"),
    "ply": ("triangle", "quad"),
    "su2": _SIMPLE[1:],
    "medit": tuple(kind for kind in _SIMPLE if kind != "pyramid"),
}


def save(mesh: Mesh, path: str | Path) -> None:
    """Writes a mesh to a file; vtu, vtk and vtp by PyVista, msh, inp, bdf, vtkhdf by own writers, others by meshio.

    The file is written beside its place and moved there in one step. What the format cannot hold is named in a warning.

    Raises:
        MeshError: the extension is not known, the format cannot hold these cells, or the disk is full.
    """
    path = Path(path)
    check_extension(path)
    write = _writer(mesh, path.suffix.lower())
    lost: list[str] = []
    # a folder, since some formats come in two files, one of which names the other
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        try:
            with quiet():
                lost += write(Path(folder, path.name)) or []
        except MeshError as error:
            raise MeshError(f"cannot write {path.name!r}: {error}") from error
        except (Exception, SystemExit) as error:
            raise MeshError(f"cannot write {path.name!r}: {error or type(error).__name__}") from error
        written = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)
        if not written or written[-1].name != path.name:
            raise MeshError(f"cannot write {path.name!r}: the writer left no file")
        if not _is_whole(written[-1]):
            raise MeshError(f"cannot write {path.name!r}: the writer broke off, perhaps since the disk is full")
        for file in written:
            os.replace(file, path.parent / file.name)
    if lost:
        warnings.warn(f"{path.name!r} cannot hold {', '.join(lost)}; a .vtu file can", stacklevel=3)


def check_extension(path: str | Path) -> None:
    """Refuses a file to write by its name alone, before there is anything to write.

    Raises:
        MeshError: the extension is not known.
    """
    extension, known = Path(path).suffix.lower(), (*_VTK_FORMATS, *_OWN, *_MESHIO_FORMATS)
    if extension not in known:
        raise MeshError(
            f"cannot write {Path(path).name!r}: the extension {extension!r} is not one of {', '.join(known)}"
        )


def _is_whole(file: Path) -> bool:
    """Whether a file ends as it should: VTK says nothing where it could not write on."""
    size = file.stat().st_size
    if file.suffix.lower() not in (".vtu", ".vtp"):
        return size > 0
    with file.open("rb") as data:
        data.seek(max(size - 64, 0))
        return b"</VTKFile>" in data.read()


def _writer(mesh: Mesh, extension: str) -> Callable[[Path], list[str] | None]:
    """A function that writes to a path and returns what the format could not hold."""
    if extension == ".vtp":
        return polydata(mesh).save
    if extension in _VTK_FORMATS:
        return to_pyvista(mesh).save
    if extension in _OWN:
        module, function = _OWN[extension]
        return partial(getattr(importlib.import_module(f"flare_connect.mesh.files.{module}"), function), mesh)
    return _meshio_writer(mesh, _MESHIO_FORMATS[extension])


def _meshio_writer(mesh: Mesh, file_format: str) -> Callable[[Path], list[str]]:
    holds = _HOLDS.get(file_format, tuple(mesh.cells))
    other = [kind for kind in mesh.cells if kind not in holds]
    if other:
        raise MeshError(f"a {file_format} file holds {', '.join(holds)}, not {', '.join(other)}; write a .vtu file")
    m = to_meshio(mesh)
    lost = ["units"] * bool(mesh.units) + ["periodic_pairs"] * (mesh.periodic_pairs is not None)
    lost += [f"global {n!r}" for n in mesh.global_data]
    m.field_data = {}  # some writers would take them for the names of groups
    if file_format == "med":  # meshio writes the nodes as they come
        for block in m.cells:
            block.data = block.data[:, med_order(block.type) or slice(None)]
    if file_format not in _KEEPS_FIELDS:
        lost += [f"field {n!r}" for n in (*m.point_data, *m.cell_data)]
        m.point_data, m.cell_data = {}, {}

    def write(path: Path) -> list[str]:
        m.write(path, file_format=file_format)
        return lost

    return write
