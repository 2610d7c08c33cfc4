"""Errors close to the boundary, where stresses peak and where a field that must not cross a void does."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.mesh.arrays import host, numpy_of
from flare_connect.mesh.topology import glued
from flare_connect.metrics.fields import Field, checked_pair, weighted_error


def boundary_error(
    mesh: Mesh,
    prediction: Field,
    truth: Field,
    layers: int = 2,
    *,
    weights: Field | None = None,
) -> float:
    """Relative L2 error over the nodes within `layers` elements of the boundary, holes included.

    Args:
        mesh: any mesh, N nodes.
        prediction: `[N]` or `[N, c]`, in the unit of the truth.
        truth: the same shape.
        layers: how many elements deep, see `near_boundary`.
        weights: one number >= 0 for each node `[N]`, as in `relative_l2`; None counts every node once.

    Returns:
        As `relative_l2`; NaN on a mesh without boundary.

    Raises:
        InputError: a field does not fit the mesh, or `layers` is negative.

    Good values: `layers=2`; the band is a property of the mesh, and half as wide on one twice as fine.
    """
    guess, right = checked_pair(prediction, truth, mesh.num_nodes)
    return error_over(near_boundary(mesh, layers), guess, right, weights)


def near_boundary(mesh: Mesh, layers: int = 2) -> Bool[Tensor, " N"]:
    """Whether each node is within `layers` elements of the boundary `[N]`.

    0 layers are the boundary's own nodes, and each layer adds the nodes of all cells that touch one: on triangles and
    tetrahedra so many edges. Periodic sides are no boundary, and layers go across them.

    Raises:
        InputError: `layers` is negative.
    """
    if layers < 0:
        raise InputError(f"`layers` must be at least 0, got {layers}")
    cells = numpy_of(mesh.cells)
    glue = None if mesh.periodic_pairs is None else glued(host(mesh.periodic_pairs), mesh.num_nodes)
    reached = host(mesh.boundary_component) >= 0
    for _ in range(layers):
        wider = reached.copy()
        for nodes in cells.values():
            wider[nodes[reached[nodes].any(1)]] = True
        if glue is not None:
            place = np.zeros(mesh.num_nodes, dtype=bool)
            place[glue[wider]] = True
            wider = place[glue]
        reached = wider
    return torch.from_numpy(reached).to(mesh.pos.device)


def error_over(chosen: Tensor, guess: Tensor, right: Tensor, weights: Tensor | None = None) -> float:
    """Relative L2 error over some nodes of fields that were checked; NaN where there are none."""
    chosen = chosen.cpu()
    if not chosen.any():
        return float("nan")
    return weighted_error(guess[chosen], right[chosen], None if weights is None else weights.cpu().double()[chosen])
