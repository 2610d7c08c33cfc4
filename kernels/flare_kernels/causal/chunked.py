"""Causal FLARE in plain torch, a chunk of tokens at a time: fast enough without a GPU, and of linear memory.

Within a chunk everything is one masked product, between chunks a state is handed on. Every exponent is at most 0, since
the log-sum-exp that a token sees is at least each score that goes into it.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..reference import softmax
from ..segments import Segments
from .state import LatentState, running

CHUNK = 32
# Numbers of the largest tensor that is made at a time: chunk × chunk × heads × latents, of some chunks.
_MOST = 1 << 24


def chunked(
    s: Float[Tensor, "N H M"],
    p: Float[Tensor, "N H M"],
    v: Float[Tensor, "N H Dv"],
    initial: LatentState,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "N H Dv"], LatentState]:
    """As `reference.recurrent`, which has the arguments; the result does not depend on the length of a chunk."""
    n, heads, latents = s.shape
    if n == 0:
        return v.new_zeros(v.shape), initial
    rest = -n % chunk
    # What is filled up has no weight for the latents, and its outputs are cut off.
    s = torch.cat([s, s.new_full((rest, heads, latents), -torch.inf)]).unflatten(0, (-1, chunk))
    p, v = (torch.cat([x, x.new_zeros(rest, *x.shape[1:])]).unflatten(0, (-1, chunk)) for x in (p, v))
    states = running(_read(s, v), initial, Segments.uniform(1, len(s), s.device))
    most = max(1, _MOST // (chunk * chunk * heads * latents))
    parts = []
    for first in range(0, len(s), most):
        mine = slice(first, first + most)
        given = s[mine], p[mine], v[mine], *states.before.of(mine)
        # Its insides are chunk times as large as what goes in, so they are made again in the backward pass.
        parts.append(
            checkpoint(_answered, *given, use_reentrant=False, preserve_rng_state=False)
            if torch.is_grad_enabled()
            else _answered(*given)
        )
    return torch.cat(parts).flatten(0, 1)[:n], states.last


def _read(s: Float[Tensor, "K L H M"], v: Float[Tensor, "K L H Dv"]) -> LatentState:
    """What chunks alone bring."""
    p, lse = softmax(s, dim=1)
    return LatentState(lse, torch.einsum("klhm,klhd->khmd", p, v))


def _answered(
    s: Float[Tensor, "K L H M"],
    p: Float[Tensor, "K L H M"],
    v: Float[Tensor, "K L H Dv"],
    lse: Float[Tensor, "K H M"],
    z: Float[Tensor, "K H M Dv"],
) -> Float[Tensor, "K L H Dv"]:
    """Outputs of chunks, each of which begins in a state."""
    peak = torch.maximum(s.detach().cummax(1).values, lse.detach()[:, None])
    pivot = torch.where(torch.isfinite(peak), peak, 0.0)
    later = torch.ones(s.shape[1], s.shape[1], dtype=torch.bool, device=s.device).triu(1)
    # [K, token, token it reads, H, M]
    e = (s[:, None] - pivot[:, :, None]).masked_fill(later[:, :, None, None], -torch.inf).exp()
    before = torch.exp(lse[:, None] - pivot)
    total = e.sum(2) + before
    share = p / total.masked_fill(total == 0, 1.0)
    weights = torch.einsum("kthm,ktuhm->ktuh", share, e)
    return torch.einsum("ktuh,kuhd->kthd", weights, v) + torch.einsum("kthm,khmd->kthd", share * before, z)
