"""Tokens read the latents, each as it is after that token; `answer_grad` goes back.

A program takes one group of spans of at most L tokens, one head and one block of latents, goes along the spans and
keeps the state. With scores s, the state before a span (l, Z), weights p of the tokens' softmax over the latents and
`l_t = log(exp l + Σ_{τ≤t} exp s_τ)`:

    A_tτ = Σ_m p_tm exp(s_τm − l_tm) for τ ≤ t,   Y = A V + (p exp(l − l_t)) Z

Usually all of it is matrix products: with a reference r for each latent, `exp(s_τ − l_t)` is `exp(s_τ − r)` times
`exp(r − l_t)`. Where scores of a span are so far apart that no r keeps both factors in range, a second launch (`FAR` 1)
does the group anew in parts of spans, as `near` has it; and where no r does that for a part, a third (`FAR` 2) takes
latents one by one, as `far` has it. All in one kernel would want more registers than a thread has; so each computes
something for all its groups, and marks those that the next is to do.

Products are turned such that what is 64 high is 64 wide where its second factor was computed, and that nothing computed
is turned on the left: some versions of Triton compile the others wrongly for Hopper.
"""

import triton
import triton.language as tl

from ..triton_mixer.tiles import load_rows, store_rows
from .far import one_by_one
from .near import part_factors, part_weights
from .tiles import (
    add_values,
    biases,
    factors,
    group_place,
    group_rows,
    load_query,
    load_state,
    logarithm,
    means_of,
    operand,
    power,
    product,
    product_of_parts,
    raw_scores,
    scores_out,
    token_weights,
)

# Of the sums `exp(l_t − r)`: r is the largest of all, so that what has most weight has the least exponent.
LOWEST = tl.constexpr(2.0**-104)


@triton.jit
def causal_mask(L: tl.constexpr):
    """[token, token that it reads]."""
    rows = tl.arange(0, L)
    return rows[:, None] >= rows[None, :]


@triton.jit
def sums_so_far(first, read, causal, PRECISION: tl.constexpr):
    """`exp(l_t − r)` [L, BLOCK_M]. What is a scan across warps in float32 is a product in half precision."""
    if PRECISION == "bf16":
        ones = operand(tl.where(causal, 1.0, 0.0), PRECISION)
        total = first[None, :] + product(ones, read, PRECISION)
    else:
        total = first[None, :] + tl.cumsum(read, 0)
    return total


@triton.jit
def divided(p, total, EXACT: tl.constexpr):
    """`p / total`. Not `p` times `inverse`, or the compiler would keep the tile that both are, instead of one."""
    if EXACT:
        share = p / total
    else:
        root = tl.rsqrt(total)
        share = p * root * root
    return share


@triton.jit
def whole_shares(p, first, read_in, lowest, causal, EXACT: tl.constexpr, COARSE: tl.constexpr):
    """Of a span as a whole: the operand `p exp(r − l_t)`, the sums `exp(l_t − r)`, and the least of these so far."""
    total = sums_so_far(first, read_in, causal, COARSE)
    lowest = tl.minimum(lowest, tl.min(total, 1))
    total = tl.maximum(total, LOWEST)  # numbers everywhere, also where they are to be replaced
    return operand(divided(p, total, EXACT), COARSE), total, lowest


@triton.jit
def part_sums(
    s, pivot, before, lowest, causal,
    L: tl.constexpr, BLOCK_M: tl.constexpr, EXACT: tl.constexpr, COARSE: tl.constexpr,
):  # fmt: skip
    """Of a span in parts: references r, `exp(s − r)`, the sums `exp(l_t − r)`, and the least of these so far."""
    reference, near, total = part_factors(s, pivot, before, causal, L, BLOCK_M, EXACT, COARSE)
    lowest = tl.minimum(lowest, tl.min(total, 1))
    return reference, near, tl.maximum(total, LOWEST), lowest


@triton.jit
def decode_weights(
    t, key, k_decode, query_decode, peaks, totals, rows, length, M, latents, scale,
    stride_dn,
    H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    EVEN: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`token_weights`, and the keys that they are of: without separate ones those of the latents' scores t."""
    if k_decode is not None:
        key = load_rows(k_decode, rows, stride_dn, length, True, D, BLOCK_D)
        t = raw_scores(key, query_decode, latents, M, scale, EVEN, EXACT, PRECISION)
    return token_weights(t, peaks, totals, rows, length, H, EXACT), key


@triton.jit(do_not_specialize=["M"])
def token_kernel(
    q, k, ptr, sequences, peaks, totals,
    M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh,
    H: tl.constexpr, D: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Softmax of each token over latents in several blocks: the largest score, and the sum relative to it [N, H]."""
    EXACT: tl.constexpr = k.dtype.element_ty == tl.float32
    head, _, start, length, sequence = group_place(ptr, sequences, H)
    q += sequence * stride_qb + head * stride_qh
    k += start * stride_kn + head * stride_kh
    peaks += start * H + head
    totals += start * H + head
    for i in range(0, tl.cdiv(length, L)):
        rows = i * L + tl.arange(0, L)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        peak = tl.full([L], -float("inf"), tl.float32)
        total = tl.zeros([L], tl.float32)
        for first in tl.range(0, M, BLOCK_M, num_stages=STAGES):
            latents = first + tl.arange(0, BLOCK_M)
            query = load_query(q, latents, stride_qm, M, k, D, BLOCK_D)
            t = raw_scores(key, query, latents, M, scale, False, EXACT, PRECISION)
            higher = tl.maximum(peak, tl.max(t, 1))
            total = total * power(peak - higher, EXACT) + tl.sum(power(t - higher[:, None], EXACT), 1)
            peak = higher
        tl.store(peaks + rows * H, peak, mask=rows < length)
        tl.store(totals + rows * H, total, mask=rows < length)


@triton.jit(do_not_specialize=["N", "M"])
def answer_kernel(
    q, k, v, log_weights, q_decode, k_decode, peaks, totals, lse, z, ptr, sequences, far, y,
    N, M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """What one block of latents brings to the outputs [N, H, Dv] of a group; a part for each block."""
    EXACT: tl.constexpr = k.dtype.element_ty == tl.float32
    COARSE: tl.constexpr = "bf16" if k.dtype.element_ty == tl.bfloat16 else PRECISION
    far += tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    if FAR > 0:  # noqa: SIM102 (a condition at compile time)
        if tl.load(far) < FAR:
            return
    head, group, start, length, sequence = group_place(ptr, sequences, H)
    block = tl.program_id(1)
    latents = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q, k, v = group_rows(
        q, k, v, sequence, start, head, stride_qb, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh
    )  # fmt: skip
    y += ((block.to(tl.int64) * N + start) * H + head) * DV
    if log_weights is not None:
        log_weights += start
    if peaks is not None:
        peaks += start * H + head
        totals += start * H + head
    query = load_query(q, latents, stride_qm, M, k, D, BLOCK_D)
    query_decode = query
    if k_decode is not None:
        q_decode += sequence * stride_pb + head * stride_ph
        k_decode += start * stride_dn + head * stride_dh
        query_decode = load_query(q_decode, latents, stride_pm, M, k, D, BLOCK_D)
    causal = causal_mask(L)
    at = ((group + sequence) * H + head) * M  # a sequence has a state more than groups
    pivot, weight, sums = load_state(lse, z, at, latents, M, DV, BLOCK_M, BLOCK_DV, EXACT)
    lowest = tl.full([L], 1.0, tl.float32)
    for i in tl.range(0, tl.cdiv(length, L), num_stages=STAGES, disable_licm=True):
        rows = i * L + tl.arange(0, L)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        value = load_rows(v, rows, stride_vn, length, True, DV, BLOCK_DV)
        t = raw_scores(key, query, latents, M, scale, EVEN, EXACT, PRECISION)
        p, _ = decode_weights(
            t, key, k_decode, query_decode, peaks, totals, rows, length, M, latents, scale,
            stride_dn, H, D, BLOCK_D, EVEN, EXACT, PRECISION,
        )  # fmt: skip
        s = t + biases(log_weights, rows, length, EXACT)[:, None]
        if FAR > 0:  # while it is not nothing beside what the span brings
            first, total_before = pivot, weight
            state = means_of(sums, weight, EXACT)
        pivot, read, kept = factors(s, pivot, EXACT)
        weight *= kept
        sums *= kept[None, :]
        read_in, gained = operand(read, COARSE), tl.sum(read, 0)
        if FAR == 0:
            share, _, lowest = whole_shares(p, weight, read_in, lowest, causal, EXACT, COARSE)
            a = tl.where(causal, product(share, tl.trans(read_in), COARSE), 0.0)
            old, state = share, sums
        elif FAR == 1:
            reference, near, total, lowest = part_sums(
                s, first, total_before, lowest, causal, L, BLOCK_M, EXACT, COARSE
            )  # fmt: skip
            share = divided(p, total, EXACT)
            a = part_weights(share, near, reference, causal, L, EXACT, COARSE, False)
            old = operand(share * (power(first[None, :] - reference, EXACT) * total_before[None, :]), COARSE)
        else:
            before = logarithm(first, total_before, EXACT)
            a, old = one_by_one(p, scores_out(s, EXACT), before, causal, L, BLOCK_M)
            old = operand(old, COARSE)
        out = product_of_parts(tl.zeros([BLOCK_DV, L], tl.float32), state, tl.trans(old), COARSE)
        out = product_of_parts(tl.trans(out), a, operand(value, COARSE), COARSE)
        store_rows(y, rows, H * DV, length, out, DV, BLOCK_DV)
        weight += gained
        sums = add_values(sums, value, read, BLOCK_M, BLOCK_DV, PRECISION)
    if FAR < 2:
        tl.store(far, FAR + (tl.min(lowest, 0) < LOWEST).to(tl.int32))
