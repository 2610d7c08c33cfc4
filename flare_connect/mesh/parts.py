"""Resumable generation: a folder with one file per mesh, from which a store is packed at the end."""

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flare_connect.errors import StoreError
from flare_connect.files import remove_leftovers
from flare_connect.mesh.arrays import host
from flare_connect.mesh.mesh import Mesh, NamedSet

_MANIFEST = "manifest.json"


class MeshParts:
    """A folder of single meshes, each written in one step, that remembers the parameters it was made with.

    Args:
        folder: made if it does not exist.
        parameters: what determines the meshes (generator, version, seed, settings); anything JSON can hold.

    Raises:
        StoreError: the folder was made with other parameters; the message names them.
    """

    def __init__(self, folder: str | Path, parameters: Mapping[str, Any]):
        self.folder = Path(folder)
        try:
            self.parameters: dict[str, Any] = json.loads(json.dumps(dict(parameters)))
        except TypeError as error:
            raise StoreError(f"parameters must be plain numbers, strings, lists and dicts: {error}") from error
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            self._compare(manifest)
        elif any(self.folder.glob("*.npz")):
            raise StoreError(f"{self.folder} holds meshes but no {_MANIFEST}; remove the folder or choose another")
        else:
            self._replace(manifest, lambda path: path.write_text(json.dumps(self.parameters, indent=1)))

    def missing(self, n: int) -> list[int]:
        """Returns the numbers below n whose part is absent or damaged (it reads every part once)."""
        return [i for i in range(n) if not _is_whole(self._path(i))]

    def write(self, i: int, mesh: Mesh) -> None:
        """Writes one mesh; a process killed on the way leaves no half-written part."""
        arrays = _encode(mesh)

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())

        self._replace(self._path(i), save)

    def read(self, i: int) -> Mesh:
        """Reads one mesh.

        Raises:
            StoreError: the part is absent or damaged.
        """
        path = self._path(i)
        if not path.exists():
            raise StoreError(f"{path} does not exist; generate part {i} first")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return _decode(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise StoreError(f"{path} is damaged ({error}); delete it and generate part {i} again") from error

    def remove(self) -> None:
        """Deletes the folder and all parts."""
        shutil.rmtree(self.folder)

    def _path(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"

    def _replace(self, path: Path, write: Any) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _compare(self, manifest: Path) -> None:
        try:
            made_with = dict(json.loads(manifest.read_text()))
        except ValueError as error:
            raise StoreError(f"{manifest} is damaged; remove {self.folder} and generate again") from error
        if made_with == self.parameters:
            return
        keys = sorted(made_with.keys() | self.parameters.keys())
        differ = ", ".join(
            f"{k} (there {made_with.get(k, 'absent')!r}, here {self.parameters.get(k, 'absent')!r})"
            for k in keys
            if k not in made_with or k not in self.parameters or made_with[k] != self.parameters[k]
        )
        raise StoreError(
            f"{self.folder} was made with other parameters: {differ}; remove the folder, choose another, or use the"
            " same parameters"
        )


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "index.npy" in archive.namelist() and archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def _encode(mesh: Mesh) -> dict[str, np.ndarray]:
    """Flattens a mesh into arrays `a0`, `a1`, … and an index in JSON, so that a field may have any name."""
    entries: list[tuple[list[str], np.ndarray]] = [(["pos"], host(mesh.pos))]
    for container in ("cells", "point_data", "global_data"):
        entries += [([container, name], host(values)) for name, values in getattr(mesh, container).items()]
    for name, blocks in mesh.cell_data.items():
        entries += [(["cell_data", name, kind], host(values)) for kind, values in blocks.items()]
    entries += [(["sets", name, named.entity], host(named.ids)) for name, named in mesh.sets.items()]
    if mesh.periodic_pairs is not None:
        entries.append((["periodic_pairs"], host(mesh.periodic_pairs)))
    index = json.dumps({"paths": [path for path, _ in entries], "units": mesh.units})
    return {f"a{i}": array for i, (_, array) in enumerate(entries)} | {"index": np.array(index)}


def _decode(arrays: Any) -> Mesh:
    index = json.loads(str(arrays["index"]))
    given: dict[str, Any] = {"cells": {}, "point_data": {}, "global_data": {}, "cell_data": {}, "sets": {}}
    for i, (container, *names) in enumerate(index["paths"]):
        array = arrays[f"a{i}"]
        if not names:
            given[container] = array
        elif container == "cell_data":
            given[container].setdefault(names[0], {})[names[1]] = array
        elif container == "sets":
            given[container][names[0]] = NamedSet(names[1], torch.from_numpy(array))
        else:
            given[container][names[0]] = array
    return Mesh.from_arrays(given.pop("pos"), given.pop("cells"), **given, units=index["units"], allow_nonfinite=True)
