"""Access to HDF5 that does not believe what a damaged file says: no links to other files, no sizes without bytes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from flare_connect.mesh.files.failed import FailedError


def subgroup(parent: Any, name: str) -> Any:
    """The group of this name; None if there is none, or the parent is None."""
    import h5py

    if parent is None or isinstance(parent.get(name, getlink=True), h5py.ExternalLink):
        return None
    found = parent.get(name)
    return found if isinstance(found, h5py.Group) else None


def datasets(parent: Any) -> Iterator[tuple[str, Any]]:
    """Names and arrays in a group, which may be None."""
    import h5py

    for name in parent if parent is not None else ():
        if isinstance(parent.get(name, getlink=True), h5py.HardLink) and isinstance(parent[name], h5py.Dataset):
            yield name, parent[name]


def dataset(parent: Any, name: str) -> Any:
    """The array of numbers of this name.

    Raises:
        FailedError: there is none.
    """
    import h5py

    found = parent.get(name)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
        raise FailedError(f"has no numbers {name}")
    return found


def array(parent: Any, name: str) -> Any:
    """All of an array of numbers, or None if there is none."""
    return None if name not in parent else rows(dataset(parent, name), 0, len(parent[name]))


def rows(data: Any, start: int, count: int) -> np.ndarray:
    """Rows of an array in the file, or of one that was read; what was not written is not made up.

    Raises:
        FailedError: there are not so many, or not so many bytes in the file.
    """
    name = getattr(data, "name", "an array of counts")
    if not data.ndim or start < 0 or count < 0 or start + count > len(data):
        raise FailedError(f"{name} has {len(data) if data.ndim else 0} rows, not {count} from {start} on")
    if not isinstance(data, np.ndarray):
        size = count * int(np.prod(data.shape[1:], dtype=object)) * data.dtype.itemsize
        if size > held(data):
            raise FailedError(f"{name} is said to have {size} bytes, which are not in the file")
    return data[start : start + count]


def held(data: Any) -> int:
    """How many bytes an array can have by what is stored of it.

    gzip packs a constant a thousandfold, but a whole mesh not more than a hundredfold.
    """
    if data.is_virtual or data.external:
        raise FailedError(f"{data.name} lies in another file")
    stored = data.id.get_storage_size()
    packed = data.id.get_create_plist().get_nfilters() > 0
    return 2**26 + min(1100 * stored, 100 * data.file.id.get_filesize()) if packed else stored


def text(value: Any) -> str:
    """A string attribute or element, however it is stored."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else b""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
