"""What a mesh must satisfy, and its description in plain numbers."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS

if TYPE_CHECKING:
    from flare_connect.mesh.mesh import Mesh

_SHOWN = 5  # places of each defect


def validate(mesh: "Mesh", allow_nonfinite: bool) -> None:
    """Checks shapes, dtypes, indices and values of a mesh.

    Raises:
        MeshError: names the array at fault, the first place, and the mend.
    """
    pos = mesh.pos
    if pos.ndim != 2 or pos.shape[1] not in (2, 3):
        raise MeshError(f"positions must have shape [N, 2] or [N, 3], got {list(pos.shape)}")
    num_nodes = len(pos)
    _check_finite("positions hold", pos, "correct or remove these nodes")
    if not mesh.cells:
        raise MeshError("the mesh has no cells; a point cloud needs a mesh (or cells of kind 'vertex') first")
    for kind, nodes in mesh.cells.items():
        _check_cells(kind, nodes, num_nodes)
    mend = "remove or fill them before loading, or pass allow_nonfinite=True"
    for name, values in mesh.point_data.items():
        _check_field(f"field {name!r}", values, num_nodes, "nodes", series=True)
        if not allow_nonfinite:
            _check_finite(f"field {name!r} holds", values, mend)
    for name, blocks in mesh.cell_data.items():
        for kind, values in blocks.items():
            if kind not in mesh.cells:
                known = ", ".join(repr(k) for k in mesh.cells)
                raise MeshError(f"cell field {name!r} is given on {kind!r}, but the mesh has cells of {known} only")
            _check_field(f"cell field {name!r} on {kind!r}", values, len(mesh.cells[kind]), "cells")
            if not allow_nonfinite:
                _check_finite(f"cell field {name!r} on {kind!r} holds", values, mend, "cell")
    for name, values in mesh.global_data.items():
        if not allow_nonfinite:
            _check_finite(f"global {name!r} holds", values, mend, "component")
    for name, named in mesh.sets.items():
        _check_set(name, named, num_nodes, mesh.num_cells)
    pairs = mesh._store.get("periodic_pairs")  # not the property: its shape is what is being checked
    if pairs is not None:
        if pairs.ndim != 2 or pairs.shape[0] != 2:
            raise MeshError(f"periodic_pairs must have shape [2, P], got {list(pairs.shape)}")
        _check_range("periodic_pairs", pairs, num_nodes, "nodes")


def summary(mesh: "Mesh") -> dict[str, Any]:
    """Describes a mesh in plain numbers and strings.

    Returns:
        Keys `nodes`, `dim`, `topological_dim`, `cells`, `point_data`, `cell_data`, `global_data`, `sets`, `units`,
        `time_steps`, `components`, `orphan_nodes`, `edges`, `boundary_facets`, `boundary_nodes`, `bounding_box`,
        `total_measure`, `quality`, `inverted_cells`, `defects` (what was found, how often, and the first places); the
        JSON module can write all of it.
    """
    from flare_connect.mesh.defects import find_defects  # it knows what a mesh is, and this module must not

    quality = {
        kind: {"min": float(q.min()), "median": float(q.median())} for kind, q in mesh.cell_quality().items() if len(q)
    }
    return {
        "nodes": int(mesh.num_nodes),
        "dim": mesh.dim,
        "topological_dim": mesh.topological_dim,
        "cells": {kind: len(nodes) for kind, nodes in mesh.cells.items()},
        "point_data": {name: _describe(values) for name, values in mesh.point_data.items()},
        "cell_data": {
            name: {kind: _describe(values) for kind, values in blocks.items()}
            for name, blocks in mesh.cell_data.items()
        },
        "global_data": {name: values.tolist() for name, values in mesh.global_data.items()},
        "sets": {
            name: {"entity": named.entity, "size": len(named.ids), "nodes": len(mesh.set_nodes(name))}
            for name, named in mesh.sets.items()
        },
        "units": dict(mesh.units),
        "time_steps": mesh.time_steps,
        "components": mesh.num_components,
        "orphan_nodes": len(mesh.orphan_nodes),
        "edges": mesh.num_edges // 2,
        "boundary_facets": {kind: len(nodes) for kind, nodes in mesh.boundary_facets.items()},
        "boundary_nodes": len(mesh.boundary_nodes),
        "bounding_box": [mesh.pos.amin(0).tolist(), mesh.pos.amax(0).tolist()],
        "total_measure": mesh.total_measure,
        "quality": quality,
        "inverted_cells": mesh.num_inverted_cells,
        "defects": {
            name.replace("_", " "): value
            if isinstance(value, int)
            else {"count": value.shape[-1], "first": value[..., :_SHOWN].numpy().T.tolist()}
            for name, value in vars(find_defects(mesh)).items()
            if (value if isinstance(value, int) else value.numel())
        },
    }


def _describe(values: Tensor) -> dict[str, Any]:
    flat = values.to(torch.float64)
    return {
        "shape": list(values.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "min": float(flat.min()),
        "max": float(flat.max()),
    }


def _check_cells(kind: str, nodes: Tensor, num_nodes: int) -> None:
    if nodes.ndim != 2:
        raise MeshError(f"cells {kind!r} must have shape [n, k], got {list(nodes.shape)}")
    if kind in CELL_KINDS and nodes.shape[1] != CELL_KINDS[kind].num_nodes:
        raise MeshError(f"cells {kind!r} have {CELL_KINDS[kind].num_nodes} nodes each, got {nodes.shape[1]}")
    least, most = _extremes(nodes)
    if least >= 0 and most < max(num_nodes, 1):
        return
    bad = ((nodes < 0) | (nodes >= num_nodes)).any(1)
    if bad.any():
        cell = int(torch.nonzero(bad)[0])
        value = next(int(v) for v in nodes[cell] if not 0 <= v < num_nodes)
        raise MeshError(
            f"cells {kind!r}: cell {cell} refers to node {value}, but the nodes are 0 to {num_nodes - 1}"
            f" ({int(bad.sum())} such cells); mend the connectivity, or start counting at 0"
        )


def _check_field(what: str, values: Tensor, length: int, of: str, *, series: bool = False) -> None:
    if values.ndim not in (1, 2, 3)[: 3 if series else 2]:
        shapes = f"[{length}], [{length}, c] or [{length}, T, c]" if series else f"[{length}] or [{length}, c]"
        raise MeshError(f"{what} must have shape {shapes}, got {list(values.shape)}")
    if len(values) != length:
        raise MeshError(f"{what} has {len(values)} values for {length} {of}")


def _check_finite(holds: str, values: Tensor, mend: str, place: str = "node") -> None:
    if not values.is_floating_point() or all(map(math.isfinite, _extremes(values))):
        return
    bad = ~torch.isfinite(values)
    if bad.any():
        first = int(torch.nonzero(bad)[0, 0])
        raise MeshError(f"{holds} {int(bad.sum())} NaN or infinite values (first at {place} {first}); {mend}")


def _extremes(values: Tensor) -> tuple[float, float]:
    """Least and largest value, NaN if there is one: a single pass, where a look at each value takes several."""
    if not values.numel():
        return 0.0, 0.0
    least, most = torch.aminmax(values)
    return float(least), float(most)


def _check_range(what: str, ids: Tensor, size: int, of: str) -> None:
    bad = ids[(ids < 0) | (ids >= size)]
    if len(bad):
        raise MeshError(f"{what} refers to {int(bad[0])}, but there are {size} {of}, counted from 0")


def _check_set(name: str, named: Any, num_nodes: int, num_cells: int) -> None:
    shapes: Mapping[str, int] = {"node": 1, "cell": 1, "facet": 2}
    if named.entity not in shapes:
        raise MeshError(f"set {name!r} is of entity {named.entity!r}; it must be 'node', 'facet' or 'cell'")
    if named.ids.ndim != shapes[named.entity]:
        want = "[F, k]" if named.entity == "facet" else "[K]"
        raise MeshError(f"set {name!r} of entity {named.entity!r} must have shape {want}, got {list(named.ids.shape)}")
    if named.entity == "cell":
        _check_range(f"set {name!r}", named.ids, num_cells, "cells")
    else:
        _check_range(f"set {name!r}", named.ids, num_nodes, "nodes")
