"""Prepared data sets: many meshes in one HDF5 file, packed end to end, with the statistics of the training split.

A file holds packed arrays (`data`), offsets (`ptr`, one more entry than meshes) and the place of each array in its
mesh (`rank`, -1 where a mesh has none). There is no padding; a mesh is read with one contiguous slice per array.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import torch
from jaxtyping import Int

from flare_connect.errors import StoreError
from flare_connect.files import replacing
from flare_connect.mesh.arrays import host
from flare_connect.mesh.mesh import Entity, Mesh, NamedSet
from flare_connect.mesh.moments import Moments

FORMAT = "flare_connect.MeshStore"
FORMAT_VERSION = 1
_CHUNK_BYTES = 1 << 16
_HELD_OUT = ("val", "valid", "validation", "test")


class MeshStore:
    """A prepared data set, read lazily: a sequence of meshes with splits and statistics.

    The file is opened read-only on first use in each process, so a store can be pickled and used in forked or spawned
    data-loader workers.

    Args:
        path: an HDF5 file written by `write_store`.

    Raises:
        StoreError: the file is missing, damaged, of another kind, or of a newer version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        self._arrays: dict[str, dict[str, _Packed]] = {}
        file = self._open()
        meta = json.loads(file.attrs["meta"])
        self.attrs: dict[str, Any] = {
            key: meta[key] for key in ("generator", "generator_version", "seed", "parameters", "units")
        }
        """Generator, generator_version, seed, parameters and units."""
        self.field_names: list[str] = meta["point_data"]
        """Names of the point fields."""
        self.splits: dict[str, np.ndarray] = {_plain(name): ids[()] for name, ids in file["splits"].items()}
        """Split name → sample indices `[n]`."""
        self.num_nodes: Int[np.ndarray, " B"] = np.diff(file["ptr"][()])
        """Number of nodes of each mesh `[B]`."""
        self._train_statistics: dict[str, dict[str, list[float]]] | None = meta["statistics"]
        self._global_names: list[str] = meta["global_data"]

    def __len__(self) -> int:
        return len(self.num_nodes)

    def __iter__(self) -> Iterator[Mesh]:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> "MeshStore":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_pid": -1, "_arrays": {}}

    def __getitem__(self, index: int) -> Mesh:
        """Reads one mesh; negative indices count from the end.

        Raises:
            StoreError: there is no such sample, or the file is damaged.
        """
        i = self._index(index)
        self._open()
        with self._reading(f"sample {i}"):
            return self._read(i)

    @property
    def digest(self) -> str:
        """Tells data sets apart: a hash of the generator's parameters, statistics, sizes and splits."""
        file = self._open()
        parts = [file.attrs["meta"].encode(), file["ptr"][()].tobytes()]
        parts += [name.encode() + ids.tobytes() for name, ids in sorted(self.splits.items())]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def split(self, name: str) -> Int[np.ndarray, " n"]:
        """Returns the samples of one split.

        Raises:
            StoreError: there is no such split.
        """
        if name not in self.splits:
            known = ", ".join(repr(known) for known in self.splits) or "none"
            raise StoreError(f"{self.path} has no split {name!r}; its splits: {known}")
        return self.splits[name]

    def statistics(self, split: str = "train") -> dict[str, dict[str, list[float]]]:
        """Returns mean, std and rms (float64) of every field over the meshes of one split only.

        Point fields are taken over all nodes of the split, each node counted once; `global_data` over its samples.
        Those of `train` were computed when the file was written; others are streamed from it.

        Returns:
            Field name → `{"mean": [c], "std": [c], "rms": [c]}`.

        Raises:
            StoreError: there is no such split, or it is empty.
        """
        indices = self.split(split)
        if split == "train" and self._train_statistics is not None:
            return self._train_statistics
        moments = Moments()
        packed = self._packed()
        with self._reading(f"split {split!r}"):
            for i in indices:
                for container in ("point_data", "global_data"):
                    for name, array in packed[container].items():
                        moments.add(name, array.read(int(i)), sample=container == "global_data")
        result = moments.result()
        if not result and (self.field_names or self._global_names):
            raise StoreError(f"split {split!r} of {self.path} is empty; it has no statistics")
        return result

    def close(self) -> None:
        """Closes the file; it opens again on next use."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file, self._arrays = None, {}

    def _index(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise StoreIndexError(
                f"{self.path} has {len(self)} samples, 0 to {len(self) - 1}; there is no sample {index}"
            )
        return int(index) % len(self)

    def _open(self) -> h5py.File:
        # a forked process must not share the parent's file handle: it opens its own and leaves that one alone
        if self._file is None or self._pid != os.getpid():
            self._arrays = {}
            self._file, self._pid = _open(self.path), os.getpid()
        return self._file

    def _packed(self) -> dict[str, dict[str, "_Packed"]]:
        file = self._open()
        if not self._arrays:
            with self._reading("the index"):
                ptr = file["ptr"][()]
                arrays = {
                    container: {_plain(n): _Packed(item, ptr) for n, item in file[container].items()}
                    for container in ("point_data", "global_data", "cells", "sets", "cell_data", "other")
                }
                arrays["other"]["pos"] = _Packed(file["pos"], ptr)
            self._arrays = arrays
        return self._arrays

    def _read(self, i: int) -> Mesh:
        packed = self._packed()
        fields: dict[str, Any] = {
            container: {
                name: a.tensor(i)
                for name, a in sorted(packed[container].items(), key=lambda x: x[1].rank(i))
                if a.rank(i) >= 0
            }
            for container in ("cells", "point_data", "global_data")
        }
        cell_data: dict[str, dict[str, torch.Tensor]] = {}
        for array in sorted(packed["cell_data"].values(), key=lambda a: a.rank(i)):
            if array.rank(i) >= 0:
                cell_data.setdefault(array.attrs["name"], {})[array.attrs["kind"]] = array.tensor(i)
        sets = {
            array.attrs["name"]: NamedSet(cast(Entity, array.attrs["entity"]), array.tensor(i))
            for array in sorted(packed["sets"].values(), key=lambda a: a.rank(i))
            if array.rank(i) >= 0
        }
        mesh = Mesh(
            pos=packed["other"]["pos"].tensor(i),
            **fields,
            cell_data=cell_data,
            sets=sets,
            units=dict(self.attrs["units"]),
        )
        pairs = packed["other"].get("periodic_pairs")
        if pairs is not None and pairs.rank(i) >= 0:
            mesh.periodic_pairs = pairs.tensor(i).t().contiguous()
        return mesh

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError) as error:
            raise StoreError(f"{what} of {self.path} cannot be read ({error}); {_MEND}") from error


class StoreIndexError(StoreError, IndexError):
    """There is no sample of this number; also an IndexError, as Python expects of sequences."""


_MEND = "the file is truncated or damaged: generate it again or copy it again"


def write_store(
    path: str | Path,
    meshes: Iterable[Mesh],
    *,
    splits: Mapping[str, Any],
    generator: str,
    generator_version: int,
    seed: int,
    parameters: Mapping[str, Any],
    compress: bool = False,
    progress: bool = False,
) -> None:
    """Packs meshes into one HDF5 file; they are streamed, and a failure leaves no file behind.

    Args:
        path: the file to write; an existing one is replaced in one step at the end.
        meshes: any iterable; all with the same point and global fields, widths, dtypes and units. Kinds of cells, sets
            and cell fields may differ between meshes.
        splits: split name → sample indices; `train` shares no sample with `val` or `test`.
        generator: name of the program that made the meshes.
        generator_version: its version.
        seed: its seed.
        parameters: its parameters, anything JSON can hold.
        compress: without loss (gzip on shuffled bytes): for series, to carry them; reading takes longer.
        progress: show a progress bar.

    Raises:
        StoreError: a mesh does not fit the others (the message names the sample), or a split is wrong.
    """
    path = Path(path)
    split_ids = {name: np.asarray(ids, dtype=np.int64).reshape(-1) for name, ids in splits.items()}
    _check_overlap(split_ids)
    try:
        parameters = json.loads(json.dumps(dict(parameters)))
    except TypeError as error:
        raise StoreError(f"parameters must be plain numbers, strings, lists and dicts: {error}") from error
    train = set(split_ids["train"].tolist()) if "train" in split_ids else set()
    path.parent.mkdir(parents=True, exist_ok=True)
    if progress:
        from tqdm import tqdm

        meshes = tqdm(meshes, desc=path.name, unit="mesh")
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        writer = _Writer(file, compress)
        moments = Moments()
        for i, mesh in enumerate(meshes):
            writer.add(mesh)
            if i in train:
                for name, values in mesh.point_data.items():
                    moments.add(name, host(values), sample=False)
                for name, values in mesh.global_data.items():
                    moments.add(name, host(values), sample=True)
        writer.finish()
        _write_splits(file, split_ids, writer.count)
        meta = {
            "generator": generator,
            "generator_version": generator_version,
            "seed": seed,
            "parameters": parameters,
            "units": writer.units,
            "point_data": list(writer.signature["point_data"]),
            "global_data": list(writer.signature["global_data"]),
            "statistics": moments.result() if train else None,
        }
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, meta=json.dumps(meta))
        file.flush()


def _write_splits(file: h5py.File, split_ids: Mapping[str, np.ndarray], count: int) -> None:
    for name, ids in split_ids.items():
        if len(ids) and (ids.min() < 0 or ids.max() >= count):
            raise StoreError(
                f"split {name!r} refers to sample {ids.max() if ids.min() >= 0 else ids.min()}, but there are"
                f" {count} samples, counted from 0"
            )
        file.create_dataset(f"splits/{_key(name)}", data=ids)
    file.require_group("splits")


class _Packed:
    """One packed array of a file."""

    def __init__(self, item: Any, nodes_ptr: np.ndarray):
        self._ptr = item["ptr"][()] if "ptr" in item else nodes_ptr
        self._rank = item["rank"][()]
        self._data = item["data"]
        self.attrs: dict[str, str] = dict(item.attrs)

    def rank(self, i: int) -> int:
        return int(self._rank[i])

    def read(self, i: int) -> np.ndarray:
        return self._data[self._ptr[i] : self._ptr[i + 1]]

    def tensor(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.read(i))


class _Growing:
    """One packed array while it is written: rows are appended, meshes that lack it are counted."""

    def __init__(
        self,
        group: Any,
        values: np.ndarray,
        before: int,
        attrs: Mapping[str, str],
        own_ptr: bool,
        options: Mapping[str, Any],
    ):
        row = values.shape[1:]
        bytes_per_row = max(1, int(np.prod(row)) * values.dtype.itemsize)
        self._data = group.create_dataset(
            "data",
            shape=(0, *row),
            maxshape=(None, *row),
            dtype=values.dtype,
            chunks=(max(1, _CHUNK_BYTES // bytes_per_row), *(max(1, n) for n in row)),
            **options,
        )
        group.attrs.update(attrs)
        self._group = group
        self._own_ptr = own_ptr
        self._ends = [0] * (before + 1)
        self._ranks = [-1] * before

    def add(self, values: np.ndarray, mesh: int, rank: int) -> None:
        self._pad(mesh)
        start = self._ends[-1]
        self._data.resize(start + len(values), axis=0)
        self._data[start:] = values
        self._ends.append(start + len(values))
        self._ranks.append(rank)

    def finish(self, count: int) -> None:
        self._pad(count)
        if self._own_ptr:
            self._group.create_dataset("ptr", data=np.array(self._ends, dtype=np.int64))
        self._group.create_dataset("rank", data=np.array(self._ranks, dtype=np.int32))

    def _pad(self, count: int) -> None:
        missing = count - len(self._ranks)
        self._ends += [self._ends[-1]] * missing
        self._ranks += [-1] * missing


class _Writer:
    """Appends meshes to an open file and holds them to the first one's fields."""

    def __init__(self, file: h5py.File, compress: bool):
        self._file = file
        self._options: dict[str, Any] = {"compression": "gzip", "shuffle": True} if compress else {}
        self._arrays: dict[str, _Growing] = {}
        self._ptr = [0]
        self.signature: dict[str, Any] = {"dim": None, "point_data": {}, "global_data": {}}
        self.units: dict[str, str] = {}
        for container in ("point_data", "global_data", "cells", "sets", "cell_data", "other"):
            file.create_group(container)

    @property
    def count(self) -> int:
        return len(self._ptr) - 1

    def add(self, mesh: Mesh) -> None:
        self._check(mesh)
        self._append("pos", host(mesh.pos), 0, own_ptr=False)
        for rank, (name, values) in enumerate(mesh.point_data.items()):
            self._append(f"point_data/{_key(name)}", host(values), rank, own_ptr=False)
        for rank, (name, values) in enumerate(mesh.global_data.items()):
            self._append(f"global_data/{_key(name)}", host(values), rank)
        for rank, (kind, nodes) in enumerate(mesh.cells.items()):
            self._append(f"cells/{_key(kind)}", host(nodes), rank)
        rank = 0
        for name, blocks in mesh.cell_data.items():
            for kind, values in blocks.items():
                array = host(values)
                key = _key(json.dumps([name, kind, array.dtype.str, array.shape[1:]]))
                self._append(f"cell_data/{key}", array, rank, name=name, kind=kind)
                rank += 1
        for rank, (name, named) in enumerate(mesh.sets.items()):
            ids = host(named.ids)
            key = _key(json.dumps([name, named.entity, ids.shape[1:]]))
            self._append(f"sets/{key}", ids, rank, name=name, entity=named.entity)
        if mesh.periodic_pairs is not None:
            self._append("other/periodic_pairs", host(mesh.periodic_pairs).T, 0)
        self._ptr.append(self._ptr[-1] + int(mesh.num_nodes))

    def finish(self) -> None:
        if not self.count:
            raise StoreError("no meshes were given; a store holds at least one")
        for array in self._arrays.values():
            array.finish(self.count)
        self._file.create_dataset("ptr", data=np.array(self._ptr, dtype=np.int64))

    def _append(self, key: str, values: np.ndarray, rank: int, *, own_ptr: bool = True, **attrs: str) -> None:
        if key not in self._arrays:
            group = self._file.require_group(key)
            self._arrays[key] = _Growing(group, values, self.count, attrs, own_ptr, self._options)
        self._arrays[key].add(values, self.count, rank)

    def _check(self, mesh: Mesh) -> None:
        seen: dict[str, Any] = {
            "dim": mesh.dim,
            "point_data": {n: (list(v.shape[1:]), str(v.dtype)) for n, v in mesh.point_data.items()},
            "global_data": {n: (list(v.shape), str(v.dtype)) for n, v in mesh.global_data.items()},
        }
        if not self.count:
            both = [repr(n) for n in seen["point_data"] if n in seen["global_data"]]
            if both:
                raise StoreError(f"{', '.join(both)} is both a point field and a global number; rename one of them")
            self.signature, self.units = seen, dict(mesh.units)
            return
        for part, first in self.signature.items():
            if seen[part] != first:
                raise StoreError(_difference(self.count, part, first, seen[part]))
        if mesh.units != self.units:
            raise StoreError(f"sample {self.count} has units {mesh.units}, sample 0 has {self.units}; use one system")


def _difference(sample: int, part: str, first: Any, other: Any) -> str:
    mend = "all meshes of a store need the same"
    if part == "dim":
        return f"sample {sample} has {other} coordinates, sample 0 has {first}; {mend} dimension"
    for name in first:
        if name not in other:
            return f"sample {sample} lacks {part} {name!r}, which sample 0 has; {mend} fields"
    for name, seen in other.items():
        if name not in first:
            return f"sample {sample} has {part} {name!r}, which sample 0 has not; {mend} fields"
        if seen != first[name]:
            return (
                f"sample {sample}: {part} {name!r} has width {seen[0]} and type {seen[1]}, in sample 0"
                f" {first[name][0]} and {first[name][1]}; {mend} widths and types"
            )
    return f"sample {sample}: {part} is in another order"  # pragma: no cover - dicts compare without order


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise StoreError(f"{path} does not exist; generate it, or check the path")
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give the HDF5 file itself")
    try:
        file = h5py.File(path, "r", locking=False)  # written in one step, never changed: safe on any file system
    except PermissionError as error:
        raise StoreError(f"{path} cannot be opened for reading: permission denied") from error
    except OSError as error:
        raise StoreError(f"{path} is truncated or not an HDF5 file; generate it again or copy it again") from error
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise StoreError(f"{path} is an HDF5 file, but not a mesh store; write it with flare_connect.mesh.write_store")
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        file.close()
        raise StoreError(
            f"{path} has format version {version}, this flare_connect reads up to {FORMAT_VERSION}; update it"
        )
    return file


def _check_overlap(splits: Mapping[str, np.ndarray]) -> None:
    for name, ids in splits.items():
        if len(np.unique(ids)) != len(ids):
            raise StoreError(f"split {name!r} names a sample more than once")
        if name in _HELD_OUT and "train" in splits:
            shared = np.intersect1d(ids, splits["train"])
            if len(shared):
                raise StoreError(
                    f"{len(shared)} samples are both in 'train' and in {name!r} (first: {shared[0]}); a model would be"
                    " tested on what it was trained on"
                )


def _key(name: str) -> str:
    # HDF5 reads "/" as a folder and "." as this folder
    return name.replace("%", "%25").replace("/", "%2F").replace(".", "%2E")


def _plain(key: str) -> str:
    return key.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")
