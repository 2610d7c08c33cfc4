"""Gather, scatter and the fused mixer with gradients, on the operators of `ops`.

The mixer keeps nothing of size N·M: its backward recomputes scores from keys and queries in two passes over the points.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ops
from .launch import ALWAYS_ONE_BLOCK

LN_2 = 0.6931471805599453


class Plan(NamedTuple):
    """Where segments are: (B, rows of each) where all are equally long, else a table; see `Segments.chunks`."""

    table: Tensor | None
    offsets: Tensor | None
    segments: int
    width: int
    size: int


class Scores(NamedTuple):
    """What is added to the scores of one direction: costs [N, M, S], slopes [H], the scale of each head [H]."""

    cost: Tensor | None = None
    slope: Tensor | None = None
    head_scale: Tensor | None = None


class Settings(NamedTuple):
    """Numbers that a call has beside its tensors."""

    scale: float
    precision: str = "ieee"


def gather(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, scores: Scores, plan: Plan, settings: Settings
) -> tuple[Tensor, Tensor]:
    """(z, lse) in fp32; lse is natural, −∞ where nothing has weight."""
    _refuse_transforms()
    z, lse = _Gather.apply(q, k, v, log_weights, *scores, plan, settings)
    return z, lse


def scatter(q: Tensor, k: Tensor, z: Tensor, scores: Scores, plan: Plan, settings: Settings) -> Tensor:
    """Y [N, H, Dv] in the dtype of `k`."""
    _refuse_transforms()
    y: Tensor = _Scatter.apply(q, k, z, *scores, plan, settings)
    return y


def mixer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_weights: Tensor | None,
    encode: Scores,
    decode: Scores,
    plan: Plan,
    settings: Settings,
) -> Tensor:
    """Gather and scatter with the same queries and keys: one pass over the points less in the backward."""
    _refuse_transforms()
    y: Tensor = _Mixer.apply(q, k, v, log_weights, *encode, *decode, plan, settings)
    return y


def _refuse_transforms() -> None:
    # The form of autograd.Function that torch.func takes costs 60 µs more a call, as long as a small mixer.
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "flare_kernels does not run under torch.func transforms (vmap, grad, jvp): give several meshes to one "
            "call, packed with `ptr` or dense [B, N, H, D], or use impl='reference'"
        )


def _operators() -> Any:
    """The operators by way of torch, where something watches; else the functions behind them, which is faster."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return torch.ops.flare_connect
    return ops


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost: Tensor | None,
        slope: Tensor | None, head_scale: Tensor | None, plan: Plan, settings: Settings,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scale, precision = settings
        z, lse2 = _operators().gather(q, k, v, log_weights, cost, slope, head_scale, *plan, scale, precision)
        ctx.plan, ctx.settings = plan, settings
        ctx.save_for_backward(q, k, v, log_weights, cost, slope, head_scale, z, lse2)
        return z, torch.where(lse2 == torch.inf, -torch.inf, lse2 * LN_2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_weights, cost, slope, head_scale, z, lse2 = ctx.saved_tensors
        need = ctx.needs_input_grad
        dq, dk, dv, dweights, dslope, _ = _operators().point_grad(
            q, k, v, None, None, z, dz.contiguous(), lse2, None, dlse.contiguous(), log_weights, need[3],
            cost, slope, head_scale, None, None, None, *ctx.plan, *ctx.settings,
        )  # fmt: skip
        return dq, dk, dv, _as(dweights, log_weights, need[3]), None, _as(dslope, slope, need[5]), None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, slope: Tensor | None,
        head_scale: Tensor | None, plan: Plan, settings: Settings,
    ) -> Tensor:  # fmt: skip
        wants = any(ctx.needs_input_grad)
        y: Tensor
        y, lse = _operators().scatter(q, k, z, cost, slope, head_scale, *plan, *settings, wants)
        ctx.plan, ctx.settings = plan, settings
        ctx.save_for_backward(q, k, z, cost, slope, head_scale, _if_blocks(q, y), lse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, z, cost, slope, head_scale, y, lse = ctx.saved_tensors
        dy = _rows(dy)
        run = _operators()
        dz = run.latent_grad(q, k, dy, lse, cost, slope, head_scale, *ctx.plan, *ctx.settings)
        dq, dk, _, _, _, dslope = run.point_grad(
            q, k, None, dy, y, z, None, None, lse, None, None, False, None, None, None, cost, slope, head_scale,
            *ctx.plan, *ctx.settings,
        )  # fmt: skip
        return dq, dk, dz.to(z.dtype), None, _as(dslope, slope, ctx.needs_input_grad[4]), None, None, None


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost_encode: Tensor | None,
        slope_encode: Tensor | None, scale_encode: Tensor | None, cost_decode: Tensor | None,
        slope_decode: Tensor | None, scale_decode: Tensor | None, plan: Plan, settings: Settings,
    ) -> Tensor:  # fmt: skip
        run = _operators()
        encode, decode = (cost_encode, slope_encode, scale_encode), (cost_decode, slope_decode, scale_decode)
        z, lse_latents = run.gather(q, k, v, log_weights, *encode, *plan, *settings)
        y: Tensor
        y, lse_points = run.scatter(q, k, z, *decode, *plan, *settings, any(ctx.needs_input_grad))
        ctx.plan, ctx.settings = plan, settings
        ctx.save_for_backward(
            q, k, v, log_weights, *encode, *decode, _if_blocks(q, y), z, lse_latents, lse_points
        )  # fmt: skip
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_weights, cost_e, slope_e, scale_e, cost_d, slope_d, scale_d, y, z, lse_m, lse_n = ctx.saved_tensors
        need = ctx.needs_input_grad
        dy = _rows(dy)
        run = _operators()
        dz = run.latent_grad(q, k, dy, lse_n, cost_d, slope_d, scale_d, *ctx.plan, *ctx.settings)
        dq, dk, dv, dweights, dslope_e, dslope_d = run.point_grad(
            q, k, v, dy, y, z, dz, lse_m, lse_n, None, log_weights, need[3], cost_e, slope_e, scale_e, cost_d, slope_d,
            scale_d, *ctx.plan, *ctx.settings,
        )  # fmt: skip
        return (
            dq, dk, dv, _as(dweights, log_weights, need[3]), None, _as(dslope_e, slope_e, need[5]), None,
            None, _as(dslope_d, slope_d, need[8]), None, None, None,
        )  # fmt: skip


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _as(gradient: Tensor, of: Tensor | None, needed: bool) -> Tensor | None:
    return gradient.to(of.dtype) if needed and of is not None else None


def _if_blocks(q: Tensor, y: Tensor) -> Tensor | None:
    """The output, where the backward may need it: with several blocks of latents no tile sees a point's whole sum."""
    return y if q.shape[-2] > ALWAYS_ONE_BLOCK else None
