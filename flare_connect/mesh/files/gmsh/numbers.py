"""The numbers of a Gmsh file one after the other, whether they are written out or stand there as bytes.

Every count comes out of the file, so it is held against what is left of the file before anything is allocated.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from flare_connect.mesh.files.failed import FailedError


class Numbers(ABC):
    """Numbers from a place in the file on; `at` is the place, `end` where they end, in numbers or in bytes."""

    def __init__(self, section: str, at: int, end: int):
        self.section, self.at, self.end = section, at, end

    def ints(self, count: int) -> list[int]:
        """The next numbers of C type int."""
        return self.table(1, count)[0][0].tolist()

    def sizes(self, count: int) -> list[int]:
        """The next numbers of C type size_t."""
        return self.table(1, count, kind="size")[0][0].tolist()

    def floats(self, count: int) -> np.ndarray:
        """The next numbers of C type double."""
        return self.table(1, 0, count)[1][0]

    def peek(self, count: int) -> list[int]:
        """The next numbers of C type int, which stay the next ones."""
        at = self.at
        found = self.ints(count)
        self.at = at
        return found

    def table(self, rows: int, ints: int, floats: int = 0, kind: str = "int") -> tuple[np.ndarray, np.ndarray]:
        """The next rows, integers first: int64 `[rows, ints]` and float64 `[rows, floats]`.

        Raises:
            FailedError: the file ends before, or has other numbers than integers there.
        """
        left, right = self._rows(rows, ints, floats, kind)
        return self._whole(left), right

    def alike(
        self, most: int, ints: int, floats: int = 0, columns: Sequence[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next rows, as many up to `most` as share the integers in `columns` with the first of them."""
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        done, size, stride = 0, 1, max(1, self._stride(ints, floats, "int"))
        while done < most:
            start = self.at
            rows = max(1, min(size, most - done, (self.end - start) // stride))
            left, right = self._rows(rows, ints, floats, "int")
            parts.append((left, right))
            same = (left[:, columns] == parts[0][0][0, columns]).all(1)
            if not same.all():
                good = int(np.argmin(same))
                parts[-1] = left[:good], right[:good]
                self.at = start + good * stride
                break
            done, size = done + rows, size * 8
        return self._whole(np.concatenate([p[0] for p in parts])), np.concatenate([p[1] for p in parts])

    def _rows(self, rows: int, ints: int, floats: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        stride = self._stride(ints, floats, kind)
        if min(rows, ints, floats) < 0 or rows * stride > self.end - self.at:
            shape = f"{rows} rows of {ints + floats} numbers"
            raise FailedError(f"is damaged or cut short: ${self.section} announces {shape}, and does not hold them")
        if not rows or not ints + floats:
            return np.zeros((rows, 0 if rows else ints), dtype=np.int64), np.zeros((rows, 0 if rows else floats))
        found = self._read(rows, ints, floats, kind)
        self.at += rows * stride
        return found

    @abstractmethod
    def _stride(self, ints: int, floats: int, kind: str) -> int:
        """How far it is from row to row, in the unit of `at`."""

    @abstractmethod
    def _read(self, rows: int, ints: int, floats: int, kind: str) -> tuple[np.ndarray, np.ndarray]: ...

    def _whole(self, values: np.ndarray) -> np.ndarray:
        if values.dtype == np.int64:
            return values
        good = (np.abs(values) < 2.0**53) & (values == np.floor(values))
        if not good.all():
            raise FailedError(f"is damaged: ${self.section} has {values[~good][0]} where a whole number must be")
        return values.astype(np.int64)


class Text(Numbers):
    """Numbers that are written out."""

    def __init__(self, section: str, text: bytes, dtype: type = np.float64):
        text = text.strip()  # of blanks alone, numpy would make a 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # numpy warns of text that it cannot read, and leaves it out
                self.values: np.ndarray = np.fromstring(text, dtype=dtype, sep=" ") if text else np.zeros(0, dtype)
        except (DeprecationWarning, ValueError) as error:
            raise FailedError(f"is damaged: ${section} holds something else than numbers") from error
        super().__init__(section, 0, len(self.values))

    def _stride(self, ints: int, floats: int, kind: str) -> int:
        return ints + floats

    def _read(self, rows: int, ints: int, floats: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        width = ints + floats
        block = self.values[self.at : self.at + rows * width].reshape(rows, width)
        return block[:, :ints], block[:, ints:]


class Binary(Numbers):
    """Numbers as bytes.

    Args:
        section: its name.
        data: the whole file.
        at: byte where the numbers start.
        order: `<` or `>`, the order of bytes.
        size: bytes of a size_t, 4 or 8.
    """

    def __init__(self, section: str, data: bytes, at: int, order: str, size: int):
        super().__init__(section, at, len(data))
        self.data = data
        # size_t read as signed: what overflows is negative, and so neither a count nor the number of a node
        self.types = {"int": np.dtype(f"{order}i4"), "size": np.dtype(f"{order}i{size}")}
        self.double = np.dtype(f"{order}f8")

    def _stride(self, ints: int, floats: int, kind: str) -> int:
        return ints * self.types[kind].itemsize + 8 * floats

    def _read(self, rows: int, ints: int, floats: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        whole, none = self.types[kind], np.zeros((rows, 0))
        if not floats:
            block = np.frombuffer(self.data, whole, rows * ints, self.at).reshape(rows, ints)
            return block.astype(np.int64, copy=False), none
        if not ints:
            block = np.frombuffer(self.data, self.double, rows * floats, self.at).reshape(rows, floats)
            return none.astype(np.int64), block.astype(np.float64, copy=False)
        mixed = np.frombuffer(self.data, [("i", whole, (ints,)), ("f", self.double, (floats,))], rows, self.at)
        return mixed["i"].astype(np.int64), mixed["f"].astype(np.float64)


class Rows:
    """Where each of many numbers stands.

    Args:
        tags: the numbers `[n]`.
    """

    def __init__(self, tags: np.ndarray):
        self.count = len(tags)
        self.first = int(tags[0]) if len(tags) else 0
        low, high = (int(tags.min()), int(tags.max())) if len(tags) else (0, 0)
        self.repeated: int | None = None
        self.table: np.ndarray | None = None
        self.order: np.ndarray | None = None
        self.sorted: np.ndarray | None = None
        if high - low + 1 == len(tags) and (tags[1:] > tags[:-1]).all():
            return  # one after the other, as they mostly are
        self.order = np.argsort(tags, kind="stable")
        self.sorted = tags[self.order]
        same = self.sorted[1:] == self.sorted[:-1]
        if same.any():
            self.repeated = int(self.sorted[1:][same][0])
        if low >= 0 and high < 4 * len(tags) + 1000:
            self.table = np.full(high + 1, -1, dtype=np.int64)
            self.table[self.sorted] = self.order

    def find(self, tags: np.ndarray) -> np.ndarray:
        """Rows of these numbers, in their shape, the last one of each; -1 for numbers that are not there."""
        if self.sorted is None or self.order is None:
            rows = tags - self.first
            if not rows.size or (rows.min() >= 0 and rows.max() < self.count):
                return rows
            return np.where((rows >= 0) & (rows < self.count), rows, -1)
        if self.table is not None:
            inside = (tags >= 0) & (tags < len(self.table))
            return np.where(inside, self.table[np.where(inside, tags, 0)], -1)
        at = np.maximum(np.searchsorted(self.sorted, tags, side="right") - 1, 0)
        return np.where(self.sorted[at] == tags, self.order[at], -1)


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts one after the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
