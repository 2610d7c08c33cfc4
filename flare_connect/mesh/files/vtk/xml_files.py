"""VTK's XML files `.vtu` and `.vtp`, read without VTK: faster, and nothing in a damaged file is believed."""

import binascii
import json
import lzma
import mmap
import os
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from flare_connect.mesh.files.assemble import numeric
from flare_connect.mesh.files.failed import NO_CELLS, FailedError
from flare_connect.mesh.files.vtk.cells import VtkCells, check_cells, polydata_cells
from flare_connect.mesh.files.vtk.from_vtk import Part, from_parts
from flare_connect.mesh.files.vtk.to_vtk import UNITS
from flare_connect.mesh.mesh import Mesh

Element = ElementTree.Element

_TYPES = {"Int8": "i1", "UInt8": "u1", "Int16": "i2", "UInt16": "u2", "Int32": "i4", "UInt32": "u4", "Int64": "i8"}
_TYPES |= {"UInt64": "u8", "Float32": "f4", "Float64": "f8", "String": "u1"}
_UNPACKED = 1100  # bytes that zlib can make of one, and a little more
_POLYHEDRON = 42


def read_xml(path: Path, step: int = -1, *, allow_nonfinite: bool = False) -> Mesh:
    """Reads an `UnstructuredGrid` or a `PolyData`, of one piece or several, as `from_pyvista` does.

    Raises:
        FailedError: the file is no such file, is damaged, or holds what is not known here: polyhedra, arrays packed by
            LZ4. VTK reads these.
        MeshError: its arrays do not make a mesh.
    """
    parts = xml_parts(path)
    if not parts:
        raise FailedError(NO_CELLS)
    return from_parts(parts, allow_nonfinite=allow_nonfinite)


def xml_parts(path: Path, name: str = "") -> list[Part]:
    """The pieces of a file that have cells, all under one name.

    Raises:
        FailedError: as for `read_xml`.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise FailedError("is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        root, payloads, end = _skeleton(data)
        arrays = _Arrays(root, data, payloads, end)
        kind = root.get("type", "")
        grid = root.find(kind)
        if root.tag != "VTKFile" or kind not in ("UnstructuredGrid", "PolyData") or grid is None:
            raise FailedError(f"holds a data set of type {kind!r}")
        arrays.decode(list(grid.iter("DataArray")) + list(grid.iter("Array")))
        pieces = [piece for piece in grid.findall("Piece") if piece.get("NumberOfPoints", "0") != "0"]
        parts = [_part(name, kind, piece, arrays) for piece in pieces]
        field_data, units = _field_data(grid.find("FieldData"), arrays)
    except (ElementTree.ParseError, binascii.Error, zlib.error, lzma.LZMAError, ValueError, LookupError) as error:
        raise FailedError(" ".join(str(error).split())[:300] or type(error).__name__) from error
    parts = [part for part in parts if len(part.cells.types)]
    for part in parts:
        part.field_data, part.units = field_data, units
    return parts


def _skeleton(data: mmap.mmap) -> tuple[Element, list[tuple[int, int]], int]:
    """The XML without the contents of its arrays; where these are, in document order; where appended data begin."""
    appended = data.find(b"<AppendedData")
    stop = len(data) if appended < 0 else appended
    pieces, payloads, last = [], [], 0
    place = data.find(b"Array", 0, stop)
    while place >= 0:
        if data[place - 1 : place] == b"<" or data[place - 5 : place] == b"<Data":
            end = data.find(b">", place, stop) + 1
            if end == 0:
                raise FailedError("is cut off in a tag")
            follows = data.find(b"<", end)
            follows = stop if follows < 0 or follows > stop else follows
            closed = data[end - 2 : end - 1] == b"/"
            payloads.append((end, end) if closed else (end, follows))
            pieces.append(data[last:end])
            last = place = end if closed else follows
        place = data.find(b"Array", place + 1, stop)
    pieces.append(data[last:stop])
    return ElementTree.fromstring(b"".join(pieces) + (b"" if appended < 0 else b"</VTKFile>")), payloads, appended


class _Arrays:
    """The arrays of a file by their elements."""

    def __init__(self, root: Element, data: mmap.mmap, payloads: list[tuple[int, int]], appended: int):
        self.data = data
        self.order: Literal["<", ">"] = ">" if root.get("byte_order") == "BigEndian" else "<"
        self.word = np.dtype(self.order + {"UInt32": "u4", "UInt64": "u8"}[root.get("header_type", "UInt32")])
        self.unpack: Callable[[bytes, int], bytes] | None = None
        packed = root.get("compressor")
        if packed is not None:
            if packed not in _UNPACKERS:
                raise FailedError(f"is packed by {packed}")
            self.unpack = _UNPACKERS[packed]
        elements = [element for element in root.iter() if element.tag in ("DataArray", "Array")]
        if len(elements) != len(payloads):
            raise FailedError("its arrays are not where they should be")
        self.place = dict(zip(elements, payloads, strict=True))
        self.raw, self.base = True, 0
        if appended >= 0:
            tag_end = data.find(b">", appended)
            encoding = re.search(rb'encoding="(\w+)"', data[appended:tag_end])
            self.raw = encoding is not None and encoding[1] == b"raw"
            self.base = data.find(b"_", tag_end) + 1
            if self.base < 1 or data[tag_end + 1 : self.base - 1].strip():
                raise FailedError("no data behind the header")
        self.found: dict[Element, np.ndarray] = {}

    def __getitem__(self, element: Element) -> np.ndarray:
        return self.found[element]

    def decode(self, elements: list[Element]) -> None:
        """Unpacks all of them, several at a time: zlib holds no lock."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            self.found = dict(zip(elements, pool.map(self._decoded, elements), strict=True))

    def _decoded(self, element: Element) -> np.ndarray:
        dtype = np.dtype(_TYPES[element.get("type", "")]).newbyteorder(self.order)
        width = int(element.get("NumberOfComponents", "1") or 1)
        form = element.get("format", "ascii")
        begin, end = self.place[element]
        if form == "ascii":
            words = self.data[begin:end].split()
            flat = np.array(words, dtype=float if dtype.kind == "f" else np.int64).astype(dtype)
        elif form == "appended":
            flat = self._bytes(self.base + int(element.get("offset", "")), len(self.data), self.raw, dtype)
        else:
            while begin < end and self.data[begin : begin + 1].isspace():
                begin += 1
            while end > begin and self.data[end - 1 : end].isspace():
                end -= 1
            flat = self._bytes(begin, end, False, dtype)
        values = flat.astype(dtype.newbyteorder("="), copy=False)
        return values.reshape(-1, width) if width > 1 else values

    def _bytes(self, begin: int, end: int, raw: bool, dtype: np.dtype[Any]) -> np.ndarray:
        """Numbers of one array, whose header says how long it is."""
        if begin < self.base or begin > end:
            raise FailedError("an array is outside the file")
        if self.unpack is None:
            length = int(self._words(begin, end, raw, 1)[0])
            content = self._slice(begin, end, raw, self.word.itemsize + length)[self.word.itemsize :]
        else:
            blocks, size, last = (int(word) for word in self._words(begin, end, raw, 3))
            if blocks * self.word.itemsize > end - begin:
                raise FailedError(f"an array claims {blocks} blocks")
            header = (3 + blocks) * self.word.itemsize
            sizes = [int(word) for word in self._words(begin, end, raw, 3 + blocks)[3:]]
            length = size * (blocks - (last > 0)) + last
            if last >= max(size, 1) or length > _UNPACKED * sum(sizes):
                raise FailedError(f"an array claims {length} bytes in {sum(sizes)} packed ones")
            begin += header if raw else 4 * -(-header // 3)
            packed, place, unpacked = self._slice(begin, end, raw, sum(sizes)), 0, []
            for i, part in enumerate(sizes):
                unpacked.append(self.unpack(packed[place : place + part], last if last and i == blocks - 1 else size))
                place += part
            content = b"".join(unpacked)
        if len(content) != length or length % dtype.itemsize:
            raise FailedError(f"an array has {len(content)} bytes, not {length}")
        return np.frombuffer(content, dtype)

    def _words(self, begin: int, end: int, raw: bool, count: int) -> np.ndarray:
        return np.frombuffer(self._slice(begin, end, raw, count * self.word.itemsize), self.word)

    def _slice(self, begin: int, end: int, raw: bool, size: int) -> bytes:
        """So many bytes of what is there, decoded."""
        length = size if raw else 4 * -(-size // 3)
        if length > end - begin:
            raise FailedError("is cut off in an array")
        found = self.data[begin : begin + length]
        return found if raw else binascii.a2b_base64(found)[:size]


def _inflate(packed: bytes, size: int) -> bytes:
    return zlib.decompressobj().decompress(packed, size) if size else b""


def _unlzma(packed: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor().decompress(packed, size) if size else b""


_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "vtkZLibDataCompressor": _inflate,
    "vtkLZMADataCompressor": _unlzma,
}


def _part(name: str, kind: str, piece: Element, arrays: _Arrays) -> Part:
    num_points = int(piece.get("NumberOfPoints", "0"))
    points = [arrays[element] for element in piece.iterfind("Points/DataArray")]
    if len(points) != 1 or points[0].reshape(-1).shape != (3 * num_points,):
        raise FailedError(f"its points are not {num_points} times three numbers")
    cells = (_grid if kind == "UnstructuredGrid" else _polydata)(piece, points[0].reshape(-1, 3), arrays)
    check_cells(cells)
    point_data = _fields(piece.find("PointData"), arrays, num_points)
    cell_data = _fields(piece.find("CellData"), arrays, len(cells.types))
    return Part(name, cells, point_data, cell_data, {}, {})


def _grid(piece: Element, points: np.ndarray, arrays: _Arrays) -> VtkCells:
    found = {element.get("Name"): arrays[element].reshape(-1) for element in piece.iterfind("Cells/DataArray")}
    count = int(piece.get("NumberOfCells", "0"))
    types = found.get("types", np.zeros(0)).astype(np.uint8)
    if len(types) != count or (types == _POLYHEDRON).any():
        raise FailedError("has polyhedra" if len(types) == count else f"has {len(types)} types of {count} cells")
    offset, nodes = _lists(found, count)
    return VtkCells(points, types, offset, nodes, polydata_cells(points, [None] * 4).polyhedra)


def _polydata(piece: Element, points: np.ndarray, arrays: _Arrays) -> VtkCells:
    lists = []
    for section in ("Verts", "Lines", "Polys", "Strips"):
        count = int(piece.get(f"NumberOf{section}", "0"))
        elements = piece.iterfind(f"{section}/DataArray")
        found = {element.get("Name"): arrays[element].reshape(-1) for element in elements}
        lists.append(_lists(found, count) if count else None)
    return polydata_cells(points, lists)


def _lists(found: dict[str | None, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each cell starts `[count + 1]`, and the nodes of all."""
    ends = found.get("offsets", np.zeros(0, dtype=np.int64))
    nodes = found.get("connectivity", np.zeros(0, dtype=np.int64))
    if len(ends) != count or ends.dtype.kind not in "iu" or nodes.dtype.kind not in "iu":
        raise FailedError(f"has {len(ends)} offsets of {count} cells")
    return np.concatenate([[0], ends.astype(np.int64, copy=False)]), nodes.astype(np.int64, copy=False)


def _fields(section: Element | None, arrays: _Arrays, count: int) -> dict[str, np.ndarray]:
    found = {} if section is None else {e.get("Name", ""): arrays[e] for e in section.iterfind("DataArray")}
    wrong = [name for name, values in found.items() if len(values) != count]
    if wrong:
        raise FailedError(f"field {wrong[0]!r} has {len(found[wrong[0]])} values for {count}")
    return numeric(found)


def _field_data(section: Element | None, arrays: _Arrays) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if section is None:
        return {}, {}
    units: dict[str, str] = {}
    for element in section.iterfind("Array"):
        if element.get("Name") == UNITS:
            units = json.loads(arrays[element].tobytes().split(b"\0")[0].decode())
    return numeric({e.get("Name", ""): arrays[e] for e in section.iterfind("DataArray")}), units
