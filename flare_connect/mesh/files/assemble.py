"""What all libraries and formats have in common, on the way in and on the way out."""

import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.mesh import Mesh, NamedSet

SET_PREFIX = "set:"


def assemble(
    points: np.ndarray,
    cells: dict[str, np.ndarray],
    point_data: dict[str, np.ndarray],
    cell_data: dict[str, dict[str, np.ndarray]],
    *,
    sets: Mapping[str, NamedSet] | None = None,
    **rest: Any,
) -> Mesh:
    """What both libraries have in common: sets out of `set:` arrays, absent kinds, planar meshes."""
    sets = dict(sets or {})
    for name in [n for n in point_data if n.startswith(SET_PREFIX)]:
        ids = np.flatnonzero(point_data.pop(name).reshape(len(points), -1)[:, 0])
        sets[name.removeprefix(SET_PREFIX)] = NamedSet("node", torch.from_numpy(ids))
    for name in [n for n in cell_data if n.startswith(SET_PREFIX)]:
        blocks = cell_data.pop(name)
        ids = np.flatnonzero(np.concatenate([blocks[kind].reshape(-1) for kind in cells]))
        sets[name.removeprefix(SET_PREFIX)] = NamedSet("cell", torch.from_numpy(ids))
    for name, blocks in cell_data.items():
        absent = [k for k, v in blocks.items() if v.dtype.kind == "f" and v.size and np.isnan(v).all()]
        if len(absent) < len(blocks):
            cell_data[name] = {k: v for k, v in blocks.items() if k not in absent}
    if points.shape[1] == 1:
        points = np.pad(points, ((0, 0), (0, 1)))
    solid = any(kind not in CELL_KINDS or CELL_KINDS[kind].dim > 2 for kind in cells)
    if points.shape[1] == 3 and len(points) and cells and not solid:
        extent = np.ptp(points, axis=0)
        if extent[2] <= 1e-12 * extent.max():
            points = points[:, :2]
    return Mesh.from_arrays(points, cells, point_data=point_data, cell_data=cell_data, sets=sets, **rest)


def add_centres(
    points: np.ndarray, point_data: dict[str, np.ndarray], centres: list[np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Appends nodes at the centres of cells; a field's value there is the mean over the corners, sets gain no node.

    Args:
        points: positions `[N, dim]`.
        point_data: field name → `[N]` or `[N, c]`.
        centres: the corners of each cell.
    """
    warnings.warn(
        f"{len(centres)} polyhedra were cut into tetrahedra and pyramids around a node added at their centre",
        stacklevel=5,
    )
    corners = np.concatenate(centres)
    start = np.cumsum([0, *(len(ids) for ids in centres[:-1])])
    count = np.array([len(ids) for ids in centres])

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.add.reduceat(values[corners].astype(float), start, axis=0)
        found = total / count.reshape(-1, *[1] * (values.ndim - 1))
        return (found if values.dtype.kind == "f" else np.round(found)).astype(values.dtype)

    out = {
        name: np.concatenate([values, mean(values) * (not name.startswith(SET_PREFIX))])
        for name, values in point_data.items()
    }
    return np.concatenate([points, mean(points)]), out


def numeric(data: Any) -> dict[str, np.ndarray]:
    """Arrays of numbers with decoded names, tensors flattened to `[N, c]`."""
    out: dict[str, np.ndarray] = {}
    for name in data:
        array = np.asarray(data[name])
        if array.dtype.kind in "fiub":
            out[decoded(name, out)] = flat(array)
    return out


def flat(array: np.ndarray) -> np.ndarray:
    """`[N, 1]` as `[N]`, tensors `[N, a, b]` as `[N, a * b]`."""
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    return array if array.ndim < 3 else array.reshape(len(array), -1)


def decoded(name: str, taken: Mapping[str, Any]) -> str:
    """`Nodal Stress` for `Nodal%20Stress`, unless that name is taken."""
    plain = unquote(name)
    return name if plain in taken else plain


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array on the CPU; booleans as bytes, since no format holds them."""
    array = tensor.detach().cpu().numpy()
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def points3d(mesh: Mesh) -> np.ndarray:
    """Positions `[N, 3]`, z = 0 added to a planar mesh."""
    return np.pad(as_array(mesh.pos), ((0, 0), (0, 3 - mesh.dim)))


def fields(mesh: Mesh) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """All point and cell arrays, sets among them, every cell field on every kind.

    A series with components is the components of one frame, then those of the next: files know no third axis.
    """
    point_data = {name: as_array(v.flatten(1) if v.ndim == 3 else v) for name, v in mesh.point_data.items()}
    cell_data = {}
    for name, blocks in mesh.cell_data.items():
        arrays = {kind: as_array(values) for kind, values in blocks.items()}
        if len(arrays) < len(mesh.cells):
            width = next(iter(arrays.values())).shape[1:]
            arrays = {
                kind: np.asarray(arrays[kind], dtype=float) if kind in arrays else np.full((len(nodes), *width), np.nan)
                for kind, nodes in mesh.cells.items()
            }
        cell_data[name] = arrays
    for name, named in mesh.sets.items():
        if named.entity == "cell":
            mark = np.zeros(mesh.num_cells, dtype=np.uint8)
            mark[as_array(named.ids)] = 1
            ends = np.cumsum([len(nodes) for nodes in mesh.cells.values()])[:-1]
            cell_data[SET_PREFIX + name] = dict(zip(mesh.cells, np.split(mark, ends), strict=True))
        else:
            mark = np.zeros(mesh.num_nodes, dtype=np.uint8)
            mark[as_array(mesh.set_nodes(name))] = 1
            point_data[SET_PREFIX + name] = mark
    return point_data, cell_data
