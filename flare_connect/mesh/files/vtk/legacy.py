"""Legacy VTK files: whether their counts and lengths fit what they hold, judged without VTK."""

import math
import mmap
import re
from pathlib import Path

import numpy as np

from flare_connect.mesh.files.failed import CutShortError

_SIZES = {
    b"char": 1, b"unsigned_char": 1, b"short": 2, b"unsigned_short": 2, b"int": 4, b"unsigned_int": 4, b"long": 8,
    b"unsigned_long": 8, b"float": 4, b"double": 8, b"vtkidtype": 4, b"vtktypeint64": 8, b"vtktypeuint64": 8,
}  # fmt: skip
_WIDTHS = {b"VECTORS": 3, b"NORMALS": 3, b"TENSORS": 9, b"TENSORS6": 6, b"GLOBAL_IDS": 1, b"PEDIGREE_IDS": 1}
_GRIDS = (
    *(b"DIMENSIONS", b"SPACING", b"ASPECT_RATIO", b"ORIGIN"),
    *(b"X_COORDINATES", b"Y_COORDINATES", b"Z_COORDINATES"),
)
_INTEGERS = {b"int": ">i4", b"vtkidtype": ">i4", b"long": ">i8", b"vtktypeint64": ">i8"}


def is_sound_legacy(path: Path) -> bool:
    """Whether all counts and lengths of a legacy file fit what is in it.

    Raises:
        CutShortError: the file ends before the numbers that it announces: VTK would give what is in memory for them.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    head = data[:512].split(b"\n", 4)
    version = re.fullmatch(rb"# vtk DataFile Version (\d)\.\d\s*", head[0])
    if version is None or head[2].strip() not in (b"BINARY", b"ASCII"):
        return False
    kind = head[3].split()
    if len(kind) != 2 or kind[0] != b"DATASET":
        return False
    start = sum(len(line) + 1 for line in head[:4])
    counts_fit = _Legacy(data, start, head[2].strip() == b"BINARY", int(version[1])).is_sound()
    return counts_fit and kind[1] in (b"UNSTRUCTURED_GRID", b"POLYDATA")


class _Legacy:
    """One pass over the sections of a legacy file."""

    def __init__(self, data: mmap.mmap, place: int, binary: bool, version: int):
        self.data, self.place, self.binary, self.version = data, place, binary, version
        self.tuples = self.num_points = self.num_cells = self.num_types = -1
        self.has_cells, self.section = False, b""

    def is_sound(self) -> bool:
        while (words := self._words()) is not None:
            if not self._section(words):
                return False
        if self.num_cells > 0 and self.num_types < 0 and self.has_cells:
            raise CutShortError("ends before CELL_TYPES")
        return self.num_points > 0 and self.num_cells > 0 and self.num_types in (-1, self.num_cells)

    def _section(self, words: list[bytes]) -> bool:
        name, rest = words[0].upper(), words[1:]
        self.section = name
        if name in _GRIDS:
            return self._grid(name, rest)
        if name == b"POINTS":
            self.num_points = int(rest[0])
            return self._numbers(3 * self.num_points, rest[1])
        self.has_cells |= name == b"CELLS"
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
            return all(self._array(self._needed()) for _ in range(int(rest[1])))
        if name == b"SCALARS":
            table = self._needed()
            width = int(rest[2]) if len(rest) > 2 else 1
            return table[:1] == [b"LOOKUP_TABLE"] and 0 < width < 5 and self._numbers(width * self.tuples, rest[1])
        if name == b"COLOR_SCALARS":
            return self._numbers(int(rest[1]) * self.tuples, b"unsigned_char")
        if name == b"LOOKUP_TABLE":
            return self._numbers(4 * int(rest[1]), b"unsigned_char")
        if name == b"TEXTURE_COORDINATES":
            return self._numbers(int(rest[1]) * self.tuples, rest[2])
        return name in _WIDTHS and self._numbers(_WIDTHS[name] * self.tuples, rest[1])

    def _grid(self, name: bytes, rest: list[bytes]) -> bool:
        """Sections of regular grids, whose points and cells are counted along axes."""
        if name == b"DIMENSIONS":
            axes = [int(word) for word in rest]
            self.num_points = math.prod(axes)
            self.num_cells = math.prod(max(count - 1, 1) for count in axes)
            return len(axes) == 3
        return not name.endswith(b"COORDINATES") or self._numbers(int(rest[0]), rest[1])

    def _array(self, words: list[bytes]) -> bool:
        if words[0] == b"METADATA":
            return self._section(words) and self._array(self._needed())
        self.section = words[0]
        width, tuples = int(words[1]), int(words[2])
        return width > 0 and tuples >= 0 and self._numbers(width * tuples, words[3])

    def _cells(self, count: int, total: int) -> bool:
        if self.version >= 5:
            words = self._needed()
            offsets = words[0] == b"OFFSETS" and self._integers(count, words[1])
            words = self._needed()
            if offsets is False or offsets is None or words[0] != b"CONNECTIVITY":
                return False
            nodes = self._integers(total, words[1])
            self.num_cells = max(self.num_cells, 0) + count - 1
            return bool(
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
        return not nodes.size or bool(nodes.min() >= 0 and nodes.max() < self.num_points)

    def _line(self) -> bytes:
        end = self.data.find(b"\n", self.place)
        end = len(self.data) if end < 0 else end + 1
        line, self.place = self.data[self.place : end], end
        return line

    def _words(self) -> list[bytes] | None:
        while line := self._line():
            words = line.split()
            # every section is a line and what follows it
            if words and words[0][:1].isalpha() and not line.endswith(b"\n"):
                raise CutShortError(f"ends within the line {line[:40].decode('latin-1')!r}")
            if words:
                return words
        return None

    def _needed(self) -> list[bytes]:
        """The words of a line that there must be."""
        words = self._words()
        if words is None:
            raise CutShortError(f"ends within {self._title()}")
        return words

    def _numbers(self, count: int, kind: bytes) -> bool:
        """Moves over numbers, and says whether they are all there."""
        if count < 0:
            return False
        if kind.lower() == b"string":
            return self.binary and all(self._string() for _ in range(count))
        if self.binary:
            self._move(count, _SIZES[kind.lower()])
            return True
        return len(self._segment(count)) == count

    def _move(self, count: int, size: int) -> None:
        start, self.place = self.place, self.place + count * size
        if self.place > len(self.data):
            there = max(0, len(self.data) - start) // size
            raise CutShortError(f"announces {count} numbers in {self._title()} and holds {there}")

    def _string(self) -> bool:
        """Moves over a string; the two highest bits of its first byte say how many bytes its length takes."""
        self._move(1, 1)
        size = 1 << (3 - (self.data[self.place - 1] >> 6))
        self._move(size - 1, 1)
        length = int.from_bytes(self.data[self.place - size : self.place], "big")
        self._move(length & ((1 << (8 * size - 2)) - 1) if size < 8 else length, 1)
        return True

    def _title(self) -> str:
        return self.section.decode("latin-1")

    def _integers(self, count: int, kind: bytes) -> np.ndarray | None:
        if count < 0:
            return None
        if not self.binary:
            words = self._segment(count)
            return np.array(words, dtype=np.int64) if len(words) == count else None
        dtype = np.dtype(_INTEGERS[kind.lower()])
        start = self.place
        self._move(count, dtype.itemsize)
        return np.frombuffer(self.data, dtype, count, start)

    def _segment(self, count: int) -> list[bytes]:
        """Words up to the next line that starts with a letter: in text, the next section."""
        found = re.compile(rb"^[A-Za-z]", re.MULTILINE).search(self.data, self.place)
        end = found.start() if found else len(self.data)
        words = self.data[self.place : end].split()
        self.place = end
        if found is None and len(words) < count:
            raise CutShortError(f"announces {count} numbers in {self._title()} and holds {len(words)}")
        return words
