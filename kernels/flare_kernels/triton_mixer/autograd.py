"""Gather, scatter and the fused mixer with gradients, on the operators of `ops`.

The mixer keeps nothing of size N·M: its backward recomputes scores from keys and queries in two passes over the points.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ops as _ops  # registers the operators

LN_2 = 0.6931471805599453
_flare = torch.ops.flare_connect
assert _ops.library is not None


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


@dataclass(frozen=True)
class Settings:
    """Numbers that a call has beside its tensors."""

    scale: float
    precision: str = "ieee"


def gather(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, scores: Scores, plan: Plan, settings: Settings
) -> tuple[Tensor, Tensor]:
    """(z, lse) in fp32; lse is natural."""
    z, lse = _Gather.apply(q, k, v, log_weights, *scores, plan, settings)
    return z, lse


def scatter(q: Tensor, k: Tensor, z: Tensor, scores: Scores, plan: Plan, settings: Settings) -> Tensor:
    """Y [N, H, Dv] in the dtype of `k`."""
    y: Tensor = _Scatter.apply(q, k, z, *scores, plan, settings)[0]
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
    y: Tensor = _Mixer.apply(q, k, v, log_weights, *encode, *decode, plan, settings)[0]
    return y


def _no_vmap(*_: Any) -> Any:
    raise RuntimeError(
        "flare_kernels does not run under torch.func.vmap: give several meshes to one call, packed with `ptr` or dense "
        "[B, N, H, D], or use impl='reference'"
    )


def _contiguous_grad(grad: Tensor) -> Tensor:
    return grad if grad.stride(-1) == 1 else grad.contiguous()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost: Tensor | None, slope: Tensor | None,
        head_scale: Tensor | None, plan: Plan, settings: Settings,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        z, lse2 = _flare.gather(
            q, k, v, log_weights, cost, slope, head_scale, *plan, settings.scale, settings.precision
        )
        return z, lse2 * LN_2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.plan, ctx.settings = inputs
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_weights, cost, slope, head_scale, z, lse = ctx.saved_tensors
        need = ctx.needs_input_grad
        dq, dk, dv, dweights, dslope, _ = _flare.point_grad(
            q, k, v, None, None, z, dz.contiguous(), lse * (1 / LN_2), None, dlse.contiguous(), log_weights, need[3],
            cost, slope, head_scale, None, None, None, *ctx.plan, ctx.settings.scale, ctx.settings.precision,
        )  # fmt: skip
        return (
            dq, dk, dv, dweights.to(log_weights.dtype) if need[3] else None, None,
            dslope.to(slope.dtype) if need[5] else None, None, None, None,
        )  # fmt: skip

    vmap = staticmethod(_no_vmap)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, slope: Tensor | None, head_scale: Tensor | None,
        plan: Plan, settings: Settings,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        y, lse = _flare.scatter(
            q, k, z, cost, slope, head_scale, *plan, settings.scale, settings.precision, _wants_grad(q, k, z, slope)
        )
        return y, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.plan, ctx.settings = inputs
        y, lse = output
        ctx.mark_non_differentiable(lse)
        ctx.save_for_backward(*tensors, _if_blocks(tensors[0], y, tensors[1]), lse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, z, cost, slope, head_scale, y, lse = ctx.saved_tensors
        dy = _contiguous_grad(dy)
        scale, precision = ctx.settings.scale, ctx.settings.precision
        dz = _flare.latent_grad(q, k, dy, lse, cost, slope, head_scale, *ctx.plan, scale, precision)
        dq, dk, _, _, _, dslope = _flare.point_grad(
            q, k, None, dy, y, z, None, None, lse, None, None, False, None, None, None, cost, slope, head_scale,
            *ctx.plan, scale, precision,
        )  # fmt: skip
        dslope = dslope.to(slope.dtype) if ctx.needs_input_grad[4] else None
        return dq, dk, dz.to(z.dtype), None, dslope, None, None, None

    vmap = staticmethod(_no_vmap)


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost_encode: Tensor | None,
        slope_encode: Tensor | None, scale_encode: Tensor | None, cost_decode: Tensor | None,
        slope_decode: Tensor | None, scale_decode: Tensor | None, plan: Plan, settings: Settings,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        scale, precision = settings.scale, settings.precision
        z, lse_latents = _flare.gather(
            q, k, v, log_weights, cost_encode, slope_encode, scale_encode, *plan, scale, precision
        )
        wants = _wants_grad(q, k, v, log_weights, slope_encode, slope_decode)
        y, lse_points = _flare.scatter(q, k, z, cost_decode, slope_decode, scale_decode, *plan, scale, precision, wants)
        return y, z, lse_latents, lse_points

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.plan, ctx.settings = inputs
        y, *rest = output
        ctx.mark_non_differentiable(*rest)
        ctx.save_for_backward(*tensors, _if_blocks(tensors[0], y, tensors[1]), *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_weights, cost_e, slope_e, scale_e, cost_d, slope_d, scale_d, y, z, lse_m, lse_n = ctx.saved_tensors
        need = ctx.needs_input_grad
        dy = _contiguous_grad(dy)
        scale, precision = ctx.settings.scale, ctx.settings.precision
        dz = _flare.latent_grad(q, k, dy, lse_n, cost_d, slope_d, scale_d, *ctx.plan, scale, precision)
        dq, dk, dv, dweights, dslope_e, dslope_d = _flare.point_grad(
            q, k, v, dy, y, z, dz, lse_m, lse_n, None, log_weights, need[3], cost_e, slope_e, scale_e, cost_d, slope_d,
            scale_d, *ctx.plan, scale, precision,
        )  # fmt: skip
        return (
            dq, dk, dv, dweights.to(log_weights.dtype) if need[3] else None,
            None, dslope_e.to(slope_e.dtype) if need[5] else None, None,
            None, dslope_d.to(slope_d.dtype) if need[8] else None, None, None, None,
        )  # fmt: skip

    vmap = staticmethod(_no_vmap)


def _wants_grad(*tensors: Tensor | None) -> bool:
    # Inside the forward of an autograd function grad mode is off, and whether inputs require gradients still shows.
    return any(x is not None and x.requires_grad for x in tensors)


def _if_blocks(q: Tensor, y: Tensor, k: Tensor) -> Tensor | None:
    """The output, where the backward needs it: with several blocks of latents no tile sees a point's whole sum."""
    latents, dim = q.shape[-2:]
    block = _ops.tile("point_grad", latents, max(dim, y.shape[-1]), k.element_size()).block_m
    return y if latents > block else None
