"""What is minimised and what is reported: relative errors, one number a mesh, then their mean."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flare_kernels import Segments


def relative_l2(
    prediction: Float[Tensor, "N C"], truth: Float[Tensor, "N C"], segments: Segments, widths: Sequence[int]
) -> Float[Tensor, "B F"]:
    """`‖p − y‖₂ / ‖y‖₂` of each mesh and each field, the norm over nodes and components of the field.

    Args:
        prediction: C columns, the fields side by side.
        truth: likewise.
        segments: where each mesh starts.
        widths: columns of each field; they sum to C.
    """
    error = _mesh_sums((prediction - truth).square(), segments, widths)
    size = _mesh_sums(truth.square(), segments, widths)
    # A field that is zero on a whole mesh has no relative error; the floor keeps it finite, and large if missed.
    return (error / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt()


def relative_l2_loss(
    prediction: Float[Tensor, "N C"], truth: Float[Tensor, "N C"], segments: Segments, widths: Sequence[int]
) -> Float[Tensor, ""]:
    """Mean over meshes and fields of the relative error, with a gradient that stays finite at a perfect fit."""
    error = _mesh_sums((prediction - truth).square(), segments, widths)
    size = _mesh_sums(truth.square(), segments, widths)
    return ((error + 1e-12 * size + 1e-30) / (size + 1e-12)).sqrt().mean()


def _mesh_sums(values: Tensor, segments: Segments, widths: Sequence[int]) -> Float[Tensor, "B F"]:
    if len(set(widths)) == 1:
        per_field = values.unflatten(1, (len(widths), widths[0])).sum(2)
    else:
        per_field = torch.stack([part.sum(1) for part in values.split(list(widths), dim=1)], dim=1)
    if segments.is_uniform and segments.num_segments:
        # On a GPU thousands of nodes would wait for one another to add to a few numbers.
        return per_field.unflatten(0, (segments.num_segments, segments.width)).sum(1)
    sums = per_field.new_zeros(segments.num_segments, len(widths))
    return sums.index_add(0, segments.batch, per_field)
