"""What tests of generated data sets share."""

from pathlib import Path

import h5py


def contents(path: Path) -> dict:
    """Every array and attribute of an HDF5 file, by name."""
    found: dict = {}

    def add(name: str, item) -> None:
        found[name] = {key: item.attrs[key] for key in item.attrs}
        if isinstance(item, h5py.Dataset):
            found[name]["data"] = (item.dtype.str, item.shape, item[()].tobytes())

    with h5py.File(path) as file:
        found["/"] = {key: file.attrs[key] for key in file.attrs}
        file.visititems(add)
    return found
