"""The Triton path: tensors in the layout that kernels want, and plans of the segments.

Imported only where Triton runs.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .autocast import as_autocast
from .causal.state import LatentState
from .segments import Segments
from .triton_mixer import autograd
from .triton_mixer.autograd import Plan, Scores, Settings, Tokens, rows_together
from .validation import check_device

if TYPE_CHECKING:
    from .api import Cost

# Keys, values, costs, and where those of each mesh are.
TokenRows = tuple[Tensor, Tensor, Tensor | None, Segments]


def gather(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: float,
    cost: "Cost | None",
    log_weights: Tensor | None,
    precision: str,
    tokens: TokenRows | None = None,
) -> tuple[Tensor, Tensor]:
    """Z [B, H, M, Dv] and its natural log-sum-exp [B, H, M] in fp32; arguments as in `api.gather`, already checked."""
    q, k, v, scale = _ready(q, k, v, scale)
    plan, settings = plan_of(segments, k), Settings(scale, precision)
    return autograd.gather(q, k, v, _line(log_weights), _scores(cost), plan, settings, _tokens(tokens, k))


def scatter(
    q: Tensor, k: Tensor, z: Tensor, segments: Segments, scale: float, cost: "Cost | None", precision: str
) -> Tensor:
    """Y [N, H, Dv] in the dtype of `k` (under autocast, in its dtype); arguments as in `api.scatter`, checked."""
    q, k, _, scale = _ready(q, k, None, scale)
    return autograd.scatter(q, k, z.contiguous(), _scores(cost), plan_of(segments, k), Settings(scale, precision))


def mixer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: float,
    cost: "Cost | None",
    cost_decode: "Cost | None",
    log_weights: Tensor | None,
    precision: str,
    tokens: TokenRows | None = None,
) -> Tensor:
    """Y [N, H, Dv] of gather and scatter in one; arguments as in `api.mixer`, checked."""
    q, k, v, scale = _ready(q, k, v, scale)
    plan, settings = plan_of(segments, k), Settings(scale, precision)
    more = _tokens(tokens, k)
    return autograd.mixer(q, k, v, _line(log_weights), _scores(cost), _scores(cost_decode), plan, settings, more)


def block_mixer(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    steps: Segments,
    order: Segments,
    scale: float,
    cost: "Cost | None",
    cost_decode: "Cost | None",
    log_weights: Tensor | None,
    initial: LatentState,
    precision: str,
) -> tuple[Tensor, LatentState]:
    """Y [N, H, Dv] and the last states; arguments as in `block_causal_mixer`, checked; `q` are those of steps."""
    from .triton_causal import blocks

    q, k, v, scale = _ready(q, k, v, scale)
    y, lse, z = blocks.mixer(
        q, k, v, _line(log_weights), _scores(cost), _scores(cost_decode), initial.lse.contiguous(),
        initial.z.contiguous(), order.ptr, order.batch, plan_of(steps, k), Settings(scale, precision),
    )  # fmt: skip
    return y, LatentState(lse, z)


def _ready(q: Tensor, k: Tensor, v: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Autocast as SDPA does it; one dtype for keys and values; a positive scale; dims next to each other."""
    k = as_autocast(k)
    # The kernels take the largest product for the largest score, so the scale must be positive. Signs turn exactly.
    if scale < 0:
        q, scale = -q, -scale
    elif scale == 0:
        q, scale = torch.zeros_like(q) * q, 1.0
    q, k = rows_together(q), rows_together(k)
    return q, k, k if v is None else rows_together(v.to(k.dtype)), scale


def _tokens(tokens: TokenRows | None, k: Tensor) -> Tokens:
    if tokens is None:
        return Tokens()
    token_k, token_v, cost, segments = tokens
    token_k, token_v = (rows_together(x.to(k.dtype)) for x in (token_k, token_v))
    return Tokens(token_k, token_v, None if cost is None else cost.detach(), plan_of(segments, k))


def plan_of(segments: Segments, k: Tensor) -> Plan:
    """Where segments are, as kernels read it."""
    if segments.is_uniform:
        return Plan(None, None, segments.num_segments, segments.width, 0)
    check_device("ptr", segments.ptr, k)
    table, starts = segments.chunks
    return Plan(table, starts, segments.num_segments, 0, segments.chunk)


def _scores(cost: "Cost | None") -> Scores:
    if cost is None:
        return Scores()
    scale = None if cost.head_scale is None else cost.head_scale.contiguous()
    return Scores(cost.values.detach(), cost.slope.contiguous(), scale)


def _line(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
