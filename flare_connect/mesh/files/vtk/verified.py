"""Whether a file is sound enough for VTK's parsers, judged from its structure without VTK.

`True` vouches for counts, lengths and offsets; `False` only says that nothing is known, and the file is then read in a
process of its own.
"""

from pathlib import Path

from flare_connect.mesh.files.failed import CutShortError
from flare_connect.mesh.files.vtk.legacy import is_sound_legacy


def is_sound(path: Path) -> bool:
    """Whether VTK can be trusted with a file; reads it once, at a fraction of the cost of VTK's reader.

    Raises:
        CutShortError: the file ends before what it announces, which VTK does not notice.
    """
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


def _obj(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST))
        last = (file.read().split(b"\n")[-1]).split()
    # the format announces nothing: only a last line that is too short tells
    if last[:1] in ([b"v"], [b"f"]) and len(last) < 4:
        raise CutShortError(f"ends with {b' '.join(last).decode('latin-1')!r}")
    return True  # as above: 300 damaged ones did VTK's reader no harm


_LONGEST = 10_000  # bytes of a line
_CHECKS = {
    ".vtk": is_sound_legacy,
    ".stl": _stl,
    ".obj": _obj,
}
