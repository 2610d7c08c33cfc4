"""The text of an Abaqus input deck as keywords with their data, and tables of numbers out of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from flare_connect.mesh.files.columns import is_number, plain_number
from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.included import MOST_INCLUDES, included

_START = re.compile(rb"\n[ \t]*\*(?!\*)")
_TRAILING = re.compile(rb"(?<!,),+\n")
_COMMENT = re.compile(rb"\n[ \t]*\*\*[^\n]*")
_OPTION = re.compile(r'((?:"[^"]*"|[^,"])+|")')


@dataclass(frozen=True, kw_only=True)
class Keyword:
    """A keyword in capitals, its options with names in capitals, and its data lines without comments."""

    name: str
    options: dict[str, str]
    data: bytes


def keywords(path: Path) -> Iterator[Keyword]:
    """All keywords of a deck, those of included files in their places.

    Raises:
        FailedError: the file is no Abaqus deck, or an included file is missing, or includes itself.
    """
    text = _text(path)
    first = text[: text.find(b"\n*")].split(b"\n") if b"\n*" in text else text[:10000].split(b"\n")
    words = next((line.split() for line in first if line.strip() and not line.lstrip().startswith(b"#")), [])
    if len(words) == 5 and all(word.isdigit() for word in words):
        raise FailedError("is an AVS UCD file, not an Abaqus input deck")
    yield from _keywords(text, path, (path,), [0])


def lines_of(data: bytes) -> list[list[str]]:
    """Words of each data line, decoded; blank lines are left out."""
    text = data.decode("utf-8", errors="replace")
    return [[word.strip().strip('"') for word in line.split(",")] for line in text.split("\n") if line.strip()]


def node_table(data: bytes) -> np.ndarray:
    """Data lines "label, x, y, z" as numbers `[n, w]`; what is left blank is 0.

    Raises:
        FailedError: they are no numbers.
    """
    text = _compact(data)
    text = _TRAILING.sub(b"\n", text).replace(b",,", b",0,").replace(b",,", b",0,")
    counts = _count_fields(text)
    if not len(counts):
        return np.zeros((0, 4))
    if counts.max() > 12:
        raise FailedError(f"a line of *NODE has {counts.max()} numbers; give a label and up to 3 coordinates")
    if counts.min() != counts.max():
        pads = [b",0" * missing for missing in (counts.max() - counts).tolist()]
        text = b"\n".join(line + pad for line, pad in zip(text.split(b"\n"), [*pads, b""], strict=True))
    values = _numbers(plain_number(text), int(counts.max()) * len(counts), float, "*NODE").reshape(len(counts), -1)
    labels = values[:, 0]
    if not (np.abs(labels) < 2**53).all() or (labels != np.rint(labels)).any():
        raise FailedError("a node's label under *NODE is no integer; is the file damaged?")
    return values


def element_table(data: bytes, num_nodes: int, what: str, spare: bool = False) -> np.ndarray:
    """Data lines "label, nodes …" `[n, 1 + num_nodes]`, on one line each or going on after a comma.

    Args:
        data: data lines of `*ELEMENT`.
        num_nodes: nodes of an element, k.
        what: name of the element, for errors.
        spare: whether one node more, which gives a direction, may follow.
    """
    text = _compact(data).replace(b",\n", b",")
    counts = _count_fields(text)
    width = num_nodes + 1
    if spare and len(counts) and (counts == width + 1).all():
        width += 1
    # An element may take several lines, and must end with one.
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    if total % width or not np.isin(np.arange(width, total + 1, width), ends).all():
        raise FailedError(f"elements {what} have a label and {num_nodes} nodes each, but not all lines do")
    return _numbers(text, total, np.int64, f"*ELEMENT, TYPE={what}").reshape(-1, width)[:, : num_nodes + 1]


def count_elements(data: bytes) -> int:
    """Number of elements of any type: lines that do not go on after a comma."""
    return len(_count_fields(_compact(data).replace(b",\n", b",")))


def integers(data: bytes) -> np.ndarray | None:
    """All integers of some data lines; None where there is anything else."""
    try:
        return np.fromstring(data.replace(b",", b" "), sep=" ", dtype=np.int64)
    except (ValueError, DeprecationWarning):
        return None


def _compact(data: bytes) -> bytes:
    """No blanks, no blank lines, a newline at the end."""
    text = data.translate(None, b" \t").strip(b"\n")
    while b"\n\n" in text:
        text = text.replace(b"\n\n", b"\n")
    return text + b"\n" if text else b""


def _count_fields(text: bytes) -> np.ndarray:
    characters = np.frombuffer(text, dtype=np.uint8)
    commas, ends = np.flatnonzero(characters == ord(",")), np.flatnonzero(characters == ord("\n"))
    return np.diff(np.searchsorted(commas, ends), prepend=0) + 1


def _numbers(text: bytes, expected: int, dtype: type, where: str) -> np.ndarray:
    text = text.rstrip(b"\n").replace(b"\n", b",")
    try:
        values: np.ndarray = np.fromstring(text, sep=",", dtype=dtype)
    except (ValueError, DeprecationWarning):
        values = np.zeros(0)
    if len(values) != expected:
        bad = next((word for word in text.split(b",") if not is_number(word, dtype)), b"")
        raise FailedError(f"{bad.decode('latin-1')[:40]!r} under {where} is no number; is the file damaged?")
    return values


def _text(path: Path) -> bytes:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    return b"\n" + data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\n"


def _keywords(text: bytes, main: Path, above: tuple[Path, ...], count: list[int]) -> Iterator[Keyword]:
    starts = [(match.start(), match.end()) for match in _START.finditer(text)]
    for (_, start), (end, _) in pairwise([*starts, (len(text), 0)]):
        block = text[start:end]
        if b"**" in block:
            block = _COMMENT.sub(b"", b"\n" + block)[1:]
        head, _, data = block.partition(b"\n")
        while head.rstrip().endswith(b",") and data:
            more, _, data = data.partition(b"\n")
            head += more
        name, *parts = _OPTION.findall(head[:10_000].decode("utf-8", errors="replace")) or [""]
        pairs = [part.partition("=") for part in parts]
        options = {"".join(key.upper().split()): value.strip().strip('"') for key, _, value in pairs}
        name = " ".join(name.upper().split())
        if name == "INCLUDE" or (name in ("NODE", "ELEMENT") and "INPUT" in options):
            other = included(options.get("INPUT", ""), main, above)
            count[0] += 1
            if count[0] > MOST_INCLUDES:
                raise FailedError(f"includes more than {MOST_INCLUDES} files")
            if name == "INCLUDE":
                yield from _keywords(_text(other), main, (*above, other), count)
                continue
            data = _COMMENT.sub(b"", _text(other)) + data
        yield Keyword(name=name, options=options, data=data)
