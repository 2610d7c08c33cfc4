"""Points into latents: partial softmaxes over chunks of points, and their merge."""

import triton
import triton.language as tl

from .tiles import NOTHING, chunk_rows, head_cost, load_rows, store_rows


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "M"])
def gather_kernel(
    q, k, v, log_weights, cost, slope, head_scale, table, part_z, part_pivot, part_sum,
    width, chunks_per_segment, M, scale2,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh, stride_cn, stride_cm, stride_cs,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of points, one head, one block of latents: `Σ exp2(t − pivot) v`, `Σ exp2(t − pivot)`, the pivot."""
    # Heads vary fastest: the programs that run side by side then read the same rows of k, v and cost.
    head = tl.program_id(0) % H
    rest = tl.program_id(0) // H
    num_blocks = tl.cdiv(M, BLOCK_M)
    chunk = rest // num_blocks
    latents = (rest % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    segment, start, length = chunk_rows(chunk, table, width, chunks_per_segment, CHUNK)
    query = load_rows(
        q + segment.to(tl.int64) * stride_qb + head * stride_qh, latents, stride_qm, latents < M, D, BLOCK_D
    )
    query = query.to(k.dtype.element_ty)
    k += start * stride_kn + head * stride_kh
    v += start * stride_vn + head * stride_vh
    if log_weights is not None:
        log_weights += start
    if cost is not None:
        cost, slope2 = head_cost(cost, slope, head_scale, head, stride_cs)
        cost += start * stride_cn

    pivot = tl.full([BLOCK_M], NOTHING, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    z = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    for first in range(0, length, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        inside = rows < length
        key = load_rows(k, rows, stride_kn, inside, D, BLOCK_D)
        value = load_rows(v, rows, stride_vn, inside, DV, BLOCK_DV)
        t = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if cost is None and log_weights is None:
            # The scale is positive, so the largest score is the scale times the largest product, and a score less
            # its pivot takes one fused multiply-add. Only the last tile has rows outside.
            if first + BLOCK_N > length:
                t = tl.where(inside[None, :], t, -float("inf"))
            new_pivot = tl.maximum(pivot, tl.max(t, 1) * scale2)
            p = tl.exp2(t * scale2 - new_pivot[:, None])
        else:
            if log_weights is None:
                t = tl.where(inside[None, :], t * scale2, -float("inf"))
            else:
                weight = tl.load(log_weights + rows, mask=inside, other=-float("inf")).to(tl.float32)
                t = t * scale2 + (weight * 1.4426950408889634)[None, :]
            if cost is not None:
                pointers = cost + rows[None, :] * stride_cn + latents[:, None] * stride_cm
                mask = inside[None, :] & (latents < M)[:, None]
                t -= slope2 * tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
            new_pivot = tl.maximum(pivot, tl.max(t, 1))
            p = tl.exp2(t - new_pivot[:, None])
        shrink = tl.exp2(pivot - new_pivot)
        total = total * shrink + tl.sum(p, 1)
        z = tl.dot(p.to(value.dtype), value, z * shrink[:, None], input_precision=PRECISION)
        pivot = new_pivot

    out = (chunk * H + head).to(tl.int64) * M
    store_rows(part_z + out * DV, latents, DV, latents < M, z, DV, BLOCK_DV)
    tl.store(part_pivot + out + latents, pivot, mask=latents < M)
    tl.store(part_sum + out + latents, total, mask=latents < M)


@triton.jit(do_not_specialize=["chunks_per_segment", "M"])
def merge_kernel(
    part_z, part_pivot, part_sum, offsets, z, lse, chunks_per_segment, M,
    H: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """All chunks of one segment, in order: z, and its log-sum-exp in base 2 (−∞ where nothing has weight)."""
    num_blocks = tl.cdiv(M, BLOCK_M)
    pair = tl.program_id(0) // num_blocks
    segment = pair // H
    head = pair % H
    latents = (tl.program_id(0) % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = latents < M
    if offsets is None:
        first = segment * chunks_per_segment
        last = first + chunks_per_segment
    else:
        first = tl.load(offsets + segment).to(tl.int32)
        last = tl.load(offsets + segment + 1).to(tl.int32)
    pivot = tl.full([BLOCK_M], NOTHING, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    dims = tl.arange(0, BLOCK_DV)
    for chunk in range(first, last, BLOCK_C):
        chunks = chunk + tl.arange(0, BLOCK_C)
        at = (chunks * H + head).to(tl.int64)[:, None] * M + latents[None, :]
        mask = (chunks < last)[:, None] & inside[None, :]
        part = tl.load(part_pivot + at, mask=mask, other=NOTHING)
        tiles = part_z + at[:, :, None] * DV + dims[None, None, :]
        tile = tl.load(tiles, mask=mask[:, :, None] & (dims < DV)[None, None, :], other=0.0)
        new_pivot = tl.maximum(pivot, tl.max(part, 0))
        weight = tl.exp2(part - new_pivot[None, :])
        shrink = tl.exp2(pivot - new_pivot)
        total = total * shrink + tl.sum(weight * tl.load(part_sum + at, mask=mask, other=0.0), 0)
        sums = sums * shrink[:, None] + tl.sum(weight[:, :, None] * tile, 0)
        pivot = new_pivot
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    out = pair.to(tl.int64) * M
    store_rows(z + out * DV, latents, DV, inside, sums / safe[:, None], DV, BLOCK_DV)
    tl.store(lse + out + latents, tl.where(empty, -float("inf"), pivot + tl.log2(safe)), mask=inside)
