"""Tokens read the latents, each as it is after that token: forward and backward.

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
from .far import one_by_one, one_by_one_grad
from .near import part_factors, part_weights, score_grad, weight_grad
from .tiles import (
    add_values,
    biases,
    factors,
    group_place,
    inverse,
    load_query,
    load_state,
    logarithm,
    means_of,
    operand,
    places,
    power,
    product,
    product_and,
    product_of_parts,
    product_with_parts,
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
    q += sequence * stride_qb + head * stride_qh
    k += start * stride_kn + head * stride_kh
    v += start * stride_vn + head * stride_vh
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
            total = sums_so_far(weight, read_in, causal, COARSE)
            lowest = tl.minimum(lowest, tl.min(total, 1))
            total = tl.maximum(total, LOWEST)  # numbers everywhere, also where they are to be replaced
            share = operand(divided(p, total, EXACT), COARSE)
            a = tl.where(causal, product(share, tl.trans(read_in), COARSE), 0.0)
            old, state = share, sums
        elif FAR == 1:
            reference, near, total = part_factors(s, first, total_before, causal, L, BLOCK_M, EXACT, COARSE)
            lowest = tl.minimum(lowest, tl.min(total, 1))
            share = divided(p, tl.maximum(total, LOWEST), EXACT)
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


@triton.jit(do_not_specialize=["N", "M"])
def answer_grad_kernel(
    q, k, v, log_weights, q_decode, k_decode, peaks, totals,
    pivots, pivot_totals, ends, end_totals, z, ptr, sequences, spans, far, y, dy,
    dq, dk, dv, dweights, dq_decode, dk_decode, dlse, dz,
    N, M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of latents in a group: of queries a part for each group, of tokens a part for each block.

    States are those before each span, as `span_kernel` writes them. Of what comes after the group nothing is in it:
    `group_grad_kernel` adds that. Spans are taken from the last to the first, with the gradient (dlse', dz') of the
    state (l', z') after each. With `B_tτ = dy_t·v_τ` for τ ≤ t and `g_tm = p_tm dp_tm`:
    `dp_tm = Σ_τ exp(s_τm − l_tm) B_tτ + exp(l_m − l_tm) dy_t·Z_m`,
    `ds_τm = Σ_{t≥τ} exp(s_τm − l_tm)(p_tm B_tτ − g_tm) + exp(s_τm − l'_m)(v_τ·dz'_m + dtotal'_m)`, where
    `Σ_m g_tm` is taken off B_tτ and dp_tm, so that what is rounded is small where the two are next to the same (Z_m has
    more digits in dy_t·Z_m than an operand has, for that: while a state is next to all there is, what it adds to l is
    what it takes),
    `dz_m = exp(l_m − l'_m) dz'_m + Σ_t p_tm exp(l_m − l_tm) dy_t`. A gradient of l with `exp(l) Z` and not Z held,
    `dtotal = dlse − Z·dz`, fades as dz does, with −g in place of p dy. In float32 dlse itself is handed on, since the
    two may cancel:
    `dlse_m = exp(l_m − l'_m)(dlse'_m + (Z_m − z'_m)·dz'_m) + Σ_t exp(l_m − l_tm)(p_tm dy_t·Z_m − g_tm)`.
    """
    EXACT: tl.constexpr = k.dtype.element_ty == tl.float32
    COARSE: tl.constexpr = "bf16" if k.dtype.element_ty == tl.bfloat16 else PRECISION
    far += tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    if FAR > 0:  # noqa: SIM102 (a condition at compile time)
        if tl.load(far) < FAR:
            return
    head, group, start, length, sequence = group_place(ptr, sequences, H)
    block = tl.program_id(1)
    latents = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q += sequence * stride_qb + head * stride_qh
    k += start * stride_kn + head * stride_kh
    v += start * stride_vn + head * stride_vh
    dy += (start * H + head) * DV
    part = (block.to(tl.int64) * N + start) * H + head
    dk += part * D
    dv += part * DV
    if log_weights is not None:
        log_weights += start
        dweights += part
    if peaks is not None:  # several blocks of latents
        peaks += start * H + head
        totals += start * H + head
        y += (start * H + head) * DV
    query = load_query(q, latents, stride_qm, M, k, D, BLOCK_D)
    query_decode = query
    dquery = tl.zeros([BLOCK_D, BLOCK_M], tl.float32)
    if k_decode is not None:
        q_decode += sequence * stride_pb + head * stride_ph
        k_decode += start * stride_dn + head * stride_dh
        dk_decode += part * D
        query_decode = load_query(q_decode, latents, stride_pm, M, k, D, BLOCK_D)
        dquery_decode = tl.zeros([BLOCK_D, BLOCK_M], tl.float32)
    causal = causal_mask(L)
    dstate = tl.zeros([BLOCK_DV, BLOCK_M], tl.float32)
    dweight = tl.zeros([BLOCK_M], tl.float32)
    lowest = tl.full([L], 1.0, tl.float32)
    first_span, count = tl.load(spans + group), tl.cdiv(length, L)
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=True):
        span = count - 1 - i
        rows = span * L + tl.arange(0, L)
        of_pivot, of_total, of_means = places(pivots, pivot_totals, z, first_span + span, head, H, BLOCK_M, BLOCK_DV)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        value = load_rows(v, rows, stride_vn, length, True, DV, BLOCK_DV)
        slope = load_rows(dy, rows, H * DV, length, True, DV, BLOCK_DV)
        pivot, before, state = tl.load(of_pivot), tl.load(of_total), tl.load(of_means)
        of_pivot, of_total, _ = places(ends, end_totals, z, first_span + span, head, H, BLOCK_M, BLOCK_DV)
        peak, end = tl.load(of_pivot), tl.load(of_total)
        t = raw_scores(key, query, latents, M, scale, EVEN, EXACT, PRECISION)
        p, key_decode = decode_weights(
            t, key, k_decode, query_decode, peaks, totals, rows, length, M, latents, scale,
            stride_dn, H, D, BLOCK_D, EVEN, EXACT, PRECISION,
        )  # fmt: skip
        s = t + biases(log_weights, rows, length, EXACT)[:, None]
        reference = tl.where(peak == -float("inf"), 0.0, peak)  # as `factors` has it
        read, first = power(s - reference[None, :], EXACT), power(pivot - reference, EXACT) * before
        over_end = inverse(tl.where(end == 0.0, 1.0, end), EXACT)
        # The gradient of the state after the span, of which `read` and `first` are the shares.
        dstate *= over_end[None, :]
        slope_in, read_in = operand(slope, COARSE), operand(read, COARSE)
        dstate_in = operand(dstate, COARSE)
        if EXACT:
            of_state = tl.sum(state * dstate, 0)
            of_values = product(operand(value, COARSE), dstate_in, COARSE)
            dweight = (dweight + tl.sum(read * (of_state[None, :] - of_values), 0)) * over_end
            constant = dweight - of_state
        else:
            dweight *= over_end
            constant = dweight
        # From here on what is needed late comes late, and what is used up is gone: a thread has few registers.
        b = tl.where(causal, tl.dot(slope, tl.trans(value), input_precision=PRECISION), 0.0)
        if FAR == 0:
            b = operand(b, COARSE)
            total = sums_so_far(first, read_in, causal, COARSE)
            lowest = tl.minimum(lowest, tl.min(total, 1))
            total = tl.maximum(total, LOWEST)  # numbers everywhere, also where they are to be replaced
            share_in = operand(divided(p, total, EXACT), COARSE)
            over = inverse(total, EXACT)
            of_state = product_with_parts(slope_in, state * first[None, :], COARSE)
            dp = over * product_and(of_state, b, read_in, COARSE)
            # The weight as the products have it, so that its rounding meets only what differs from dp.
            weight = share_in.to(tl.float32)
            lost = weight * dp
            if EXACT:
                dweight = first * dweight + tl.sum(weight * of_state - first[None, :] * lost, 0)
            else:
                dweight = first * (dweight - tl.sum(lost, 0))
            dstate = first[None, :] * product_and(dstate, tl.trans(slope_in), share_in, COARSE)
        else:
            of_state = product_with_parts(slope_in, state, COARSE)
            if FAR == 1:
                b = operand(b, COARSE)
                level, near, total = part_factors(s, pivot, before, causal, L, BLOCK_M, EXACT, COARSE)
                lowest = tl.minimum(lowest, tl.min(total, 1))
                total = tl.maximum(total, LOWEST)
                over, share = inverse(total, EXACT), divided(p, total, EXACT)
                old = power(pivot[None, :] - level, EXACT) * before[None, :]
                dp = over * (of_state * old + weight_grad(b, near, level, L, BLOCK_M, EXACT, COARSE))
                old *= share
                a = part_weights(share, near, level, causal, L, EXACT, COARSE, True)
            else:
                before = logarithm(pivot, before, EXACT)
                a, old, dp, ds = one_by_one_grad(p, scores_out(s, EXACT), before, b, of_state, causal, L, BLOCK_M)
                a = tl.trans(a)
            old_in = operand(old, COARSE)
            old = old_in.to(tl.float32)  # as `weight` above
            dstate = product_and(dstate * first[None, :], tl.trans(slope_in), old_in, COARSE)
            dweight = first * dweight + tl.sum(old * (of_state - dp if EXACT else -dp), 0)
        if peaks is None:
            delta = tl.sum(p * dp, 1)
        else:  # the same over all blocks
            answer = load_rows(y, rows, H * DV, length, True, DV, BLOCK_DV)
            delta = tl.sum(slope.to(tl.float32) * answer.to(tl.float32), 1)
        dt = p * (dp - delta[:, None])
        if FAR == 0:
            lost = operand(weight * (dp - delta[:, None]), COARSE)
        if k_decode is not None:
            dt = dt * scale
            dkey = product_of_parts(tl.zeros([L, BLOCK_D], tl.float32), dt, operand(query_decode, COARSE), COARSE)
            store_rows(dk_decode, rows, H * D, length, dkey, D, BLOCK_D)
            dquery_decode = product_and(
                dquery_decode, tl.trans(operand(key_decode, COARSE)), operand(dt, COARSE), COARSE
            )  # fmt: skip
        later = product(operand(value, COARSE), dstate_in, COARSE) + constant[None, :]
        if FAR < 2:
            b = operand(tl.dot(value, tl.trans(slope), input_precision=PRECISION), COARSE).to(tl.float32)
            b = tl.where(tl.trans(causal), b - delta[None, :], 0.0)
        if FAR == 0:
            later = product_and(later, operand(b, COARSE), share_in, COARSE)
            if COARSE == "bf16":
                ones = operand(tl.where(tl.trans(causal), -1.0, 0.0), COARSE)
                later = product_and(later, ones, lost, COARSE)
            else:
                later -= tl.cumsum(lost, 0, reverse=True)
            ds = read_in.to(tl.float32) * later
        else:
            if FAR == 1:
                lost = share * (dp - delta[:, None])
                ds = near.to(tl.float32) * score_grad(
                    operand(b, COARSE), share, lost, level, causal, L, BLOCK_M, EXACT, COARSE
                )  # fmt: skip
            ds += read * later
        if dweights is not None:
            tl.store(dweights + rows * H, tl.sum(ds, 1), mask=rows < length)
        if k_decode is None:
            ds += dt
        ds *= scale
        dkey = product_of_parts(tl.zeros([L, BLOCK_D], tl.float32), ds, operand(query, COARSE), COARSE)
        store_rows(dk, rows, H * D, length, dkey, D, BLOCK_D)
        dquery = product_and(dquery, tl.trans(operand(key, COARSE)), operand(ds, COARSE), COARSE)
        dvalue = tl.trans(product(dstate_in, tl.trans(read_in), COARSE))
        if FAR == 0:
            a = tl.where(tl.trans(causal), product(read_in, tl.trans(share_in), COARSE), 0.0)
        dvalue = product_of_parts(dvalue, a, slope_in, COARSE)
        store_rows(dv, rows, H * DV, length, dvalue, DV, BLOCK_DV)
    at = (group * H + head) * M
    if not EXACT:
        _, _, of_means = places(pivots, pivot_totals, z, first_span, head, H, BLOCK_M, BLOCK_DV)
        dweight += tl.sum(dstate * tl.load(of_means), 0)
    tl.store(dlse + at + latents, dweight, mask=latents < M)
    store_rows(dz + at * DV, latents, DV, M, tl.trans(dstate), DV, BLOCK_DV)
    store_rows(dq + at * D, latents, D, M, tl.trans(dquery), D, BLOCK_D)
    if k_decode is not None:
        store_rows(dq_decode + at * D, latents, D, M, tl.trans(dquery_decode), D, BLOCK_D)
    if FAR < 2:
        tl.store(far, FAR + (tl.min(lowest, 0) < LOWEST).to(tl.int32))
