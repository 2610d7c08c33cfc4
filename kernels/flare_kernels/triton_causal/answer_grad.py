"""What goes back through `answer`: gradients of the tokens, queries and states that tokens read."""

import triton
import triton.language as tl

from ..triton_mixer.tiles import load_rows, store_rows
from .answer import LOWEST, causal_mask, decode_weights, divided, part_sums, whole_shares
from .far import one_by_one_grad
from .near import part_weights, score_grad, weight_grad
from .tiles import (
    biases,
    group_place,
    group_rows,
    inverse,
    load_query,
    logarithm,
    operand,
    places,
    power,
    product,
    product_and,
    product_of_parts,
    product_with_parts,
    raw_scores,
    scores_out,
)


@triton.jit
def whole_slopes(
    p, b, slope_in, state, first, read_in, dstate, dweight, lowest, causal, EXACT: tl.constexpr, COARSE: tl.constexpr
):  # fmt: skip
    """Of a span as a whole: its weights as an operand and as numbers, dp, and the gradient of the state before it.

    Also the least sum `exp(l_t − r)`, which tells whether the factors held.
    """
    b = operand(b, COARSE)
    share_in, total, lowest = whole_shares(p, first, read_in, lowest, causal, EXACT, COARSE)
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
    return share_in, weight, dp, dstate, dweight, lowest


@triton.jit
def part_slopes(
    p, b, s, of_state, pivot, before, lowest, causal,
    L: tl.constexpr, BLOCK_M: tl.constexpr, EXACT: tl.constexpr, COARSE: tl.constexpr,
):  # fmt: skip
    """Of a span in parts: Aᵀ, shares of the state before, dp, and the factors that it took; the least sum as above."""
    b = operand(b, COARSE)
    level, near, total, lowest = part_sums(s, pivot, before, lowest, causal, L, BLOCK_M, EXACT, COARSE)
    over, share = inverse(total, EXACT), divided(p, total, EXACT)
    old = power(pivot[None, :] - level, EXACT) * before[None, :]
    dp = over * (of_state * old + weight_grad(b, near, level, L, BLOCK_M, EXACT, COARSE))
    old *= share
    a = part_weights(share, near, level, causal, L, EXACT, COARSE, True)
    return a, old, dp, share, near, level, lowest


@triton.jit
def whole_score_grad(later, b, share_in, lost, read_in, causal, COARSE: tl.constexpr):
    """Gradient of the scores of a span as a whole, from `later`, what comes after it brings, and `Bᵀ` less delta."""
    later = product_and(later, operand(b, COARSE), share_in, COARSE)
    if COARSE == "bf16":
        ones = operand(tl.where(tl.trans(causal), -1.0, 0.0), COARSE)
        later = product_and(later, ones, lost, COARSE)
    else:
        later -= tl.cumsum(lost, 0, reverse=True)
    return read_in.to(tl.float32) * later


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
    q, k, v = group_rows(
        q, k, v, sequence, start, head, stride_qb, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh
    )  # fmt: skip
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
            share_in, weight, dp, dstate, dweight, lowest = whole_slopes(
                p, b, slope_in, state, first, read_in, dstate, dweight, lowest, causal, EXACT, COARSE
            )
        else:
            of_state = product_with_parts(slope_in, state, COARSE)
            if FAR == 1:
                a, old, dp, share, near, level, lowest = part_slopes(
                    p, b, s, of_state, pivot, before, lowest, causal, L, BLOCK_M, EXACT, COARSE
                )
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
            ds = whole_score_grad(later, b, share_in, lost, read_in, causal, COARSE)
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
