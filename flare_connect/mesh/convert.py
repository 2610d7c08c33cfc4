"""Meshes to and from PyVista and meshio, and into files. The two libraries are imported on first use."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS, OTHER_VTK_TYPES, VTK_KINDS
from flare_connect.mesh.geometry import signed_measure
from flare_connect.mesh.mesh import Mesh, NamedSet
from flare_connect.mesh.quiet import quiet

SET_PREFIX = "set:"
_UNITS = "flare_connect:units"
_PAIRS = "flare_connect:periodic_pairs"

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


# Reading: VTK cells to kinds


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
        name: {kind: values[ids] for kind, ids in ids_of.items()} for name, values in _numeric(grid.cell_data).items()
    }
    field_data = _numeric(grid.field_data, shaped=False)
    pairs = field_data.pop(_PAIRS, None)
    units = json.loads(str(grid.field_data[_UNITS][0])) if _UNITS in grid.field_data else {}
    return _assemble(
        np.asarray(grid.points),
        kinds,
        _numeric(grid.point_data),
        cell_data,
        global_data=field_data,
        units=units,
        periodic_pairs=None if pairs is None else pairs.reshape(2, -1),
        allow_nonfinite=allow_nonfinite,
    )


def from_meshio(m: Any, *, allow_nonfinite: bool = False) -> Mesh:
    """Builds a mesh from a `meshio.Mesh`; blocks of one kind are merged.

    Point sets, cell sets and gmsh's physical groups become sets; names such as `Nodal%20Stress` are decoded.

    Args:
        m: a `meshio.Mesh`.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        MeshError: there are no cells, or they are polygons or polyhedra, or arrays are bad.
    """
    blocks: dict[str, list[np.ndarray]] = {}
    places: list[tuple[str, int, int]] = []
    for block in m.cells:
        if block.type.startswith(("polygon", "polyhedron")):
            raise MeshError(f"cells of kind {block.type!r} are not supported yet; {_POLYGON_MEND}")
        nodes = np.asarray(block.data)
        start = sum(len(b) for b in blocks.get(block.type, []))
        places.append((block.type, start, len(nodes)))
        blocks.setdefault(block.type, []).append(nodes)
    cells = {kind: np.concatenate(parts) for kind, parts in blocks.items()}
    cell_data: dict[str, dict[str, np.ndarray]] = {}
    for name, per_block in m.cell_data.items():
        parts_of: dict[str, list[np.ndarray]] = {}
        for (kind, _, count), values in zip(places, per_block, strict=True):
            parts_of.setdefault(kind, []).append(_flat(np.asarray(values)) if count else np.asarray(values))
        joined = {kind: np.concatenate([p for p in parts if len(p)] or parts) for kind, parts in parts_of.items()}
        if all(values.dtype.kind in "fiub" for values in joined.values()):
            cell_data[_decoded(name, cell_data)] = joined
    offsets = dict(zip(cells, np.cumsum([0, *(len(c) for c in cells.values())]).tolist(), strict=False))
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
    point_data = _numeric(m.point_data)
    point_data.pop("gmsh:dim_tags", None)
    return _assemble(
        np.asarray(m.points),
        cells,
        point_data,
        cell_data,
        global_data=global_data,
        sets=sets,
        allow_nonfinite=allow_nonfinite,
    )


# Writing


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
    grid = pyvista.UnstructuredGrid(np.concatenate(flat), np.concatenate(types), _points3d(mesh))
    _attach(mesh, grid, list(mesh.cells))
    return grid


def to_meshio(mesh: Mesh) -> Any:
    """Returns a `meshio.Mesh`, planar meshes padded with z = 0; sets become arrays `set:<name>`.

    Raises:
        MeshError: meshio cannot hold a kind (wedge15 and pyramid13 in meshio 5.3).
    """
    import meshio

    unknown = [kind for kind in mesh.cells if kind not in meshio._mesh.topological_dimension]
    if unknown:
        raise MeshError(f"meshio cannot hold cells of kind {', '.join(unknown)}; write a .vtu file")
    point_data, cell_data = _fields(mesh)
    return meshio.Mesh(
        _points3d(mesh),
        [(kind, _host(nodes)) for kind, nodes in mesh.cells.items()],
        point_data=point_data,
        cell_data={name: [blocks[kind] for kind in mesh.cells] for name, blocks in cell_data.items()},
        field_data={name: _host(values) for name, values in mesh.global_data.items()},
    )


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
        data = _polydata(mesh)
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


# Helpers of reading

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


def _numeric(data: Any, *, shaped: bool = True) -> dict[str, np.ndarray]:
    """Arrays of numbers with decoded names, tensors flattened to `[N, c]`."""
    out: dict[str, np.ndarray] = {}
    for name in data:
        array = np.asarray(data[name])
        if array.dtype.kind in "fiub":
            out[_decoded(name, out)] = _flat(array) if shaped else array.reshape(-1)
    return out


def _flat(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    return array if array.ndim < 3 else array.reshape(len(array), -1)


def _decoded(name: str, taken: Mapping[str, Any]) -> str:
    decoded = unquote(name)
    return name if decoded in taken else decoded


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


def _assemble(
    points: np.ndarray,
    cells: dict[str, np.ndarray],
    point_data: dict[str, np.ndarray],
    cell_data: dict[str, dict[str, np.ndarray]],
    *,
    sets: Mapping[str, NamedSet] | None = None,
    **rest: Any,
) -> Mesh:
    """What both libraries have in common: sets out of `set:` arrays, absent kinds, planar meshes."""
    sets = dict(sets or {})
    for name in [n for n in point_data if n.startswith(SET_PREFIX)]:
        ids = np.flatnonzero(point_data.pop(name).reshape(len(points), -1)[:, 0])
        sets[name.removeprefix(SET_PREFIX)] = NamedSet("node", torch.from_numpy(ids))
    for name in [n for n in cell_data if n.startswith(SET_PREFIX)]:
        blocks = cell_data.pop(name)
        ids = np.flatnonzero(np.concatenate([blocks[kind].reshape(-1) for kind in cells]))
        sets[name.removeprefix(SET_PREFIX)] = NamedSet("cell", torch.from_numpy(ids))
    for name, blocks in cell_data.items():
        absent = [k for k, v in blocks.items() if v.dtype.kind == "f" and v.size and np.isnan(v).all()]
        if len(absent) < len(blocks):
            cell_data[name] = {k: v for k, v in blocks.items() if k not in absent}
    if points.shape[1] == 1:
        points = np.pad(points, ((0, 0), (0, 1)))
    solid = any(kind not in CELL_KINDS or CELL_KINDS[kind].dim > 2 for kind in cells)
    if points.shape[1] == 3 and len(points) and cells and not solid:
        extent = np.ptp(points, axis=0)
        if extent[2] <= 1e-12 * extent.max():
            points = points[:, :2]
    return Mesh.from_arrays(points, cells, point_data=point_data, cell_data=cell_data, sets=sets, **rest)


# Helpers of writing


def _host(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().cpu().numpy()
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _points3d(mesh: Mesh) -> np.ndarray:
    return np.pad(_host(mesh.pos), ((0, 0), (0, 3 - mesh.dim)))


def _vtk_nodes(mesh: Mesh) -> dict[str, np.ndarray]:
    out = {}
    for kind, nodes in mesh.cells.items():
        if kind not in CELL_KINDS and kind not in OTHER_VTK_TYPES:
            raise MeshError(f"VTK has no cell type for kind {kind!r}; remove these cells before writing")
        order = CELL_KINDS[kind].vtk_order if kind in CELL_KINDS else None
        out[kind] = _host(nodes)[:, list(order)] if order else _host(nodes)
    return out


def _fields(mesh: Mesh) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """All point and cell arrays, sets among them, every cell field on every kind."""
    point_data = {name: _host(values) for name, values in mesh.point_data.items()}
    cell_data = {}
    for name, blocks in mesh.cell_data.items():
        arrays = {kind: _host(values) for kind, values in blocks.items()}
        if len(arrays) < len(mesh.cells):
            width = next(iter(arrays.values())).shape[1:]
            arrays = {
                kind: np.asarray(arrays[kind], dtype=float) if kind in arrays else np.full((len(nodes), *width), np.nan)
                for kind, nodes in mesh.cells.items()
            }
        cell_data[name] = arrays
    for name, named in mesh.sets.items():
        if named.entity == "cell":
            mark = np.zeros(mesh.num_cells, dtype=np.uint8)
            mark[_host(named.ids)] = 1
            ends = np.cumsum([len(nodes) for nodes in mesh.cells.values()])[:-1]
            cell_data[SET_PREFIX + name] = dict(zip(mesh.cells, np.split(mark, ends), strict=True))
        else:
            mark = np.zeros(mesh.num_nodes, dtype=np.uint8)
            mark[_host(mesh.set_nodes(name))] = 1
            point_data[SET_PREFIX + name] = mark
    return point_data, cell_data


def _attach(mesh: Mesh, grid: Any, order: Sequence[str]) -> None:
    point_data, cell_data = _fields(mesh)
    for name, values in point_data.items():
        grid.point_data[name] = values
    for name, blocks in cell_data.items():
        grid.cell_data[name] = np.concatenate([blocks[kind] for kind in order])
    for name, numbers in mesh.global_data.items():
        grid.field_data[name] = _host(numbers)
    if mesh.units:
        grid.field_data[_UNITS] = [json.dumps(mesh.units)]
    if mesh.periodic_pairs is not None:
        grid.field_data[_PAIRS] = _host(mesh.periodic_pairs).reshape(-1)


def _polydata(mesh: Mesh) -> Any:
    import pyvista

    allowed = ("vertex", "line", "triangle", "quad")  # in the order in which VTK numbers them
    other = [kind for kind in mesh.cells if kind not in allowed]
    if other:
        raise MeshError(f"a .vtp file holds {', '.join(allowed)}, not {', '.join(other)}; write a .vtu file")
    order = [kind for kind in allowed if kind in mesh.cells]
    parts: dict[str, list[np.ndarray]] = {"verts": [], "lines": [], "faces": []}
    for kind in order:
        nodes = _host(mesh.cells[kind])
        place = {"vertex": "verts", "line": "lines"}.get(kind, "faces")
        parts[place].append(np.insert(nodes, 0, nodes.shape[1], axis=1).reshape(-1))
    given = {place: np.concatenate(arrays) for place, arrays in parts.items() if arrays}
    data = pyvista.PolyData(_points3d(mesh), **given)
    _attach(mesh, data, order)
    return data


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
