"""Adaptive normalisation with gradients, on the operators of `ops`; only the points are kept for the backward pass."""

from typing import Any

import torch
from torch import Tensor

from flare_kernels.triton_mixer.autograd import Plan

from ..once import refuse_second_derivatives
from . import ops  # noqa: F401 (the operators are registered there)


def adaptive_norm(x: Tensor, modulation: Tensor, plan: Plan, eps: float, dtype: torch.dtype) -> Tensor:
    """Y [N, C] in `dtype`; `x` [N, C] and `modulation` [B, 2C] in one piece each."""
    y: Tensor = _AdaptiveNorm.apply(x.contiguous(), modulation.contiguous(), plan, eps, dtype)
    return y


class _AdaptiveNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, modulation: Tensor, plan: Plan, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, modulation)
        ctx.plan, ctx.eps = plan, eps
        y: Tensor = torch.ops.flare_connect.adaptive_norm(x, modulation, *plan, eps, dtype)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        x, modulation = ctx.saved_tensors
        dx, dmodulation = torch.ops.flare_connect.adaptive_norm_grad(x, modulation, dy.contiguous(), *ctx.plan, ctx.eps)
        return dx, dmodulation.to(modulation.dtype), None, None, None
