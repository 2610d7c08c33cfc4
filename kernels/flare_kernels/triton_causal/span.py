"""Groups of spans as a whole: the states before and after, and what the gradient of a state after a group brings to it.

A sequence is cut into groups of spans of at most L tokens. A program takes one group, one head and one block of
latents, and goes along its spans. Every exponent is at most 0.
"""

import triton
import triton.language as tl

from ..triton_mixer.tiles import load_rows, store_rows
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
    places,
    power,
    product,
    product_and,
    product_of_parts,
    raw_scores,
)


@triton.jit(do_not_specialize=["M"])
def span_kernel(
    q, k, v, log_weights, first_lse, first_z, ptr, sequences, spans,
    lse, z, totals, ends, end_totals, last, last_totals,
    M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """What each group alone brings; or, from the states before groups, those before each of their spans.

    The latter are means, turned, and log-sum-exps in two parts: pivots `lse`, in the base of scores, and `totals`. And
    there are log-sum-exps after spans, `ends`, and after groups, `last`.
    """
    EXACT: tl.constexpr = k.dtype.element_ty == tl.float32
    head, group, start, length, sequence = group_place(ptr, sequences, H)
    latents = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    q, k, v = group_rows(
        q, k, v, sequence, start, head, stride_qb, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh
    )  # fmt: skip
    if log_weights is not None:
        log_weights += start
    if first_lse is None:
        pivot = tl.full([BLOCK_M], -float("inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_DV, BLOCK_M], tl.float32)
    else:  # a sequence has a state more than groups
        at = ((group + sequence) * H + head) * M
        pivot, total, sums = load_state(first_lse, first_z, at, latents, M, DV, BLOCK_M, BLOCK_DV, EXACT)
        row = tl.load(spans + group)
    query = load_query(q, latents, stride_qm, M, k, D, BLOCK_D)
    for i in tl.range(0, tl.cdiv(length, L), num_stages=STAGES, disable_licm=True):
        rows = i * L + tl.arange(0, L)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        value = load_rows(v, rows, stride_vn, length, True, DV, BLOCK_DV)
        if first_lse is not None:
            to_pivot, to_total, to_means = places(lse, totals, z, row + i, head, H, BLOCK_M, BLOCK_DV)
            tl.store(to_pivot, pivot)
            tl.store(to_total, total)
            tl.store(to_means, means_of(sums, total, EXACT))
        s = raw_scores(key, query, latents, M, scale, EVEN, EXACT, PRECISION)
        s += biases(log_weights, rows, length, EXACT)[:, None]
        pivot, read, kept = factors(s, pivot, EXACT)
        total = total * kept + tl.sum(read, 0)
        sums = add_values(sums * kept[None, :], value, read, BLOCK_M, BLOCK_DV, PRECISION)
        if first_lse is not None:
            to_pivot, to_total, _ = places(ends, end_totals, z, row + i, head, H, BLOCK_M, BLOCK_DV)
            tl.store(to_pivot, pivot)
            tl.store(to_total, total)
    at = (group * H + head) * M
    if first_lse is None:
        tl.store(lse + at + latents, logarithm(pivot, total, EXACT), mask=latents < M)
        store_rows(z + at * DV, latents, DV, M, tl.trans(means_of(sums, total, EXACT)), DV, BLOCK_DV)
    else:
        tl.store(last + at + latents, pivot, mask=latents < M)
        tl.store(last_totals + at + latents, total, mask=latents < M)


@triton.jit(do_not_specialize=["N", "M"])
def group_grad_kernel(
    q, k, v, log_weights, last, last_totals, ptr, sequences, dtotal, dz, dq, dk, dv, dweights,
    N, M, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Adds what the gradient of the state after a group brings to its tokens and queries.

    With `w_τm = exp(s_τm − l_m)` of the state l after the group: `dv_τ = Σ_m w_τm dz_m`,
    `ds_τm = w_τm (v_τ·dz_m + dtotal_m)`; `carry_kernel` says what `dtotal` is.
    """
    EXACT: tl.constexpr = k.dtype.element_ty == tl.float32
    # In float16 as the gather does, since no weight is above 1; but see `add_values`.
    HALF: tl.constexpr = "fp16" if k.dtype.element_ty == tl.float16 and (BLOCK_D < 64 or BLOCK_M >= 64) else PRECISION
    COARSE: tl.constexpr = "bf16" if k.dtype.element_ty == tl.bfloat16 else HALF
    head, group, start, length, sequence = group_place(ptr, sequences, H)
    block = tl.program_id(1)
    latents = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q, k, v = group_rows(
        q, k, v, sequence, start, head, stride_qb, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh
    )  # fmt: skip
    part = (block.to(tl.int64) * N + start) * H + head
    dk += part * D
    dv += part * DV
    if log_weights is not None:
        log_weights += start
        dweights += part
    at = (group * H + head) * M
    after = tl.load(last + at + latents, mask=latents < M, other=0.0)
    after = tl.where(after == -float("inf"), 0.0, after)
    total = tl.load(last_totals + at + latents, mask=latents < M, other=1.0)
    share = 1.0 / tl.where(total == 0.0, 1.0, total)
    of_total = tl.load(dtotal + at + latents, mask=latents < M, other=0.0)
    dstate = operand(load_rows(dz + at * DV, latents, DV, M, True, DV, BLOCK_DV), COARSE)
    query = load_query(q, latents, stride_qm, M, k, D, BLOCK_D)
    dquery = tl.trans(load_rows(dq + at * D, latents, D, M, True, D, BLOCK_D))
    for i in tl.range(0, tl.cdiv(length, L), num_stages=STAGES, disable_licm=True):
        rows = i * L + tl.arange(0, L)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        value = operand(load_rows(v, rows, stride_vn, length, True, DV, BLOCK_DV), COARSE)
        dvalue = load_rows(dv, rows, H * DV, length, True, DV, BLOCK_DV).to(tl.float32)
        dkey = load_rows(dk, rows, H * D, length, True, D, BLOCK_D).to(tl.float32)
        s = raw_scores(key, query, latents, M, scale, EVEN, EXACT, PRECISION)
        s += biases(log_weights, rows, length, EXACT)[:, None]
        w = power(s - after[None, :], EXACT) * share[None, :]
        dvalue = product_and(dvalue, operand(w, COARSE), dstate, COARSE)
        store_rows(dv, rows, H * DV, length, dvalue, DV, BLOCK_DV)
        ds = w * (product(value, tl.trans(dstate), COARSE) + of_total[None, :])
        if log_weights is not None:
            place = dweights + rows * H
            of_weights = tl.load(place, mask=rows < length, other=0.0) + tl.sum(ds, 1)
            tl.store(place, of_weights, mask=rows < length)
        ds *= scale
        dkey = product_of_parts(dkey, ds, operand(query, COARSE), COARSE)
        store_rows(dk, rows, H * D, length, dkey, D, BLOCK_D)
        dquery = product_and(dquery, tl.trans(operand(key, COARSE)), operand(ds, COARSE), COARSE)
    store_rows(dq + at * D, latents, D, M, tl.trans(dquery), D, BLOCK_D)
