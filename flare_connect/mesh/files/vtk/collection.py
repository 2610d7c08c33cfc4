"""VTK files that only name other files: `.vtm` and `.vtmb` (blocks), `.pvd` (a series in time).

Read here, so that each file they name goes through the same checks as if it had been given itself.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.vtk.from_vtk import Part, from_parts, part_of
from flare_connect.mesh.files.vtk.read import vtk_data
from flare_connect.mesh.files.vtk.xml_files import xml_parts
from flare_connect.mesh.mesh import Mesh

_LEAVES = (".vtu", ".vtp", ".vti", ".vtr", ".vts", ".vtk", ".pvtu", ".pvtp", ".pvti", ".pvtr", ".pvts")
_DEPTH = 30


def read_blocks(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads all blocks as one mesh, each a cell set by its name.

    Raises:
        FailedError: the file is not of this kind, or a file that it names cannot be read.
        MeshError: the arrays do not make a mesh.
    """
    (top,) = _root(path, ("vtkMultiBlockDataSet", "vtkPartitionedDataSetCollection"))
    return _mesh([part for name, file in _files(top, "", 0) for part in _read(path, file, name)], allow_nonfinite)


def read_series(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads one step of a series; files of one time are blocks of one mesh.

    Raises:
        FailedError: as for `read_blocks`, and where there is no such step.
        MeshError: the arrays do not make a mesh.
    """
    (top,) = _root(path, ("Collection",))
    sets = [found for found in top if found.tag == "DataSet" and found.get("file")]
    times = sorted({float(found.get("timestep", "0")) for found in sets})
    if not -len(times) <= step < len(times):
        raise FailedError(f"there is no step {step}; the file has {len(times)}")
    now = [found for found in sets if float(found.get("timestep", "0")) == times[step]]
    parts: list[Part] = []
    for found in now:
        file = found.get("file", "")
        if Path(file).suffix.lower() in (".vtm", ".vtmb"):
            inner = path.parent / file
            (top_of_it,) = _root(inner, ("vtkMultiBlockDataSet", "vtkPartitionedDataSetCollection"))
            for name, leaf in _files(top_of_it, "", 0):
                parts += _read(inner, leaf, name)
        else:
            parts += _read(path, file, found.get("name", ""))
    mesh = _mesh(parts, allow_nonfinite)
    mesh.time_steps = times
    return mesh


def _mesh(parts: list[Part], allow_nonfinite: bool) -> Mesh:
    if not parts:
        raise FailedError(NO_CELLS)
    return from_parts(parts, allow_nonfinite=allow_nonfinite)


def _root(path: Path, tags: tuple[str, ...]) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(path.read_bytes())
    found = [child for child in root if child.tag in tags]
    if root.tag != "VTKFile" or len(found) != 1:
        raise FailedError(f"is no VTK file of {' or '.join(tags)}")
    return found


def _files(parent: ElementTree.Element, above: str, depth: int) -> Iterator[tuple[str, str]]:
    """Name and file of each data set; one without a name goes by that of the block above."""
    if depth > _DEPTH:
        raise FailedError(f"its blocks are nested more than {_DEPTH} deep")
    for child in parent:
        name = child.get("name") or above
        if child.tag == "DataSet" and child.get("file"):
            yield name, child.get("file", "")
        elif child.tag in ("Block", "Piece", "Partitions"):
            yield from _files(child, name, depth + 1)


def _read(path: Path, file: str, name: str) -> list[Part]:
    target = path.parent / file
    if target.suffix.lower() not in _LEAVES:
        raise FailedError(f"names {file!r}; blocks are {', '.join(_LEAVES)}")
    if not target.is_file():
        raise FailedError(f"names {file!r}, which is not there")
    if target.suffix.lower() in (".vtu", ".vtp"):
        with suppress(FailedError):
            return xml_parts(target, name)
    try:
        data = vtk_data(target, -1)[0]
    except FailedError as error:
        raise FailedError(f"{file}: {error}") from error
    return [] if data is None else [part_of(name, data)]
