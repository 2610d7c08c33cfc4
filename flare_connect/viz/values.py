"""What is to be drawn, as plain arrays: fields by name or by value, checked, reduced to one number a place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """A field on a mesh.

    Args:
        name: how pictures call it.
        array: values `[N, c]` at nodes or `[num_cells, c]` on cells, float64.
        place: which of the two.
        unit: unit, or "".
    """

    name: str
    array: np.ndarray
    place: Literal["point", "cell"]
    unit: str


def resolve(mesh: Mesh, value: Any, role: str, drawn: np.ndarray) -> Values:
    """Finds a field by name, or takes it as given, and checks it.

    Args:
        mesh: the mesh, N nodes.
        value: field name, values at nodes `[N]` or `[N, c]`, values on cells `[num_cells]` or `[num_cells, c]`, or
            cell kind → values. Where N equals the number of cells, values are taken to be at nodes.
        role: what the value is for; names it in errors, and in the picture where it has no name of its own.
        drawn: which cells are drawn `[num_cells]`; the others need no values.

    Raises:
        InputError: no such field, a length that fits neither nodes nor cells, or values that are not finite.
    """
    name, unit = role, ""
    if isinstance(value, str):
        name, unit = value, mesh.units.get(value, "")
        if value in mesh.point_data:
            value = mesh.point_data[value]
        elif value in mesh.cell_data:
            value = mesh.cell_data[value]
        else:
            known = ", ".join(repr(field) for field in [*mesh.point_data, *mesh.cell_data]) or "none"
            raise InputError(f"the mesh has no field {name!r}; its fields: {known}")
    what = f"{role} {name!r}" if name != role else role
    if isinstance(value, Mapping):
        array = _join_kinds(mesh, value, what)
        place: Literal["point", "cell"] = "cell"
    else:
        array = to_numpy(value, what).astype(np.float64)
        place = "point" if array.ndim and len(array) == mesh.num_nodes else "cell"
    if array.ndim not in (1, 2) or array.size == 0 or (place == "cell" and len(array) != mesh.num_cells):
        raise InputError(
            f"{what} has shape {list(array.shape)} but must have one row for each of the "
            f"{mesh.num_nodes} nodes or {mesh.num_cells} cells"
        )
    array = array.reshape(len(array), -1)
    if place == "cell":
        array = np.where(drawn[:, None], array, np.nan)
    require_finite(array if place == "point" else array[drawn], what, "node" if place == "point" else "cell")
    return Values(name=name, array=array, place=place, unit=unit)


def scalar(values: Values, component: int | None, dim: int) -> tuple[np.ndarray, str]:
    """Reduces a field to one number a place `[n]`, and says what that number is: "u", "‖u‖" or "u_x".

    Raises:
        InputError: there is no such component.
    """
    width = values.array.shape[1]
    if component is None:
        if width == 1:
            return values.array[:, 0], values.name
        return np.linalg.norm(values.array, axis=1), f"‖{values.name}‖"
    if not 0 <= component < width:
        has = f"components 0 to {width - 1}" if width > 1 else "one component, 0"
        raise InputError(f"component {component} is out of range: {values.name!r} has {has}")
    if width == 1:
        return values.array[:, 0], values.name
    letter = "xyz"[component] if width in (dim, 3) else str(component)
    return values.array[:, component], f"{values.name}_{letter}"


def limits(
    array: np.ndarray, clim: Literal["robust"] | tuple[float, float] | None, *, from_zero: bool = False
) -> tuple[float, float]:
    """Colour limits `(lo, hi)` with lo < hi: the range, its 1st to 99th percentiles, or those given.

    Raises:
        InputError: the limits given are not two increasing finite numbers or the word "robust".
    """
    if isinstance(clim, str):
        if clim != "robust":
            raise InputError(f'clim must be "robust", a pair (lo, hi) or None, got {clim!r}')
        lo, hi = (float(v) for v in np.percentile(array, (1.0, 99.0)))
    elif clim is not None:
        try:
            lo, hi = (float(v) for v in clim)
        except (TypeError, ValueError):
            raise InputError(f'clim must be "robust", a pair (lo, hi) or None, got {clim!r}') from None
        if not (np.isfinite([lo, hi]).all() and lo < hi):
            raise InputError(f"clim must be two finite numbers with lo < hi, got {clim!r}")
    else:
        lo, hi = float(array.min()), float(array.max())
    if from_zero:
        lo = 0.0
    scale = max(abs(lo), abs(hi))
    if hi - lo <= 1e-9 * scale or scale == 0.0:  # constant: a range around it, so that there are colours at all
        half = 0.5 * scale or 1.0
        lo, hi = (0.0, hi + half) if from_zero else (lo - half, hi + half)
    return lo, hi


def to_numpy(value: Any, what: str) -> np.ndarray:
    """Returns a real numpy array, whatever the device and precision of the values.

    Raises:
        InputError: the values are not real numbers.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
    try:
        array = np.array(value)
    except ValueError:
        raise InputError(f"{what} is not an array: its rows differ in length") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} must hold real numbers, got dtype {array.dtype}")
    return array


def require_finite(array: np.ndarray, what: str, place: str) -> None:
    """Refuses NaN and infinite values.

    Raises:
        InputError: names the field, how many values are not finite, and the first place.
    """
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        raise InputError(
            f"{what} is NaN or infinite at {int(bad.sum())} of {len(bad)} {place}s, "
            f"first at {place} {int(bad.argmax())}"
        )


def _join_kinds(mesh: Mesh, blocks: Mapping[str, Any], what: str) -> np.ndarray:
    """Values of all cells `[num_cells, c]` in the order of `mesh.cells`, NaN for kinds without values."""
    unknown = [kind for kind in blocks if kind not in mesh.cells]
    if unknown or not blocks:
        known = ", ".join(repr(kind) for kind in mesh.cells)
        got = repr(unknown[0]) if unknown else "none"
        raise InputError(f"{what} names cells of kind {got}; the mesh has {known}")
    arrays = {kind: to_numpy(v, f"{what} on {kind!r}").astype(np.float64) for kind, v in blocks.items()}
    for kind, array in arrays.items():
        if array.ndim not in (1, 2) or len(array) != len(mesh.cells[kind]):
            raise InputError(
                f"{what} has shape {list(array.shape)} on {kind!r} but the mesh has {len(mesh.cells[kind])} such cells"
            )
    widths = {array.reshape(len(array), -1).shape[1] for array in arrays.values()}
    if len(widths) > 1:
        raise InputError(f"{what} has {sorted(widths)} components on different kinds of cells")
    empty = {kind: np.full((len(nodes), *widths), np.nan) for kind, nodes in mesh.cells.items() if kind not in arrays}
    joined = {**{kind: a.reshape(len(a), -1) for kind, a in arrays.items()}, **empty}
    return np.concatenate([joined[kind] for kind in mesh.cells])
