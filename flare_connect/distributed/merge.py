"""Joining the gathers of all ranks, with gradients."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def merge_across_ranks(
    z: Float[Tensor, "B H M Dv"], lse: Float[Tensor, "B H M"], group: dist.ProcessGroup | None = None
) -> tuple[Float[Tensor, "B H M Dv"], Float[Tensor, "B H M"]]:
    """The gather over the points of all ranks, from each rank's gather over its own.

    `lse = log Σ_r exp(lse_r)`, `Z = Σ_r exp(lse_r − lse) Z_r`: two sums and a maximum over B·H·M·(Dv+2) numbers,
    however many points there are. Every rank gets the same result; the scatter that follows is local. In the backward
    pass the gradients of all ranks' losses are summed, so each rank's points receive the gradient of the total loss.

    Args:
        z: this rank's latents, from `flare_kernels.gather(…, return_lse=True)`.
        lse: this rank's log-sum-exp; −inf where it has no points.
        group: the ranks; None for all.

    Raises:
        RuntimeError: if `torch.distributed` is not initialised.
    """
    if not dist.is_initialized():
        raise RuntimeError("call torch.distributed.init_process_group before `merge_across_ranks`")
    merged_z, merged_lse = _Merge.apply(z, lse, group)
    return merged_z, merged_lse


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, lse: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
        peak = lse.clone()
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        pivot = torch.where(torch.isfinite(peak), peak, 0.0)
        weight = torch.exp(lse - pivot)
        # One message for both sums.
        sums = torch.cat([weight.unsqueeze(-1) * z.to(weight.dtype), weight.unsqueeze(-1)], dim=-1)
        dist.all_reduce(sums, group=group)
        total = sums[..., -1]
        empty = total == 0
        safe = total.masked_fill(empty, 1.0)
        merged = sums[..., :-1] / safe.unsqueeze(-1)
        ctx.save_for_backward(z, weight / safe, merged)
        ctx.group = group
        return merged.to(z.dtype), (pivot + safe.log()).masked_fill(empty, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        z, share, merged = ctx.saved_tensors
        sums = torch.cat([gradients[0].to(share.dtype), gradients[1].to(share.dtype).unsqueeze(-1)], dim=-1)
        dist.all_reduce(sums, group=ctx.group)
        grad_z, grad_lse = sums[..., :-1], sums[..., -1]
        dz = share.unsqueeze(-1) * grad_z
        dlse = share * ((grad_z * (z.to(share.dtype) - merged)).sum(-1) + grad_lse)
        return dz.to(z.dtype), dlse, None
