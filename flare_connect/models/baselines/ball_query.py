"""The neighbours that GeoTransolver looks up: the nearest points of another cloud, mesh by mesh."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flare_kernels import Segments

# Distances held at a time: 64 MiB in float32.
_MOST_DISTANCES = 2**24


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbours:
    """The K nearest points of each query, nearest first.

    Attributes:
        index: rows of the packed points; 0 where a mesh has fewer than K.
        distance: to each of them; infinite where a mesh has fewer than K.
    """

    index: Int[Tensor, "Nq K"]
    distance: Float[Tensor, "Nq K"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Surroundings:
    """Neighbours between the nodes and the geometry of each mesh. They follow from the meshes alone.

    Attributes:
        index: nodes that make the geometry; None if all do.
        segments: where each mesh's geometry starts.
        near_nodes: for each node its neighbours in the geometry.
        near_geometry: for each point of the geometry its neighbours among the nodes.
    """

    index: Int[Tensor, " Ng"] | None
    segments: Segments
    near_nodes: Neighbours
    near_geometry: Neighbours


@torch.no_grad()
def nearest(
    points: Float[Tensor, "N dim"],
    point_segments: Segments,
    queries: Float[Tensor, "Nq dim"],
    query_segments: Segments,
    *,
    num_neighbours: int,
) -> Neighbours:
    """The nearest points of each query in the query's own mesh, by comparing all pairs.

    Args:
        points: packed points.
        point_segments: where each mesh's points start.
        queries: packed queries.
        query_segments: where each mesh's queries start.
        num_neighbours: K.

    Good values: meshes up to 100k nodes; the time grows with points times queries.
    """
    found = []
    for rows, asked in zip(point_segments.slices, query_segments.slices, strict=True):
        count = rows.stop - rows.start
        missing = (0, max(num_neighbours - count, 0))
        for part in queries[asked].split(max(_MOST_DISTANCES // max(count, 1), 1)):
            # The other way to compute distances cancels digits of close points.
            pairs = torch.cdist(part, points[rows], compute_mode="donot_use_mm_for_euclid_dist")
            distance, index = pairs.topk(min(num_neighbours, count), dim=1, largest=False)
            found.append((F.pad(distance, missing, value=torch.inf), F.pad(index + rows.start, missing)))
    distances, indices = zip(*found, strict=True)
    return Neighbours(index=torch.cat(indices), distance=torch.cat(distances))


def ball(
    points: Float[Tensor, "N dim"], neighbours: Neighbours, radius: float, num_neighbours: int
) -> Float[Tensor, "Nq Kd"]:
    """Positions of the nearest K points within a radius side by side, zeros where there are fewer.

    Args:
        points: packed points.
        neighbours: of each query, at least K of them.
        radius: in units of the positions.
        num_neighbours: K.
    """
    index, distance = neighbours.index[:, :num_neighbours], neighbours.distance[:, :num_neighbours]
    inside = (distance <= radius)[..., None]
    return torch.where(inside, points[index], 0.0).flatten(1)
