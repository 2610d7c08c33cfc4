"""Meshes to and from meshio, which is imported on first use."""

from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import as_array, assemble, decoded, fields, flat, numeric, points3d
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.med import families_read, groups, upright
from flare_connect.mesh.files.quiet import quiet
from flare_connect.mesh.files.su2 import check_su2
from flare_connect.mesh.files.time_limit import TooLongError, time_limit
from flare_connect.mesh.mesh import Mesh, NamedSet

_SECONDS, _BYTES_A_SECOND = 5.0, 2e5  # far slower than any of meshio's readers is with a sound file


def read_meshio(path: Path, step: int = -1, *, allow_nonfinite: bool = False, file_format: str | None = None) -> Mesh:
    """Reads a file with meshio, which may print, end the program, or go on for as long as a damaged file says.

    Raises:
        FailedError: meshio cannot read it, or finds no cells.
        CutShortError: it ends before what it announces.
        MeshError: its arrays do not make a mesh.
    """
    import meshio

    if path.suffix.lower() == ".su2":
        check_su2(path)
    size = path.stat().st_size
    reading = families_read() if path.suffix.lower() == ".med" else nullcontext()
    with quiet(), redirect_stderr(StringIO()) as text, redirect_stdout(text):
        try:
            with time_limit(_SECONDS + size / _BYTES_A_SECOND), reading:
                m = meshio.read(path, file_format=file_format)
        except SystemExit as error:  # it prints what is wrong, then ends the program
            said = text.getvalue().strip().removeprefix("Error:")
            raise FailedError(" ".join(said.split()) or "gave up on the file") from error
        except TooLongError as error:
            raise FailedError("takes longer than a sound file of this size does") from error
    if not any(len(block.data) for block in m.cells):
        raise FailedError(NO_CELLS)
    return from_meshio(m, allow_nonfinite=allow_nonfinite)


def from_meshio(m: Any, *, allow_nonfinite: bool = False) -> Mesh:
    """Builds a mesh from a `meshio.Mesh`; blocks of one kind are merged.

    Point sets, cell sets, gmsh's physical groups and MED's groups become sets; names such as `Nodal%20Stress` are
    decoded.

    Args:
        m: a `meshio.Mesh`.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        MeshError: there are no cells, or they are polygons or polyhedra, or arrays are bad.
    """
    blocks: dict[str, list[np.ndarray]] = {}
    places: list[tuple[str, int, int]] = []
    for block in m.cells:
        nodes = np.asarray(block.data)
        start = sum(len(b) for b in blocks.get(block.type, []))
        places.append((block.type, start, len(nodes)))
        blocks.setdefault(block.type, []).append(nodes)
    cells = {kind: np.concatenate(parts) for kind, parts in blocks.items()}
    if hasattr(m, "cell_tags"):  # which meshio gives to the meshes of MED files
        cells = upright(np.asarray(m.points, dtype=float), cells)
    cell_data = _cell_fields(m, places)
    offsets = dict(zip(cells, np.cumsum([0, *(len(c) for c in cells.values())]).tolist(), strict=False))
    sets = _named_sets(m, places, offsets)
    global_data: dict[str, np.ndarray] = {}
    physical = cell_data.get("gmsh:physical")
    if physical is not None and not any(tags.any() for tags in physical.values()):
        del cell_data["gmsh:physical"]  # 0 is gmsh's word for no group
        physical = None
    for name, values in (m.field_data or {}).items():
        array = np.asarray(values)
        if physical is not None and array.shape == (2,):
            sets[name] = _physical_group(cells, offsets, physical, int(array[0]), int(array[1]))
        elif array.dtype.kind in "fiub":
            global_data[name] = array.reshape(-1)
    point_data = numeric(m.point_data)
    if hasattr(m, "cell_tags"):
        sets |= groups(cells, point_data, cell_data, m.point_tags, m.cell_tags)
    point_data.pop("gmsh:dim_tags", None)
    return assemble(
        np.asarray(m.points),
        cells,
        point_data,
        cell_data,
        global_data=global_data,
        sets=sets,
        allow_nonfinite=allow_nonfinite,
    )


def _named_sets(m: Any, places: list[tuple[str, int, int]], offsets: dict[str, int]) -> dict[str, NamedSet]:
    """Point sets and cell sets; `offsets` are numbers of the first cell of each kind."""
    sets: dict[str, NamedSet] = {}
    for name, ids in (m.point_sets or {}).items():
        sets[name] = NamedSet("node", torch.as_tensor(np.asarray(ids, dtype=np.int64).reshape(-1)))
    for name, per_block in (m.cell_sets or {}).items():
        if not name.startswith("gmsh:"):
            found = [
                np.asarray(ids, dtype=np.int64).reshape(-1) + start + offsets[kind]
                for (kind, start, _), ids in zip(places, per_block, strict=True)
                if ids is not None and len(ids)
            ]
            if found:
                sets[name] = NamedSet("cell", torch.as_tensor(np.sort(np.concatenate(found))))
    return sets


def _cell_fields(m: Any, places: list[tuple[str, int, int]]) -> dict[str, dict[str, np.ndarray]]:
    """Fields on cells, blocks of one kind joined; what holds no numbers is left out."""
    cell_data: dict[str, dict[str, np.ndarray]] = {}
    for name, per_block in m.cell_data.items():
        parts_of: dict[str, list[np.ndarray]] = {}
        for (kind, _, count), values in zip(places, per_block, strict=True):
            parts_of.setdefault(kind, []).append(flat(np.asarray(values)) if count else np.asarray(values))
        joined = {kind: np.concatenate([p for p in parts if len(p)] or parts) for kind, parts in parts_of.items()}
        if all(values.dtype.kind in "fiub" for values in joined.values()):
            cell_data[decoded(name, cell_data)] = joined
    return cell_data


def to_meshio(mesh: Mesh) -> Any:
    """Returns a `meshio.Mesh`, planar meshes padded with z = 0; sets become arrays `set:<name>`.

    Raises:
        MeshError: meshio cannot hold a kind (wedge15 and pyramid13 in meshio 5.3).
    """
    import meshio

    unknown = [kind for kind in mesh.cells if kind not in meshio._mesh.topological_dimension]
    if unknown:
        raise MeshError(f"meshio cannot hold cells of kind {', '.join(unknown)}; write a .vtu file")
    point_data, cell_data = fields(mesh)
    return meshio.Mesh(
        points3d(mesh),
        [(kind, as_array(nodes)) for kind, nodes in mesh.cells.items()],
        point_data=point_data,
        cell_data={name: [blocks[kind] for kind in mesh.cells] for name, blocks in cell_data.items()},
        field_data={name: as_array(values) for name, values in mesh.global_data.items()},
    )


def _physical_group(
    cells: Mapping[str, np.ndarray],
    offsets: Mapping[str, int],
    physical: Mapping[str, np.ndarray],
    tag: int,
    dim: int,
) -> NamedSet:
    ids = [
        np.flatnonzero(physical[kind] == tag) + offsets[kind]
        for kind in cells
        if kind in physical and kind in CELL_KINDS and CELL_KINDS[kind].dim == dim
    ]
    return NamedSet("cell", torch.as_tensor(np.concatenate([np.zeros(0, dtype=np.int64), *ids])))
