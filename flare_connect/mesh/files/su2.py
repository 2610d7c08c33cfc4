"""SU2 files: whether all elements, points and markers that they announce are there; meshio reads what is."""

import re
from pathlib import Path

from flare_connect.mesh.files.failed import CutShortError

_COUNT = re.compile(rb"^[ \t]*(NELEM|NPOIN|NMARK|MARKER_ELEMS)[ \t]*=[ \t]*(\d{1,18})[^\n]*$", re.MULTILINE)


def check_su2(path: Path) -> None:
    """Counts lines and markers.

    Raises:
        CutShortError: there are fewer than the file announces.
    """
    text = re.sub(rb"%[^\n]*", b"", path.read_bytes().replace(b"\r\n", b"\n"))
    markers = [0, 0]  # announced, and there
    for match in _COUNT.finditer(text):
        name, count = match[1], int(match[2])
        if name == b"NMARK":
            markers[0] += count
            continue
        markers[1] += name == b"MARKER_ELEMS"
        end = text.find(b"=", match.end())  # the next keyword, whose line is not counted
        rows = text[match.end() : end if end >= 0 else len(text)].split(b"\n")[1 : None if end < 0 else -1]
        there = sum(bool(row.strip()) for row in rows)
        if there < count:
            raise CutShortError(f"announces {name.decode()}= {count} and holds {there}")
    if markers[1] < markers[0]:
        raise CutShortError(f"announces NMARK= {markers[0]} and holds {markers[1]}")
