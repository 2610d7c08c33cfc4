"""One function for every mesh file: `load_mesh`."""

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from flare_connect.errors import MeshError, MeshReadError
from flare_connect.mesh.files.failed import NO_CELLS, CutShortError, FailedError
from flare_connect.mesh.mesh import Mesh

Reader = Callable[..., Mesh]

# reader: what it is called in messages, module, function
READERS: dict[str, tuple[str, str, str]] = {
    "vtk": ("PyVista", "vtk.read", "read_vtk"),
    "xml": ("VTK XML reader", "vtk.xml_files", "read_xml"),
    "meshio": ("meshio", "via_meshio", "read_meshio"),
    "blocks": ("block reader", "vtk.collection", "read_blocks"),
    "pvd": ("series reader", "vtk.collection", "read_series"),
    "vtkhdf": ("VTKHDF reader", "vtk.hdf", "read_vtkhdf"),
    "xdmf": ("XDMF reader", "xdmf", "read_xdmf"),
    "ply": ("PLY reader", "ply", "read_ply"),
    "exodus": ("Exodus reader", "exodus", "read_exodus"),
    "gmsh": ("Gmsh reader", "gmsh.read", "read_gmsh"),
    "abaqus": ("Abaqus reader", "abaqus.read", "read_abaqus"),
    "nastran": ("Nastran reader", "nastran.read", "read_nastran"),
    "cdb": ("MAPDL reader", "cdb", "read_cdb"),
    "openfoam": ("OpenFOAM reader", "openfoam.read", "read_openfoam"),
}

# extensions, and the readers that are tried in turn: what reads a format best comes first (measured on real files)
FORMATS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((".vtu",), ("xml", "vtk", "meshio")),
    ((".vtp",), ("xml", "vtk")),
    ((".vtk",), ("vtk", "meshio")),
    ((".vti", ".vtr", ".vts", ".pvtu", ".pvtp", ".pvti", ".pvtr", ".pvts", ".case", ".encas"), ("vtk",)),
    ((".vtm", ".vtmb"), ("blocks", "vtk")),
    ((".pvd",), ("pvd", "vtk")),
    ((".vtkhdf",), ("vtkhdf", "vtk")),
    ((".xdmf", ".xmf"), ("xdmf", "meshio", "vtk")),
    ((".stl", ".obj"), ("vtk", "meshio")),
    ((".ply",), ("ply", "meshio")),
    ((".e", ".ex2", ".exo", ".exii", ".exodus", ".g", ".gen"), ("exodus", "vtk")),
    ((".cgns",), ("vtk", "meshio")),
    ((".msh",), ("gmsh", "meshio")),
    ((".inp",), ("abaqus", "avs")),  # VTK reads AVS-UCD too, and gives what is in memory for values that are missing
    ((".bdf", ".nas", ".fem"), ("nastran", "meshio")),
    ((".cdb",), ("cdb",)),
    ((".foam", ".openfoam"), ("openfoam",)),
    (
        (
            ".med",
            ".mesh",
            ".meshb",
            ".off",
            ".su2",
            ".avs",
            ".ugrid",
            ".f3grid",
            ".h5m",
            ".tec",
            ".ele",
            ".node",
            ".vol",
        ),
        ("meshio",),
    ),
)
_OF_EXTENSION = {extension: readers for extensions, readers in FORMATS for extension in extensions}
EXTENSIONS: tuple[str, ...] = tuple(_OF_EXTENSION)
"""File extensions that `load_mesh` knows."""


def load_mesh(
    path: str | Path, *, step: int = -1, merge_duplicates: bool = False, allow_nonfinite: bool = False
) -> Mesh:
    """Reads a mesh file, or an OpenFOAM case folder: cells, fields, sets.

    Args:
        path: a file whose extension names its format.
        step: which time of a series, counted from 0, or from the end if negative; `mesh.time_steps` lists them.
        merge_duplicates: make one node of all that are in one place (see `merge_duplicate_nodes`); closes slits.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        MeshReadError: the file is missing, of an unknown format, unreadable, without cells, or its mesh is not usable;
            the message says what was tried and why each failed.
    """
    path = Path(path)
    if not path.exists():
        raise MeshReadError(f"{path} does not exist; check the path")
    mesh = _read(path, _readers(path), step, allow_nonfinite)
    if not mesh.time_steps and step not in (0, -1):
        raise MeshReadError(f"{path} is no time series: there is no step {step}; leave `step` out")
    if set(mesh.cells) == {"vertex"}:
        raise MeshReadError(f"{path} holds cells of kind 'vertex' only; a point cloud has no mesh to work on")
    _warn_of_empty_sets(mesh, path)
    if merge_duplicates:
        from flare_connect.mesh.defects import merge_duplicate_nodes  # it knows what a mesh is

        times, (mesh, _) = mesh.time_steps, merge_duplicate_nodes(mesh)
        mesh.time_steps = times
    return mesh


def _warn_of_empty_sets(mesh: Mesh, path: Path) -> None:
    names = [name for name, named in mesh.sets.items() if not len(named.ids)]
    if names:
        warnings.warn(
            f"{path}: nothing is in the sets {', '.join(map(repr, names))}; Gmsh leaves them empty in format 2.2 with"
            " Mesh.SaveAll, other programs where the cells of a set were not written",
            stacklevel=3,
        )


def _readers(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        if (path / "constant" / "polyMesh").is_dir():
            return ("openfoam",)
        raise MeshReadError(f"{path} is a folder, and no OpenFOAM case (constant/polyMesh); give the mesh file itself")
    extension = path.suffix.lower()
    if extension not in _OF_EXTENSION:
        raise MeshReadError(f"{path}: the extension {extension!r} is not known; known are {', '.join(EXTENSIONS)}")
    return _OF_EXTENSION[extension]


def _read(path: Path, names: tuple[str, ...], step: int, allow_nonfinite: bool) -> Mesh:
    reasons: list[str] = []
    for name in names:
        title, reader = _reader(name)
        try:
            with np.errstate(invalid="ignore", over="ignore"):  # what is wrong with the numbers, the mesh says
                return reader(path, step, allow_nonfinite=allow_nonfinite)
        except MeshError as error:  # it was read, and no other reader would find another mesh in it
            raise MeshReadError(f"{path}: {error}") from error
        except CutShortError as error:
            raise MeshReadError(f"{path} is cut short: it {error}; copy or write it again") from error
        except Exception as error:
            reasons.append(f"{title}: {_reason(error)}")
            if len(reasons) == 1 and reasons[0].endswith(NO_CELLS):
                break  # the format's best reader understood it: the others cannot know better
    if all(reason.endswith(NO_CELLS) for reason in reasons):
        raise MeshReadError(f"{path} holds no cells; it is cut short, or a point cloud, which has no mesh to work on")
    raise MeshReadError(f"{path} cannot be read. Tried {'; '.join(reasons)}")


def _reader(name: str) -> tuple[str, Reader]:
    if name == "avs":  # a format whose extension another one took
        title, reader = _reader("meshio")
        return title, partial(reader, file_format="avsucd")
    title, module, function = READERS[name]
    return title, getattr(importlib.import_module(f"flare_connect.mesh.files.{module}"), function)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, FailedError):
        return text
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
