"""Triangle meshes of channels with holes (gmsh)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare_connect.errors import MeshError
from flare_datasets.holed_channels.geometry import Hole
from flare_datasets.holed_channels.layouts import SIZE
from flare_datasets.meshing import (
    ON_SIDE,
    Array,
    EdgeLength,
    Ids,
    curves_on_sides,
    grid_points,
    mesh_to_count,
    nodes_of,
    read_triangles,
    start_gmsh,
    turn_counterclockwise,
)


@dataclass(frozen=True)
class ChannelMesh:
    """A meshed channel: `pos [N, 2]`, `triangles [E, 3]` (counter-clockwise), sorted node ids of sets.

    Corners are in both sets of theirs. `hole_nodes` has the nodes of each hole, in the order in which holes were given.
    """

    pos: Array
    triangles: Ids
    inlet: Ids
    outlet: Ids
    walls: Ids
    hole_nodes: tuple[Ids, ...]

    @property
    def holes(self) -> Ids:
        """Nodes of all holes, sorted."""
        return np.sort(np.concatenate([*self.hole_nodes, np.empty(0, dtype=np.int64)]))


def mesh_channel(holes: Sequence[Hole], num_nodes: int) -> ChannelMesh:
    """Mesh the channel without `holes` with about `num_nodes` vertices; the same input gives the same bits.

    Edges are half as long at holes as away from them, a third of the way between two holes at most, and shorter at the
    ends of slits; where `num_nodes` does not pay for that, everything is coarsened alike.

    Args:
        holes: disjoint holes inside the channel. May be empty.
        num_nodes: vertices aimed at, met within 15 % (typically 5 %).

    Raises:
        MeshError: gmsh made no usable mesh: holes meet, or the count is missed.
        ImportError: gmsh is not installed.
    """
    gmsh = start_gmsh()
    gmsh.clear()
    gmsh.model.add("channel")
    try:
        _build(gmsh, holes)
        return mesh_to_count(gmsh, edge_length(holes, num_nodes), lambda: _read(gmsh, holes))
    finally:
        gmsh.clear()


def edge_length(holes: Sequence[Hole], num_nodes: int) -> EdgeLength:
    """Wanted edge length, see `mesh_channel`."""
    grid = grid_points(SIZE)
    first = np.minimum(grid[:, 1], SIZE[1] - grid[:, 1])  # the walls
    second, limit = np.full(len(grid), np.inf), np.full(len(grid), np.inf)
    near, solid = np.full(len(grid), np.inf), np.ones(len(grid), dtype=bool)
    for hole in holes:
        distance = hole.distance(grid)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
        near = np.minimum(near, distance)
        solid &= distance > 0.0
        to_end = np.linalg.norm(grid[:, None] - hole.ends, axis=-1).min(axis=1) - hole.radius
        limit = np.minimum(limit, hole.radius + 0.3 * np.maximum(to_end, 0.0))
    return EdgeLength(
        shape=np.clip(0.5 + 2.5 * near, 0.5, 1.0),
        limit=np.maximum(np.minimum(limit, (first + second) / 3.0), 2e-3),
        solid=solid,
        perimeter=2.0 * sum(SIZE) + sum(hole.perimeter for hole in holes),
        num_nodes=num_nodes,
        size=SIZE,
    )


def _build(gmsh: Any, holes: Sequence[Hole]) -> None:
    """The rectangle without the holes."""
    occ = gmsh.model.occ
    channel = (2, occ.addRectangle(0.0, 0.0, 0.0, *SIZE))
    if holes:
        occ.cut([channel], [(2, _add_hole(occ, hole)) for hole in holes])
    surfaces = occ.getEntities(2)
    area, void = sum(occ.getMass(2, tag) for _, tag in surfaces), sum(hole.area for hole in holes)
    whole = SIZE[0] * SIZE[1]
    if len(surfaces) != 1 or abs(area + void - whole) > 1e-6:  # gmsh may never return from what it should not be
        raise MeshError(
            f"holes of area {void:.6f} were cut from the channel, but {area:.6f} are left of {whole:g}, in "
            f"{len(surfaces)} pieces: holes meet, or one leaves the channel"
        )
    occ.synchronize()


def _add_hole(occ: Any, hole: Hole) -> int:
    if hole.half_length == 0.0:
        return int(occ.addDisk(hole.x, hole.y, 0.0, hole.radius, hole.radius))
    along = hole.direction
    across = hole.radius * np.array([-along[1], along[0]])
    low, high = hole.ends
    # A half circle from its ends and centre is ambiguous: quarters are not.
    ring = (
        high - across, high + hole.radius * along, high + across,
        low + across, low - hole.radius * along, low - across,
    )  # fmt: skip
    p = [occ.addPoint(x, y, 0.0) for x, y in ring]
    first, last = (occ.addPoint(x, y, 0.0) for x, y in (high, low))
    curves = [
        occ.addCircleArc(p[0], first, p[1]), occ.addCircleArc(p[1], first, p[2]), occ.addLine(p[2], p[3]),
        occ.addCircleArc(p[3], last, p[4]), occ.addCircleArc(p[4], last, p[5]), occ.addLine(p[5], p[0]),
    ]  # fmt: skip
    tag = int(occ.addPlaneSurface([occ.addCurveLoop(curves)]))
    occ.remove([(0, first), (0, last)])
    return tag


def _read(gmsh: Any, holes: Sequence[Hole]) -> ChannelMesh:
    pos, triangles, number = read_triangles(gmsh)
    on_sides = curves_on_sides(gmsh, SIZE)
    outline = nodes_of(gmsh, [tag for tag, on in on_sides.items() if not any(on)], number)
    sides = nodes_of(gmsh, [tag for tag, on in on_sides.items() if any(on)], number)
    for axis, end in enumerate(SIZE):
        for at in (0.0, end):
            pos[sides, axis] = np.where(np.abs(pos[sides, axis] - at) < ON_SIDE, at, pos[sides, axis])
    turn_counterclockwise(pos, triangles)
    nearest = np.stack([hole.distance(pos[outline]) for hole in holes]).argmin(axis=0) if holes else outline[:0]
    return ChannelMesh(
        pos,
        triangles,
        inlet=np.flatnonzero(pos[:, 0] == 0.0),
        outlet=np.flatnonzero(pos[:, 0] == SIZE[0]),
        walls=np.flatnonzero((pos[:, 1] == 0.0) | (pos[:, 1] == SIZE[1])),
        hole_nodes=tuple(outline[nearest == i] for i in range(len(holes))),
    )
