"""A field of one mesh at the nodes of another mesh of the same plate or cell."""

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor, from_numpy

from flare_connect.mesh import Mesh

_INWARDS = 1e-4  # of the way to the middle of the triangles around a node
_NEAREST = 32


class Carry:
    """Linear interpolation in the triangles of a mesh, for fields that jump across slits.

    The two lips of a crack are in one place: a node is looked for a little inside of the triangles around it, and so is
    found on its own lip. Where an outline is curved, nodes outside of all triangles take the nearest values of one.

    Args:
        mesh: triangles, N nodes.
        to: triangles of the same domain, P nodes.
    """

    def __init__(self, mesh: Mesh, to: Mesh) -> None:
        triangles = mesh.cells["triangle"].numpy()
        corners = mesh.pos.numpy().astype(np.float64)[triangles]
        points = _moved_inwards(to)
        _, near = cKDTree(corners.mean(axis=1)).query(points, k=min(_NEAREST, len(triangles)))
        shares = _barycentric(corners[near], points[:, None])
        best = shares.min(axis=-1).argmax(axis=1)[:, None]
        inside = np.take_along_axis(shares, best[..., None], axis=1)[:, 0].clip(min=0.0)
        self.nodes = from_numpy(triangles[np.take_along_axis(near, best, axis=1)[:, 0]])
        self.shares = from_numpy(inside / inside.sum(axis=1, keepdims=True))

    def __call__(self, values: Tensor) -> Tensor:
        """`[N]` at the nodes of one mesh → `[P]` at those of the other, float64."""
        return (values.double()[self.nodes] * self.shares).sum(dim=1)


def _moved_inwards(mesh: Mesh) -> np.ndarray:
    pos, triangles = mesh.pos.numpy().astype(np.float64), mesh.cells["triangle"].numpy()
    middle, count = np.zeros_like(pos), np.bincount(triangles.ravel(), minlength=len(pos))
    for corner in triangles.T:
        np.add.at(middle, corner, pos[triangles].mean(axis=1))
    return pos + _INWARDS * (middle / count[:, None] - pos)


def _barycentric(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Shares `[..., 3]` of the corners `[..., 3, 2]` in points `[..., 2]`; negative outside."""
    (ax, ay), (bx, by) = (np.moveaxis(corners[..., i, :] - corners[..., 0, :], -1, 0) for i in (1, 2))
    x, y = np.moveaxis(points - corners[..., 0, :], -1, 0)
    area = ax * by - ay * bx
    second, third = (x * by - y * bx) / area, (ax * y - ay * x) / area
    return np.stack([1.0 - second - third, second, third], axis=-1)
