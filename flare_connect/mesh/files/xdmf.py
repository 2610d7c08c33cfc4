"""XDMF files: arrays in the text, in HDF5 or in binary files beside it; one mesh or a series in time.

Read here because meshio reads either one mesh or a series of its own making, and VTK's reader fails on meshio's files.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import assemble, decoded, flat
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.hdf5 import dataset_array
from flare_connect.mesh.mesh import Mesh, NamedSet

Element = ElementTree.Element

# XDMF's word, without its underscore and in lower case: kind
_KINDS = {
    "polyvertex": "vertex", "polyline": "line", "edge3": "line3", "triangle": "triangle", "triangle6": "triangle6",
    "tri6": "triangle6", "quadrilateral": "quad", "quadrilateral8": "quad8", "quad8": "quad8",
    "quadrilateral9": "quad9", "quad9": "quad9", "tetrahedron": "tetra", "tetrahedron10": "tetra10", "tet10": "tetra10",
    "pyramid": "pyramid", "pyramid13": "pyramid13", "wedge": "wedge", "wedge15": "wedge15", "hexahedron": "hexahedron",
    "hexahedron20": "hexahedron20", "hex20": "hexahedron20", "hexahedron27": "hexahedron27", "hex27": "hexahedron27",
}  # fmt: skip
# number in a mixed topology: kind
_NUMBERS = {
    1: "vertex", 2: "line", 4: "triangle", 5: "quad", 6: "tetra", 7: "pyramid", 8: "wedge", 9: "hexahedron",
    34: "line3", 35: "quad9", 36: "triangle6", 37: "quad8", 38: "tetra10", 39: "pyramid13", 40: "wedge15",
    48: "hexahedron20", 50: "hexahedron27",
}  # fmt: skip
_TYPES = {"int": "i", "uint": "u", "float": "f", "char": "i", "uchar": "u", "short": "i"}


def read_xdmf(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads one mesh, and the fields of one step of a series; a step without cells has those of the first that has.

    Raises:
        FailedError: the file is no XDMF file, or has structured or other cells that are not known here.
        MeshError: its arrays do not make a mesh.
    """
    root = ElementTree.fromstring(path.read_bytes())
    if root.tag != "Xdmf":
        raise FailedError("is no XDMF file")
    series = [grid for grid in root.iter("Grid") if _is(grid, "GridType", "Collection") and _is_series(grid)]
    states = [[grid for grid in one if grid.tag == "Grid"] for one in series]
    states = [one for one in states if one]
    length = max(map(len, states), default=0)
    if length and not -length <= step < length:
        raise FailedError(f"there is no step {step}; the file has {length}")
    reader = _Xdmf(path, root)
    # one collection for each field is how some programs write: their steps belong together
    chosen = [one[step] for one in states if -len(one) <= step < len(one)]
    times = _times(max(zip(states, series, strict=False), key=lambda pair: len(pair[0])), reader) if states else []
    if not chosen:
        chosen = [grid for grid in root.iter("Grid") if grid.find("Topology") is not None][:1]
    mesh = reader.mesh(chosen, allow_nonfinite)
    mesh.time_steps = times
    return mesh


class _Xdmf:
    def __init__(self, path: Path, root: Element):
        self.folder, self.root = path.absolute().parent, root

    def mesh(self, grids: list[Element], allow_nonfinite: bool) -> Mesh:
        whole = [grid for grid in self.root.iter("Grid") if grid.find("Topology") is not None]
        own = [grid for grid in grids if grid.find("Topology") is not None]
        if not whole:
            raise FailedError(NO_CELLS)
        base = (own or whole)[0]
        topology = base.find("Topology")
        placed = [grid for grid in (*grids, base, *whole) if grid.find("Geometry") is not None]
        if topology is None or not placed:
            raise FailedError("no geometry found")
        points = self._points(placed[0])
        cells, rows = self._cells(topology)
        point_data: dict[str, np.ndarray] = {}
        cell_data: dict[str, dict[str, np.ndarray]] = {}
        global_data: dict[str, np.ndarray] = {}
        for attribute in [found for grid in dict.fromkeys((base, *grids)) for found in grid.findall("Attribute")]:
            centre, values = attribute.get("Center", "Node").lower(), self._array(_item(attribute))
            if centre == "grid":
                global_data[attribute.get("Name", "")] = values.reshape(-1)
            elif centre == "node":
                point_data[decoded(attribute.get("Name", ""), point_data)] = flat(values)
            elif centre == "cell":
                whole_field = flat(values)
                cell_data[decoded(attribute.get("Name", ""), cell_data)] = {
                    k: whole_field[ids] for k, ids in rows.items()
                }
        return assemble(
            points,
            cells,
            point_data,
            cell_data,
            sets=dict(self._sets(base, rows)),
            global_data=global_data,
            allow_nonfinite=allow_nonfinite,
        )

    def _points(self, grid: Element) -> np.ndarray:
        (geometry,) = grid.findall("Geometry")
        word = (geometry.get("GeometryType") or geometry.get("Type") or "XYZ").upper()
        items = [self._array(item) for item in geometry.findall("DataItem")]
        if word == "X_Y_Z" and len({len(axis) for axis in items}) == 1:
            return np.stack([axis.reshape(-1) for axis in items], axis=1)
        if word not in ("XYZ", "XY") or len(items) != 1:
            raise FailedError(f"geometry {word!r} with {len(items)} arrays is not known")
        return items[0].reshape(-1, len(word))

    def _cells(self, topology: Element) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Kind → nodes, and kind → which cell of the file each is."""
        word = (topology.get("TopologyType") or topology.get("Type") or "").lower().replace("_", "")
        ids = self._array(_item(topology))
        if ids.dtype.kind not in "iu":
            raise FailedError("the topology holds no integers")
        if word == "mixed":
            return _mixed(ids.reshape(-1).astype(np.int64))
        kind = _KINDS.get(word)
        if word in ("polyline", "polygon"):
            width = int(topology.get("NodesPerElement", ids.shape[1] if ids.ndim == 2 else 2))
            kind = {("polyline", 2): "line", ("polygon", 3): "triangle", ("polygon", 4): "quad"}.get((word, width))
        if kind is None:
            raise FailedError(f"cells {word!r} are not known")
        nodes = ids.reshape(-1, CELL_KINDS[kind].num_nodes)
        return {kind: nodes}, {kind: np.arange(len(nodes))}

    def _sets(self, grid: Element, rows: dict[str, np.ndarray]) -> Iterator[tuple[str, NamedSet]]:
        number = np.empty(sum(map(len, rows.values())), dtype=np.int64)
        number[np.concatenate([*rows.values()])] = np.arange(len(number))
        for named in grid.findall("Set"):
            what, items = (named.get("SetType") or "Node").lower(), named.findall("DataItem")
            if what in ("node", "cell") and len(items) == 1:
                ids = self._array(items[0]).reshape(-1).astype(np.int64)
                if what == "cell":
                    ids = number[ids]
                yield named.get("Name", ""), NamedSet(what, torch.from_numpy(np.unique(ids)))  # type: ignore[arg-type]

    def _array(self, item: Element, depth: int = 0) -> np.ndarray:
        if item.get("ItemType", "Uniform") != "Uniform":
            raise FailedError(f"data items of type {item.get('ItemType')!r} are not known")
        text = (item.text or "").strip()
        reference = item.get("Reference")
        if reference is not None:
            return self._array(self._referred(text if reference == "XML" else reference), self._deeper(depth))
        shape = [int(word) for word in (item.get("Dimensions") or "").split()]
        form = item.get("Format", "XML").upper()
        if form == "HDF":
            return self._hdf5(text, shape)
        dtype = _dtype(item)
        count = int(np.prod(shape, dtype=object))
        if form == "XML":
            # a number takes two letters, so that no count in the file can ask for more memory than there is text
            if not 0 <= count <= len(text):
                raise FailedError(f"an array claims {count} numbers in {len(text)} letters")
            values = np.array(text.split(), dtype=dtype) if dtype.kind != "f" else np.array(text.split(), dtype=float)
            return values.reshape(shape).astype(dtype, copy=False)
        if form != "BINARY":
            raise FailedError(f"data format {form!r} is not known")
        order: Literal["<", ">", "="] = (
            "<" if item.get("Endian") == "Little" else ">" if item.get("Endian") == "Big" else "="
        )
        file, seek = self.folder / text, int(item.get("Seek", "0"))
        if count < 0 or count * dtype.itemsize + seek > file.stat().st_size:
            raise FailedError(f"{file.name} is too short for an array of {count} numbers")
        values = np.fromfile(file, dtype.newbyteorder(order), count, offset=seek)
        return values.astype(dtype, copy=False).reshape(shape)

    def _hdf5(self, text: str, shape: list[int]) -> np.ndarray:
        import h5py

        name, _, place = text.partition(":")
        file = self.folder / name
        if not file.is_file():
            raise FailedError(f"refers to {name}, which is not beside it")
        with h5py.File(file, "r") as data:
            values = dataset_array(data[place.split("|")[0]])
        return values.reshape(shape) if shape and values.size == np.prod(shape) else values

    def _referred(self, xpath: str) -> Element:
        found = self.root.find("./" + "/".join(xpath.strip().split("/")[2:]))
        if found is None:
            raise FailedError(f"refers to {xpath!r}, which is not there")
        return found

    @staticmethod
    def _deeper(depth: int) -> int:
        if depth > 20:
            raise FailedError("data items refer to each other in a circle")
        return depth + 1


def _mixed(stream: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Kinds out of a stream of a number for the kind, then nodes; points and poly-lines have their count between."""
    words, place, cell = stream.tolist(), 0, 0
    starts: dict[str, list[int]] = {}
    rows: dict[str, list[int]] = {}
    while place < len(words):
        kind = _NUMBERS.get(words[place])
        if kind is None:
            raise FailedError(f"cells of number {words[place]} are not known")
        size = CELL_KINDS[kind].num_nodes
        place += 1
        if kind in ("vertex", "line"):
            if words[place] != size:
                raise FailedError(f"a {kind} has {words[place]} nodes")
            place += 1
        starts.setdefault(kind, []).append(place)
        rows.setdefault(kind, []).append(cell)
        place, cell = place + size, cell + 1
    if place != len(words):
        raise FailedError("the last cell is cut off")
    cells = {k: stream[np.array(at)[:, None] + np.arange(CELL_KINDS[k].num_nodes)] for k, at in starts.items()}
    return cells, {kind: np.array(ids) for kind, ids in rows.items()}


def _times(of: tuple[list[Element], Element], reader: _Xdmf) -> list[float]:
    grids, series = of
    listed = series.find("Time")
    if listed is not None and listed.find("DataItem") is not None:
        values = reader._array(_item(listed)).reshape(-1).astype(float)
        if listed.get("TimeType", "List") == "List" and len(values) == len(grids):
            return values.tolist()
        if listed.get("TimeType") == "HyperSlab" and len(values) == 3:
            return (values[0] + values[1] * np.arange(len(grids))).tolist()
    found = [grid.find("Time") for grid in grids]
    return [float(i if time is None else time.get("Value", i)) for i, time in enumerate(found)]


def _item(parent: Element) -> Element:
    items = parent.findall("DataItem")
    if len(items) != 1:
        raise FailedError(f"{parent.tag} holds {len(items)} arrays, not one")
    return items[0]


def _dtype(item: Element) -> np.dtype[Any]:
    word = (item.get("NumberType") or item.get("DataType") or "Float").lower()
    size = {"char": "1", "uchar": "1", "short": "2"}.get(word, item.get("Precision", "4"))
    if word not in _TYPES or not re.fullmatch("[1248]", size):
        raise FailedError(f"numbers of type {word!r} and {size} bytes are not known")
    return np.dtype(_TYPES[word] + size)


def _is(element: Element, name: str, value: str) -> bool:
    return element.get(name, "").lower() == value.lower()


def _is_series(grid: Element) -> bool:
    return _is(grid, "CollectionType", "Temporal")
