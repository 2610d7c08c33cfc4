"""Fields written beside a mesh, for ParaView."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.viz.values import require_finite, to_numpy


def save_fields(
    mesh: Mesh, fields: Mapping[str, Any], path: str | Path, *, units: Mapping[str, str] | None = None
) -> Path:
    """Writes the mesh with these fields added to its point data; the extension picks the format.

    The mesh given is left as it is. A field of the same name is replaced in the file. `.vtu` opens in ParaView.

    Args:
        mesh: the mesh, N nodes.
        fields: field name → values at nodes `[N]` or `[N, c]`, tensors on any device or arrays.
        path: file to write, e.g. `result.vtu`.
        units: field name → unit, for the fields that have one.

    Returns:
        The path written.

    Raises:
        InputError: a field's length is not N, a value is not finite, a unit belongs to no field given, or the
            folder does not exist.
        MeshError: the extension is not known, or the format cannot hold this mesh.
    """
    unknown = [name for name in units or {} if name not in fields]
    if unknown:
        raise InputError(f"units are given for {unknown[0]!r}, which is not among the fields: {_listed(fields)}")
    if not Path(path).parent.is_dir():
        raise InputError(f"cannot write {str(path)!r}: the folder {str(Path(path).parent)!r} does not exist")
    added = {}
    for name, values in fields.items():
        array = to_numpy(values, f"field {name!r}")
        if array.ndim not in (1, 2) or len(array) != mesh.num_nodes:
            raise InputError(
                f"field {name!r} has shape {list(array.shape)} but must be [N] or [N, c] "
                f"with N = {mesh.num_nodes} nodes"
            )
        require_finite(array, f"field {name!r}", "node")
        added[name] = torch.from_numpy(array).to(mesh.pos.device)
    out = copy.copy(mesh)
    out.point_data = {**mesh.point_data, **added}
    out.units = {**mesh.units, **(units or {})}
    out.save(path)
    return Path(path)


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"
