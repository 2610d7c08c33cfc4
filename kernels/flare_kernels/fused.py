"""The Triton path: tensors in the layout that kernels want, and plans of the segments.

Imported only where Triton runs.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .segments import Segments
from .triton_mixer import autograd
from .triton_mixer.autograd import Plan, Scores, Settings, Tokens

if TYPE_CHECKING:
    from .api import Cost

TokenRows = tuple[Tensor, Tensor, Segments]  # keys, values, and where those of each mesh are


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
    """(z, lse) in fp32."""
    q, k, v, scale = _ready(q, k, v, scale)
    plan, settings = _plan(segments), Settings(scale, precision)
    return autograd.gather(q, k, v, _line(log_weights), _scores(cost), plan, settings, _tokens(tokens, k))


def scatter(
    q: Tensor, k: Tensor, z: Tensor, segments: Segments, scale: float, cost: "Cost | None", precision: str
) -> Tensor:
    """Y in the dtype of `k` (under autocast, in its dtype)."""
    q, k, _, scale = _ready(q, k, None, scale)
    return autograd.scatter(q, k, z.contiguous(), _scores(cost), _plan(segments), Settings(scale, precision))


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
    """Gather and scatter in one."""
    q, k, v, scale = _ready(q, k, v, scale)
    plan, settings = _plan(segments), Settings(scale, precision)
    more = _tokens(tokens, k)
    return autograd.mixer(q, k, v, _line(log_weights), _scores(cost), _scores(cost_decode), plan, settings, more)


def _ready(q: Tensor, k: Tensor, v: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Autocast as SDPA does it; one dtype for keys and values; a positive scale; dims next to each other."""
    kind = k.device.type
    if torch.is_autocast_enabled(kind):
        k = k.to(torch.get_autocast_dtype(kind))
    # The kernels take the largest product for the largest score, so the scale must be positive. Signs turn exactly.
    if scale < 0:
        q, scale = -q, -scale
    elif scale == 0:
        q, scale = torch.zeros_like(q) * q, 1.0
    q, k = _rows(q), _rows(k)
    return q, k, k if v is None else _rows(v.to(k.dtype)), scale


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _tokens(tokens: TokenRows | None, k: Tensor) -> Tokens:
    if tokens is None:
        return Tokens()
    token_k, token_v, segments = tokens
    return Tokens(_rows(token_k.to(k.dtype)), _rows(token_v.to(k.dtype)), _plan(segments))


def _plan(segments: Segments) -> Plan:
    if segments.is_uniform:
        return Plan(None, None, segments.num_segments, segments.width, 0)
    table, starts = segments.chunks
    return Plan(table, starts, segments.num_segments, 0, segments.chunk)


def _scores(cost: "Cost | None") -> Scores:
    if cost is None:
        return Scores()
    scale = None if cost.head_scale is None else cost.head_scale.contiguous()
    return Scores(cost.values.detach(), cost.slope.contiguous(), scale)


def _line(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
