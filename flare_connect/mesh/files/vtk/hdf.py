"""VTKHDF files, read and written with h5py: VTK's own reader believes what a damaged file says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS, OTHER_VTK_TYPES
from flare_connect.mesh.files.assemble import numeric, points3d
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.vtk.cells import VtkCells, check_cells, polydata_cells, polyhedra
from flare_connect.mesh.files.vtk.from_vtk import Part, appended, from_parts
from flare_connect.mesh.files.vtk.hdf_arrays import array, dataset, datasets, held, rows, subgroup, text
from flare_connect.mesh.files.vtk.to_vtk import UNITS, attach, vtk_nodes
from flare_connect.mesh.mesh import Mesh


def read_vtkhdf(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads the mesh and the fields of one time step, as `from_pyvista` does from other files of VTK.

    The data set may be an `UnstructuredGrid` (polyhedra too), `PolyData`, `ImageData`, or a `MultiBlockDataSet` or
    `PartitionedDataSetCollection` of these, whose blocks become cell sets by their names.

    Raises:
        FailedError: the file is no VTKHDF file, is damaged, or holds another kind of data set.
        MeshError: its arrays do not make a mesh.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            root = file.get("VTKHDF")
            if not isinstance(root, h5py.Group):
                raise FailedError("has no group VTKHDF")
            kind = text(root.attrs.get("Type", b""))
            composite = kind in ("MultiBlockDataSet", "PartitionedDataSetCollection")
            blocks = list(_blocks(root)) if composite else [("", root)]
            parts = [_Block(name, group, step) for name, group in blocks]
            parts = [part for part in parts if len(part.cells.types)]
            if not parts:
                raise FailedError(NO_CELLS)
            mesh = from_parts([part.part() for part in parts], allow_nonfinite=allow_nonfinite)
            mesh.time_steps = parts[0].times
            return mesh
    except (FailedError, MeshError):
        raise
    except Exception as error:  # h5py has no errors of its own: a damaged file can lead to nearly all of Python's
        raise FailedError(f"cannot be read as HDF5: {' '.join(str(error).split())[:300]}") from error


def write_vtkhdf(mesh: Mesh, path: Path, *, compression: int = 0) -> None:
    """Writes a mesh as one `UnstructuredGrid`, with all that `to_pyvista` keeps.

    Args:
        mesh: the mesh.
        path: the file, which is replaced.
        compression: level of gzip from 1 (fast) to 9 (small), or 0 for none.

    Raises:
        MeshError: VTK has no cell type for a kind.
    """
    import h5py

    blocks = vtk_nodes(mesh)
    sizes = np.repeat([nodes.shape[1] for nodes in blocks.values()], [len(nodes) for nodes in blocks.values()])
    types = [CELL_KINDS[kind].vtk_type if kind in CELL_KINDS else OTHER_VTK_TYPES[kind] for kind in blocks]
    data = SimpleNamespace(point_data={}, cell_data={}, field_data={})
    attach(mesh, data, list(blocks))
    arrays = {
        "NumberOfPoints": np.array([mesh.num_nodes]),
        "NumberOfCells": np.array([len(sizes)]),
        "NumberOfConnectivityIds": np.array([sizes.sum()]),
        "Points": points3d(mesh),
        "Connectivity": np.concatenate([nodes.reshape(-1) for nodes in blocks.values()]),
        "Offsets": np.concatenate([[0], np.cumsum(sizes)]),
        "Types": np.repeat(np.array(types, dtype=np.uint8), [len(nodes) for nodes in blocks.values()]),
    }
    fields = {"PointData": data.point_data, "CellData": data.cell_data, "FieldData": data.field_data}
    for where, named in fields.items():
        arrays |= {f"{where}/{_escaped(name)}": values for name, values in named.items()}
    with h5py.File(path, "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = np.array([2, 0])
        root.attrs.create("Type", b"UnstructuredGrid", dtype=h5py.string_dtype("ascii", len("UnstructuredGrid")))
        for where in fields:
            root.create_group(where, track_order=True)
        for name, values in arrays.items():
            if isinstance(values, list):  # the units, in ASCII: VTK crashes on strings that are declared to be UTF-8
                root.create_dataset(name, data=values, dtype=h5py.string_dtype("ascii"))
            elif compression and values.size > 1000:
                root.create_dataset(name, data=values, compression="gzip", compression_opts=compression, shuffle=True)
            else:
                root.create_dataset(name, data=values)


class _Block:
    """One data set in the file at one time.

    Attributes:
        name: of the block.
        cells: its points and cells.
        times: those in the file.
    """

    def __init__(self, name: str, group: Any, step: int):
        self.name, self.group, self.step = name, group, step
        self.times: list[float] = []
        self.steps = subgroup(group, "Steps")
        if self.steps is not None:
            values = array(self.steps, "Values")
            self.times = [] if values is None else values.reshape(-1).astype(float).tolist()
            if not -len(self.times) <= step < len(self.times):
                raise FailedError(f"there is no step {step}; the file has {len(self.times)}")
            self.step = step % len(self.times)
        elif step not in (-1, 0):
            raise FailedError(f"there is no step {step}; the file has one")
        kind = text(group.attrs.get("Type", b""))
        read = {"UnstructuredGrid": self._grid, "PolyData": self._polydata, "ImageData": self._image}.get(kind)
        if read is None:
            raise FailedError(
                f"holds a data set of type {kind!r}; grids, poly data, images and blocks of these are read"
            )
        self.image = kind == "ImageData"
        self.first_point = self.first_cell = 0
        self.cells = read()

    def part(self) -> Part:
        """The data set with its fields."""
        fields: dict[str, np.ndarray] = {}
        units: dict[str, str] = {}
        for name, data in datasets(subgroup(self.group, "FieldData")):
            if name == UNITS:
                units = json.loads(text(rows(data, 0, 1)))
            elif data.dtype.kind in "fiub":
                fields[name] = self._field_data(name, data)
        point_data = self._fields("PointData", len(self.cells.points), self.first_point)
        cell_data = self._fields("CellData", len(self.cells.types), self.first_cell)
        return Part(self.name, self.cells, numeric(point_data), numeric(cell_data), numeric(fields), units)

    def _fields(self, where: str, num: int, first: int) -> dict[str, np.ndarray]:
        out = {}
        for name, data in datasets(subgroup(self.group, where)):
            if data.dtype.kind not in "fiub":
                continue
            start = self._now(f"{where}Offsets/{name}", self.step if self.image else first)
            if not self.image:
                out[name] = rows(data, start, num)
                continue
            # [z, y, x] or [z, y, x, c], behind the time where there is one
            values = rows(data, start, 1) if self.steps is not None else rows(data, 0, len(data))
            if values.size % num:
                raise FailedError(f"array {name!r} has {values.size} numbers for {num} places")
            out[name] = values.reshape(num, -1)
        return out

    def _field_data(self, name: str, data: Any) -> np.ndarray:
        sizes = None if self.steps is None else array(self.steps, f"FieldDataSizes/{name}")
        if sizes is None or not data.ndim:
            return rows(data, 0, len(data)) if data.ndim else np.asarray(data[...]).reshape(1)
        return rows(data, self._now(f"FieldDataOffsets/{name}", 0), int(sizes[self.step][1]))

    def _now(self, name: str, otherwise: int, column: int = 0) -> int:
        """An offset at this step."""
        found = None if self.steps is None else array(self.steps, name)
        if found is None:
            return otherwise
        return int(found.reshape(len(found), -1)[self.step, column])

    def _counts(self, name: str) -> list[int]:
        """A count for each part of this step."""
        counts = array(self.group, name)
        if counts is None:
            raise FailedError(f"has no array {name}")
        if self.steps is None:
            return counts.reshape(-1).tolist()
        num = self._now("NumberOfParts", max(1, len(counts) // len(self.times)))
        return rows(counts.reshape(-1), self._now("PartOffsets", 0), num).tolist()

    def _points(self) -> Iterator[np.ndarray]:
        """Points of each part."""
        data, start = dataset(self.group, "Points"), self._now("PointOffsets", 0)
        self.first_point = start
        for count in self._counts("NumberOfPoints"):
            points = rows(data, start, count)
            if points.ndim != 2 or points.shape[1] != 3:
                raise FailedError(f"Points have shape {list(points.shape)}, not [N, 3]")
            yield points
            start += count

    def _lists(self, prefix: str, column: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Where its offsets start in the file, offsets and nodes of the cells of each part."""
        counts, ids = (self._counts(prefix + name) for name in ("NumberOfCells", "NumberOfConnectivityIds"))
        cell, node = self._now("CellOffsets", 0, column), self._now("ConnectivityIdOffsets", 0, column)
        offsets, connectivity = (dataset(self.group, prefix + name) for name in ("Offsets", "Connectivity"))
        # each part has one offset more than cells: as many as there are parts before, which is not always PartOffsets
        start = cell + self._now("PartOffsets", 0)
        if counts and cell < start and not _begins(offsets, start, counts[0], ids[0]):
            every = np.cumsum(array(self.group, prefix + "NumberOfCells"))
            start = cell + (int(np.searchsorted(every, cell)) + 1 if cell else 0)
        for count, num_ids in zip(counts, ids, strict=True):
            offset = rows(offsets, start, count + 1).astype(np.int64)
            nodes = rows(connectivity, node, num_ids).astype(np.int64)
            if offset[0] != 0 or (np.diff(offset) < 0).any() or offset[-1] > len(nodes):
                raise FailedError(f"the offsets of the cells do not ascend from 0 to {len(nodes)}")
            yield start, offset, nodes[: offset[-1]]
            start, node = start + count + 1, node + num_ids

    def _grid(self) -> VtkCells:
        first = self.first_cell = self._now("CellOffsets", 0)
        parts, types = [], dataset(self.group, "Types")
        faces = self._faces() if "FaceConnectivity" in self.group else None
        for points, (start, offset, nodes) in zip(self._points(), self._lists("", 0), strict=True):
            cells = VtkCells(points, rows(types, first, len(offset) - 1).astype(np.uint8), offset, nodes)
            if faces is not None:
                corners, of_face, mine = next(faces)
                where = rows(dataset(self.group, "PolyhedronOffsets"), start, len(offset)).astype(np.int64)
                cells.polyhedra = polyhedra(corners, of_face, mine, where, np.flatnonzero(cells.types == _POLYHEDRON))
            elif (cells.types == _POLYHEDRON).any():
                raise FailedError("has polyhedra without FaceConnectivity")
            check_cells(cells)
            parts.append(cells)
            first += len(offset) - 1
        return appended(parts)

    def _faces(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Corners and offsets of the faces, and the faces of the polyhedra, of each part."""
        names = ("NumberOfFaceConnectivityIds", "NumberOfFaces", "NumberOfPolyhedronToFaceIds")
        starts = [self._now(f"{name}Offsets", 0) for name in ("FaceConnectivity", "FaceOffsets", "PolyhedronToFaceId")]
        for counts in zip(*(self._counts(name) for name in names), strict=True):
            sizes = (counts[0], counts[1] + 1, counts[2])
            tables = zip(("FaceConnectivity", "FaceOffsets", "PolyhedronToFaces"), starts, sizes, strict=True)
            corners, offset, mine = (rows(dataset(self.group, n), s, c).astype(np.int64) for n, s, c in tables)
            yield corners, offset, mine
            starts = [start + size for start, size in zip(starts, sizes, strict=True)]

    def _polydata(self) -> VtkCells:
        names = ("Vertices", "Lines", "Polygons", "Strips")
        lists = [self._lists(f"{n}/", i) if subgroup(self.group, n) is not None else None for i, n in enumerate(names)]
        self.first_cell = sum(self._now("CellOffsets", 0, i) for i, found in enumerate(lists) if found is not None)
        parts = []
        for points in self._points():
            tables = [None if found is None else next(found)[1:] for found in lists]
            parts.append(polydata_cells(points, tables))
            check_cells(parts[-1])
        return appended(parts)

    def _image(self) -> VtkCells:
        extent = [int(v) for v in np.asarray(self.group.attrs["WholeExtent"]).reshape(-1)]
        shape = tuple(extent[i + 1] - extent[i] + 1 for i in (4, 2, 0))
        num = int(np.prod([max(n, 0) for n in shape], dtype=object))
        arrays = [data for where in ("PointData", "CellData") for _, data in datasets(subgroup(self.group, where))]
        if num > max([_BARE_IMAGE, *(8 * min(data.size, held(data) // data.dtype.itemsize) for data in arrays)]):
            raise FailedError(f"holds an image of {num} points without values on them; its extent is {extent}")
        if not num:
            return appended([])
        origin, spacing, direction = (
            np.asarray(self.group.attrs.get(name, default), dtype=float)
            for name, default in (("Origin", np.zeros(3)), ("Spacing", np.ones(3)), ("Direction", np.eye(3)))
        )
        places = np.stack(np.unravel_index(np.arange(num), shape)[::-1], axis=1) + np.array(extent[::2])
        points = origin.reshape(3) + (places * spacing.reshape(3)) @ direction.reshape(3, 3).T
        corners = np.arange(num).reshape(*shape, 1)
        for axis in (2, 1, 0):  # x first, as in VTK's lines, pixels and voxels
            if shape[axis] > 1:
                pair = (np.delete(corners, end, axis=axis) for end in (-1, 0))
                corners = np.concatenate(list(pair), axis=3)
        cells = corners.reshape(-1, corners.shape[3])
        types = np.full(len(cells), {1: 1, 2: 3, 4: 8, 8: 11}[cells.shape[1]], dtype=np.uint8)
        return VtkCells(points, types, np.arange(0, cells.size + 1, cells.shape[1]), cells.reshape(-1))


_POLYHEDRON = 42
_BARE_IMAGE = 1 << 18  # points of an image without values: a few bytes in a file can ask for any number


def _blocks(root: Any) -> Iterator[tuple[str, Any]]:
    """Names and groups of the data sets of a composite one, in the order of its assembly."""
    import h5py

    assembly = subgroup(root, "Assembly")
    if assembly is None:
        every = [(name, subgroup(root, name)) for name in root]
        typed = [(name, block) for name, block in every if block is not None and "Type" in block.attrs]
        yield from sorted(typed, key=lambda pair: int(pair[1].attrs.get("Index", 0)))
        return
    nodes, visited = [assembly], 0
    while nodes:
        node = nodes.pop()
        inner = []
        for name in node:
            visited += 1
            if visited > 10**5:
                raise FailedError("has an assembly of blocks that does not end")
            link, found = node.get(name, getlink=True), subgroup(node, name)
            if found is None:
                continue
            if isinstance(link, h5py.SoftLink) and "Type" in found.attrs:
                yield unquote(name), found
            elif not isinstance(link, h5py.SoftLink):
                inner.append(found)
        nodes += reversed(inner)


def _begins(data: Any, start: int, count: int, num_ids: int) -> bool:
    """Whether the offsets of a part that has so many cells and nodes are here."""
    if start + count >= len(data):
        return False
    return int(data[start]) == 0 and int(data[start + count]) == num_ids


def _escaped(name: str) -> str:
    """A name that HDF5 takes for one, and that comes back by `unquote`."""
    if "/" in name or re.search("%[0-9a-fA-F]{2}", name):
        name = name.replace("%", "%25").replace("/", "%2F")
    return "%2E" if name == "." else name
