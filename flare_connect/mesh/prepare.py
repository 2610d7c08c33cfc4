"""From a folder of mesh files to one prepared data set."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flare_connect.errors import MeshError, StoreError
from flare_connect.mesh.interpolation import cell_to_point
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.readers import EXTENSIONS, load_mesh
from flare_connect.mesh.store import write_store


def prepare_meshes(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    fields: Sequence[str],
    test_fraction: float = 0.2,
    splits: Mapping[str, Sequence[str]] | None = None,
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
        test_fraction: share of the files, chosen at random by `seed`, that goes to the split "test"; at least one file.
        splits: instead of a random split, split name → file names.
        seed: of the random split.
        overwrite: replace an existing file.
        progress: show a bar.

    Returns:
        The path of the data set.

    Raises:
        MeshReadError: a file cannot be read.
        MeshError: a file lacks a field, or a field holds NaN; the message names the file.
        StoreError: there are fewer than two files, `out` exists, or a split names an unknown file.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise StoreError(f"{out} exists; choose another name, delete it, or pass overwrite=True")
    paths = _paths(files)
    chosen = _random_split(len(paths), test_fraction, seed) if splits is None else _named_split(paths, splits)

    def read() -> Iterator[Mesh]:
        for path in tqdm(paths, desc="meshes", unit="mesh", disable=not progress):
            yield _keep(load_mesh(path), fields, path)

    write_store(
        out,
        read(),
        splits=chosen,
        generator="prepare_meshes",
        generator_version=1,
        seed=seed,
        parameters={"files": [path.name for path in paths], "fields": list(fields), "test_fraction": test_fraction},
    )
    return out


def _paths(files: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(files, str | Path):
        folder = Path(files)
        if not folder.is_dir():
            raise StoreError(f"{folder} is not a folder of mesh files")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())
    else:
        paths = [Path(path) for path in files]
    if len(paths) < 2:
        raise StoreError(f"{files} holds {len(paths)} mesh files; at least two are needed, to train on and to test on")
    return paths


def _random_split(count: int, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    if not 0 < test_fraction < 1:
        raise StoreError(f"`test_fraction` must lie between 0 and 1, got {test_fraction}")
    order = np.random.default_rng(seed).permutation(count)
    num_test = min(max(round(test_fraction * count), 1), count - 1)
    return {"train": np.sort(order[num_test:]), "test": np.sort(order[:num_test])}


def _named_split(paths: Sequence[Path], splits: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    number = {path.name: i for i, path in enumerate(paths)}
    for split, names in splits.items():
        unknown = [name for name in names if name not in number]
        if unknown:
            raise StoreError(f"split {split!r} names {unknown[0]!r}, which is not among the {len(paths)} files")
    return {split: np.array([number[name] for name in names]) for split, names in splits.items()}


def _keep(mesh: Mesh, fields: Sequence[str], path: Path) -> Mesh:
    """The mesh with the wanted point fields alone, so that all meshes of a data set agree."""
    kept = {}
    for name in fields:
        if name in mesh.point_data:
            kept[name] = mesh.point_data[name]
        elif name in mesh.cell_data:
            kept[name] = cell_to_point(mesh, name)
        else:
            known = ", ".join(map(repr, [*mesh.point_data, *mesh.cell_data])) or "none"
            raise MeshError(f"{path} has no field {name!r}; its fields: {known}")
    return Mesh.from_arrays(
        mesh.pos,
        mesh.cells,
        point_data=kept,
        global_data=mesh.global_data,
        sets=mesh.sets,
        units={name: unit for name, unit in mesh.units.items() if name in kept},
        periodic_pairs=getattr(mesh, "periodic_pairs", None),
    )
