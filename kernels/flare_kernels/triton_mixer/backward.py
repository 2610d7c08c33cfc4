"""Two passes over the points: the gradient of the latents, then those of keys, values, queries and slopes.

`kernels/README.md` has the equations. A program keeps what it sums over points to itself; `sum_kernel` adds in order.
"""

import triton
import triton.language as tl

from .tiles import (
    LARGEST,
    LOG2_E,
    block_program,
    chunk_rows,
    head_cost,
    load_cost,
    load_numbers,
    load_rows,
    products,
    scores,
    store_rows,
    weight_of,
)


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "chunk_size", "M"])
def latent_grad_kernel(
    q, k, dy, lse, lse_low, cost, slope, head_scale, table, part_dz,
    width, chunks_per_segment, chunk_size, M, scale2,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_yn, stride_yh, stride_cn, stride_cm, stride_cs,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    EVEN_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`dZ = Pdᵀ dY` of one chunk, one head, one block of latents."""
    head, chunk, latents = block_program(M, H, BLOCK_M)
    segment, start, length = chunk_rows(chunk, table, width, chunks_per_segment, chunk_size)
    q += segment.to(tl.int64) * stride_qb + head * stride_qh
    query = load_rows(q, latents, stride_qm, M, True, D, BLOCK_D).to(k.dtype.element_ty)
    k += start * stride_kn + head * stride_kh
    dy += start * stride_yn + head * stride_yh
    lse += start * H + head
    if lse_low is not None:
        lse_low += start * H + head
    ratio = 0.0
    if cost is not None:
        cost, ratio = head_cost(cost, slope, head_scale, head, stride_cs, scale2)
        cost += start * stride_cn
    dz = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    for first in range(0, length, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        grad = load_rows(dy, rows, stride_yn, length, True, DV, BLOCK_DV)
        t = scores(
            query, key, cost, ratio, latents, stride_cm, M, rows, stride_cn, length, not EVEN_M, True, PRECISION
        )  # fmt: skip
        t *= scale2
        # A row outside weighs nothing.
        low = None
        if lse_low is not None:
            low = load_numbers(lse_low, rows, H, length, 0.0, True)[None, :]
        p = weight_of(t, load_numbers(lse, rows, H, length, float("inf"), True)[None, :], low)
        dz = tl.dot(p.to(grad.dtype), grad, dz, input_precision=PRECISION)
    out = (chunk * H + head).to(tl.int64) * M * DV
    store_rows(part_dz + out, latents, DV, M, dz, DV, BLOCK_DV)


@triton.jit
def score_tile(
    key, query, price, ratio, scale2, rows, end_rows, MASK_ROWS: tl.constexpr, latents, M, EVEN_M: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores, −∞ outside: keys there are 0, and so are their scores, whose weight could overflow."""
    t = products(key, query, price, ratio, PRECISION)
    if not EVEN_M:
        t = tl.where((latents < M)[None, :], t, -float("inf"))
    if MASK_ROWS:
        t = tl.where((rows < end_rows)[:, None], t, -float("inf"))
    return t * scale2


@triton.jit
def decode_grad(t, dy, latent, lse, low, delta, PRECISION: tl.constexpr):
    """The scatter's dS: `Pd∘(dY Zᵀ − δn)`; δn from the tile where all latents are in it, else as given."""
    p = weight_of(t, lse, low)
    dp = tl.dot(dy, tl.trans(latent), input_precision=PRECISION)
    if delta is None:
        delta = tl.sum(p * dp, 1)
    return p * (dp - delta[:, None])


@triton.jit
def encode_grad(t, value, dlatent, lse, low, delta, PRECISION: tl.constexpr):
    """Pe and dS of the gather: `Pe∘(V dZᵀ − δm)`."""
    p = weight_of(t, lse, low)
    return p, p * (tl.dot(value, tl.trans(dlatent), input_precision=PRECISION) - delta[None, :])


@triton.jit
def load_latents(
    z, dz, delta, lse, k, latents, M, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr,
    ONE_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The dZ in the element type of `k`, δm, and lse. With one block `delta` is added to `δm = rowsum(dZ∘Z)`.

    δm is of the dZ that was rounded for the products: in `V dZᵀ − δm` the two must cancel where a weight is near 1. In
    float32 it is summed in the order of that product too: what belongs to one point alone then cancels to the last bit.
    """
    dlatent = load_rows(dz, latents, DV, M, True, DV, BLOCK_DV).to(k.dtype.element_ty)
    if ONE_BLOCK:
        latent = load_rows(z, latents, DV, M, True, DV, BLOCK_DV)
        if k.dtype.element_ty == tl.float32:
            pairs = tl.dot(latent, tl.trans(dlatent), input_precision=PRECISION)
            places = tl.arange(0, BLOCK_M)
            delta_m = tl.sum(tl.where(places[:, None] == places[None, :], pairs, 0.0), 0)
        else:
            delta_m = tl.sum(dlatent.to(tl.float32) * latent, 1)
        if delta is not None:
            delta_m += tl.load(delta + latents, mask=latents < M, other=0.0)
    else:
        delta_m = tl.load(delta + latents, mask=latents < M, other=0.0)
    return dlatent, delta_m, tl.load(lse + latents, mask=latents < M, other=float("inf"))[None, :]


@triton.jit
def query_parts(base, latents, dims, M, D: tl.constexpr, UPRIGHT: tl.constexpr):
    """Where a tile of dq is, [latents, dims] or transposed, and which of it there is."""
    if UPRIGHT:
        places = base + latents[:, None] * D + dims[None, :]
        live = (latents < M)[:, None] & (dims < D)[None, :]
    else:
        places = base + latents[None, :] * D + dims[:, None]
        live = (latents < M)[None, :] & (dims < D)[:, None]
    return places, live


@triton.jit
def query_grad(key, ds, before, UPRIGHT: tl.constexpr, PRECISION: tl.constexpr):
    """`dSᵀ K`, or its transpose, added to what was before."""
    if UPRIGHT:
        grad = tl.dot(tl.trans(ds), key, before, input_precision=PRECISION)
    else:
        grad = tl.dot(tl.trans(key), ds, before, input_precision=PRECISION)
    return grad


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "chunk_size", "M"])
def point_grad_kernel(
    q, k, v, dy, y, y_rest, z, z_read, dz, lse_latents, low_latents, lse_points, low_points, delta, log_weights,
    cost_encode, slope_encode, scale_encode, cost_decode, slope_decode, scale_decode, table,
    dk, dv, part_dq, dweights, part_slope_encode, part_slope_decode,
    width, chunks_per_segment, chunk_size, M, scale2, scale,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh, stride_yn, stride_yh,
    stride_en, stride_em, stride_es, stride_dn, stride_dm, stride_ds,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    ENCODE: tl.constexpr, DECODE: tl.constexpr, SHARED_COST: tl.constexpr,
    ONE_BLOCK: tl.constexpr, EVEN_M: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk of points and one head through the gather (ENCODE), the scatter (DECODE) or both.

    `z_read` is what the gather gave, where the scatter has taken another z.

    Latents come in one block, kept throughout, or in several; with several, this program's part of dq is kept in its
    own slice of `part_dq`, read and written once for each tile of points.
    """
    head = tl.program_id(0) % H
    chunk = tl.program_id(0) // H
    segment, start, length = chunk_rows(chunk, table, width, chunks_per_segment, chunk_size)
    latent_base = (segment.to(tl.int64) * H + head) * M
    q += segment.to(tl.int64) * stride_qb + head * stride_qh
    z += latent_base * DV
    if z_read is not None:
        z_read += latent_base * DV
    k += start * stride_kn + head * stride_kh
    dk += (start * H + head) * D
    part_dq += (chunk * H + head).to(tl.int64) * M * D
    offsets = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    # dq is kept transposed: then the product that was computed is its second factor, and the loaded one is turned.
    # Not so where that makes it 64 or more high and less than 64 wide, which Triton 3.6 gets wrong on Hopper.
    UPRIGHT: tl.constexpr = BLOCK_M < 64 and BLOCK_D >= 64
    if ONE_BLOCK:
        # A loop that the compiler sees to have one turn is no loop.
        end: tl.constexpr = BLOCK_M
        query = load_rows(q, offsets, stride_qm, M, True, D, BLOCK_D).to(k.dtype.element_ty)
        dq = tl.zeros([BLOCK_M, BLOCK_D] if UPRIGHT else [BLOCK_D, BLOCK_M], tl.float32)
    else:
        end = M
    low_m = None
    ratio_encode, ratio_decode = 0.0, 0.0
    if ENCODE:
        v += start * stride_vn + head * stride_vh
        dv += (start * H + head) * DV
        dz += latent_base * DV
        lse_latents += latent_base
        if low_latents is not None:
            low_latents += latent_base
        if delta is not None:
            delta += latent_base
        if log_weights is not None:
            log_weights += start
        if dweights is not None:
            dweights += start * H + head
        if cost_encode is not None:
            cost_encode, ratio_encode = head_cost(cost_encode, slope_encode, scale_encode, head, stride_es, scale2)
            cost_encode += start * stride_en
            slope_sum_encode = tl.zeros([BLOCK_N], tl.float32)
        if ONE_BLOCK:
            dlatent, delta_m, lse_m = load_latents(
                z if z_read is None else z_read, dz, delta, lse_latents, k, offsets, M, DV, BLOCK_M, BLOCK_DV,
                ONE_BLOCK, PRECISION,
            )  # fmt: skip
            if low_latents is not None:
                low_m = tl.load(low_latents + offsets, mask=offsets < M, other=0.0)[None, :]
    if DECODE:
        dy += start * stride_yn + head * stride_yh
        lse_points += start * H + head
        if low_points is not None:
            low_points += start * H + head
        if ONE_BLOCK:
            latent = load_rows(z, offsets, DV, M, True, DV, BLOCK_DV).to(k.dtype.element_ty)
        else:
            y += (start * H + head) * DV
            if y_rest is not None:
                y_rest += (start * H + head) * DV
        if cost_decode is not None:
            cost_decode, ratio_decode = head_cost(cost_decode, slope_decode, scale_decode, head, stride_ds, scale2)
            cost_decode += start * stride_dn
            slope_sum_decode = tl.zeros([BLOCK_N], tl.float32)
    whole = length // BLOCK_N * BLOCK_N
    # Whole tiles first, without masks; then the rest, if there is one.
    for rest in tl.static_range(2):
        for first in tl.range(
            rest * whole, length if rest else whole, BLOCK_N, num_stages=1 if rest or not ONE_BLOCK else STAGES
        ):
            rows = first + tl.arange(0, BLOCK_N)
            key = load_rows(k, rows, stride_kn, length, rest == 1, D, BLOCK_D)
            dkey = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            if DECODE:
                grad = load_rows(dy, rows, stride_yn, length, rest == 1, DV, BLOCK_DV)
                lse_n = load_numbers(lse_points, rows, H, length, float("inf"), rest == 1)[:, None]
                low_n = None
                if low_points is not None:
                    low_n = load_numbers(low_points, rows, H, length, 0.0, rest == 1)[:, None]
                delta_n = None
                if not ONE_BLOCK:
                    out = load_rows(y, rows, H * DV, length, rest == 1, DV, BLOCK_DV).to(tl.float32)
                    if y_rest is not None:
                        out += load_rows(y_rest, rows, H * DV, length, rest == 1, DV, BLOCK_DV).to(tl.float32)
                    delta_n = tl.sum(out * grad.to(tl.float32), 1)
            if ENCODE:
                value = load_rows(v, rows, stride_vn, length, rest == 1, DV, BLOCK_DV)
                dvalue = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
                if log_weights is not None:
                    weight = load_numbers(log_weights, rows, 1, length, 0.0, rest == 1).to(tl.float32)
                    weight *= LOG2_E
                if dweights is not None:
                    dweight = tl.zeros([BLOCK_N], tl.float32)
            for block in tl.range(0, end, BLOCK_M, num_stages=1 if ONE_BLOCK else STAGES):
                latents = block + offsets
                if not ONE_BLOCK:
                    # Asked for early: what a turn needs is on its way while the last one computes. Within one tile of
                    # points no block is visited twice, so that loading ahead never reads what is still to be written.
                    parts, live = query_parts(part_dq, latents, dims, M, D, UPRIGHT)
                    before = tl.load(parts, mask=live & (first > 0), other=0.0)
                    query = load_rows(q, latents, stride_qm, M, not EVEN_M, D, BLOCK_D).to(k.dtype.element_ty)
                if cost_encode is None and cost_decode is None:
                    t_encode = score_tile(
                        key, query, None, 0.0, scale2, rows, length, rest == 1, latents, M, EVEN_M, PRECISION
                    )  # fmt: skip
                    t_decode = t_encode
                if DECODE:
                    if not ONE_BLOCK:
                        latent = load_rows(z, latents, DV, M, not EVEN_M, DV, BLOCK_DV).to(k.dtype.element_ty)
                    if cost_decode is not None:
                        price_decode = load_cost(
                            cost_decode, rows, stride_dn, length, latents, stride_dm, M, rest == 1, not EVEN_M
                        )
                        t_decode = score_tile(
                            key, query, price_decode, ratio_decode, scale2,
                            rows, length, rest == 1, latents, M, EVEN_M, PRECISION,
                        )  # fmt: skip
                    ds = decode_grad(t_decode, grad, latent, lse_n, low_n, delta_n, PRECISION)
                    if cost_decode is not None:
                        slope_sum_decode += tl.sum(ds * tl.minimum(price_decode, LARGEST), 1)
                if ENCODE:
                    if not ONE_BLOCK:
                        dlatent, delta_m, lse_m = load_latents(
                            z, dz, delta, lse_latents, k, latents, M, DV, BLOCK_M, BLOCK_DV, ONE_BLOCK, PRECISION
                        )
                    # A name of its own: one that a loop changes must be a tensor before it too.
                    low = low_m
                    if not ONE_BLOCK and low_latents is not None:
                        low = tl.load(low_latents + latents, mask=latents < M, other=0.0)[None, :]
                    if cost_encode is not None:
                        if SHARED_COST:
                            price_encode = price_decode
                        else:
                            price_encode = load_cost(
                                cost_encode, rows, stride_en, length, latents, stride_em, M, rest == 1, not EVEN_M
                            )
                        t_encode = score_tile(
                            key, query, price_encode, ratio_encode, scale2,
                            rows, length, rest == 1, latents, M, EVEN_M, PRECISION,
                        )  # fmt: skip
                    if log_weights is not None:
                        t_encode += weight[:, None]
                    p, ds_encode = encode_grad(t_encode, value, dlatent, lse_m, low, delta_m, PRECISION)
                    dvalue = tl.dot(p.to(value.dtype), dlatent, dvalue, input_precision=PRECISION)
                    if dweights is not None:
                        dweight += tl.sum(ds_encode, 1)
                    if cost_encode is not None:
                        slope_sum_encode += tl.sum(ds_encode * tl.minimum(price_encode, LARGEST), 1)
                    if DECODE:
                        ds += ds_encode
                    else:
                        ds = ds_encode
                ds_cast = ds.to(key.dtype)
                dkey = tl.dot(ds_cast, query, dkey, input_precision=PRECISION)
                if ONE_BLOCK:
                    dq = query_grad(key, ds_cast, dq, UPRIGHT, PRECISION)
                else:
                    tl.store(parts, before + query_grad(key, ds_cast, None, UPRIGHT, PRECISION), mask=live)
            if not ONE_BLOCK:
                tl.debug_barrier()
            store_rows(dk, rows, H * D, length, dkey * scale, D, BLOCK_D)
            if ENCODE:
                store_rows(dv, rows, H * DV, length, dvalue, DV, BLOCK_DV)
                if dweights is not None:
                    tl.store(dweights + rows * H, dweight, mask=rows < length)
    if ONE_BLOCK:
        parts, live = query_parts(part_dq, offsets, dims, M, D, UPRIGHT)
        tl.store(parts, dq, mask=live)
    elif length <= 0:
        for at in range(0, M * D, BLOCK_M):
            tl.store(part_dq + at + offsets, tl.zeros([BLOCK_M], tl.float32), mask=at + offsets < M * D)
    # One condition inside the other: the second names what does not exist without the first.
    if ENCODE:  # noqa: SIM102
        if cost_encode is not None:
            tl.store(part_slope_encode + chunk * H + head, -tl.sum(slope_sum_encode, 0))
    if DECODE:  # noqa: SIM102
        if cost_decode is not None:
            tl.store(part_slope_decode + chunk * H + head, -tl.sum(slope_sum_decode, 0))


@triton.jit(do_not_specialize=["chunks_per_segment", "step", "row"])
def sum_kernel(
    parts, offsets, out, chunks_per_segment, step, row, factor, BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr
):
    """Add the parts of the chunks of each `step` segments, in order, times a factor."""
    columns = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    group = tl.program_id(1)
    if offsets is None:
        first = group * step * chunks_per_segment
        last = first + step * chunks_per_segment
    else:
        first = tl.load(offsets + group * step).to(tl.int32)
        last = tl.load(offsets + (group + 1) * step).to(tl.int32)
    sums = tl.zeros([BLOCK_X], tl.float32)
    for chunk in range(first, last, BLOCK_C):
        chunks = chunk + tl.arange(0, BLOCK_C)
        pointers = parts + chunks.to(tl.int64)[:, None] * row + columns[None, :]
        sums += tl.sum(tl.load(pointers, mask=(chunks < last)[:, None] & (columns < row)[None, :], other=0.0), 0)
    tl.store(out + group.to(tl.int64) * row + columns, (sums * factor).to(out.dtype.element_ty), mask=columns < row)
