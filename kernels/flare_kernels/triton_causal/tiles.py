"""Pieces that the kernels along sequences share: what a program takes, factors of products, scores and weights.

Scores and pivots are in base 2, where an exponential is one instruction, states in base e. In float32 (`EXACT`) all
stay in base e: a change of base would round scores and states once more, and what counts are differences of the two.
"""

import triton
import triton.language as tl

from ..triton_mixer.tiles import LOG2_E, load_numbers, load_rows


@triton.jit
def group_place(ptr, sequences, H: tl.constexpr):
    """Head, group, first token, number of tokens and sequence of a program."""
    head = tl.program_id(0) % H
    group = (tl.program_id(0) // H).to(tl.int64)
    start = tl.load(ptr + group)
    return head, group, start, (tl.load(ptr + group + 1) - start).to(tl.int32), tl.load(sequences + group)


@triton.jit
def group_rows(q, k, v, sequence, start, head, stride_qb, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh):
    """Queries of a sequence, and keys and values from the first token of a group on, of a head."""
    q += sequence * stride_qb + head * stride_qh
    k += start * stride_kn + head * stride_kh
    v += start * stride_vn + head * stride_vh
    return q, k, v


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """A factor of a product. Tensor cores cut what tf32 has no digits for, always towards 0; this rounds."""
    if PRECISION == "bf16":
        x = x.to(tl.bfloat16)
    elif PRECISION == "fp16":
        x = x.to(tl.float16)
    else:
        x = x.to(tl.float32)
    if PRECISION == "tf32":
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit
def product(left, right, PRECISION: tl.constexpr):
    """Of what `operand` gives."""
    HOW: tl.constexpr = "tf32" if PRECISION == "bf16" or PRECISION == "fp16" else PRECISION
    return tl.dot(left, right, input_precision=HOW)


@triton.jit
def product_and(before, left, right, PRECISION: tl.constexpr):
    """The same, added to what was before."""
    HOW: tl.constexpr = "tf32" if PRECISION == "bf16" or PRECISION == "fp16" else PRECISION
    return tl.dot(left, right, before, input_precision=HOW)


@triton.jit
def product_of_parts(before, left, right, PRECISION: tl.constexpr):
    """A product of what was computed and of an operand, added to what was before, with more digits than bf16 has.

    The left factor then comes in two parts: what bf16 holds of it, and the rest.
    """
    if PRECISION == "bf16":
        part = first_part(left)
        before = product_and(before, operand(part, PRECISION), right, PRECISION)
        before = product_and(before, operand(left - part, PRECISION), right, PRECISION)
    else:
        before = product_and(before, operand(left, PRECISION), right, PRECISION)
    return before


@triton.jit
def product_with_parts(left, right, PRECISION: tl.constexpr):
    """The same, where the right factor was computed."""
    if PRECISION == "bf16":
        part = first_part(right)
        found = product(left, operand(part, PRECISION), PRECISION)
        found = product_and(found, left, operand(right - part, PRECISION), PRECISION)
    else:
        found = product(left, operand(right, PRECISION), PRECISION)
    return found


@triton.jit
def first_part(x):
    """What bf16 holds of numbers, without rounding."""
    return (x.to(tl.int32, bitcast=True) & -0x10000).to(tl.float32, bitcast=True)


@triton.jit
def add_values(sums, value, read, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr):
    """`sums + valueᵀ read` [BLOCK_DV, BLOCK_M], in the element type of the values.

    But not where half precision would be 64 high, less than 64 wide, and its second factor was computed: Triton
    compiles that wrongly for Hopper.
    """
    if BLOCK_DV >= 64 and BLOCK_M < 64:
        sums = product_and(sums, tl.trans(operand(value, PRECISION)), operand(read, PRECISION), PRECISION)
    else:
        sums = tl.dot(tl.trans(value), read.to(value.dtype), sums, input_precision=PRECISION)
    return sums


@triton.jit
def load_query(q, latents, stride_m, M, like, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Queries of a block of latents in the element type of the keys; 0 past the last."""
    return load_rows(q, latents, stride_m, M, True, D, BLOCK_D).to(like.dtype.element_ty)


@triton.jit
def power(x, EXACT: tl.constexpr):
    """The exponential of scores. `tl.exp` minds numbers that are next to nothing, which takes three instructions."""
    return tl.exp2(x * LOG2_E if EXACT else x)


@triton.jit
def scores_in(x, EXACT: tl.constexpr):
    """Logarithms of base e in the base of scores."""
    return x if EXACT else x * LOG2_E


@triton.jit
def scores_out(x, EXACT: tl.constexpr):
    """And back."""
    return x if EXACT else x * (1.0 / LOG2_E)


@triton.jit
def raw_scores(
    key, query, latents, M, scale, EVEN: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Scores [L, BLOCK_M] of tokens and latents, without log-weights; −∞ past the last latent."""
    t = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scores_in(scale, EXACT)
    if not EVEN:
        t = tl.where((latents < M)[None, :], t, -float("inf"))
    return t


@triton.jit
def biases(log_weights, rows, length, EXACT: tl.constexpr):
    """Log-weights of tokens; −∞ past the last."""
    bias = tl.where(rows < length, 0.0, -float("inf"))
    if log_weights is not None:
        bias += scores_in(load_numbers(log_weights, rows, 1, length, 0.0, True).to(tl.float32), EXACT)
    return bias


@triton.jit
def token_weights(t, peaks, totals, rows, length, H: tl.constexpr, EXACT: tl.constexpr):
    """Weights [L, BLOCK_M] of a block, with scores t, in each token's softmax over all latents; zero past the last.

    What `token_kernel` found, `peaks` and `totals`, or nothing where the block has all latents.
    """
    if peaks is None:
        peak = tl.max(t, 1)
        p = power(t - peak[:, None], EXACT)
        total = tl.sum(p, 1)
    else:
        peak = tl.load(peaks + rows * H, mask=rows < length, other=0.0)
        total = tl.load(totals + rows * H, mask=rows < length, other=1.0)
        p = power(t - peak[:, None], EXACT)
    return p * tl.where(rows < length, 1.0 / total, 0.0)[:, None]


@triton.jit
def factors(s, pivot, EXACT: tl.constexpr):
    """The largest score so far of each latent, `exp(s − r)` and the same of the pivot before, of reference r.

    The reference is that score, so that what has most weight has the least exponent; 0 where nothing has.
    """
    peak = tl.maximum(pivot, tl.max(s, 0))
    reference = tl.where(peak == -float("inf"), 0.0, peak)
    return peak, power(s - reference[None, :], EXACT), power(pivot - reference, EXACT)


@triton.jit
def logarithm(pivot, total, EXACT: tl.constexpr):
    """Log-sum-exp of a running softmax; −∞ where nothing was read."""
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    return tl.where(empty, -float("inf"), scores_out(pivot, EXACT) + tl.log(safe))


@triton.jit
def inverse(total, EXACT: tl.constexpr):
    """`1 / total`."""
    if EXACT:
        over = 1.0 / total
    else:  # a division takes seven instructions
        root = tl.rsqrt(total)
        over = root * root
    return over


@triton.jit
def means_of(sums, total, EXACT: tl.constexpr):
    """Means [BLOCK_DV, BLOCK_M] of a running softmax; 0 where nothing was read."""
    safe = tl.where(total == 0.0, 1.0, total)
    if EXACT:  # noqa: SIM108 (a condition at compile time)
        means = sums / safe[None, :]
    else:
        means = sums * inverse(safe, EXACT)[None, :]
    return means


@triton.jit
def load_state(
    lse, z, at, latents, M, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr, EXACT: tl.constexpr
):  # fmt: skip
    """A running softmax that goes on from a state: pivots, sums of weights, and of weighted values [BLOCK_DV, BLOCK_M].

    Values are turned: what is computed may be the second factor of a product, and turned on its left it may not be.
    """
    pivot = tl.load(lse + at + latents, mask=latents < M, other=0.0)
    total = tl.where(pivot == -float("inf"), 0.0, 1.0)
    sums = load_rows(z + at * DV, latents, DV, M, True, DV, BLOCK_DV) * total[:, None]
    return scores_in(pivot, EXACT), total, tl.trans(sums)


@triton.jit
def places(lse, totals, z, row, head, H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Where pivots, totals and means [BLOCK_DV, BLOCK_M] of a row are in a workspace of whole blocks.

    Without a mask, and with offsets known to the compiler, addresses take few registers.
    """
    block = (row * H + head) * tl.num_programs(1) + tl.program_id(1)
    latents = tl.arange(0, BLOCK_M)
    tile = tl.arange(0, BLOCK_DV)[:, None] * BLOCK_M + latents[None, :]
    lse += block * BLOCK_M
    totals += block * BLOCK_M
    z += block * (BLOCK_DV * BLOCK_M)
    return lse + latents, totals + latents, z + tile
