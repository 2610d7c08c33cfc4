"""What a file holds, found from the keys, shapes and attributes inside it; its name only completes them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from flare_connect.errors import StoreError
from flare_datasets.pdebench.arrays import find_array, read_vector
from flare_datasets.pdebench.families import AXES, FAMILIES, Family, Stored, family_of
from flare_datasets.pdebench.names import boundary_in_name, canonical, family_in_name, parameters_in_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What a file holds, at full resolution.

    Attributes:
        family: which kind of file it is.
        num_samples: N.
        num_frames: T.
        shape: points along each axis.
        coordinates: their places along each axis `[X]`, float32.
        parameters: numbers of the whole file: beta, Nu, rho, …
        boundary: "periodic" or "trans" where the file's name says so.
        keys: sorted names of the samples' groups; none in the array layout.
    """

    family: Family
    num_samples: int
    num_frames: int
    shape: tuple[int, ...]
    coordinates: tuple[np.ndarray, ...]
    parameters: dict[str, float]
    boundary: str | None
    keys: tuple[str, ...]


def inspect(file: h5py.File, path: Path, pde: str | None, parameters: Mapping[str, float]) -> Contents:
    """Find out what an open file holds; arguments and errors as in `open_pdebench`."""
    attributes = _numbers(file)
    keys = tuple(sorted(file))
    family = _family(file, path, keys, attributes, pde)
    group = f"{keys[0]}/" if family.layout == "group" else ""
    first = find_array(file, group + family.fields[0].key, path)
    count, *shape = (len(keys), *first.shape) if group else first.shape
    num_frames, space = shape[0], tuple(shape[1 : 1 + family.dim])
    if not all((count, num_frames, *space)):
        raise StoreError(f"{path} holds no samples: {first.name!r} has shape {list(first.shape)}; generate it again")
    if family.times == "none" and num_frames != 1:
        raise StoreError(f"{first.name!r} of {path} must hold 1 frame, since Darcy flow is steady, got {num_frames}")
    for stored in (*family.fields, *family.static):
        frames = num_frames if stored in family.fields else None
        wanted = stored_shape(stored, None if group else count, frames, space)
        find_array(file, group + stored.key, path, wanted)
    return Contents(
        family=family,
        num_samples=count,
        num_frames=num_frames,
        shape=space,
        coordinates=_coordinates(file, path, family, group, space),
        parameters=_parameters(path, family, attributes, parameters),
        boundary=boundary_in_name(path),
        keys=keys if group else (),
    )


def stored_shape(
    stored: Stored, num_samples: int | None, num_frames: int | None, space: tuple[int, ...]
) -> tuple[int, ...]:
    """Shape of an array on disk; None leaves an axis out."""
    before = tuple(size for size in (num_samples, num_frames) if size is not None)
    return before + space + ((len(stored.channels),) if stored.trailing else ())


def _numbers(file: h5py.File) -> dict[str, float]:
    found = {}
    for name, value in file.attrs.items():
        array = np.asarray(value)
        if array.dtype.kind in "fiu" and array.size == 1:
            found[canonical(name)] = float(array.reshape(()))
    return found


def _family(
    file: h5py.File, path: Path, keys: tuple[str, ...], attributes: Mapping[str, float], pde: str | None
) -> Family:
    wanted = None if pde is None else family_of(pde).name
    name = _name(file, path, keys, attributes, wanted)
    if wanted is not None and wanted != name:
        raise StoreError(f"{path} was to be of the kind {wanted!r}, but its contents are of {name!r}; leave `pde` out")
    claimed = family_in_name(path)
    if claimed is not None and claimed != name:
        warnings.warn(f"{path} is named like a file of {claimed!r}, but its contents are of {name!r}", stacklevel=5)
    return FAMILIES[name]


def _name(
    file: h5py.File, path: Path, keys: tuple[str, ...], attributes: Mapping[str, float], wanted: str | None
) -> str:
    if "velocity" in keys:
        return _by_rank(file, path, "velocity", {5: "incompressible"})
    if "density" in keys:
        return _by_rank(file, path, "density", {3 + i: f"compressible_{1 + i}d" for i in range(3)})
    if "tensor" in keys:
        steady = _by_rank(file, path, "tensor", {3: "", 4: "darcy"})
        return steady or _name_of_tensor(path, attributes, wanted)
    first = file.get(keys[0]) if keys else None
    if isinstance(first, h5py.Group) and "data" in first and ("grid" in first or keys[0].isdecimal()):
        data = find_array(file, f"{keys[0]}/data", path)
        kinds = {(3, 1): "diffusion_sorption", (4, 2): "diffusion_reaction", (4, 1): "shallow_water"}
        if (data.ndim, data.shape[-1] if data.shape else 0) in kinds:
            return kinds[data.ndim, data.shape[-1]]
        raise StoreError(f"{data.name!r} of {path} must be [T, X, 1] or [T, X, Y, 1 or 2], got {list(data.shape)}")
    held = ", ".join(repr(key) for key in keys[:5]) or "nothing"
    raise StoreError(
        f"{path} is an HDF5 file but none of PDEBench: it holds {held}, where 'tensor', 'density', 'velocity' or "
        "groups with 'data' are expected"
    )


def _by_rank(file: h5py.File, path: Path, key: str, kinds: Mapping[int, str]) -> str:
    item = find_array(file, key, path)
    if item.ndim not in kinds:
        ranks = " or ".join(map(str, kinds))
        raise StoreError(f"{key!r} of {path} must have {ranks} axes, got shape {list(item.shape)}")
    return kinds[item.ndim]


def _name_of_tensor(path: Path, attributes: Mapping[str, float], wanted: str | None) -> str:
    if "beta" in attributes:
        return "advection"
    if "Nu" in attributes:
        return "reaction_diffusion" if "rho" in attributes else "burgers"
    name = wanted or family_in_name(path)
    if name is None or FAMILIES[name].dim != 1 or FAMILIES[name].fields[0].key != "tensor":
        raise StoreError(
            f"{path} lacks the attribute 'beta', 'Nu' or 'rho' that tells advection, Burgers and reaction-diffusion "
            "apart, and its name does not tell either: pass `pde` and `parameters`"
        )
    return name


def _parameters(
    path: Path, family: Family, attributes: Mapping[str, float], given: Mapping[str, float]
) -> dict[str, float]:
    known = (*family.parameters, *family.optional)
    in_name = {name: value for name, value in parameters_in_name(path).items() if name in known}
    for name, value in in_name.items():
        if name in attributes and not math.isclose(value, attributes[name], rel_tol=1e-5):
            warnings.warn(f"{path} has {name}={attributes[name]:g} inside, which its name does not say", stacklevel=5)
    found = {**in_name, **attributes, **{canonical(name): float(value) for name, value in given.items()}}
    for name in family.parameters:
        if name not in found:
            raise StoreError(
                f"{path} lacks the attribute {name!r} of {family.name}, and its name does not tell it either: pass "
                f"`parameters={{{name!r}: …}}`"
            )
    return found


def _coordinates(
    file: h5py.File, path: Path, family: Family, group: str, space: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    found = []
    for axis, size in zip(AXES, space, strict=False):
        name = f"{group}grid/{axis}" if group else f"{axis}-coordinate"
        if family.times != "shared" and name not in file:  # Darcy and incompressible flow: cells of the unit square
            found.append(((np.arange(size) + 0.5) / size).astype(np.float32))
            continue
        values = read_vector(file, name, path, size)
        if not (np.diff(values) > 0).all():
            raise StoreError(f"{name!r} of {path} must increase from point to point; generate the file again")
        found.append(values)
    return tuple(found)
