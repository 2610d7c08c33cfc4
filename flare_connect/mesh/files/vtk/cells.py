"""The cells of VTK data sets as arrays, whatever class they are in, and as kinds of cells."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS, VTK_KINDS
from flare_connect.mesh.files.polyhedra import Loops, Pieces, cut_loops, cut_polygons, taken


@dataclass
class VtkCells:
    """Points and cells of one data set.

    Attributes:
        points: positions `[N, 3]`.
        types: VTK's cell types `[M]`.
        offset: where each cell starts in `nodes` `[M + 1]`.
        nodes: nodes of all cells, one after the other.
        polyhedra: faces of the cells of type 42, counted among these alone.
    """

    points: np.ndarray
    types: np.ndarray
    offset: np.ndarray
    nodes: np.ndarray
    polyhedra: Loops = field(default_factory=Loops.none)


def vtk_cells(data: Any) -> VtkCells:
    """Takes a PyVista data set apart.

    Raises:
        MeshError: a cell refers to a node that is not there; VTK itself would read past its arrays.
    """
    import pyvista

    if isinstance(data, pyvista.PolyData):
        found = _polydata_cells(data)
    else:
        grid = data if isinstance(data, pyvista.UnstructuredGrid) else data.cast_to_unstructured_grid()
        types = np.asarray(grid.celltypes)
        if len(types):
            offset, nodes = _cell_array(grid.GetCells())
        else:
            offset, nodes = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        polyhedra = _polyhedra(grid, np.flatnonzero(types == _POLYHEDRON))
        found = VtkCells(np.asarray(grid.points), types, offset, nodes, polyhedra)
    check_cells(found)
    return found


def simple_cells(cells: VtkCells) -> Pieces:
    """All cells as kinds with a fixed number of nodes, in order of first appearance.

    Returns:
        Kinds, nodes and which VTK cell each came from, with the centres that were added.
    """
    blocks: dict[str, list[np.ndarray]] = {}
    rows: dict[str, list[np.ndarray]] = {}
    out = Pieces()

    def keep(kind: str, nodes: np.ndarray, ids: np.ndarray) -> None:
        blocks.setdefault(kind, []).append(nodes)
        rows.setdefault(kind, []).append(ids)

    found = np.flatnonzero(np.bincount(cells.types)).tolist()
    whole = np.arange(len(cells.types))
    for vtk_type in sorted(found, key=lambda number: int(np.argmax(cells.types == number))):
        of_type = whole if len(found) == 1 else np.flatnonzero(cells.types == vtk_type)
        if vtk_type == _POLYHEDRON:
            pieces = cut_loops(cells.points, cells.polyhedra)
            out.centres = pieces.centres
            for kind, nodes in pieces.cells.items():
                keep(kind, nodes, of_type[pieces.rows[kind]])
            continue
        sizes = cells.offset[of_type + 1] - cells.offset[of_type]
        for size in [int(sizes[0])] if (sizes == sizes[0]).all() else np.unique(sizes).tolist():
            ids = of_type[sizes == size]
            if size == 0:
                continue
            nodes = _gather(cells, ids, size)
            if vtk_type == _POLYGON and size > 4:
                triangles, of = cut_polygons(cells.points, nodes)
                keep("triangle", triangles, ids[of])
                continue
            kind, pattern = _vtk_cell(vtk_type, size)
            if pattern is not None:
                nodes = nodes[:, pattern].reshape(-1, pattern.shape[1])
                ids = np.repeat(ids, len(pattern))
            keep(kind, nodes, ids)
    out.cells = {kind: _joined(parts) for kind, parts in blocks.items()}
    out.rows = {kind: _joined(parts) for kind, parts in rows.items()}
    return out


_POLYGON, _POLYHEDRON = 7, 42
_POLYGONS = {3: "triangle", 4: "quad"}
_REORDERED = {8: ("quad", (0, 1, 3, 2)), 11: ("hexahedron", (0, 1, 3, 2, 4, 5, 7, 6))}  # pixel, voxel


def _vtk_cell(vtk_type: int, size: int) -> tuple[str, np.ndarray | None]:
    """Kind of a VTK cell and the local nodes of the cells it becomes `[cells, k]`; None where it stays as it is."""
    if vtk_type in VTK_KINDS:
        kind = VTK_KINDS[vtk_type]
        order = CELL_KINDS[kind].vtk_order if kind in CELL_KINDS else None
        if kind in CELL_KINDS and size != CELL_KINDS[kind].num_nodes:
            raise MeshError(
                f"a cell of VTK type {vtk_type} ({kind}) has {size} nodes; it needs {CELL_KINDS[kind].num_nodes}"
            )
        # the one order in use is its own inverse
        return kind, np.array([order]) if order else None
    if vtk_type in _REORDERED:
        kind, order = _REORDERED[vtk_type]
        if size != len(order):
            raise MeshError(f"a cell of VTK type {vtk_type} has {size} nodes; it needs {len(order)}")
        return kind, np.array([order])
    steps = np.arange(size)[:, None]
    if vtk_type == 2:
        return "vertex", steps
    if vtk_type == 4:
        return "line", steps[:-1] + np.arange(2)
    if vtk_type == 6:
        strip = steps[:-2] + np.arange(3)
        strip[1::2, :2] = strip[1::2, 1::-1]  # every other triangle of a strip runs the other way
        return "triangle", strip
    if vtk_type == _POLYGON and size in _POLYGONS:
        return _POLYGONS[size], None
    if vtk_type == _POLYGON:
        raise MeshError(f"a polygon has {size} corners; it needs three or more")
    return f"vtk{vtk_type}_{size}", None


def _gather(cells: VtkCells, ids: np.ndarray, size: int) -> np.ndarray:
    """Nodes `[n, size]` of cells of one size; a view where they follow each other in the file."""
    starts = cells.offset[ids]
    if len(ids) and starts[-1] - starts[0] == (len(ids) - 1) * size and (np.diff(starts) == size).all():
        return cells.nodes[starts[0] : starts[0] + len(ids) * size].reshape(-1, size)
    return cells.nodes[starts[:, None] + np.arange(size)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _cell_array(array: Any) -> tuple[np.ndarray, np.ndarray]:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    # what VTK reads from a file may lack the zero that a list of offsets starts with
    offset = vtk_to_numpy(array.GetOffsetsArray()) if array.GetNumberOfCells() else np.zeros(1, dtype=np.int64)
    return offset, vtk_to_numpy(array.GetConnectivityArray())


def _polydata_cells(data: Any) -> VtkCells:
    arrays = (data.GetVerts(), data.GetLines(), data.GetPolys(), data.GetStrips())
    lists = [_cell_array(array) if array is not None and array.GetNumberOfCells() else None for array in arrays]
    return polydata_cells(np.asarray(data.points), lists)


def polydata_cells(points: np.ndarray, lists: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> VtkCells:
    """Offsets and nodes of vertices, lines, polygons and strips (the order in which VTK counts them) as one list."""
    types, offsets, nodes, start = [], [np.zeros(1, dtype=np.int64)], [], 0
    for found, one, many in zip(lists, ({1: 1}, {2: 3}, {3: 5, 4: 9}, {}), (2, 4, _POLYGON, 6), strict=True):
        if found is None:
            continue
        offset, ids = found
        sizes = np.diff(offset)
        kinds = np.full(len(sizes), many, dtype=np.uint8)
        for size, vtk_type in one.items():
            kinds[sizes == size] = vtk_type
        types.append(kinds)
        offsets.append(offset[1:] + start)
        nodes.append(ids)
        start += len(ids)
    joined = np.concatenate([np.zeros(0, dtype=np.uint8), *types])
    return VtkCells(points, joined, np.concatenate(offsets), np.concatenate([np.zeros(0, dtype=np.int64), *nodes]))


def _polyhedra(grid: Any, ids: np.ndarray) -> Loops:
    if not len(ids):
        return Loops.none()
    if hasattr(grid, "GetPolyhedronFaces"):  # since VTK 9.4
        where, of_cell = _cell_array(grid.GetPolyhedronFaceLocations())
        offset, nodes = _cell_array(grid.GetPolyhedronFaces())
        return polyhedra(nodes, offset, of_cell, where, ids)
    import vtkmodules.vtkCommonCore as core

    sizes, parts, owner, stream = [], [np.zeros(0, dtype=np.int64)], [], core.vtkIdList()
    for row, cell in enumerate(ids.tolist()):
        grid.GetFaceStream(cell, stream)  # faces, then the size and the corners of each
        flat = np.array([stream.GetId(i) for i in range(stream.GetNumberOfIds())], dtype=np.int64)
        place = 1
        while place < len(flat):
            parts.append(flat[place + 1 : place + 1 + flat[place]])
            sizes.append(len(parts[-1]))
            owner.append(row)
            place += int(flat[place]) + 1
    return Loops(np.concatenate(parts), np.cumsum([0, *sizes]), np.array(owner, dtype=np.int64), len(ids))


def polyhedra(nodes: np.ndarray, offset: np.ndarray, faces: np.ndarray, where: np.ndarray, ids: np.ndarray) -> Loops:
    """The faces of some cells, out of a list of polygons that cells refer to.

    Args:
        nodes: corners of all polygons.
        offset: where each polygon starts in `nodes` `[F + 1]`.
        faces: polygons of all cells, one cell after the other.
        where: where each cell starts in `faces` `[M + 1]`.
        ids: the cells that are polyhedra.

    Raises:
        MeshError: a number points outside its list.
    """
    for name, starts, last in (("faces", offset, len(nodes)), ("polyhedra", where, len(faces))):
        if not len(starts) or starts[0] < 0 or (np.diff(starts) < 0).any() or starts[-1] > last:
            raise MeshError(f"the offsets of the {name} do not ascend from 0 to {last}")
    if len(ids) and ids.max() >= len(where) - 1:
        raise MeshError(f"cell {ids.max()} is a polyhedron, but there are faces for {len(where) - 1} cells only")
    places, _ = taken(where, ids)
    mine = faces[places]
    if len(mine) and (mine.min() < 0 or mine.max() >= len(offset) - 1):
        raise MeshError(f"a polyhedron has face {mine.max()}, but the faces are 0 to {len(offset) - 2}")
    corners, starts = taken(offset, mine)
    return Loops(nodes[corners], starts, np.repeat(np.arange(len(ids)), where[ids + 1] - where[ids]), len(ids))


def check_cells(cells: VtkCells) -> None:
    """Checks what VTK would believe.

    Raises:
        MeshError: the lists do not fit each other, or a cell refers to a node that is not there.
    """
    offset, nodes, num = cells.offset, cells.nodes, len(cells.points)
    if len(offset) != len(cells.types) + 1 or (np.diff(offset) < 0).any() or offset[0] < 0 or offset[-1] > len(nodes):
        raise MeshError(
            f"the lists of cells do not fit: {len(cells.types)} types, {len(offset)} offsets, {len(nodes)} node ids"
        )
    for ids in (nodes, cells.polyhedra.nodes):
        if len(ids) and (ids.min() < 0 or ids.max() >= num):
            bad = int(ids[(ids < 0) | (ids >= num)][0])
            raise MeshError(f"a cell refers to node {bad}, but the nodes are 0 to {num - 1}; mend the connectivity")
