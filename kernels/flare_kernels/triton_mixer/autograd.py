"""Gather, scatter and the fused mixer with gradients, on the operators of `ops`.

The mixer keeps nothing of size N·M: its backward recomputes scores from keys and queries in two passes over the points.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..once import refuse_second_derivatives, refuse_transforms
from . import ops
from .sizes import ALWAYS_ONE_BLOCK

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


class Tokens(NamedTuple):
    """Further keys and values of the gather, and their costs [Nt, M, S]; slopes and scales are those of the points."""

    k: Tensor | None = None
    v: Tensor | None = None
    cost: Tensor | None = None
    plan: Plan | None = None


def gather(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_weights: Tensor | None,
    scores: Scores,
    plan: Plan,
    settings: Settings,
    tokens: Tokens = Tokens(),  # noqa: B008 (never changed)
) -> tuple[Tensor, Tensor]:
    """Z [B, H, M, Dv] and lse [B, H, M] in fp32; lse is natural, −∞ where nothing has weight.

    Args:
        q: [H, M, D] or [B, H, M, D].
        k: [N, H, D], and `v` [N, H, Dv] of the same dtype; dims next to each other in memory.
        v: see `k`.
        log_weights: [N] in one piece.
        scores: costs and slopes.
        plan: where segments are.
        settings: a positive scale, and the precision of float32.
        tokens: further keys and values.

    Raises:
        RuntimeError: under a transform of `torch.func`, and in the backward pass with `create_graph=True`.
    """
    refuse_transforms()
    z, lse = _Gather.apply(q, k, v, log_weights, *scores, *tokens, plan, settings)
    return z, lse


def scatter(q: Tensor, k: Tensor, z: Tensor, scores: Scores, plan: Plan, settings: Settings) -> Tensor:
    """Y [N, H, Dv] in the dtype of `k`; arguments and errors as in `gather`, `z` [B, H, M, Dv] in one piece."""
    refuse_transforms()
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
    tokens: Tokens = Tokens(),  # noqa: B008 (never changed)
) -> Tensor:
    """Y [N, H, Dv] of a gather and a scatter with the same queries and keys, whose gradients take one pass together.

    Arguments and errors as in `gather`; `encode` are the costs of the gather, `decode` those of the scatter.
    """
    refuse_transforms()
    y: Tensor = _Mixer.apply(q, k, v, log_weights, *encode, *decode, *tokens, plan, settings)
    return y


def _operators() -> Any:
    """The operators by way of torch, where something watches; else the functions behind them, which is faster."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return torch.ops.flare_connect
    return ops


def _gather(run: Any, settings: Settings, tokens: Tokens, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator, with tokens where there are any."""
    more: tuple[Any, ...] = ()
    if tokens.plan is not None:
        table, offsets, _, width, size = tokens.plan
        more = (tokens.k, tokens.v, table, offsets, width, size, tokens.cost)
    z, lse2 = run.gather(*arguments, *settings, *more)
    return z, lse2


def _token_grad(
    run: Any, settings: Settings, tokens: Tokens, slope: Tensor | None, head_scale: Tensor | None, q: Tensor,
    z: Tensor, dz: Tensor, lse2: Tensor, dlse: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """(dq, dk, dv, dslope) by way of the tokens: their weights follow from the log-sum-exp over points and tokens."""
    if tokens.k is None or tokens.plan is None:
        return None, None, None, None
    scores = (None, None, None) if tokens.cost is None else (tokens.cost, slope, head_scale)
    dq, dk, dv, _, dslope, _ = run.point_grad(
        q, tokens.k, tokens.v, None, None, None, z, dz, lse2, None, dlse, None, False, *scores, None, None, None,
        *tokens.plan, *settings,
    )  # fmt: skip
    return dq, dk, dv, None if tokens.cost is None else dslope


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost: Tensor | None,
        slope: Tensor | None, head_scale: Tensor | None, token_k: Tensor | None, token_v: Tensor | None,
        token_cost: Tensor | None, token_plan: Plan | None, plan: Plan, settings: Settings,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        tokens = Tokens(token_k, token_v, token_cost, token_plan)
        z, lse2 = _gather(_operators(), settings, tokens, q, k, v, log_weights, cost, slope, head_scale, *plan)
        ctx.plan, ctx.settings, ctx.token_plan = plan, settings, token_plan
        ctx.save_for_backward(q, k, v, log_weights, cost, slope, head_scale, token_k, token_v, token_cost, z, lse2)
        whole = lse2 if lse2.dim() == 3 else lse2[0] + lse2[1]
        return z, torch.where(whole == torch.inf, -torch.inf, whole * LN_2)

    @staticmethod
    def backward(ctx: Any, dz: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        q, k, v, log_weights, cost, slope, head_scale, token_k, token_v, token_cost, z, lse2 = ctx.saved_tensors
        need = ctx.needs_input_grad
        run = _operators()
        dz, dlse = dz.contiguous(), dlse.contiguous()
        dq, dk, dv, dweights, dslope, _ = run.point_grad(
            q, k, v, None, None, None, z, dz, lse2, None, dlse, log_weights, need[3],
            cost, slope, head_scale, None, None, None, *ctx.plan, *ctx.settings,
        )  # fmt: skip
        tokens = Tokens(token_k, token_v, token_cost, ctx.token_plan)
        more_dq, token_dk, token_dv, more_dslope = _token_grad(
            run, ctx.settings, tokens, slope, head_scale, q, z, dz, lse2, dlse
        )
        return (
            _added(dq, more_dq), dk, dv, _as(dweights, log_weights, need[3]), None,
            _as(_added(dslope, more_dslope), slope, need[5]), None, token_dk, token_dv, None, None, None, None,
        )  # fmt: skip


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, slope: Tensor | None,
        head_scale: Tensor | None, plan: Plan, settings: Settings,
    ) -> Tensor:  # fmt: skip
        wants = any(ctx.needs_input_grad)
        y: Tensor
        y, lse, rest = _operators().scatter(q, k, z, cost, slope, head_scale, *plan, *settings, wants)
        ctx.plan, ctx.settings = plan, settings
        ctx.save_for_backward(q, k, z, cost, slope, head_scale, *if_blocks(q, y, rest), lse)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        q, k, z, cost, slope, head_scale, y, rest, lse = ctx.saved_tensors
        dy = rows_together(dy)
        run = _operators()
        dz = run.latent_grad(q, k, dy, lse, cost, slope, head_scale, *ctx.plan, *ctx.settings)
        dq, dk, _, _, _, dslope = run.point_grad(
            q, k, None, dy, y, rest, z, None, None, lse, None, None, False, None, None, None, cost, slope, head_scale,
            *ctx.plan, *ctx.settings,
        )  # fmt: skip
        return dq, dk, dz.to(z.dtype), None, _as(dslope, slope, ctx.needs_input_grad[4]), None, None, None


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost_encode: Tensor | None,
        slope_encode: Tensor | None, scale_encode: Tensor | None, cost_decode: Tensor | None,
        slope_decode: Tensor | None, scale_decode: Tensor | None, token_k: Tensor | None, token_v: Tensor | None,
        token_cost: Tensor | None, token_plan: Plan | None, plan: Plan, settings: Settings,
    ) -> Tensor:  # fmt: skip
        run = _operators()
        encode, decode = (cost_encode, slope_encode, scale_encode), (cost_decode, slope_decode, scale_decode)
        tokens = Tokens(token_k, token_v, token_cost, token_plan)
        z, lse_latents = _gather(run, settings, tokens, q, k, v, log_weights, *encode, *plan)
        y: Tensor
        y, lse_points, rest = run.scatter(q, k, z, *decode, *plan, *settings, any(ctx.needs_input_grad))
        ctx.plan, ctx.settings, ctx.token_plan = plan, settings, token_plan
        ctx.save_for_backward(
            q, k, v, log_weights, *encode, *decode, token_k, token_v, token_cost, *if_blocks(q, y, rest), z,
            lse_latents, lse_points,
        )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        q, k, v, log_weights, *scores, token_k, token_v, token_cost, y, rest, z, lse_m, lse_n = ctx.saved_tensors
        need = ctx.needs_input_grad
        dy = rows_together(dy)
        run = _operators()
        dz = run.latent_grad(q, k, dy, lse_n, *scores[3:], *ctx.plan, *ctx.settings)
        dq, dk, dv, dweights, dslope_e, dslope_d = run.point_grad(
            q, k, v, dy, y, rest, z, dz, lse_m, lse_n, None, log_weights, need[3], *scores, *ctx.plan, *ctx.settings
        )
        tokens = Tokens(token_k, token_v, token_cost, ctx.token_plan)
        _, slope, head_scale, _, slope_decode, _ = scores
        more_dq, token_dk, token_dv, more_dslope = _token_grad(
            run, ctx.settings, tokens, slope, head_scale, q, z, dz, lse_m, None
        )
        return (
            _added(dq, more_dq), dk, dv, _as(dweights, log_weights, need[3]), None,
            _as(_added(dslope_e, more_dslope), slope, need[5]), None, None, _as(dslope_d, slope_decode, need[8]),
            None, token_dk, token_dv, None, None, None, None,
        )  # fmt: skip


def rows_together(x: Tensor) -> Tensor:
    """The tensor with its last axis in one piece, as kernels read it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _as(gradient: Tensor, of: Tensor | None, needed: bool) -> Tensor | None:
    return gradient.to(of.dtype) if needed and of is not None else None


def _added(gradient: Tensor, more: Tensor | None) -> Tensor:
    return gradient if more is None else gradient + more


def if_blocks(q: Tensor, y: Tensor, rest: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The output and what rounding took from it, where the backward may need them.

    With several blocks of latents no tile sees a point's whole sum.
    """
    if q.shape[-2] <= ALWAYS_ONE_BLOCK:
        return None, None
    return y, rest if rest.dim() == 3 else None
