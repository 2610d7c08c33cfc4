"""From a folder of mesh files to one prepared data set."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flare_connect.errors import MeshError, StoreError
from flare_connect.mesh.files.load import EXTENSIONS, load_mesh
from flare_connect.mesh.interpolation import cell_to_point
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.store import write_store


def prepare_meshes(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    fields: Sequence[str],
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    splits: Mapping[str, Sequence[str]] | None = None,
    global_fields: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Packs mesh files with their fields into the data set that training reads.

    Args:
        files: a folder (every mesh file in it, by name), or the files themselves.
        out: the data set (.h5) to write, atomically.
        fields: point fields to keep; each file must have them. A field that is given on cells is averaged to the
            nodes, each cell weighted by its share of the node's volume.
        val_fraction: share of the files, chosen at random by `seed`, that goes to the split "val", which chooses the
            best epoch; at least one file.
        test_fraction: likewise for the split "test", which training never sees.
        splits: instead of a random split, split name → file names.
        global_fields: numbers of the whole mesh (field data) to keep; None keeps all. Named sets are always kept.
        units: field name → unit, for files that do not say.
        seed: of the random split.
        overwrite: replace an existing file.
        progress: show a bar.

    Returns:
        The path of the data set.

    Raises:
        MeshReadError: a file cannot be read.
        MeshError: a file lacks a field, or a field holds NaN; the message names the file.
        StoreError: there are fewer than three files, `out` exists, or a split names an unknown file.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise StoreError(f"{out} exists; choose another name, delete it, or pass overwrite=True")
    paths = _paths(files)
    chosen = (
        _random_split(len(paths), val_fraction, test_fraction, seed) if splits is None else _named_split(paths, splits)
    )

    def read(path: Path) -> Mesh:
        return _keep(load_mesh(path), fields, global_fields, units or {}, path)

    made_of = {"files": [path.name for path in paths], "fields": list(fields)}
    _write(out, paths, read, progress, splits=chosen, seed=seed, parameters=made_of)
    return out


def _write(out: Path, paths: Sequence[Path], read: Callable[[Path], Mesh], progress: bool, **about: Any) -> None:
    """One mesh after another; what is wrong with one names its file."""
    begun: list[Path] = []

    def meshes() -> Iterator[Mesh]:
        for path in tqdm(paths, desc="meshes", unit="mesh", disable=not progress):
            begun.append(path)
            yield read(path)

    try:
        write_store(out, meshes(), generator="prepare_meshes", generator_version=1, **about)
    except StoreError as error:
        if not str(error).startswith("sample "):
            raise
        raise StoreError(f"{begun[-1]}: {error}; sample 0 is {paths[0].name}") from error


def _paths(files: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(files, str | Path):
        folder = Path(files)
        if not folder.is_dir():
            raise StoreError(f"{folder} is not a folder of mesh files")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())
    else:
        paths = [Path(path) for path in files]
    if len(paths) < 3:
        raise StoreError(f"{files} holds {len(paths)} mesh files; training, validation and test need one each")
    return paths


def _random_split(count: int, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 1:
            raise StoreError(f"`{name}` must lie between 0 and 1, got {fraction}")
    num_val, num_test = (max(round(fraction * count), 1) for fraction in (val_fraction, test_fraction))
    if num_val + num_test >= count:
        raise StoreError(f"{num_val} + {num_test} of {count} files to validate and test on leave none to train on")
    test, val, train = np.split(np.random.default_rng(seed).permutation(count), [num_test, num_test + num_val])
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def _named_split(paths: Sequence[Path], splits: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    number = {path.name: i for i, path in enumerate(paths)}
    for split, names in splits.items():
        unknown = [name for name in names if name not in number]
        if unknown:
            raise StoreError(f"split {split!r} names {unknown[0]!r}, which is not among the {len(paths)} files")
    return {split: np.array([number[name] for name in names]) for split, names in splits.items()}


def _keep(
    mesh: Mesh, fields: Sequence[str], global_fields: Sequence[str] | None, units: Mapping[str, str], path: Path
) -> Mesh:
    """The mesh with the wanted fields alone, so that all meshes of a data set agree."""
    kept = {}
    for name in fields:
        if name in mesh.point_data:
            kept[name] = mesh.point_data[name]
        elif name in mesh.cell_data:
            kept[name] = cell_to_point(mesh, name)
        else:
            raise MeshError(f"{path} has no field {name!r}; its fields: {_listed([*mesh.point_data, *mesh.cell_data])}")
    numbers = mesh.global_data if global_fields is None else {}
    for name in global_fields or ():
        if name not in mesh.global_data:
            raise MeshError(f"{path} has no number {name!r} of the whole mesh; it has: {_listed(mesh.global_data)}")
        numbers[name] = mesh.global_data[name]
    return Mesh.from_arrays(
        mesh.pos,
        mesh.cells,
        point_data=kept,
        global_data=numbers,
        sets=mesh.sets,
        units={name: unit for name, unit in {**mesh.units, **units}.items() if name in kept or name in numbers},
        periodic_pairs=mesh.periodic_pairs,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
