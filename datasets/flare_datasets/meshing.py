"""Triangle meshes with a wanted number of nodes, graded where it matters (gmsh)."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from flare_connect.errors import MeshError

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

ON_SIDE = 1e-6  # OCC widens its bounding boxes by 1e-7

Size = tuple[float, float]
UNIT: Size = (1.0, 1.0)
"""Width and height of the rectangle from (0, 0) that is meshed."""

_GRID = 160  # cells a side of the grid that carries the wanted edge length
_COUNT_TOLERANCE = 0.07
_NUM_PASSES = 3


class _HasNodes(Protocol):
    @property
    def pos(self) -> Array: ...


M = TypeVar("M", bound=_HasNodes)


def grid_points(size: Size = UNIT) -> Array:
    """Points `[(grid + 1) ** 2, 2]` of the domain at which an `EdgeLength` is given, x slowest."""
    axis = np.linspace(0.0, 1.0, _GRID + 1)
    return np.stack(np.meshgrid(size[0] * axis, size[1] * axis, indexing="ij"), axis=-1).reshape(-1, 2)


def element_width(num_nodes: float) -> float:
    """Edge of the equilateral triangles of which a mesh of the unit square with `num_nodes` vertices is made."""
    return math.sqrt(2.0 / (math.sqrt(3.0) * num_nodes))


class EdgeLength:
    """Wanted edge length on a grid: min(scale * shape, limit), `scale` set so that the mesh has the nodes asked for.

    Args:
        shape: edge length relative to the longest `[G]`, at `grid_points`.
        limit: longest edge `[G]`; where the limits alone ask for too many nodes, they are raised alike.
        solid: which points are in the solid `[G]`.
        perimeter: length of the boundary.
        num_nodes: vertices aimed at.
        size: of the domain.
    """

    def __init__(
        self,
        shape: Array,
        limit: Array,
        solid: NDArray[np.bool_],
        perimeter: float,
        num_nodes: int,
        size: Size = UNIT,
    ) -> None:
        self.size = size
        self._shape = shape
        self._limit = limit
        self._solid = solid
        self._perimeter = perimeter
        self.num_nodes = num_nodes
        self._aim = float(num_nodes)
        self._fit()

    def on_grid(self) -> Array:
        """Wanted edge length `[G]`, at `grid_points`."""
        return np.minimum(self._scale * self._shape, self.relaxed * self._limit)

    def correct(self, made: int) -> None:
        """Aim higher or lower, after a mesh of `made` nodes."""
        self._aim *= self.num_nodes / made
        self._fit()

    def _expected(self, scale: float, relaxed: float) -> float:
        length = np.minimum(scale * self._shape, relaxed * self._limit)[self._solid]
        density = np.mean(1.0 / length**2) * self._solid.mean()  # over the rectangle
        area = self.size[0] * self.size[1]
        # Equilateral triangles, two a vertex; a vertex on the boundary has half a neighbourhood only.
        return float(2.0 / math.sqrt(3.0) * area * density + 0.5 * self._perimeter * np.sqrt(density))

    def _fit(self) -> None:
        self.relaxed = 1.0
        while self._expected(1.0, self.relaxed) > 0.7 * self._aim:  # the limits alone ask for too many nodes
            self.relaxed *= 1.1
        low, high = 1e-4, 1.0
        for _ in range(40):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._expected(middle, self.relaxed) > self._aim else (low, middle)
        self._scale = high


def start_gmsh() -> Any:
    """Gmsh, silent, repeatable, with sizes from the callback alone.

    Raises:
        ImportError: gmsh is not installed.
    """
    try:
        import gmsh
    except ImportError as error:
        raise ImportError("data sets are meshed with gmsh: pip install 'flare-connect[generate]'") from error
    if not gmsh.isInitialized():
        gmsh.initialize(interruptible=False)  # leave Ctrl-C to Python
        leave_broken_pipes_to_python()
    for option, value in {
        "General.Terminal": 0,
        "General.NumThreads": 1,  # more threads are not repeatable
        "Mesh.MeshSizeExtendFromBoundary": 0,
        "Mesh.MeshSizeFromPoints": 0,
        "Mesh.MeshSizeFromCurvature": 0,
        "Mesh.Algorithm": 6,
        "Mesh.LcIntegrationPrecision": 1e-4,  # the default asks for the size 60,000 times along the curves of one cell
        "Mesh.RandomSeed": 1,
    }.items():
        gmsh.option.setNumber(option, value)
    return gmsh


def leave_broken_pipes_to_python() -> None:
    """What gmsh takes away when it starts: after that, to write to a program that has ended would end this one too.

    Only the main thread may say so.
    """
    if hasattr(signal, "SIGPIPE") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.getsignal(signal.SIGPIPE) or signal.SIG_IGN)


def mesh_to_count(gmsh: Any, edge_length: EdgeLength, read: Callable[[], M]) -> M:
    """Mesh gmsh's model, again with other lengths until `read` gives a mesh of about the nodes asked for.

    Raises:
        MeshError: the count is missed by more than 15 %.
    """
    for _ in range(_NUM_PASSES):
        _generate(gmsh, edge_length.on_grid(), edge_length.size)
        mesh = read()
        error = len(mesh.pos) / edge_length.num_nodes - 1.0
        if abs(error) < _COUNT_TOLERANCE:
            return mesh
        edge_length.correct(len(mesh.pos))
    if abs(error) > 0.15:
        raise MeshError(f"gmsh made {len(mesh.pos)} nodes where {edge_length.num_nodes} were asked for")
    return mesh


def _generate(gmsh: Any, length: Array, size: Size) -> None:
    gmsh.model.mesh.clear()
    table = length.reshape(_GRID + 1, _GRID + 1).tolist()
    width, height = size

    def at(dim: int, tag: int, x: float, y: float, z: float, default: float) -> float:
        """Bilinear in the grid; plain floats, as it is called once or more a node."""
        u = min(max(x / width, 0.0), 1.0) * _GRID
        v = min(max(y / height, 0.0), 1.0) * _GRID
        i, j = min(int(u), _GRID - 1), min(int(v), _GRID - 1)
        u, v = u - i, v - j
        low, high = table[i], table[i + 1]
        return (1 - u) * ((1 - v) * low[j] + v * low[j + 1]) + u * ((1 - v) * high[j] + v * high[j + 1])

    gmsh.model.mesh.setSizeCallback(at)
    try:
        gmsh.model.mesh.generate(2)
    finally:
        gmsh.model.mesh.removeSizeCallback()


def curves_on_sides(gmsh: Any, size: Size = UNIT) -> dict[int, list[bool]]:
    """Curve tag → whether it lies on x = 0, x = width, y = 0, y = height."""
    boxes = {tag: np.array(gmsh.model.getBoundingBox(1, tag))[[0, 1, 3, 4]] for _, tag in gmsh.model.getEntities(1)}
    return {tag: [_flat(box, axis, at) for axis in (0, 1) for at in (0.0, size[axis])] for tag, box in boxes.items()}


def _flat(box: Array, axis: int, at: float) -> bool:
    return bool(abs(box[axis] - at) < ON_SIDE and abs(box[axis + 2] - at) < ON_SIDE)


def read_triangles(gmsh: Any) -> tuple[Array, Ids, Ids]:
    """Vertices `[N, 2]`, triangles `[E, 3]`, and the vertex of each gmsh tag (-1 where it is in no triangle).

    Raises:
        MeshError: there are no triangles.
    """
    tags, coordinates, _ = gmsh.model.mesh.getNodes()
    _, corners = gmsh.model.mesh.getElementsByType(2)
    if len(corners) == 0:
        raise MeshError("gmsh made no triangles")
    tags, corners = np.asarray(tags, dtype=np.int64), np.asarray(corners, dtype=np.int64)
    used = np.zeros(int(tags.max()) + 1, dtype=bool)
    used[corners] = True
    keep = used[tags]
    number = np.full(len(used), -1, dtype=np.int64)
    number[tags[keep]] = np.arange(int(keep.sum()))
    pos = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3)[keep, :2].copy()
    return pos, number[corners].reshape(-1, 3), number


def nodes_of(gmsh: Any, curves: list[int], number: Ids) -> Ids:
    """Sorted vertices of curves, their ends included; `number` from `read_triangles`."""
    parts = [gmsh.model.mesh.getNodes(1, curve, includeBoundary=True)[0] for curve in curves]
    found = np.unique(np.concatenate(parts)).astype(np.int64) if parts else np.empty(0, dtype=np.int64)
    return np.sort(number[found])


def turn_counterclockwise(pos: Array, triangles: Ids) -> None:
    """Turn clockwise triangles, in place.

    Raises:
        MeshError: a triangle has no area.
    """
    edge_a, edge_b = pos[triangles[:, 1]] - pos[triangles[:, 0]], pos[triangles[:, 2]] - pos[triangles[:, 0]]
    area = edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0]
    triangles[area < 0.0] = triangles[area < 0.0][:, ::-1]
    if np.abs(area).min() < 1e-12:
        raise MeshError(f"gmsh made a triangle of area {np.abs(area).min() / 2:.1e}")
