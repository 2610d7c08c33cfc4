"""What a file to be written is told beforehand, checked before work starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flare_connect.errors import ConfigError
from flare_datasets.pdebench.families import AXES, Family

_DTYPE = np.dtype("<f4")


def checked_coordinates(family: Family, coordinates: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Places of the points along each axis, float32.

    Raises:
        ConfigError: their number or values do not fit the family.
    """
    if len(coordinates) != family.dim:
        raise ConfigError(
            f"`coordinates` must be a list of {family.dim} axes for {family.name}, got {len(coordinates)}"
        )
    found = tuple(_vector(f"coordinates along {axis}", x) for axis, x in zip(AXES, coordinates, strict=False))
    for axis, x in zip(AXES, found, strict=False):
        if not (np.diff(x) > 0).all():
            raise ConfigError(f"`coordinates` along {axis} must increase from point to point, as float32 too")
        if family.times == "sample" and not np.allclose(x, (np.arange(len(x)) + 0.5) / len(x), atol=1e-5):
            raise ConfigError(
                f"`coordinates` along {axis} must be the cell centres (i + 1/2)/{len(x)} of the unit square: files of "
                f"{family.name} store none"
            )
    return found


def checked_times(family: Family, times: Any) -> tuple[np.ndarray, int]:
    """Times as the file stores them, float32, and the number of frames.

    Raises:
        ConfigError: there are none, or they do not fit the family.
    """
    if family.times == "none":
        if times is not None:
            raise ConfigError(f"`times` must be left out for {family.name}, which stores none")
        return np.zeros(0, dtype=_DTYPE), 1
    if times is None:
        raise ConfigError(f"`times` must be given for {family.name}: one for each frame")
    found = _vector("times", times)
    if not (np.diff(found) > 0).all():
        raise ConfigError("`times` must increase from frame to frame, as float32 too")
    if not family.extra_time:
        return found, len(found)
    if len(found) < 2:
        raise ConfigError(f"`times` must have 2 entries or more for {family.name}, got {len(found)}")
    steps = np.diff(found.astype(np.float64))
    return np.append(found, found[-1] + steps[-1]).astype(_DTYPE), len(found)


def checked_parameters(family: Family, parameters: Mapping[str, float]) -> dict[str, float]:
    """The file's attributes.

    Raises:
        ConfigError: one is missing, unknown or no finite number.
    """
    known = (*family.parameters, *family.optional)
    for name, value in parameters.items():
        if name not in known:
            listed = ", ".join(map(repr, known)) or "none"
            raise ConfigError(f"`parameters` of {family.name} are {listed}, got {name!r}")
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise ConfigError(f"`parameters[{name!r}]` must be a finite number, got {value!r}")
    for name in family.parameters:
        if name not in parameters:
            raise ConfigError(f"`parameters` must have {name!r}, which tells {family.name} from other files")
    return {name: float(parameters[name]) for name in known if name in parameters}


def summary_of(values: np.ndarray) -> str:
    """An array in one short line that no other array has."""
    if not len(values):
        return "none"
    digest = hashlib.sha256(values.tobytes()).hexdigest()[:12]
    return f"{len(values)} values, {values[0]:g} … {values[-1]:g}, {digest}"


def _vector(name: str, values: Any) -> np.ndarray:
    found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise ConfigError(f"`{name}` must be a row of finite numbers, got shape {list(found.shape)}, {found.dtype}")
    return found.astype(_DTYPE)
