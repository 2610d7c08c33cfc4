"""The cards of a Nastran deck: small, large and free fields, continued lines, included files."""

import re
import warnings
from pathlib import Path

from flare_connect.mesh.files.failed import FailedError
from flare_connect.mesh.files.included import MOST_INCLUDES, included

_INCLUDE = re.compile(rb"\n[ \t]*INCLUDE\b[ \t]*(?:'([^'\n]*)'|\"([^\"\n]*)\"|([^'\"\n$]*))", re.IGNORECASE)
_BEGIN = re.compile(rb"\n[ \t]*BEGIN[ \t,]+(?:BULK)?[^\n]*", re.IGNORECASE)
_END = re.compile(rb"\n[ \t]*ENDDATA", re.IGNORECASE)
_PER_LINE = 8  # fields of a card on one line, two lines where they are large
_FREE = 32  # room for a number in free fields

Cards = dict[str, dict[int, list[bytes]]]
"""Name → width of a field → all fields after the name, as text, for each card."""


def bulk(path: Path) -> tuple[bytes, bytes]:
    """The whole text with included files in their places, and the part of it that holds cards."""
    text = _text(path, path, (path,), [0])
    begin, end = _BEGIN.search(text), _END.search(text)
    start = begin.end() if begin and (not end or begin.end() < end.start()) else 0
    end = _END.search(text, start)
    # a deck may leave it out, and one that others include does; but then its last line has an end
    if end is None and (begin or not path.read_bytes().endswith((b"\n", b"\r"))):
        warnings.warn(f"{path} has no ENDDATA; if the file is cut short, cards are missing", stacklevel=5)
    return text, text[start : end.start() if end else len(text)]


def cards(text: bytes, wanted: set[str]) -> Cards:
    """The cards of some names.

    Args:
        text: lines of cards.
        wanted: names in capitals.
    """
    return _Cards(wanted).read(text)


def fields(card: bytes, width: int) -> list[bytes]:
    """Fields of one card, without blanks."""
    return [card[i : i + width].strip() for i in range(0, len(card), width)]


def _text(path: Path, main: Path, above: tuple[Path, ...], count: list[int]) -> bytes:
    text = b"\n" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\n"
    if b"\t" in text:
        text = text.expandtabs(8)
    parts, start = [], 0
    for match in _INCLUDE.finditer(text):
        name = (match[1] or match[2] or match[3] or b"").strip().decode("utf-8", errors="replace")
        other = included(name, main, above)
        count[0] += 1
        if count[0] > MOST_INCLUDES:
            raise FailedError(f"includes more than {MOST_INCLUDES} files")
        parts += [text[start : match.start()], _text(other, main, (*above, other), count)]
        start = match.end()
    return b"".join([*parts, text[start:]])


class _Cards:
    """Goes through the lines; a card that goes on in another form gets fields wide enough for both."""

    def __init__(self, wanted: set[str]):
        self.wanted = wanted
        self.found: Cards = {name: {} for name in wanted}
        self.name = ""  # of the card that may go on, empty if it is of no interest
        self.width = 0
        self.pieces: list[bytes] = []  # its lines, all but the last as wide as they can be

    def read(self, text: bytes) -> Cards:
        starts: dict[bytes, tuple[str, int]] = {}
        for line in text.split(b"\n"):
            if b"$" in line:
                line = line[: line.index(b"$")]
            if b"," in line:
                self._free(line)
                continue
            head = line[:8]
            known = starts.get(head)
            if known is None:
                word = head.strip().upper()
                if not word or word[:1] in b"+*":
                    if self.name and line[8:].strip():
                        self._go_on(line[8:72], 16 if word[:1] == b"*" else 8)
                    continue
                # meshio writes CTETRA_ and CHEXA_ for quadratic ones
                name = word.rstrip(b"*_ ").decode("latin-1")
                known = starts[head] = (name if name in self.wanted else "", 16 if word.endswith(b"*") else 8)
            self._start(*known, line[8:72])
        self._start("", 0, b"")
        return self.found

    def _free(self, line: bytes) -> None:
        words = [word.strip() for word in line.split(b",")]
        head, count = words[0].upper(), 4 if words[0].endswith(b"*") else _PER_LINE
        # the field after the last is the name of the line that goes on, unless the card is on one line altogether
        words = words[1 : count + 1] if len(words) <= count + 2 else words[1:]
        payload = b"".join(word[:_FREE].ljust(_FREE) for word in words)
        if head and head[:1] not in b"+*":
            name = head.rstrip(b"*_ ").decode("latin-1")
            self._start(name if name in self.wanted else "", _FREE, payload)
        elif self.name:
            self._go_on(payload, _FREE)

    def _start(self, name: str, width: int, payload: bytes) -> None:
        if self.name:
            done = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.found[self.name].setdefault(self.width, []).append(done)
        self.name, self.width, self.pieces = name, width, [payload]

    def _go_on(self, payload: bytes, width: int) -> None:
        if width != self.width:
            payload = _widened(payload, width)
            if self.width != _FREE:
                self.pieces, self.width = [_widened(b"".join(self.pieces), self.width)], _FREE
        room = self.width * (4 if self.width == 16 else _PER_LINE)
        self.pieces[-1] = self.pieces[-1].ljust(-(-len(self.pieces[-1]) // room) * room)
        self.pieces.append(payload)


def _widened(payload: bytes, width: int) -> bytes:
    return b"".join(word.ljust(_FREE) for word in fields(payload, width))
