"""Whether the arrays of a VTK XML file are as long as the file says."""

import base64
import mmap
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

_SIZES = {"Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Int32": 4, "UInt32": 4, "Int64": 8, "UInt64": 8}
_SIZES |= {"Float32": 4, "Float64": 8}
_COUNTS = ("NumberOfPoints", "NumberOfCells", "NumberOfVerts", "NumberOfLines", "NumberOfStrips", "NumberOfPolys")


def xml_is_sound(path: Path) -> bool:
    """Checks counts, offsets and lengths of a `.vtu` or `.vtp` file against each other and against its size."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(b"<AppendedData")
        text = bytes(data) if start < 0 else data[:start] + b"</VTKFile>"
        root = ElementTree.fromstring(text)
        if root.tag != "VTKFile" or root.get("byte_order") not in ("LittleEndian", "BigEndian"):
            return False
        if root.get("compressor") not in (None, *(f"vtk{name}DataCompressor" for name in ("ZLib", "LZ4", "LZMA"))):
            return False
        return _Arrays(root, data, start).are_sound()


class _Arrays:
    def __init__(self, root: ElementTree.Element, data: mmap.mmap, start: int):
        order = "<" if root.get("byte_order") == "LittleEndian" else ">"
        self.word = np.dtype(order + {"UInt32": "u4", "UInt64": "u8"}[root.get("header_type", "UInt32")])
        self.compressed = root.get("compressor") is not None
        self.root, self.data, self.base, self.raw = root, data, 0, False
        if start >= 0:
            tag_end = data.find(b">", start)
            encoding = re.search(rb'encoding="(\w+)"', data[start:tag_end])
            self.raw = encoding is not None and encoding[1] == b"raw"
            self.base = data.find(b"_", tag_end) + 1
            if self.base < 1 or data[tag_end + 1 : self.base - 1].strip():
                raise ValueError("no data behind the header")

    def are_sound(self) -> bool:
        (grid,) = self.root
        pieces = grid.findall("Piece")
        return (
            bool(pieces)
            and all(self._piece(piece) for piece in pieces)
            and all(self._array(array, None) for array in grid.iterfind("FieldData/DataArray"))
            and not any(array.get("Name") in ("faces", "face_connectivity") for array in grid.iter("DataArray"))
        )

    def _piece(self, piece: ElementTree.Element) -> bool:
        counts = {name: int(piece.get(name, "0")) for name in _COUNTS}
        if min(counts.values()) < 0:
            return False
        points = counts["NumberOfPoints"]
        cells = sum(counts.values()) - points
        for section in piece:
            if section.tag not in ("PointData", "CellData", "Points", "Cells", "Verts", "Lines", "Strips", "Polys"):
                return False
            of_section = cells if section.tag in ("CellData", "Cells") else counts.get(f"NumberOf{section.tag}", points)
            of_section = points if section.tag in ("PointData", "Points") else of_section
            for array in section:
                if array.tag != "DataArray":
                    return False
                free = array.get("Name") == "connectivity" and section.tag not in ("PointData", "CellData")
                if not self._array(array, None if free else of_section):
                    return False
        return True

    def _array(self, array: ElementTree.Element, tuples: int | None) -> bool:
        size = _SIZES[array.get("type", "")]
        width = int(array.get("NumberOfComponents", "1"))
        if tuples is None and array.get("NumberOfTuples"):
            tuples = int(array.get("NumberOfTuples", ""))
        if width < 1 or (tuples is not None and tuples < 0):
            return False
        if array.get("format") == "ascii":
            count = len((array.text or "").split())
            return tuples is None or count == tuples * width
        if array.get("format") == "appended":
            length = self._length(self.base + int(array.get("offset", "")), len(self.data), None)
        else:
            length = self._length(0, 0, (array.text or "").strip())
        return length is not None and length % size == 0 and (tuples is None or length == tuples * width * size)

    def _length(self, start: int, end: int, text: str | None) -> int | None:
        """Bytes of an array once unpacked, by its header; None where the file is too short for it."""
        step = self.word.itemsize
        words = self._words(start, text, 1 if not self.compressed else 3)
        if not self.compressed:
            packed, header, length = int(words[0]), step, int(words[0])
            coded = self._coded(packed + header)
        else:
            blocks, block, last = (int(word) for word in words)
            if blocks * step > len(self.data):
                return None
            length = block * (blocks - (last > 0)) + last
            sizes = self._words(start, text, 3 + blocks)[3:]
            header, packed = (3 + blocks) * step, sum(int(size) for size in sizes)
            coded = self._coded(header) + self._coded(packed)
            if last >= max(block, 1) or length > 1100 * packed or block > 2**31:  # zlib cannot pack more tightly
                return None
        there = len(text) if text is not None else end - start
        needed = packed + header if text is None and self.raw else coded
        return length if needed <= there else None

    def _coded(self, size: int) -> int:
        return size if self.raw else 4 * -(-size // 3)

    def _words(self, start: int, text: str | None, count: int) -> np.ndarray:
        size = count * self.word.itemsize
        coded = 4 * -(-size // 3)
        if text is not None:
            found = base64.b64decode(text[:coded], validate=True)
        elif self.raw:
            found = self.data[start : start + size]
        else:
            found = base64.b64decode(self.data[start : start + coded], validate=True)
        return np.frombuffer(found[:size], self.word, count)
