"""Files that a deck includes by name; what a deck says is not to be trusted."""

from pathlib import Path, PureWindowsPath

from flare_connect.mesh.files.failed import FailedError

MOST_INCLUDES = 1000
"""Files that a deck may include: each may include others, twice."""
_DEEPEST = 20


def included(name: str, main: Path, above: tuple[Path, ...]) -> Path:
    """The file that a deck includes, beside the main deck or beside the file that names it.

    Args:
        name: the path as it is written.
        main: the main deck.
        above: the files that led here.

    Raises:
        FailedError: it is missing, or is being read already.
    """
    relative = PureWindowsPath(name.strip()).as_posix()
    if relative.startswith("/") or ":" in relative:
        raise FailedError(f"includes {name!r} by its full path; put the file beside the deck and name it alone")
    places = [main.parent / relative, above[-1].parent / relative]
    found = next((place for place in places if "\0" not in relative and place.is_file()), None)
    if found is None:
        raise FailedError(f"includes {name!r}, which does not exist; put it beside {main.name}")
    if len(above) > _DEEPEST or any(found.samefile(file) for file in above):
        raise FailedError(f"includes itself: {' -> '.join(file.name for file in (*above, found))}")
    return found
