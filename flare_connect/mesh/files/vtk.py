"""Meshes to and from PyVista and VTK. PyVista is imported on first use."""

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS, OTHER_VTK_TYPES, VTK_KINDS
from flare_connect.mesh.files.assemble import as_array, assemble, fields, numeric, points3d
from flare_connect.mesh.geometry import signed_measure
from flare_connect.mesh.mesh import Mesh

_UNITS = "flare_connect:units"
_PAIRS = "flare_connect:periodic_pairs"


def from_pyvista(grid: Any, *, allow_nonfinite: bool = False) -> Mesh:
    """Builds a mesh from a PyVista data set, cell kinds in order of first appearance.

    Blocks are joined; poly-lines, poly-vertices and strips become simple cells; z is dropped where no cell is solid and
    z is constant. Arrays `set:<name>` become sets, field data becomes `global_data`. A cell field that is NaN on all
    cells of a kind is taken to be absent there.

    Args:
        grid: any `pyvista.DataSet` or `pyvista.MultiBlock`.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        MeshError: there are no cells, or they are polygons with more than four corners or polyhedra, or arrays are bad.
    """
    import pyvista

    if isinstance(grid, pyvista.MultiBlock):
        grid = _join(grid, pyvista)
    if not isinstance(grid, pyvista.UnstructuredGrid):
        grid = grid.cast_to_unstructured_grid()
    types = np.asarray(grid.celltypes)
    connectivity = np.asarray(grid.cell_connectivity)
    # PyVista 0.49 renamed it
    offset = np.asarray(grid.cell_offsets if hasattr(type(grid), "cell_offsets") else grid.offset)
    cells: dict[str, list[np.ndarray]] = {}
    rows: dict[str, list[np.ndarray]] = {}
    found, first = np.unique(types, return_index=True)
    for vtk_type in found[np.argsort(first)].tolist():
        of_type = np.flatnonzero(types == vtk_type)
        sizes = offset[of_type + 1] - offset[of_type]
        for size in np.unique(sizes).tolist():
            ids = of_type[sizes == size]
            if size == 0:
                continue
            kind, pattern = _vtk_cell(vtk_type, size)
            nodes = connectivity[offset[ids][:, None] + np.arange(size)]
            cells.setdefault(kind, []).append(nodes[:, pattern].reshape(-1, pattern.shape[1]))
            rows.setdefault(kind, []).append(np.repeat(ids, len(pattern)))
    kinds = {kind: np.concatenate(blocks) for kind, blocks in cells.items()}
    ids_of = {kind: np.concatenate(blocks) for kind, blocks in rows.items()}
    # VTK's manual has a wedge's first triangle face outward, VTK's own volume filter and many writers inward: a block
    # that comes out inverted was written the other way
    wedges = {kind: nodes for kind, nodes in kinds.items() if kind == "wedge"}
    if sum(m.sum() for m in signed_measure(np.asarray(grid.points, dtype=float), wedges).values()) < 0:
        kinds["wedge"] = kinds["wedge"][:, list(CELL_KINDS["wedge"].vtk_order or ())]
    cell_data = {
        name: {kind: values[ids] for kind, ids in ids_of.items()} for name, values in numeric(grid.cell_data).items()
    }
    field_data = numeric(grid.field_data, shaped=False)
    pairs = field_data.pop(_PAIRS, None)
    units = json.loads(str(grid.field_data[_UNITS][0])) if _UNITS in grid.field_data else {}
    return assemble(
        np.asarray(grid.points),
        kinds,
        numeric(grid.point_data),
        cell_data,
        global_data=field_data,
        units=units,
        periodic_pairs=None if pairs is None else pairs.reshape(2, -1),
        allow_nonfinite=allow_nonfinite,
    )


def to_pyvista(mesh: Mesh) -> Any:
    """Returns a `pyvista.UnstructuredGrid`, planar meshes padded with z = 0.

    Node and cell sets become uint8 arrays `set:<name>` (facet sets those of their nodes), `global_data`, `units` and
    periodic pairs field data. A cell field absent on some kinds is NaN there.

    Raises:
        MeshError: VTK has no cell type for a kind.
    """
    import pyvista

    flat, types = [], []
    for kind, nodes in _vtk_nodes(mesh).items():
        vtk_type = CELL_KINDS[kind].vtk_type if kind in CELL_KINDS else OTHER_VTK_TYPES[kind]
        flat.append(np.insert(nodes, 0, nodes.shape[1], axis=1).reshape(-1))
        types.append(np.full(len(nodes), vtk_type, dtype=np.uint8))
    grid = pyvista.UnstructuredGrid(np.concatenate(flat), np.concatenate(types), points3d(mesh))
    attach(mesh, grid, list(mesh.cells))
    return grid


_POLYGON_MEND = "triangulate them first (ParaView: Triangulate or Tetrahedralize)"
_POLYGONS = {3: "triangle", 4: "quad"}
_REORDERED = {8: ("quad", (0, 1, 3, 2)), 11: ("hexahedron", (0, 1, 3, 2, 4, 5, 7, 6))}  # pixel, voxel


def _vtk_cell(vtk_type: int, size: int) -> tuple[str, np.ndarray]:
    """Kind of a VTK cell and the local nodes of the cells it becomes `[cells, k]`."""
    if vtk_type in VTK_KINDS:
        kind = VTK_KINDS[vtk_type]
        order = CELL_KINDS[kind].vtk_order if kind in CELL_KINDS else None
        # the one order in use is its own inverse
        return kind, np.array([order or range(size)])
    if vtk_type in _REORDERED:
        kind, order = _REORDERED[vtk_type]
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
    if vtk_type == 7 and size in _POLYGONS:
        return _POLYGONS[size], np.arange(size)[None]
    if vtk_type in (7, 42):
        what = f"polygons with {size} corners" if vtk_type == 7 else "polyhedra"
        raise MeshError(f"{what} are not supported yet; {_POLYGON_MEND}")
    return f"vtk{vtk_type}_{size}", np.arange(size)[None]


def _join(blocks: Any, pyvista: Any) -> Any:
    leaves = [b for b in blocks.recursive_iterator(skip_none=True) if b.n_cells]
    if not leaves:
        return pyvista.UnstructuredGrid()
    joined = pyvista.MultiBlock(leaves).combine(merge_points=False)
    for data, kept in (("point_data", joined.point_data), ("cell_data", joined.cell_data)):
        lost = sorted({name for leaf in leaves for name in getattr(leaf, data)} - set(kept))
        if lost:
            warnings.warn(f"{data} {lost} left out: not all blocks of the file have them", stacklevel=4)
    return joined


def _vtk_nodes(mesh: Mesh) -> dict[str, np.ndarray]:
    out = {}
    for kind, nodes in mesh.cells.items():
        if kind not in CELL_KINDS and kind not in OTHER_VTK_TYPES:
            raise MeshError(f"VTK has no cell type for kind {kind!r}; remove these cells before writing")
        order = CELL_KINDS[kind].vtk_order if kind in CELL_KINDS else None
        out[kind] = as_array(nodes)[:, list(order)] if order else as_array(nodes)
    return out


def attach(mesh: Mesh, grid: Any, order: Sequence[str]) -> None:
    point_data, cell_data = fields(mesh)
    for name, values in point_data.items():
        grid.point_data[name] = values
    for name, blocks in cell_data.items():
        grid.cell_data[name] = np.concatenate([blocks[kind] for kind in order])
    for name, numbers in mesh.global_data.items():
        grid.field_data[name] = as_array(numbers)
    if mesh.units:
        grid.field_data[_UNITS] = [json.dumps(mesh.units)]
    if mesh.periodic_pairs is not None:
        grid.field_data[_PAIRS] = as_array(mesh.periodic_pairs).reshape(-1)


def polydata(mesh: Mesh) -> Any:
    import pyvista

    allowed = ("vertex", "line", "triangle", "quad")  # in the order in which VTK numbers them
    other = [kind for kind in mesh.cells if kind not in allowed]
    if other:
        raise MeshError(f"a .vtp file holds {', '.join(allowed)}, not {', '.join(other)}; write a .vtu file")
    order = [kind for kind in allowed if kind in mesh.cells]
    parts: dict[str, list[np.ndarray]] = {"verts": [], "lines": [], "faces": []}
    for kind in order:
        nodes = as_array(mesh.cells[kind])
        place = {"vertex": "verts", "line": "lines"}.get(kind, "faces")
        parts[place].append(np.insert(nodes, 0, nodes.shape[1], axis=1).reshape(-1))
    given = {place: np.concatenate(arrays) for place, arrays in parts.items() if arrays}
    data = pyvista.PolyData(points3d(mesh), **given)
    attach(mesh, data, order)
    return data
