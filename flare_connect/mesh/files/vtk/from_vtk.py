"""Meshes from PyVista and VTK. PyVista is imported on first use."""

import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.files.assemble import SET_PREFIX, add_centres, assemble, flat, numeric
from flare_connect.mesh.files.polyhedra import Loops
from flare_connect.mesh.files.vtk.cells import VtkCells, simple_cells, vtk_cells
from flare_connect.mesh.files.vtk.to_vtk import FACETS, PAIRS, UNITS
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

    leaves = _leaves(grid) if isinstance(grid, pyvista.MultiBlock) else [("", grid)]
    return from_parts([part_of(name, data) for name, data in leaves], allow_nonfinite=allow_nonfinite)


@dataclass
class Part:
    """One data set of VTK's as plain arrays, whoever read it.

    Attributes:
        name: that of the block; "" for none.
        cells: points and cells.
        point_data: decoded name → values `[N]` or `[N, c]`.
        cell_data: decoded name → values `[M]` or `[M, c]`.
        field_data: decoded name → values of any shape.
        units: field name → unit.
    """

    name: str
    cells: VtkCells
    point_data: dict[str, np.ndarray]
    cell_data: dict[str, np.ndarray]
    field_data: dict[str, np.ndarray]
    units: dict[str, str]


def from_parts(parts: list[Part], *, allow_nonfinite: bool = False) -> Mesh:
    """What `from_pyvista` does, from arrays; the cells have been checked.

    Raises:
        MeshError: there are no cells, or arrays are bad.
    """
    joined = _joined(parts)
    vtk, point_data, cell_fields = joined.cells, joined.point_data, joined.cell_data
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
    sets, field_data = _facet_sets(joined.field_data, point_data, len(points))
    pairs = field_data.pop(PAIRS, None)
    return assemble(
        points,
        kinds,
        point_data,
        cell_data,
        sets=sets,
        global_data={name: values.reshape(-1) for name, values in field_data.items()},
        units=joined.units,
        periodic_pairs=None if pairs is None else pairs.reshape(2, -1),
        allow_nonfinite=allow_nonfinite,
    )


def part_of(name: str, data: Any) -> Part:
    """A PyVista data set as plain arrays.

    Raises:
        MeshError: its cells refer to nodes that are not there.
    """
    units = json.loads(str(data.field_data[UNITS][0])) if UNITS in data.field_data else {}
    fields = (numeric(data.point_data), numeric(data.cell_data), numeric(data.field_data))
    return Part(name, vtk_cells(data), *fields, units)


def _joined(parts: list[Part]) -> Part:
    """All parts, one after the other; named ones become cell sets."""
    out = Part(
        "",
        appended([part.cells for part in parts]),
        _common([part.point_data for part in parts], "point_data"),
        _common([part.cell_data for part in parts], "cell_data"),
        {},
        {},
    )
    for part in parts:
        out.field_data = part.field_data | out.field_data
        out.units |= part.units
    for name in dict.fromkeys(part.name for part in parts if part.name and not _UNNAMED.fullmatch(part.name)):
        within = [np.full(len(part.cells.types), part.name == name) for part in parts]
        out.cell_data[SET_PREFIX + name] = np.concatenate(within)
    return out


_UNNAMED = re.compile(r"Block-\d+")  # what PyVista calls a block without a name


def _leaves(blocks: Any) -> list[tuple[str, Any]]:
    """Data sets with cells, whatever the depth; a nested one goes by its own name, or by that of the block above."""
    out: list[tuple[str, Any]] = []
    for i in range(blocks.n_blocks):
        block, name = blocks[i], blocks.get_block_name(i) or ""
        if block is None:
            continue
        if hasattr(block, "n_blocks"):
            out += [(inner if not _UNNAMED.fullmatch(inner) else name, data) for inner, data in _leaves(block)]
        elif block.n_cells:
            out.append((name, block))
    return out


def appended(parts: list[VtkCells]) -> VtkCells:
    """Points and cells of several data sets, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return VtkCells(np.zeros((0, 3)), np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64))
    first_point = _starts([len(part.points) for part in parts])
    first_polyhedron = _starts([part.polyhedra.num for part in parts])
    nodes, offset = _ragged([part.nodes for part in parts], [part.offset for part in parts], first_point)
    loops = [part.polyhedra for part in parts]
    corners, starts = _ragged([loop.nodes for loop in loops], [loop.offset for loop in loops], first_point)
    of = np.concatenate([loop.of + start for loop, start in zip(loops, first_polyhedron, strict=True)])
    return VtkCells(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.types for part in parts]),
        offset,
        nodes,
        Loops(corners, starts, of, sum(loop.num for loop in loops)),
    )


def _starts(counts: list[int]) -> list[int]:
    return np.cumsum([0, *counts[:-1]]).tolist()


def _ragged(
    nodes: list[np.ndarray], offsets: list[np.ndarray], first_point: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged tables of nodes, one below the other; the nodes of each are counted from its own first point."""
    used = [ids[offset[0] : offset[-1]] + start for ids, offset, start in zip(nodes, offsets, first_point, strict=True)]
    starts = _starts([len(ids) for ids in used])
    moved = [offset[1:] - offset[0] + start for offset, start in zip(offsets, starts, strict=True)]
    return np.concatenate(used), np.concatenate([[0], *moved])


def _common(fields: list[dict[str, np.ndarray]], what: str) -> dict[str, np.ndarray]:
    """Fields that all blocks have, in one width; what is left out is named in a warning."""
    if len(fields) == 1:
        return fields[0]
    every = dict.fromkeys(name for of_block in fields for name in of_block)
    kept = {n: [f[n] for f in fields] for n in every if all(n in f for f in fields)}
    kept = {n: parts for n, parts in kept.items() if len({part.shape[1:] for part in parts}) == 1}
    lost = sorted(n for n in every if n not in kept)
    if lost:
        warnings.warn(f"{what} {lost} left out: not all blocks of the file have them", stacklevel=6)
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
