"""What a command that fails says: one line, in words of the command line."""

import errno
import re
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from flare_connect.errors import FlareConnectError

if TYPE_CHECKING:
    from jsonargparse import Namespace

_OUTPUTS = ("out", "output", "json", "picture", "csv", "curves", "spectrum", "movie")

# What the system refused → what it is, and the mend. Others are no mistake of the user and keep their traceback.
_REFUSED = {
    errno.ENOSPC: "no space left on the disk; make room there, or choose another place",
    errno.EDQUOT: "the quota of the disk is used up; make room there, or choose another place",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.EACCES: "permission denied; choose another place, or change the permissions",
    errno.EPERM: "not permitted; choose another place, or change the permissions",
    errno.ENOENT: "no such file or folder; correct the path, or make the folder first",
    errno.EEXIST: "a file of this name exists; choose another name, or delete it",
    errno.ENOTDIR: "a part of this path is a file, not a folder; correct the path",
    errno.EISDIR: "this is a folder; give the name of a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "links that lead in a circle; correct the path",
    errno.EIO: "the disk cannot be read or written; choose another place",
    errno.EFBIG: "the file is too large for this disk; choose another place",
    errno.ETXTBSY: "the file is in use; choose another name",
}


class FileError(FlareConnectError):
    """The system refused to read or write a file.

    Args:
        message: one line that names the path and the mend.
        of_hdf5: whether HDF5 failed to write. It keeps the file open, and crashes at the end of the process.
    """

    def __init__(self, message: str, *, of_hdf5: bool = False) -> None:
        super().__init__(message)
        self.of_hdf5 = of_hdf5


def file_error(error: BaseException | None, args: "Namespace | None") -> FileError | None:
    """What the system refused, as one line; None if the error is something else, a defect for example.

    Args:
        error: an `OSError`, or what HDF5 raises.
        args: of the command; where the error names no path, its outputs are named.
    """
    told = re.search(r"errno = (\d+), error message", str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    if number not in _REFUSED:
        return None
    return FileError(f"{_path(error) or _outputs(args)}: {_REFUSED[number]}", of_hdf5=told is not None)


def _path(error: BaseException | None) -> str:
    """The file as the user knows it: files are written under another name first."""
    named = re.search(r"name = '(.+?)'", str(error))
    path = getattr(error, "filename2", None) or getattr(error, "filename", None) or (named[1] if named else "")
    path = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    path = re.sub(r"(^|/)\.([^/]+?)(?:\.\d+\.\d+|\.\w+)\.tmp(?:/.*)?$", r"\1\2", path)
    return re.sub(r"(^|/)\.([^/]+)\.\d+\.part(\.\w+)$", r"\1\2\3", path)


def _outputs(args: "Namespace | None") -> str:
    flat = {} if args is None else vars(args.as_flat())
    given = [str(value) for name, value in flat.items() if value is not None and name.split(".")[-1] in _OUTPUTS]
    return " or ".join(given) or "output"


def in_flags(message: str, options: Collection[str]) -> str:
    """A message about arguments in Python, told in those of the command line.

    Args:
        message: of an error.
        options: what the command takes, as `--data.path`.
    """

    def flag(name: str) -> str | None:
        if f"--{name}" in options:
            return f"--{name}"
        nested = [option for option in options if option.endswith(f".{name}")]
        return nested[0] if len(nested) == 1 else None

    def passed(match: re.Match[str]) -> str:
        found = flag(match[2])
        return f"{match[1]}add {found}" if found else ""

    message = re.sub(r"(,? or )pass (\w+)=True", passed, message)
    return re.sub(r"`(\w+)`", lambda match: f"`{flag(match[1]) or match[1]}`", message)


def print_error(message: str) -> None:
    """One line of its own: bars of progress end first, so that none is drawn over it or after it."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm.tqdm, "_instances", ())) if tqdm else ():
        bar.leave = not sys.stderr.isatty()  # a terminal can wipe a line, a file cannot
        bar.close()
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
