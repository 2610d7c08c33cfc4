"""The error of the largest value, and how far from its place a model puts it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh
from flare_connect.mesh.distances import distance_from
from flare_connect.metrics.fields import Field, checked_pair, relative

_TIE = 1e-12  # relative: sizes closer than this are one peak


@dataclass(frozen=True, kw_only=True)
class PeakError:
    r"""Errors of the peak of one field.

    Attributes:
        value: $|\max|p| - \max|y|| / \max|y|$.
        robust: the same for the mean over the largest values that fill a small share of the volume.
        distance: way along the mesh from the true peak to the predicted one, in units of the mesh's diagonal;
            infinite where they are in parts that are not connected.
    """

    value: float
    robust: float
    distance: float


def peak_error(mesh: Mesh, prediction: Field, truth: Field, *, top: float = 0.001) -> PeakError:
    """Relative error of the largest value, plain and robust, and of its place.

    Sizes count: absolute values of a scalar, lengths of a vector. The plain peak hangs on one node, and at a crack tip
    or a sharp corner on the mesh; the robust one converges with the mesh. Of equally large values the true one nearest
    and the predicted one farthest are compared, so that a constant prediction has its peak nowhere.

    Args:
        mesh: any mesh, N nodes; those that no cell uses do not count.
        prediction: `[N]` or `[N, c]`, in the unit of the truth.
        truth: the same shape.
        top: share of the volume of the robust peak, above 0 and at most 1.

    Returns:
        See `PeakError`. A truth of 0 everywhere gives errors as in `relative_l2`.

    Raises:
        InputError: a field does not fit the mesh, or `top` is out of range.

    Good values: `top=0.001`; five nodes of 5,000. Where it is less than a node's volume it is the plain peak.
    """
    if not 0 < top <= 1:
        raise InputError(f"`top` must be above 0 and at most 1, got {top}")
    guess, right = (field.norm(dim=1) for field in checked_pair(prediction, truth, mesh.num_nodes))
    used = (mesh.component >= 0).cpu()
    volume = mesh.node_volume.cpu()[used]
    highest, true = float(guess[used].max()), float(right[used].max())
    robust, wanted = _top_mean(guess[used], volume, top), _top_mean(right[used], volume, top)
    return PeakError(
        value=relative(abs(highest - true), true),
        robust=relative(abs(robust - wanted), wanted),
        distance=_way(mesh, used & (right >= true * (1 - _TIE)), used & (guess >= highest * (1 - _TIE))),
    )


def _top_mean(size: Float[Tensor, " K"], volume: Float[Tensor, " K"], top: float) -> float:
    """Mean over the largest values that fill a share of the volume, the last of them in part."""
    size, order = size.sort(descending=True)
    volume = volume[order]
    share = (top * volume.sum() - (volume.cumsum(0) - volume)).clamp_min(0.0).minimum(volume)
    return float((share * size).sum() / share.sum())


def _way(mesh: Mesh, start: Tensor, end: Tensor) -> float:
    """Length of the way from the nearest of some nodes to the farthest of others, in diagonals of the mesh."""
    if bool(start[end].all()):
        return 0.0
    distance = distance_from(mesh, [np.flatnonzero(start.numpy())], device="cpu")[0].cpu()
    return float(distance[torch.nonzero(end).squeeze(1)].max()) / mesh.length_scale
