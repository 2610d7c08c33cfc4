"""OpenFOAM's files: a header, dictionaries, and lists as text or bytes."""

import gzip
import re
import warnings
import zlib
from pathlib import Path

import numpy as np

from flare_connect.mesh.files.failed import FailedError

HEAD = 4096  # bytes in which a header ends
WIDTHS = {"label": 1, "scalar": 1, "vector": 3, "sphericalTensor": 1, "symmTensor": 6, "tensor": 9}
"""Components of each type that lists are made of."""
_PLAIN = ("label", "scalar")  # written without brackets

_SPACE = re.compile(rb"(?:\s+|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_WORD = re.compile(rb'"[^"\n]*"|[^\s;{}()\[\]"]+')
_CLOSE = re.compile(rb"\)\s*\)")
_NO_BRACKETS = bytes.maketrans(b"()", b"  ")


def stored(folder: Path, name: str) -> Path | None:
    """The file of this name, packed or not; None if there is none."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def content(path: Path, most: int | None = None, room: int = 0) -> bytes:
    """The bytes of a file, unpacked; the first `most` of them if that is given.

    `room` bytes are granted in any case: a constant packs a thousandfold.

    Raises:
        FailedError: it is packed, and damaged or far larger than packed numbers are.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        with path.open("rb") as file:
            return file.read(-1 if most is None else most)
    limit = most or max(room, 2**26 + 100 * path.stat().st_size)
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FailedError(f"{path.name} cannot be unpacked: {error}") from error
    if most is None and len(data) > limit:
        raise FailedError(f"{path.name} unpacks to more than {limit} bytes, which are too many for its size")
    return data[:most]


class Foam:
    """One file, read from front to back.

    Attributes:
        header: entries of its `FoamFile` dictionary.
        name: of the file, for messages.
    """

    def __init__(self, data: bytes, name: str):
        self.data, self.name, self.place = data, name, 0
        self.header: dict[str, str] = {}
        self.binary = False
        if self.word() != b"FoamFile":
            raise FailedError(f"{name} does not start with a FoamFile header")
        self.header = {key: value.strip('"') for key, value in self.dictionary().items()}
        self.binary = self.header.get("format") == "binary"
        arch = self.header.get("arch", "")
        order = ">" if "MSB" in arch else "<"
        bits = {kind: int(found[1]) for kind in ("label", "scalar") if (found := re.search(rf"{kind}=(32|64)\b", arch))}
        self.label = np.dtype(f"{order}i{bits.get('label', 32) // 8}")
        self.scalar = np.dtype(f"{order}f{bits.get('scalar', 64) // 8}")

    def failed(self, what: str) -> FailedError:
        """An error that says where in the file it is."""
        return FailedError(f"{self.name}: {what} at byte {self.place}")

    def skip_space(self) -> None:
        """Moves over blanks and comments."""
        found = _SPACE.match(self.data, self.place)
        if found:
            self.place = found.end()
        if self.data.startswith(b"/*", self.place):
            raise self.failed("a comment does not end")

    def peek(self) -> bytes:
        """The next character that is no blank; empty at the end."""
        self.skip_space()
        return self.data[self.place : self.place + 1]

    def take(self, character: bytes) -> None:
        """Moves over a character that must be there."""
        if self.peek() != character:
            raise self.failed(f"{character.decode()!r} is missing")
        self.place += 1

    def word(self) -> bytes:
        """The next word; empty where there is none."""
        self.skip_space()
        found = _WORD.match(self.data, self.place)
        if found is None:
            return b""
        self.place = found.end()
        return found[0]

    def number(self) -> int:
        """A count that is not negative."""
        word = self.word()
        if not word.isdigit() or len(word) > 18:
            raise self.failed(f"a count is expected, not {word[:20]!r},")
        return int(word)

    def dictionary(self) -> dict[str, str]:
        """`{ key value; … }` with the values as text; inner dictionaries and lists are left out."""
        out = {}
        self.take(b"{")
        while self.peek() != b"}":
            key = self.word().decode("latin-1")
            if not key:
                raise self.failed("a key is expected")
            start = self.place
            self.skip_entry()
            text = self.data[start : self.place].strip().removesuffix(b";").strip()
            if len(text) < HEAD:
                out[key.strip('"')] = text.decode("latin-1")
        self.place += 1
        return out

    def skip_entry(self) -> None:
        """Moves behind the `;` or the `}` that ends an entry."""
        depth = 0
        while character := self.peek():
            if self.word():
                continue
            self.place += 1
            if character in b"({[":
                depth += 1
            elif character in b")}]":
                depth -= 1
                if depth < 0 or (depth == 0 and character == b"}"):
                    break
            elif character == b";" and depth == 0:
                return
            elif character == b'"':
                raise self.failed("a quotation mark stands alone")
        if not character or depth < 0:
            raise self.failed("an entry does not end")

    def numbers(self, kind: str, num: int | None = None) -> np.ndarray:
        """A list `N ( … )` of numbers, vectors or tensors, `[N]` or `[N, c]`; `N{value}` where `num` is known.

        Args:
            kind: a type of `WIDTHS`.
            num: length that the list must have.

        Raises:
            FailedError: it is damaged, or has another length.
        """
        width = WIDTHS[kind]
        dtype = self.label if kind == "label" else self.scalar
        count = self.number()
        if num is not None and count != num:
            raise self.failed(f"{num} values are expected, not {count},")
        if self.peek() == b"{" and num is not None:
            self.place += 1
            value = self.value(kind)
            self.take(b"}")
            return np.repeat(value, num, axis=0)
        if count == 0 and self.peek() != b"(":
            values = np.zeros(0, dtype)
        elif self.binary:
            self.take(b"(")
            values = self._raw(count * width, dtype)
            self.take(b")")
        else:
            values = self._text(kind not in _PLAIN and count > 0, dtype)
        if values.size != count * width:
            raise self.failed(f"{count * width} numbers are expected, not {values.size},")
        return values.astype(dtype.newbyteorder("="), copy=False).reshape((count, width) if width > 1 else count)

    def value(self, kind: str) -> np.ndarray:
        """One value in text, `[1]` or `[1, c]`."""
        width = WIDTHS[kind]
        dtype = self.label if kind == "label" else self.scalar
        values = self._parsed(self.word(), dtype) if kind in _PLAIN else self._text(False, dtype)
        if values.size != width:
            raise self.failed(f"a {kind} has {width} components, not {values.size},")
        return values.astype(dtype.newbyteorder("=")).reshape((1, width) if width > 1 else 1)

    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """A list of lists of labels (faces): all labels, and where each list starts `[N + 1]`."""
        compact = self.header.get("class", "").endswith("CompactList")
        if self.binary and compact:
            offset, nodes = self.numbers("label").astype(np.int64), self.numbers("label").astype(np.int64)
            if not len(offset) or offset[0] != 0 or (np.diff(offset) < 0).any() or offset[-1] != len(nodes):
                raise self.failed(f"the offsets of the lists do not ascend from 0 to {len(nodes)}")
            return nodes, offset
        count = self.number()
        if count > len(self.data):
            raise self.failed(f"{count} lists are expected in {len(self.data)} bytes")
        if self.binary:
            self.take(b"(")
            parts = [self.numbers("label").astype(np.int64) for _ in range(count)]
            self.take(b")")
            sizes = np.array([len(part) for part in parts], dtype=np.int64)
            return np.concatenate([np.zeros(0, np.int64), *parts]), np.concatenate([[0], np.cumsum(sizes)])
        flat = self._text(count > 0, np.dtype(np.int64))
        starts = _walk(flat, count)
        if starts is None:
            raise self.failed(f"{count} lists are expected, and their lengths do not fit")
        sizes = flat[starts]
        mask = np.ones(len(flat), dtype=bool)
        mask[starts] = False
        return flat[mask], np.concatenate([[0], np.cumsum(sizes)])

    def _raw(self, count: int, dtype: np.dtype) -> np.ndarray:
        end = self.place + count * dtype.itemsize
        if end > len(self.data):
            raise self.failed(f"{count} numbers are expected, and the file ends before")
        values = np.frombuffer(self.data, dtype, count, self.place)
        self.place = end
        return values

    def _text(self, nested: bool, dtype: np.dtype) -> np.ndarray:
        """All numbers between this bracket and the one that closes it."""
        self.take(b"(")
        if nested:
            found = _CLOSE.search(self.data, self.place)
            end = found.end() - 1 if found else -1
        else:
            end = self.data.find(b")", self.place)
        if end < 0:
            raise self.failed("a list does not end")
        text = self.data[self.place : end]
        self.place = end + 1
        return self._parsed(text.translate(_NO_BRACKETS) if nested else text, dtype)

    def _parsed(self, text: bytes, dtype: np.dtype) -> np.ndarray:
        if not text.strip():
            return np.zeros(0, dtype.newbyteorder("="))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy stops at what is no number, and only warns
            try:
                return np.fromstring(text, dtype.newbyteorder("="), sep=" ")
            except (ValueError, DeprecationWarning) as error:
                raise self.failed(f"a list holds something else than numbers ({error}),") from None


def _walk(flat: np.ndarray, count: int) -> np.ndarray | None:
    """Where each length stands in `length, values, length, values, …`; None if the lengths do not fit."""
    size = int(flat[0]) + 1 if len(flat) else 0
    if size > 0 and len(flat) == count * size and (flat[::size] == size - 1).all():
        return np.arange(0, len(flat), size)
    starts: list[int] = []
    place, values = 0, flat.tolist()
    while place < len(values) and len(starts) < count:
        starts.append(place)
        if values[place] < 0:
            return None
        place += values[place] + 1
    return np.array(starts, dtype=np.int64) if place == len(values) and len(starts) == count else None
