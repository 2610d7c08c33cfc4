"""From a mesh to what is drawn of it: outer surface, cell edges, outline, deformed shape."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.viz.values import resolve, to_numpy

FEATURE_ANGLE = 30.0
"""Edges of a solid sharper than this many degrees are part of its outline and are shaded sharp."""

# VTK's quadratic cell types → linear type and number of corners
_LINEAR = {
    **{21: (3, 2), 35: (3, 2), 22: (5, 3), 34: (5, 3), 23: (9, 4), 28: (9, 4), 30: (9, 4)},
    **{24: (10, 4), 25: (12, 8), 29: (12, 8), 33: (12, 8), 26: (13, 6), 31: (13, 6), 32: (13, 6), 27: (14, 5)},
}

_FEW_CELLS = 4_000

_SHOWN_DISPLACEMENT = 0.065  # of the length scale, in "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """What is drawn of a mesh, as `pyvista.PolyData`.

    Args:
        faces: outer surface of solids, the cells of planar meshes and shells; carries the arrays drawn.
        edges: edges of the cells.
        outline: boundary of planar meshes and shells, sharp edges of solids.
        undeformed: the outline before deformation, or None.
        dim: topological dimension of what is drawn.
    """

    faces: Any
    edges: Any
    outline: Any
    undeformed: Any | None
    dim: int

    @property
    def has_few_cells(self) -> bool:
        """Whether edges of cells can be told apart at the default size of a picture."""
        return bool((self.faces if self.dim < 3 else self.edges).n_cells <= _FEW_CELLS)


def drawn_cells(grid: Any) -> tuple[np.ndarray, int]:
    """Finds the cells of highest dimension `[num_cells]`; the others lie on them and would flicker."""
    from vtkmodules.vtkCommonDataModel import vtkGenericCell

    cell, types = vtkGenericCell(), np.asarray(grid.celltypes)
    dims = np.zeros(len(types), dtype=int)
    for kind in np.unique(types):
        cell.SetCellType(int(kind))
        dims[types == kind] = cell.GetCellDimension()
    top = int(dims.max())
    return dims == top, top


def used_nodes(grid: Any, drawn: np.ndarray) -> np.ndarray:
    """Finds the nodes of the cells that are drawn, ascending; nothing is seen of the others."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    counts = np.diff(vtk_to_numpy(grid.GetCells().GetOffsetsArray()))
    return np.unique(np.asarray(grid.cell_connectivity)[np.repeat(drawn, counts)])


def build_surface(
    grid: Any,
    drawn: np.ndarray,
    dim: int,
    *,
    shift: np.ndarray | None = None,
    clip: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> Surface:
    """Builds what is drawn.

    Args:
        grid: the mesh as `pyvista.UnstructuredGrid`, carrying the arrays to draw; changed in place.
        drawn: cells that are drawn `[num_cells]`.
        dim: topological dimension of these.
        shift: displacement to show `[N, 3]`, in units of the positions, or None.
        clip: normal `[3]` of a plane, pointing at the part removed, and a point on it `[3]` or None for the centre.

    Raises:
        InputError: the clip plane leaves nothing.
    """
    undeformed = None
    if shift is not None:
        undeformed = _outline(_faces(_restrict(grid, drawn), dim), dim)
        grid.points = np.asarray(grid.points) + shift
    grid = _restrict(grid, drawn)
    if clip is not None:
        normal, origin = clip
        # corners only: neighbouring quadratic cells are cut differently and leave cracks
        grid = _linear(grid)
        whole = _faces(grid, dim)
        plane = {"normal": normal, "origin": grid.center if origin is None else origin}
        grid = grid.clip(**plane)
        if grid.n_cells == 0:
            raise InputError("the clip plane leaves nothing of the mesh; move its origin or turn its normal round")
    faces = _faces(grid, dim)
    # lines along curved edges of planar quadratic cells; on solids only the surface has edges worth drawing
    edges = (grid if dim < 3 else _skin(grid, 0)).extract_all_edges(clear_data=True)
    if clip is None:
        outline = _outline(faces, dim)
    else:  # not from the cells that were cut: they leave slivers, whose edges are sharp and mean nothing
        rim = whole.slice(**plane)
        rim.clear_data()
        outline = _outline(whole, dim)
        outline = outline.clip(**plane).merge(rim) if outline.n_cells else rim
    if dim == 3 or (dim == 2 and np.ptp(np.asarray(faces.points)[:, 2]) > 0):
        faces = faces.compute_normals(
            cell_normals=False, split_vertices=True, feature_angle=FEATURE_ANGLE, consistent_normals=dim == 2
        )
    return Surface(faces=faces, edges=edges, outline=outline, undeformed=undeformed, dim=dim)


def deformation(mesh: Mesh, displacement: Any, warp: Literal["auto"] | float | None) -> tuple[np.ndarray | None, float]:
    """Works out the displacement to show `[N, 3]`, in units of the positions, and its factor.

    Raises:
        InputError: the displacement is not a vector at nodes, or `warp` is not a number or would do nothing.
    """
    if displacement is None:
        if warp is not None:
            raise InputError(f"warp={warp!r} does nothing without a displacement; give displacement [N, {mesh.dim}]")
        return None, 1.0
    values = resolve(mesh, displacement, "displacement", np.ones(mesh.num_cells, dtype=bool))
    if values.place != "point" or values.array.shape[1] != mesh.dim:
        raise InputError(
            f"displacement has shape {list(values.array.shape)} but must be [{mesh.num_nodes}, {mesh.dim}]: at nodes, "
            "one component for each coordinate"
        )
    if warp is None or warp == "auto":
        largest = float(np.linalg.norm(values.array, axis=1).max())
        factor = float(f"{_SHOWN_DISPLACEMENT * mesh.length_scale / largest:.2g}") if largest > 0 else 1.0
    elif isinstance(warp, bool) or not isinstance(warp, int | float) or not np.isfinite(warp):
        raise InputError(f'warp must be "auto" or a finite number, got {warp!r}')
    else:
        factor = float(warp)
    return np.pad(factor * values.array, ((0, 0), (0, 3 - mesh.dim))), factor


def clip_plane(clip: Any, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Reads a clip plane: "x", "y", "z" (the half towards the viewer is removed) or (normal, origin).

    Args:
        clip: what the user gave.
        direction: from the mesh towards the viewer `[3]`.

    Raises:
        InputError: it is neither.
    """
    if clip is None:
        return None
    if isinstance(clip, str) and clip in ("x", "y", "z"):
        normal = np.eye(3)["xyz".index(clip)]
        return (-normal if normal @ direction < 0 else normal), None
    try:
        normal, origin = (to_numpy(v, "clip").astype(float) for v in clip)
        good = normal.shape == origin.shape == (3,) and np.isfinite([normal, origin]).all() and bool(normal.any())
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f'clip must be "x", "y", "z" or a pair (normal [3], origin [3]), got {clip!r}')
    return normal, origin


def _restrict(grid: Any, drawn: np.ndarray) -> Any:
    """The cells that are drawn and their nodes alone; `extract_cells` keeps all nodes where it keeps all cells."""
    if not drawn.all():
        return grid.extract_cells(np.flatnonzero(drawn))
    used = used_nodes(grid, drawn)
    return grid if len(used) == grid.n_points else grid.extract_points(used, adjacent_cells=False)


def _linear(grid: Any) -> Any:
    """The same cells by their corners; `linear_copy` of PyVista keeps midside nodes that linear cells cannot have."""
    import pyvista as pv
    from vtkmodules.util.numpy_support import vtk_to_numpy

    if not _has_quadratic(grid):
        return grid
    types = np.asarray(grid.celltypes)
    offsets, nodes = (
        vtk_to_numpy(a) for a in (grid.GetCells().GetOffsetsArray(), grid.GetCells().GetConnectivityArray())
    )
    kinds, counts = types.copy(), np.diff(offsets)
    for kind in np.unique(types):
        if int(kind) in _LINEAR:
            kinds[types == kind], counts[types == kind] = _LINEAR[int(kind)]
    # a cell is its number of nodes, then these, which come first among the nodes it had
    starts = np.cumsum(counts + 1) - counts - 1
    local = np.arange(int((counts + 1).sum())) - np.repeat(starts, counts + 1)
    flat = nodes[np.maximum(np.repeat(offsets[:-1], counts + 1) + local - 1, 0)]
    flat[starts] = counts
    out = pv.UnstructuredGrid(flat, kinds, np.asarray(grid.points))
    for name in grid.point_data:
        out.point_data[name] = grid.point_data[name]
    for name in grid.cell_data:
        out.cell_data[name] = grid.cell_data[name]
    return out


def _skin(grid: Any, level: int) -> Any:
    """Outer surface, faces of quadratic cells halved `level` times; 0 takes their corners only."""
    import pyvista as pv
    from vtkmodules.vtkFiltersGeometry import vtkDataSetSurfaceFilter

    # VTK itself: PyVista's own filter changed its arguments in 0.47
    skin = vtkDataSetSurfaceFilter()
    skin.SetInputData(grid)
    skin.SetNonlinearSubdivisionLevel(level)
    skin.Update()
    return pv.wrap(skin.GetOutput())


def _faces(grid: Any, dim: int) -> Any:
    """Outer surface; faces of quadratic cells are cut finely, the more so the fewer they are."""
    coarse = _skin(grid, 0)
    if dim < 2 or not _has_quadratic(grid):
        return coarse
    return _skin(grid, 3 if coarse.n_cells <= 2_000 else 2 if coarse.n_cells <= 20_000 else 1)


def _has_quadratic(grid: Any) -> bool:
    from vtkmodules.vtkCommonDataModel import vtkGenericCell

    cell = vtkGenericCell()
    for kind in np.unique(np.asarray(grid.celltypes)):
        cell.SetCellType(int(kind))
        if not cell.IsLinear():
            return True
    return False


def _outline(faces: Any, dim: int) -> Any:
    return faces.extract_feature_edges(
        feature_angle=FEATURE_ANGLE,
        boundary_edges=dim == 2,
        feature_edges=dim == 3,
        manifold_edges=False,
        non_manifold_edges=False,
        clear_data=True,
    )
