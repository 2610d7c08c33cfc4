"""Periodic pairs found from the geometry: which nodes on opposite sides are one material point."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from scipy.spatial import cKDTree
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.mesh import Mesh


def find_periodic_pairs(
    mesh: Mesh, axes: Sequence[int] | None = None, *, tolerance: float = 1e-6
) -> Int[Tensor, "2 P"]:
    """Pairs of nodes on opposite sides of the bounding box that agree in all other coordinates.

    Assign the result to `mesh.periodic_pairs`: edges of the graph, distances, boundary parts and topology then go
    across the sides.

    Args:
        mesh: a mesh in a box whose sides lie along the axes.
        axes: which directions repeat (0 is x); None takes every direction in which all nodes of both sides match.
        tolerance: how far partners may be off, in units of the box's diagonal.

    Returns:
        First the node on the low side, then its partner on the high side; sorted by axis, then by the low node. A
        corner occurs once an axis.

    Raises:
        MeshError: if a direction that was asked for does not match; the message names the first node without partner.
    """
    used = np.flatnonzero(mesh.component.cpu().numpy() >= 0)
    pos = mesh.pos.detach().cpu().numpy()
    reach = tolerance * mesh.length_scale
    found = []
    for axis in range(mesh.dim) if axes is None else axes:
        if not 0 <= axis < mesh.dim:
            raise MeshError(f"`axes` must be between 0 and {mesh.dim - 1}, got {axis}")
        pairs, alone = _match(pos, used, axis, reach)
        if alone is None:
            found.append(pairs)
        elif axes is not None:
            place = ", ".join(f"{x:.6g}" for x in pos[alone])
            raise MeshError(
                f"the sides along axis {axis} do not match: node {alone} at ({place}) has no partner within"
                f" {reach:.3g}; mesh both sides alike, or raise `tolerance`"
            )
    pairs = np.concatenate(found, axis=1) if found else np.zeros((2, 0), dtype=np.int64)
    return torch.from_numpy(pairs).to(mesh.pos.device)


def _match(pos: np.ndarray, used: np.ndarray, axis: int, reach: float) -> tuple[np.ndarray, int | None]:
    """Pairs along one axis, and a node without partner, if there is one."""
    along = pos[used, axis]
    low, high = used[along <= along.min() + reach], used[along >= along.max() - reach]
    others = [i for i in range(pos.shape[1]) if i != axis]
    if along.max() - along.min() <= 2 * reach:
        return np.zeros((2, 0), dtype=np.int64), int(low[0])
    distance, partner = cKDTree(pos[high][:, others]).query(pos[low][:, others])
    if (distance > reach).any():
        return np.zeros((2, 0), dtype=np.int64), int(low[np.argmax(distance > reach)])
    missed = np.setdiff1d(np.arange(len(high)), partner)
    if len(missed):
        return np.zeros((2, 0), dtype=np.int64), int(high[missed[0]])
    return np.stack([low, high[partner]]).astype(np.int64), None
