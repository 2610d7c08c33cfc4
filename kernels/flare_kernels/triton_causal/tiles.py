"""Pieces that the kernels along sequences share: what a program takes, factors of products, scores and weights.

Scores stay in base e, as states are: in float32 a change of base would round both once more, and what counts are
differences of the two.
"""

import triton
import triton.language as tl

from ..triton_mixer.tiles import load_numbers, load_rows


@triton.jit
def group_place(ptr, sequences, H: tl.constexpr):
    """Head, group, first token, number of tokens and sequence of a program."""
    head = tl.program_id(0) % H
    group = (tl.program_id(0) // H).to(tl.int64)
    start = tl.load(ptr + group)
    return head, group, start, (tl.load(ptr + group + 1) - start).to(tl.int32), tl.load(sequences + group)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """A factor of a product. Tensor cores cut what tf32 has no digits for, always towards 0; this rounds."""
    if PRECISION == "bf16":  # noqa: SIM108 (a condition at compile time)
        x = x.to(tl.bfloat16)
    else:
        x = x.to(tl.float32)
    if PRECISION == "tf32":
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit
def product(left, right, PRECISION: tl.constexpr):
    """Of what `operand` gives."""
    HOW: tl.constexpr = "tf32" if PRECISION == "bf16" else PRECISION
    return tl.dot(left, right, input_precision=HOW)


@triton.jit
def product_and(before, left, right, PRECISION: tl.constexpr):
    """The same, added to what was before."""
    HOW: tl.constexpr = "tf32" if PRECISION == "bf16" else PRECISION
    return tl.dot(left, right, before, input_precision=HOW)


@triton.jit
def load_query(q, latents, stride_m, M, like, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Queries of a block of latents in the element type of the keys; 0 past the last."""
    return load_rows(q, latents, stride_m, M, True, D, BLOCK_D).to(like.dtype.element_ty)


@triton.jit
def read_scores(key, query, log_weights, rows, length, latents, M, scale, PRECISION: tl.constexpr):
    """Scores [L, BLOCK_M] with which latents read tokens, and those without log-weights; −∞ past the last of either."""
    t = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale
    s = t
    if log_weights is not None:
        s += load_numbers(log_weights, rows, 1, length, 0.0, True).to(tl.float32)[:, None]
    return tl.where((rows < length)[:, None] & (latents < M)[None, :], s, -float("inf")), t


@triton.jit
def token_weights(
    t, key, q, stride_m, rows, length, M, latents, scale,
    D: tl.constexpr, L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights [L, BLOCK_M] of a block, with scores t, in each token's softmax over all latents, not yet divided.

    They are zero past the last; what they are to be divided by [L] comes with them.
    """
    t = tl.where((latents < M)[None, :], t, -float("inf"))
    peak = tl.max(t, 1)
    if not ALL:
        peak = tl.full([L], -float("inf"), tl.float32)
        total = tl.zeros([L], tl.float32)
        for first in range(0, M, BLOCK_M):
            block = first + tl.arange(0, BLOCK_M)
            query = load_rows(q, block, stride_m, M, True, D, BLOCK_D).to(key.dtype)
            other = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale
            other = tl.where((block < M)[None, :], other, -float("inf"))
            new_peak = tl.maximum(peak, tl.max(other, 1))
            total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(other - new_peak[:, None]), 1)
            peak = new_peak
    p = tl.exp(t - peak[:, None])
    if ALL:
        total = tl.sum(p, 1)
    return tl.where((rows < length)[:, None], p, 0.0), total


@triton.jit
def factors(s, before):
    """The largest score so far of each latent, `exp(s − r)` and the same of the state before, of reference r.

    The reference is that score, so that what has most weight has the least exponent; 0 where nothing has.
    """
    peak = tl.maximum(before, tl.max(s, 0))
    reference = tl.where(peak == -float("inf"), 0.0, peak)
    return peak, tl.exp(s - reference[None, :]), tl.exp(before - reference)


@triton.jit
def logarithm(pivot, total):
    """Log-sum-exp of a running softmax; −∞ where nothing was read."""
    empty = total == 0.0
    return tl.where(empty, -float("inf"), pivot + tl.log(tl.where(empty, 1.0, total)))


@triton.jit
def means_of(sums, total):
    """Means [BLOCK_DV, BLOCK_M] of a running softmax; 0 where nothing was read."""
    return sums / tl.where(total == 0.0, 1.0, total)[None, :]


@triton.jit
def load_state(lse, z, at, latents, M, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr):
    """A running softmax that goes on from a state: pivots, sums of weights, and of weighted values [BLOCK_DV, BLOCK_M].

    Values are turned: what is computed may be the second factor of a product, and turned on its left it may not be.
    """
    pivot = tl.load(lse + at + latents, mask=latents < M, other=0.0)
    total = tl.where(pivot == -float("inf"), 0.0, 1.0)
    sums = load_rows(z + at * DV, latents, DV, M, True, DV, BLOCK_DV) * total[:, None]
    return pivot, total, tl.trans(sums)


@triton.jit
def place_of_sums(z, row, head, H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Where a tile [BLOCK_DV, BLOCK_M] of a workspace is, which has a whole one for each row, head and block."""
    tile = (row * H + head) * tl.num_programs(1) + tl.program_id(1)
    places = tl.arange(0, BLOCK_DV)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    return z + tile * (BLOCK_DV * BLOCK_M) + places
