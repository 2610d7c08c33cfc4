"""Meshes from PyVista and VTK. PyVista is imported on first use."""

import json
import re
import warnings
from typing import Any

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import SET_PREFIX, add_centres, assemble, flat, numeric
from flare_connect.mesh.files.to_vtk import FACETS, PAIRS, UNITS
from flare_connect.mesh.files.vtk_cells import VtkCells, simple_cells, vtk_cells
from flare_connect.mesh.geometry import signed_measure
from flare_connect.mesh.mesh import Mesh, NamedSet


def from_pyvista(grid: Any, *, allow_nonfinite: bool = False) -> Mesh:
    """Builds a mesh from a PyVista data set, cell kinds in order of first appearance.

    Blocks are joined, and become cell sets by their names; poly-lines, poly-vertices, strips, polygons and polyhedra
    become simple cells (see `flare_connect.mesh.files.polyhedra`); z is dropped where no cell is solid and z is
    constant. Arrays `set:<name>` become sets, field data becomes `global_data`. A cell field that is NaN on all cells
    of a kind is taken to be absent there.

    Args:
        grid: any `pyvista.DataSet` or `pyvista.MultiBlock`.
        allow_nonfinite: accept NaN and infinite field values.

    Raises:
        MeshError: there are no cells, or arrays are bad.
    """
    import pyvista

    parts = _Parts(_leaves(grid) if isinstance(grid, pyvista.MultiBlock) else [("", grid)])
    vtk, point_data, cell_fields = parts.cells, parts.point_data, parts.cell_data
    pieces = simple_cells(vtk)
    points = np.asarray(vtk.points)
    if len(pieces.centres):
        points, point_data = add_centres(points, point_data, pieces.centres)
    kinds = pieces.cells
    # VTK's manual has a wedge's first triangle face outward, VTK's own volume filter and many writers inward: a block
    # that comes out inverted was written the other way
    wedges = {kind: nodes for kind, nodes in kinds.items() if kind == "wedge"}
    if wedges and sum(m.sum() for m in signed_measure(np.asarray(points, dtype=float), wedges).values()) < 0:
        kinds["wedge"] = kinds["wedge"][:, list(CELL_KINDS["wedge"].vtk_order or ())]
    first = next(iter(pieces.rows.values()), np.zeros(0, dtype=np.int64))
    whole = len(kinds) == 1 and np.array_equal(first, np.arange(len(vtk.types)))  # most files: no copy needed
    cell_data = {
        name: {kind: values if whole else values[ids] for kind, ids in pieces.rows.items()}
        for name, values in cell_fields.items()
    }
    sets, field_data = _facet_sets(parts.field_data, point_data, len(points))
    pairs = field_data.pop(PAIRS, None)
    return assemble(
        points,
        kinds,
        point_data,
        cell_data,
        sets=sets,
        global_data={name: values.reshape(-1) for name, values in field_data.items()},
        units=parts.units,
        periodic_pairs=None if pairs is None else pairs.reshape(2, -1),
        allow_nonfinite=allow_nonfinite,
    )


class _Parts:
    """Cells, fields and field data of named data sets, one after the other."""

    def __init__(self, leaves: list[tuple[str, Any]]):
        parts = [vtk_cells(data) for _, data in leaves]
        self.cells = _appended(parts)
        self.point_data = _common([numeric(data.point_data) for _, data in leaves], "point_data")
        self.cell_data = _common([numeric(data.cell_data) for _, data in leaves], "cell_data")
        self.field_data: dict[str, np.ndarray] = {}
        self.units: dict[str, str] = {}
        for _, data in leaves:
            for name, values in numeric(data.field_data).items():
                self.field_data.setdefault(name, values)
            if UNITS in data.field_data:
                self.units |= json.loads(str(data.field_data[UNITS][0]))
        if len(leaves) > 1:
            owner = np.repeat(np.arange(len(parts)), [len(part.types) for part in parts])
            names = dict.fromkeys(name for name, _ in leaves if name and not re.fullmatch(r"Block-\d+", name))
            for name in names:
                within = [i for i, (other, _) in enumerate(leaves) if other == name]
                self.cell_data[SET_PREFIX + name] = np.isin(owner, within)


def _leaves(blocks: Any) -> list[tuple[str, Any]]:
    """Data sets with cells, whatever the depth; a nested one goes by its own name, or by that of the block above."""
    out: list[tuple[str, Any]] = []
    for i in range(blocks.n_blocks):
        block, name = blocks[i], blocks.get_block_name(i) or ""
        if block is None:
            continue
        if hasattr(block, "n_blocks"):
            out += [(inner if not re.fullmatch(r"Block-\d+", inner) else name, data) for inner, data in _leaves(block)]
        elif block.n_cells:
            out.append((name, block))
    return out


def _appended(parts: list[VtkCells]) -> VtkCells:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return VtkCells(np.zeros((0, 3)), np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64), {})
    first_point = np.cumsum([0, *(len(part.points) for part in parts)]).tolist()
    first_cell = np.cumsum([0, *(len(part.types) for part in parts)]).tolist()
    first_node = np.cumsum([0, *(len(part.nodes) for part in parts)]).tolist()
    return VtkCells(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.types for part in parts]),
        np.concatenate([[0], *(part.offset[1:] + start for part, start in zip(parts, first_node, strict=False))]),
        np.concatenate([part.nodes + start for part, start in zip(parts, first_point, strict=False)]),
        {
            cell + start: [face + point for face in faces]
            for part, start, point in zip(parts, first_cell, first_point, strict=False)
            for cell, faces in part.polyhedra.items()
        },
    )


def _common(fields: list[dict[str, np.ndarray]], what: str) -> dict[str, np.ndarray]:
    """Fields that all blocks have, in one width; what is left out is named in a warning."""
    if len(fields) == 1:
        return fields[0]
    every = dict.fromkeys(name for of_block in fields for name in of_block)
    kept = {n: [f[n] for f in fields] for n in every if all(n in f for f in fields)}
    kept = {n: parts for n, parts in kept.items() if len({part.shape[1:] for part in parts}) == 1}
    lost = sorted(n for n in every if n not in kept)
    if lost:
        warnings.warn(f"{what} {lost} left out: not all blocks of the file have them", stacklevel=5)
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def _facet_sets(
    field_data: dict[str, np.ndarray], point_data: dict[str, np.ndarray], num_nodes: int
) -> tuple[dict[str, NamedSet], dict[str, np.ndarray]]:
    """Tables of facets out of the field data, where they still fit the nodes that are marked beside them."""
    sets: dict[str, NamedSet] = {}
    rest = {name: values for name, values in field_data.items() if not name.startswith(FACETS)}
    for name in field_data.keys() - rest.keys():
        table, mark = flat(field_data[name]), SET_PREFIX + name.removeprefix(FACETS)
        table = table.reshape(len(table), -1)
        fits = table.dtype.kind in "iu" and (not table.size or (table.min() >= 0 and table.max() < num_nodes))
        # another program may have removed or renumbered nodes since
        if fits and mark in point_data and np.array_equal(np.unique(table), np.flatnonzero(point_data[mark])):
            del point_data[mark]
            sets[name.removeprefix(FACETS)] = NamedSet("facet", torch.from_numpy(table.astype(np.int64)))
    return sets, rest
