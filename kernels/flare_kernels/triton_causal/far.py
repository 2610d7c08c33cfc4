"""Spans whose scores are so far apart that no factor holds them: latents one by one, and every exponent at most 0."""

import triton
import triton.language as tl


@triton.jit
def larger(a, b):
    """Of two numbers."""
    return tl.maximum(a, b)


@triton.jit
def pivots_of(s, before):
    """The largest score so far [L, BLOCK_M], that of the state included; 0 where nothing has weight."""
    peak = tl.maximum(tl.associative_scan(s, 0, larger), before[None, :])
    return tl.where(peak == -float("inf"), 0.0, peak)


@triton.jit
def column(x, m, BLOCK_M: tl.constexpr):
    """Column m of a tile [L, BLOCK_M]."""
    return tl.sum(tl.where((tl.arange(0, BLOCK_M) == m)[None, :], x, 0.0), 1)


@triton.jit
def weights_of(s, pivots, first, m, causal, BLOCK_M: tl.constexpr):
    """`exp(s_τm − l_tm)` [token, token that it reads] of one latent, and `exp(l_m − l_tm)` of the state before."""
    w = tl.exp(tl.where(causal, column(s, m, BLOCK_M)[None, :] - column(pivots, m, BLOCK_M)[:, None], -float("inf")))
    old = column(first, m, BLOCK_M)
    total = tl.sum(w, 1) + old
    safe = tl.where(total == 0.0, 1.0, total)
    return w / safe[:, None], old / safe


@triton.jit
def one_by_one(p, s, before, causal, L: tl.constexpr, BLOCK_M: tl.constexpr):
    """A [L, L] of a block of latents and shares of the state before [L, BLOCK_M], for scores however far apart."""
    pivots = pivots_of(s, before)
    first_of_each = tl.exp(before[None, :] - pivots)
    a = tl.zeros([L, L], tl.float32)
    old = tl.zeros([L, BLOCK_M], tl.float32)
    for m in range(0, BLOCK_M):
        w, kept = weights_of(s, pivots, first_of_each, m, causal, BLOCK_M)
        weight = column(p, m, BLOCK_M)
        a += weight[:, None] * w
        old += tl.where((tl.arange(0, BLOCK_M) == m)[None, :], (weight * kept)[:, None], 0.0)
    return a, old


@triton.jit
def one_by_one_grad(p, s, before, b, of_state, causal, L: tl.constexpr, BLOCK_M: tl.constexpr):
    """What `one_by_one` gives, and gradients of the weights p and of the scores."""
    pivots = pivots_of(s, before)
    first_of_each = tl.exp(before[None, :] - pivots)
    a = tl.zeros([L, L], tl.float32)
    old = tl.zeros([L, BLOCK_M], tl.float32)
    dp = tl.zeros([L, BLOCK_M], tl.float32)
    ds = tl.zeros([L, BLOCK_M], tl.float32)
    for m in range(0, BLOCK_M):
        w, kept = weights_of(s, pivots, first_of_each, m, causal, BLOCK_M)
        weight = column(p, m, BLOCK_M)
        slope_of_p = tl.sum(w * b, 1) + kept * column(of_state, m, BLOCK_M)
        slope_of_s = tl.sum(w * (weight[:, None] * (b - slope_of_p[:, None])), 0)
        mine = (tl.arange(0, BLOCK_M) == m)[None, :]
        a += weight[:, None] * w
        old += tl.where(mine, (weight * kept)[:, None], 0.0)
        dp += tl.where(mine, slope_of_p[:, None], 0.0)
        ds += tl.where(mine, slope_of_s[:, None], 0.0)
    return a, old, dp, ds
