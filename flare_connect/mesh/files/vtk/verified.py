"""Whether a file is sound enough for VTK's parsers, judged from its structure without VTK.

`True` vouches for counts, lengths and offsets; `False` only says that nothing is known, and the file is then read in a
process of its own.
"""

import mmap
import re
from pathlib import Path

import numpy as np


def is_sound(path: Path) -> bool:
    """Whether VTK can be trusted with a file; reads it once, at a fraction of the cost of VTK's reader."""
    check = _CHECKS.get(path.suffix.lower())
    if check is None:
        return False
    try:
        return check(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, SyntaxError):
        return False


def _stl(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(84)
    if head.startswith(b"solid") and b"\0" not in head:
        return True  # text, of which VTK takes no count or length
    return len(head) == 84 and path.stat().st_size == 84 + 50 * int.from_bytes(head[80:84], "little")


_SIZES = {
    b"char": 1, b"unsigned_char": 1, b"short": 2, b"unsigned_short": 2, b"int": 4, b"unsigned_int": 4, b"long": 8,
    b"unsigned_long": 8, b"float": 4, b"double": 8, b"vtkidtype": 4, b"vtktypeint64": 8, b"vtktypeuint64": 8,
}  # fmt: skip
_INTEGERS = {b"int": ">i4", b"vtkidtype": ">i4", b"long": ">i8", b"vtktypeint64": ">i8"}


def _legacy(path: Path) -> bool:
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    head = data[:512].split(b"\n", 4)
    version = re.fullmatch(rb"# vtk DataFile Version (\d)\.\d\s*", head[0])
    if version is None or head[2].strip() not in (b"BINARY", b"ASCII"):
        return False
    kind = head[3].split()
    if len(kind) != 2 or kind[0] != b"DATASET" or kind[1] not in (b"UNSTRUCTURED_GRID", b"POLYDATA"):
        return False
    start = sum(len(line) + 1 for line in head[:4])
    return _Legacy(data, start, head[2].strip() == b"BINARY", int(version[1])).is_sound()


class _Legacy:
    """One pass over the sections of a legacy file."""

    def __init__(self, data: mmap.mmap, place: int, binary: bool, version: int):
        self.data, self.place, self.binary, self.version = data, place, binary, version
        self.tuples = self.num_points = self.num_cells = self.num_types = -1

    def is_sound(self) -> bool:
        while (words := self._words()) is not None:
            if not self._section(words):
                return False
        return self.num_points > 0 and self.num_cells > 0 and self.num_types in (-1, self.num_cells)

    def _section(self, words: list[bytes]) -> bool:
        name, rest = words[0].upper(), words[1:]
        if name == b"POINTS":
            self.num_points = int(rest[0])
            return self._numbers(3 * self.num_points, rest[1])
        if name in (b"CELLS", b"VERTICES", b"LINES", b"POLYGONS", b"TRIANGLE_STRIPS"):
            return self._cells(int(rest[0]), int(rest[1]))
        if name == b"CELL_TYPES":
            self.num_types = int(rest[0])
            return self._numbers(self.num_types, b"int")
        if name in (b"POINT_DATA", b"CELL_DATA"):
            self.tuples = int(rest[0])
            return self.tuples == (self.num_points if name == b"POINT_DATA" else self.num_cells)
        if name == b"METADATA":
            while line := self._line():
                if not line.strip():
                    break
            return True
        if name == b"FIELD":
            return all(self._array(self._words() or []) for _ in range(int(rest[1])))
        if name == b"SCALARS":
            table = self._words() or []
            width = int(rest[2]) if len(rest) > 2 else 1
            return table[:1] == [b"LOOKUP_TABLE"] and 0 < width < 5 and self._numbers(width * self.tuples, rest[1])
        widths = {b"VECTORS": 3, b"NORMALS": 3, b"TENSORS": 9, b"TENSORS6": 6}
        return name in widths and self._numbers(widths[name] * self.tuples, rest[1])

    def _array(self, words: list[bytes]) -> bool:
        if words[0] == b"METADATA":
            return self._section(words) and self._array(self._words() or [])
        width, tuples = int(words[1]), int(words[2])
        return width > 0 and tuples >= 0 and self._numbers(width * tuples, words[3])

    def _cells(self, count: int, total: int) -> bool:
        if self.version >= 5:
            words = self._words() or []
            offsets = words[0] == b"OFFSETS" and self._integers(count, words[1])
            words = self._words() or []
            if offsets is False or offsets is None or words[0] != b"CONNECTIVITY":
                return False
            nodes = self._integers(total, words[1])
            self.num_cells = max(self.num_cells, 0) + count - 1
            return (
                nodes is not None
                and offsets[0] == 0
                and offsets[-1] == total
                and bool((np.diff(offsets) >= 0).all())
                and self._in_range(nodes)
            )
        flat = self._integers(total, b"int")
        if flat is None or count < 1 or total < 1:
            return False
        self.num_cells = max(self.num_cells, 0) + count
        size = int(flat[0]) + 1
        if size > 0 and count * size == total and (flat[::size] == size - 1).all():
            return self._in_range(flat.reshape(count, size)[:, 1:])
        sizes, place, left = flat.tolist(), 0, count
        while place < total and left and sizes[place] >= 0:
            place += sizes[place] + 1
            left -= 1
        return place == total and left == 0 and bool((flat >= 0).all())

    def _in_range(self, nodes: np.ndarray) -> bool:
        return not nodes.size or (nodes.min() >= 0 and nodes.max() < self.num_points)

    def _line(self) -> bytes:
        end = self.data.find(b"\n", self.place)
        end = len(self.data) if end < 0 else end + 1
        line, self.place = self.data[self.place : end], end
        return line

    def _words(self) -> list[bytes] | None:
        while line := self._line():
            words = line.split()
            if words:
                return words
        return None

    def _numbers(self, count: int, kind: bytes) -> bool:
        """Moves over numbers, and says whether they are all there."""
        if count < 0:
            return False
        if self.binary:
            self.place += count * _SIZES[kind.lower()]
            return self.place <= len(self.data)
        return len(self._segment()) == count

    def _integers(self, count: int, kind: bytes) -> np.ndarray | None:
        if count < 0:
            return None
        if not self.binary:
            words = self._segment()
            return np.array(words, dtype=np.int64) if len(words) == count else None
        dtype = np.dtype(_INTEGERS[kind.lower()])
        start = self.place
        self.place += count * dtype.itemsize
        if self.place > len(self.data):
            return None
        return np.frombuffer(self.data, dtype, count, start)

    def _segment(self) -> list[bytes]:
        """Words up to the next line that starts with a letter: in text, the next section."""
        found = re.compile(rb"^[A-Za-z]", re.MULTILINE).search(self.data, self.place)
        end = found.start() if found else len(self.data)
        words = self.data[self.place : end].split()
        self.place = end
        return words


_CHECKS = {
    ".vtk": _legacy,
    ".stl": _stl,
    ".obj": lambda path: True,  # as above: 300 damaged ones did VTK's reader no harm
}
