"""Meshes to PyVista, which is imported on first use."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS, OTHER_VTK_TYPES
from flare_connect.mesh.files.assemble import as_array, fields, points3d
from flare_connect.mesh.mesh import Mesh

UNITS = "flare_connect:units"
PAIRS = "flare_connect:periodic_pairs"
FACETS = "flare_connect:facets:"
"""Names of the field data that hold what VTK has no place for; facets `[F, k]` come by the name of their set."""


def to_pyvista(mesh: Mesh) -> Any:
    """Returns a `pyvista.UnstructuredGrid`, planar meshes padded with z = 0.

    Node and cell sets become uint8 arrays `set:<name>`, facet sets those of their nodes and a table in the field data;
    `global_data`, `units` and periodic pairs become field data. A cell field absent on some kinds is NaN there.

    Raises:
        MeshError: VTK has no cell type for a kind.
    """
    import pyvista

    flat, types = [], []
    for kind, nodes in vtk_nodes(mesh).items():
        vtk_type = CELL_KINDS[kind].vtk_type if kind in CELL_KINDS else OTHER_VTK_TYPES[kind]
        flat.append(np.insert(nodes, 0, nodes.shape[1], axis=1).reshape(-1))
        types.append(np.full(len(nodes), vtk_type, dtype=np.uint8))
    grid = pyvista.UnstructuredGrid(np.concatenate(flat), np.concatenate(types), points3d(mesh))
    attach(mesh, grid, list(mesh.cells))
    return grid


def vtk_nodes(mesh: Mesh) -> dict[str, np.ndarray]:
    """Kind → nodes `[n, k]` in VTK's order.

    Raises:
        MeshError: VTK has no cell type for a kind.
    """
    out = {}
    for kind, nodes in mesh.cells.items():
        if kind not in CELL_KINDS and kind not in OTHER_VTK_TYPES:
            raise MeshError(f"VTK has no cell type for kind {kind!r}; remove these cells before writing")
        order = CELL_KINDS[kind].vtk_order if kind in CELL_KINDS else None
        out[kind] = as_array(nodes)[:, list(order)] if order else as_array(nodes)
    return out


def attach(mesh: Mesh, grid: Any, order: Sequence[str]) -> None:
    """Puts fields, sets, numbers, units and periodic pairs of a mesh on its data set; `order` is that of its cells."""
    point_data, cell_data = fields(mesh)
    for name, values in point_data.items():
        grid.point_data[name] = values
    for name, blocks in cell_data.items():
        grid.cell_data[name] = np.concatenate([blocks[kind] for kind in order])
    for name, numbers in mesh.global_data.items():
        grid.field_data[name] = as_array(numbers)
    for name, named in mesh.sets.items():
        if named.entity == "facet" and len(named.ids):
            grid.field_data[FACETS + name] = as_array(named.ids)
    if mesh.units:
        grid.field_data[UNITS] = [json.dumps(mesh.units)]
    if mesh.periodic_pairs is not None:
        grid.field_data[PAIRS] = as_array(mesh.periodic_pairs).reshape(-1)


def polydata(mesh: Mesh) -> Any:
    """Returns a `pyvista.PolyData`, kinds in the order of VTK.

    Raises:
        MeshError: there are cells that it has no place for.
    """
    import pyvista

    allowed = ("vertex", "line", "triangle", "quad")  # in the order in which VTK numbers them
    other = [kind for kind in mesh.cells if kind not in allowed]
    if other:
        raise MeshError(f"a .vtp file holds {', '.join(allowed)}, not {', '.join(other)}; write a .vtu file")
    order = [kind for kind in allowed if kind in mesh.cells]
    parts: dict[str, list[np.ndarray]] = {"verts": [], "lines": [], "faces": []}
    for kind in order:
        nodes = as_array(mesh.cells[kind])
        place = {"vertex": "verts", "line": "lines"}.get(kind, "faces")
        parts[place].append(np.insert(nodes, 0, nodes.shape[1], axis=1).reshape(-1))
    given = {place: np.concatenate(arrays) for place, arrays in parts.items() if arrays}
    data = pyvista.PolyData(points3d(mesh), **given)
    attach(mesh, data, order)
    return data
