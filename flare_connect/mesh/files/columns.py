"""Numbers out of text in fixed columns, many lines at once."""

import re
from collections.abc import Sequence

import numpy as np

from flare_connect.mesh.files.failed import FailedError

_CHUNK = 20_000  # lines at a time: the columns of short lines are mostly blanks that need room
_EXPONENT = re.compile(rb"(?<=[\d.])([+-])")  # `1.5-3` is Fortran for 1.5e-3


def columns(lines: Sequence[bytes], start: int, width: int, count: int, dtype: type = np.int64) -> np.ndarray:
    """Numbers `[n, count]` of equal fields, blank ones and what is missing at the end of a line as 0.

    Args:
        lines: n lines of text.
        start: first column, from 0.
        width: columns of a field.
        count: fields of a line.
        dtype: int64 or float.

    Raises:
        FailedError: a field holds no number.
    """
    parts = [_chunk(lines[i : i + _CHUNK], start, width, count, dtype) for i in range(0, len(lines), _CHUNK)]
    return np.concatenate([np.zeros((0, count), dtype=dtype), *parts])


def plain_number(text: bytes) -> bytes:
    """Numbers with exponents as Fortran writes them (`1.5-3`, `1.5D-3`) in the form that others read."""
    return _EXPONENT.sub(rb"E\1", text.translate(_D_IS_E))


_D_IS_E = bytes.maketrans(b"dD", b"EE")


def _chunk(lines: Sequence[bytes], start: int, width: int, count: int, dtype: type) -> np.ndarray:
    end = start + width * count
    text = np.array(lines, dtype=f"S{end}").view(np.uint8).reshape(len(lines), end)[:, start:]
    fields = np.full((len(lines), count, width + 1), ord(" "), dtype=np.uint8)
    fields[:, :, :width] = text.reshape(len(lines), count, width)
    fields[fields == 0] = ord(" ")
    blank = (fields == ord(" ")).all(axis=2)
    fields[blank, 0] = ord("0")
    joined = fields.tobytes()
    if dtype is not np.int64:
        joined = plain_number(joined)
    try:
        values: np.ndarray = np.fromstring(joined, sep=" ", dtype=dtype)
    except ValueError:
        values = np.zeros(0)
    if values.size != blank.size:
        raise FailedError(_culprit(fields, dtype))
    return values.reshape(len(lines), count)


def is_number(text: bytes, dtype: type) -> bool:
    """Whether a text is a number of that type, int64 or float."""
    try:
        float(text) if dtype is float else int(text)
    except ValueError:
        return False
    return True


def _culprit(fields: np.ndarray, dtype: type) -> str:
    kind = "a number" if dtype is float else "an integer"
    texts = (plain_number(field.tobytes()) for row in fields for field in row)
    found = next((text for text in texts if not is_number(text, dtype)), b"")
    return f"{found.decode('latin-1').strip()[:40]!r} is not {kind}; is the file damaged?"
