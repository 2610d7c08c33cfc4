"""Joining gathers over parts of the points into the gather over all of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def merge_partials(
    z: Sequence[Float[Tensor, "B H M Dv"]], lse: Sequence[Float[Tensor, "B H M"]]
) -> tuple[Float[Tensor, "B H M Dv"], Float[Tensor, "B H M"]]:
    """Merge partial gathers: `lse = log Σ_r exp(lse_r)`, `Z = Σ_r exp(lse_r − lse) Z_r`.

    Exact: gathering disjoint parts of the points and merging equals gathering all points at once. A part without
    points has `lse = −inf` and drops out.

    Args:
        z: partial latents of each part, [B, H, M, Dv].
        lse: their log-sum-exp of scores, [B, H, M].

    Returns:
        The merged latents and their log-sum-exp.
    """
    joint_lse = torch.stack(tuple(lse))
    # A finite pivot keeps exp(−inf − −inf) out of the forward and of the backward.
    peak = joint_lse.detach().amax(0)
    pivot = torch.where(torch.isfinite(peak), peak, 0.0)
    weights = torch.exp(joint_lse - pivot)
    total = weights.sum(0)
    empty = total == 0
    safe = total.masked_fill(empty, 1.0)
    merged = (weights.unsqueeze(-1) * torch.stack(tuple(z))).sum(0) / safe.unsqueeze(-1)
    return merged, (pivot + safe.log()).masked_fill(empty, -torch.inf)
