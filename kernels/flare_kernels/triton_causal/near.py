"""Spans whose scores are far apart from end to end but not from one token to those next to it: parts of a span.

Scores that rise along the tokens are like that, of latents that fade (`flare_connect.nn.Fading`). Each part has
references of its own, and so factors of its own: to the references of an earlier part every exponent is at most 0.
"""

import triton
import triton.language as tl

from .tiles import operand, power, product, product_and

PART = tl.constexpr(16)
"""Tokens of a part."""


@triton.jit
def of_part(j, L: tl.constexpr):
    """Which tokens of a span are in part j, [L, 1]."""
    return (tl.arange(0, L) // PART == j)[:, None]


@triton.jit
def part_mask(causal, L: tl.constexpr):
    """[token, token of its part that it reads]."""
    place = tl.arange(0, L) // PART
    return causal & (place[:, None] == place[None, :])


@triton.jit
def part_factors(
    s, pivot, total, causal, L: tl.constexpr, BLOCK_M: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr
):
    """References r of each token's part, `exp(s − r)`, and `exp(l_t − r)` [L, BLOCK_M], of a state (pivot, total)."""
    reference = tl.zeros([L, BLOCK_M], tl.float32)
    before = tl.zeros([L, BLOCK_M], tl.float32)
    weight = total
    for j in range(0, L // PART):
        mine = of_part(j, L)
        inside = tl.where(mine, s, -float("inf"))
        peak = tl.maximum(pivot, tl.max(inside, 0))
        highest = tl.where(peak == -float("inf"), 0.0, peak)
        first = weight * power(pivot - highest, EXACT)
        reference = tl.where(mine, highest[None, :], reference)
        before = tl.where(mine, first[None, :], before)
        weight = first + tl.sum(power(inside - highest[None, :], EXACT), 0)
        pivot = peak
    read = operand(power(s - reference, EXACT), PRECISION)
    ones = operand(tl.where(part_mask(causal, L), 1.0, 0.0), PRECISION)
    return reference, read, before + product(ones, read, PRECISION)


@triton.jit
def fallen(reference, j, L: tl.constexpr, EXACT: tl.constexpr):
    """`exp(r_j − r)` [L, BLOCK_M] of the reference of part j, for tokens from that part on."""
    of_it = tl.max(tl.where(of_part(j, L), reference, -float("inf")), 0)
    return power(tl.minimum(of_it[None, :] - reference, 0.0), EXACT)


@triton.jit
def part_weights(
    share, read, reference, causal, L: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr, TURNED: tl.constexpr
):  # fmt: skip
    """A [token, token that it reads] of a block of latents, or Aᵀ; `share` is `p exp(r − l_t)`."""
    a = tl.zeros([L, L], tl.float32)
    for j in range(0, L // PART):
        sent = operand(share * fallen(reference, j, L, EXACT), PRECISION)
        inside = tl.where(of_part(j, L), read, 0.0)
        # Which one is turned is said here, since nothing computed may be turned on the left.
        if TURNED:
            a = product_and(a, inside, tl.trans(sent), PRECISION)
        else:
            a = product_and(a, sent, tl.trans(inside), PRECISION)
    if TURNED:
        causal = tl.trans(causal)
    return tl.where(causal, a, 0.0)


@triton.jit
def weight_grad(
    b, read, reference, L: tl.constexpr, BLOCK_M: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """`Σ_τ exp(s_τ − r_t) B_tτ` [L, BLOCK_M], of the operand B [token, token that it reads]."""
    found = tl.zeros([L, BLOCK_M], tl.float32)
    for j in range(0, L // PART):
        part = product(b, tl.where(of_part(j, L), read, 0.0), PRECISION)
        found += part * fallen(reference, j, L, EXACT)
    return found


@triton.jit
def score_grad(
    b, share, lost, reference, causal, L: tl.constexpr, BLOCK_M: tl.constexpr, EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`Σ_{t≥τ} exp(r_τ − l_t)(p_t B_tτ − g_t)` [L, BLOCK_M] of the operand Bᵀ and the factors of p and g."""
    found = tl.zeros([L, BLOCK_M], tl.float32)
    ones = operand(tl.where(tl.trans(causal), -1.0, 0.0), PRECISION)
    for j in range(0, L // PART):
        down = fallen(reference, j, L, EXACT)
        part = product(b, operand(share * down, PRECISION), PRECISION)
        part = product_and(part, ones, operand(lost * down, PRECISION), PRECISION)
        found = tl.where(of_part(j, L), part, found)
    return found
