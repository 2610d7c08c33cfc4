"""Samples that wait to be packed: a folder of one file each, every one whole or absent, that knows what it is for."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flare_connect.errors import StoreError
from flare_connect.files import remove_leftovers, replacing, write_atomically

_MANIFEST = "manifest.json"


class SampleParts:
    """A folder of samples, each written in one step, that remembers what it was made with.

    Args:
        folder: made if it does not exist.
        made_with: what determines the samples; plain JSON values.

    Raises:
        StoreError: the folder was made with something else; the message names it.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        manifest = folder / _MANIFEST
        if manifest.exists():
            compare(read_json(manifest), made_with, folder)
        elif any(folder.glob("*.npz")):
            raise StoreError(f"{folder} holds samples but no {_MANIFEST}; remove the folder or choose another path")
        else:
            write_json(manifest, made_with)

    def missing(self, count: int) -> list[int]:
        """Numbers below `count` whose sample is absent or damaged; it reads every sample once."""
        return [i for i in range(count) if not _is_whole(self._path(i))]

    def write(self, i: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one sample; a process killed on the way leaves no half-written one."""
        with replacing(self._path(i)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def read(self, i: int) -> dict[str, np.ndarray]:
        """Read one sample.

        Raises:
            StoreError: it is absent or damaged.
        """
        path = self._path(i)
        if not path.exists():
            raise StoreError(f"sample {i} has not been written yet: {path} does not exist; write it before `finish`")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise StoreError(f"{path} is damaged ({error}); delete it and write sample {i} again") from error

    def remove(self) -> None:
        """Delete the folder and all samples."""
        shutil.rmtree(self.folder)

    def _path(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"


def compare(there: Mapping[str, Any], here: Mapping[str, Any], where: Path) -> None:
    """Check that something was made with the same settings.

    Raises:
        StoreError: it was not; the message names what differs.
    """
    names = sorted(there.keys() | here.keys())
    differ = [name for name in names if there.get(name, "absent") != here.get(name, "absent")]
    if differ:
        detail = ", ".join(
            f"{name} (there {there.get(name, 'absent')!r}, here {here.get(name, 'absent')!r})" for name in differ
        )
        raise StoreError(f"{where} was made with other settings: {detail}; choose another path or pass overwrite=True")


def read_json(path: Path) -> dict[str, Any]:
    """What a small JSON file says.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove it, or pass overwrite=True") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file in one step."""
    write_atomically(path, json.dumps(dict(content), indent=1).encode())


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
