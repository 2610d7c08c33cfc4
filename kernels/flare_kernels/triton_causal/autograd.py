"""States along sequences with gradients, on the operators of `ops`."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ops  # noqa: F401 (the operators are registered there)


def latent_scan(lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """All states of all sequences, [T + B, H, M] and [T + B, H, M, Dv], the first of each as given."""
    given = (x.contiguous() for x in (lse, z, first_lse, first_z))
    states: tuple[Tensor, Tensor] = _Scan.apply(*given, ptr)
    return states


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor
    ) -> tuple[Tensor, ...]:
        states: tuple[Tensor, ...] = torch.ops.flare_connect.latent_scan(lse, z, first_lse, first_z, ptr)
        ctx.save_for_backward(lse, z, ptr, *states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlse_states: Tensor, dz_states: Tensor) -> tuple[Tensor | None, ...]:
        given = (*ctx.saved_tensors, dlse_states.contiguous(), dz_states.contiguous())
        dlse, dz, first_dlse, first_dz = torch.ops.flare_connect.latent_scan_grad(*given)
        return dlse, dz, first_dlse, first_dz, None
