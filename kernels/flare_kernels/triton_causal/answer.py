"""Tokens of a span read the latents, each as it is after that token: forward and backward.

A program takes one span of at most L tokens, one head and one block of latents, and begins in the state before the
span. With scores s, that state (l, Z), weights p of the tokens' softmax over the latents and
`l_t = log(exp l + Σ_{τ≤t} exp s_τ)`:

    A_tτ = Σ_m p_tm exp(s_τm − l_tm) for τ ≤ t,   Y = A V + (p exp(l − l_t)) Z

Usually all of it is matrix products: with a reference r for each latent, `exp(s_τ − l_t)` is `exp(s_τ − r)` times
`exp(r − l_t)`. Where scores of a span are so far apart that no r keeps both factors in range, a second launch (`FAR`)
takes latents one by one instead, and every exponent is at most 0. Both in one kernel would want more registers than a
thread has; so the first computes something for every span, and marks those that the second is to do anew.

Scores stay in base e, as states are: in float32 a change of base would round both once more, and what counts are
differences of the two.
"""

import triton
import triton.language as tl

from ..triton_mixer.tiles import load_numbers, load_rows, store_rows

# Of the sums `exp(l_t − r)`: r is the largest of all, so that what has most weight has the least exponent.
LOWEST = tl.constexpr(2.0**-40)


@triton.jit
def larger(a, b):
    """Of two numbers."""
    return tl.maximum(a, b)


@triton.jit
def causal_mask(L: tl.constexpr):
    """[token, token that it reads], and the same turned."""
    rows = tl.arange(0, L)
    return rows[:, None] >= rows[None, :], rows[:, None] <= rows[None, :]


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """A factor of a product of float32. Tensor cores cut what tf32 has no digits for, always towards 0; this rounds."""
    x = x.to(tl.float32)
    if PRECISION == "tf32":
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit
def products_of(
    q, k, rows, stride_m, stride_n, length, M, latents, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores [L, BLOCK_M] of tokens and latents, and what they are of; 0 past the last of either."""
    key = load_rows(k, rows, stride_n, length, True, D, BLOCK_D)
    query = load_rows(q, latents, stride_m, M, True, D, BLOCK_D).to(key.dtype)
    return tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale, key, query


@triton.jit
def token_weights(
    t, q, k, rows, stride_m, stride_n, length, M, latents, scale,
    D: tl.constexpr, L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights [L, BLOCK_M] of a block, with scores t, in each token's softmax over all latents; zero past the last."""
    t = tl.where((latents < M)[None, :], t, -float("inf"))
    peak = tl.max(t, 1)
    total = tl.sum(tl.exp(t - peak[:, None]), 1)
    if not ALL:
        peak = tl.full([L], -float("inf"), tl.float32)
        total = tl.zeros([L], tl.float32)
        for first in range(0, M, BLOCK_M):
            block = first + tl.arange(0, BLOCK_M)
            other, _, _ = products_of(
                q, k, rows, stride_m, stride_n, length, M, block, scale, D, BLOCK_D, PRECISION
            )  # fmt: skip
            other = tl.where((block < M)[None, :], other, -float("inf"))
            new_peak = tl.maximum(peak, tl.max(other, 1))
            total = total * tl.exp(peak - new_peak) + tl.sum(tl.exp(other - new_peak[:, None]), 1)
            peak = new_peak
    p = tl.exp(t - peak[:, None]) / total[:, None]
    return tl.where((rows < length)[:, None] & (latents < M)[None, :], p, 0.0)


@triton.jit
def factors(s, before):
    """`exp(s − r)`, the same of the state before, and the sums `exp(l_t − r)`."""
    reference = tl.maximum(before, tl.max(s, 0))
    reference = tl.where(reference == -float("inf"), 0.0, reference)
    read, first = tl.exp(s - reference[None, :]), tl.exp(before - reference)
    return read, first, first[None, :] + tl.cumsum(read, 0)


@triton.jit
def too_far(total):
    """1 where a sum is so small beside the reference that factors lose it, else 0."""
    return (tl.min(tl.min(total, 1), 0) < LOWEST).to(tl.int32)


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


@triton.jit
def of_scores(ds, key, query, scale, PRECISION: tl.constexpr):
    """Gradients of keys [L, BLOCK_D] and queries [BLOCK_M, BLOCK_D] from those of the scores [L, BLOCK_M]."""
    ds = operand(ds, PRECISION)
    dkey = tl.dot(ds, operand(query, PRECISION), input_precision=PRECISION)
    dquery = tl.dot(tl.trans(operand(key, PRECISION)), ds, input_precision=PRECISION)
    return dkey * scale, tl.trans(dquery) * scale


@triton.jit
def span_place(ptr, sequences, H: tl.constexpr):
    """Head, span, first token, number of tokens and sequence of a program."""
    head = tl.program_id(0) % H
    span = (tl.program_id(0) // H).to(tl.int64)
    start = tl.load(ptr + span)
    return head, span, start, (tl.load(ptr + span + 1) - start).to(tl.int32), tl.load(sequences + span)


@triton.jit
def span_inputs(
    q, k, v, log_weights, q_decode, k_decode, lse, z, head, span, start, length, sequence, latents, M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """p, keys and queries of the tokens' softmax; s, keys and queries of the latents'; values; the state before.

    Without separate `k_decode` tokens and latents read one another by the same scores.
    """
    rows = tl.arange(0, L)
    q += sequence * stride_qb + head * stride_qh
    k += start * stride_kn + head * stride_kh
    s, key, query = products_of(q, k, rows, stride_qm, stride_kn, length, M, latents, scale, D, BLOCK_D, PRECISION)
    if k_decode is None:
        key_decode, query_decode = key, query
        p = token_weights(
            s, q, k, rows, stride_qm, stride_kn, length, M, latents, scale, D, L, BLOCK_M, BLOCK_D, ALL, PRECISION
        )  # fmt: skip
    else:
        q_decode += sequence * stride_pb + head * stride_ph
        k_decode += start * stride_dn + head * stride_dh
        t, key_decode, query_decode = products_of(
            q_decode, k_decode, rows, stride_pm, stride_dn, length, M, latents, scale, D, BLOCK_D, PRECISION
        )  # fmt: skip
        p = token_weights(
            t, q_decode, k_decode, rows, stride_pm, stride_dn, length, M, latents, scale, D, L, BLOCK_M, BLOCK_D, ALL,
            PRECISION,
        )  # fmt: skip
    if log_weights is not None:
        s += load_numbers(log_weights + start, rows, 1, length, 0.0, True).to(tl.float32)[:, None]
    s = tl.where((rows < length)[:, None] & (latents < M)[None, :], s, -float("inf"))
    value = load_rows(v + start * stride_vn + head * stride_vh, rows, stride_vn, length, True, DV, BLOCK_DV)
    at = ((span + sequence) * H + head) * M  # a sequence has a state more than spans
    before = tl.load(lse + at + latents, mask=latents < M, other=0.0)
    state = load_rows(z + at * DV, latents, DV, M, True, DV, BLOCK_DV)
    return p, key_decode, query_decode, s, key, query, value, before, state


@triton.jit(do_not_specialize=["N", "M"])
def answer_kernel(
    q, k, v, log_weights, q_decode, k_decode, lse, z, ptr, sequences, far, y,
    N, M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    ALL: tl.constexpr, PRECISION: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """What one block of latents brings to the outputs [N, H, Dv] of a span; a part for each block."""
    far += tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    if FAR:  # noqa: SIM102 (a condition at compile time)
        if tl.load(far) == 0:
            return
    head, span, start, length, sequence = span_place(ptr, sequences, H)
    block = tl.program_id(1)
    latents = block * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = tl.arange(0, L)
    causal, _ = causal_mask(L)
    p, _, _, s, _, _, value, before, state = span_inputs(
        q, k, v, log_weights, q_decode, k_decode, lse, z, head, span, start, length, sequence, latents, M, scale,
        stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
        stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
        H, D, DV, L, BLOCK_M, BLOCK_D, BLOCK_DV, ALL, PRECISION,
    )  # fmt: skip
    if not FAR:
        read, first, total = factors(s, before)
        tl.store(far, too_far(total))
        total = tl.maximum(total, LOWEST)  # numbers everywhere, also where they are to be replaced
        share = p / total
        a = tl.dot(operand(share, PRECISION), tl.trans(operand(read, PRECISION)), input_precision=PRECISION)
        a = tl.where(causal, a, 0.0)
        old = share * first[None, :]
    else:
        a, old = one_by_one(p, s, before, causal, L, BLOCK_M)
    out = tl.dot(operand(a, PRECISION), operand(value, PRECISION), input_precision=PRECISION)
    out = tl.dot(operand(old, PRECISION), operand(state, PRECISION), out, input_precision=PRECISION)
    y += ((block.to(tl.int64) * N + start) * H + head) * DV
    store_rows(y, rows, H * DV, length, out, DV, BLOCK_DV)


@triton.jit(do_not_specialize=["N", "M"])
def answer_grad_kernel(
    q, k, v, log_weights, q_decode, k_decode, lse, z, ptr, sequences, far, y, dy,
    dq, dk, dv, dweights, dq_decode, dk_decode, dlse, dz,
    N, M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    ALL: tl.constexpr, PRECISION: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of latents in a span: of queries a part for each span, of tokens a part for each block.

    With `B_tτ = dy_t·v_τ` for τ ≤ t and `g_tm = p_tm dp_tm`:
    `dp_tm = Σ_τ exp(s_τm − l_tm) B_tτ + exp(l_m − l_tm) dy_t·Z_m`,
    `ds_τm = Σ_{t≥τ} exp(s_τm − l_tm)(p_tm B_tτ − g_tm)`.
    """
    far += tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    if FAR:  # noqa: SIM102 (a condition at compile time)
        if tl.load(far) == 0:
            return
    head, span, start, length, sequence = span_place(ptr, sequences, H)
    block = tl.program_id(1)
    latents = block * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = tl.arange(0, L)
    causal, causal_turned = causal_mask(L)
    p, key_decode, query_decode, s, key, query, value, before, state = span_inputs(
        q, k, v, log_weights, q_decode, k_decode, lse, z, head, span, start, length, sequence, latents, M, scale,
        stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
        stride_pb, stride_ph, stride_pm, stride_dn, stride_dh,
        H, D, DV, L, BLOCK_M, BLOCK_D, BLOCK_DV, ALL, PRECISION,
    )  # fmt: skip
    rows_out = (start * H + head) * DV
    slope = load_rows(dy + rows_out, rows, H * DV, length, True, DV, BLOCK_DV)
    # What is needed once comes when it is needed, or a thread would have to keep more than it has registers. And no
    # product has an accumulated one, transposed, on its left: some versions of Triton compile that wrongly.
    slope_in = operand(slope, PRECISION)
    of_state = tl.dot(slope_in, tl.trans(operand(state, PRECISION)), input_precision=PRECISION)
    if not FAR:
        read, first, total = factors(s, before)
        tl.store(far, too_far(total))
        total = tl.maximum(total, LOWEST)  # numbers everywhere, also where they are to be replaced
        share, read = operand(p / total, PRECISION), operand(read, PRECISION)
        old = share * first[None, :]
        a_turned = tl.dot(read, tl.trans(share), input_precision=PRECISION)
        a_turned = tl.where(causal_turned, a_turned, 0.0)
    else:
        b = tl.where(causal, tl.dot(slope, tl.trans(value), input_precision=PRECISION), 0.0)
        a, old, dp, ds = one_by_one_grad(p, s, before, b, of_state, causal, L, BLOCK_M)
        a_turned = tl.trans(a)
    part = block.to(tl.int64) * N + start
    dvalue = tl.dot(operand(a_turned, PRECISION), slope_in, input_precision=PRECISION)
    store_rows(dv + (part * H + head) * DV, rows, H * DV, length, dvalue, DV, BLOCK_DV)
    at = ((span + sequence) * H + head) * M
    dstate = tl.dot(tl.trans(slope_in), operand(old, PRECISION), input_precision=PRECISION)
    store_rows(dz + at * DV, latents, DV, M, tl.trans(dstate), DV, BLOCK_DV)
    gained = tl.sum(old * of_state, 0)
    if not FAR:
        b = tl.where(causal, tl.dot(slope, tl.trans(value), input_precision=PRECISION), 0.0)
        dp = tl.dot(operand(b, PRECISION), read, of_state * first[None, :], input_precision=PRECISION) / total
        p = share * total
        g = share * dp
        lost = first * tl.sum(g, 0)
        value = load_rows(v + start * stride_vn + head * stride_vh, rows, stride_vn, length, True, DV, BLOCK_DV)
        b_turned = tl.where(causal_turned, tl.dot(value, tl.trans(slope), input_precision=PRECISION), 0.0)
        ds = tl.dot(operand(b_turned, PRECISION), share, input_precision=PRECISION)
        ds = read * (ds - tl.cumsum(g, 0, reverse=True))
    else:
        lost = tl.sum(old * dp, 0)
    tl.store(dlse + at + latents, gained - lost, mask=latents < M)

    at = (span * H + head) * M
    if dweights is not None:
        tl.store(dweights + part * H + head + rows * H, tl.sum(ds, 1), mask=rows < length)
    if y is None:
        delta = tl.sum(p * dp, 1)
    else:  # the same over all blocks
        answer = load_rows(y + rows_out, rows, H * DV, length, True, DV, BLOCK_DV)
        delta = tl.sum(slope.to(tl.float32) * answer.to(tl.float32), 1)
    dt = p * (dp - delta[:, None])
    if dk_decode is None:
        ds += dt
    else:
        dkey, dquery = of_scores(dt, key_decode, query_decode, scale, PRECISION)
        store_rows(dk_decode + (part * H + head) * D, rows, H * D, length, dkey, D, BLOCK_D)
        store_rows(dq_decode + at * D, latents, D, M, dquery, D, BLOCK_D)
    key = load_rows(k + start * stride_kn + head * stride_kh, rows, stride_kn, length, True, D, BLOCK_D)
    query = load_rows(q + sequence * stride_qb + head * stride_qh, latents, stride_qm, M, True, D, BLOCK_D)
    dkey, dquery = of_scores(ds, key, query.to(key.dtype), scale, PRECISION)
    store_rows(dk + (part * H + head) * D, rows, H * D, length, dkey, D, BLOCK_D)
    store_rows(dq + at * D, latents, D, M, dquery, D, BLOCK_D)
