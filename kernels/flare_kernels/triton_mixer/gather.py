"""Points into latents: partial softmaxes over chunks of points, and their merge."""

import triton
import triton.language as tl

from .tiles import LOG2_E, NOTHING, block_program, chunk_rows, head_cost, load_numbers, load_rows, scores, store_rows


@triton.jit
def split_parts(parts, pieces, DV: tl.constexpr):
    """Where the partial z [pieces, DV], pivots [pieces] and sums [pieces] of a workspace start."""
    pivots = parts + pieces.to(tl.int64) * DV
    return parts, pivots, pivots + pieces


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "chunk_size", "M", "pieces"])
def gather_kernel(
    q, k, v, log_weights, cost, slope, head_scale, table, parts,
    width, chunks_per_segment, chunk_size, M, pieces, scale2,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_vn, stride_vh, stride_cn, stride_cm, stride_cs,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    EVEN_M: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One chunk of points, one head, one block of latents: `Σ exp2(t − pivot) v`, `Σ exp2(t − pivot)`, the pivot."""
    head, chunk, latents = block_program(M, H, BLOCK_M)
    segment, start, length = chunk_rows(chunk, table, width, chunks_per_segment, chunk_size)
    q += segment.to(tl.int64) * stride_qb + head * stride_qh
    query = load_rows(q, latents, stride_qm, M, True, D, BLOCK_D).to(k.dtype.element_ty)
    k += start * stride_kn + head * stride_kh
    v += start * stride_vn + head * stride_vh
    ratio = 0.0
    if log_weights is not None:
        log_weights += start
    if cost is not None:
        cost, ratio = head_cost(cost, slope, head_scale, head, stride_cs, scale2)
        cost += start * stride_cn

    pivot = tl.full([BLOCK_M], NOTHING, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    z = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    whole = length // BLOCK_N * BLOCK_N
    # Whole tiles first, without masks; then the rest, if there is one.
    for rest in tl.static_range(2):
        for first in tl.range(rest * whole, length if rest else whole, BLOCK_N, num_stages=1 if rest else STAGES):
            rows = first + tl.arange(0, BLOCK_N)
            key = load_rows(k, rows, stride_kn, length, rest == 1, D, BLOCK_D)
            value = load_rows(v, rows, stride_vn, length, rest == 1, DV, BLOCK_DV)
            t = scores(
                query, key, cost, ratio,
                latents, stride_cm, M, rows, stride_cn, length, not EVEN_M, rest == 1, PRECISION,
            )  # fmt: skip
            if rest == 1:
                t = tl.where((rows < length)[None, :], t, -float("inf"))
            if log_weights is None:
                # The scale is positive: the largest score is the scale times the largest product, and a score less
                # its pivot takes one fused multiply-add.
                new_pivot = tl.maximum(pivot, tl.max(t, 1) * scale2)
                p = tl.exp2(t * scale2 - new_pivot[:, None])
            else:
                weight = load_numbers(log_weights, rows, 1, length, 0.0, rest == 1).to(tl.float32)
                t = t * scale2 + (weight * LOG2_E)[None, :]
                new_pivot = tl.maximum(pivot, tl.max(t, 1))
                p = tl.exp2(t - new_pivot[:, None])
            shrink = tl.exp2(pivot - new_pivot)
            total = total * shrink + tl.sum(p, 1)
            z = tl.dot(p.to(value.dtype), value, z * shrink[:, None], input_precision=PRECISION)
            pivot = new_pivot

    out = (chunk * H + head).to(tl.int64) * M
    part_z, part_pivot, part_sum = split_parts(parts, pieces, DV)
    store_rows(part_z + out * DV, latents, DV, M, z, DV, BLOCK_DV)
    tl.store(part_pivot + out + latents, pivot, mask=latents < M)
    tl.store(part_sum + out + latents, total, mask=latents < M)


@triton.jit
def merge_chunks(
    pivot, total, sums, parts, pieces, offsets, chunks_per_segment, segment, head, latents, M,
    H: tl.constexpr, DV: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Take a segment's chunks of one workspace into a running (pivot, total, sums), in order."""
    if offsets is None:
        first = segment * chunks_per_segment
        last = first + chunks_per_segment
    else:
        first = tl.load(offsets + segment).to(tl.int32)
        last = tl.load(offsets + segment + 1).to(tl.int32)
    dims = tl.arange(0, BLOCK_DV)
    part_z, part_pivot, part_sum = split_parts(parts, pieces, DV)
    for chunk in range(first, last, BLOCK_C):
        chunks = chunk + tl.arange(0, BLOCK_C)
        at = (chunks * H + head).to(tl.int64)[:, None] * M + latents[None, :]
        mask = (chunks < last)[:, None] & (latents < M)[None, :]
        part = tl.load(part_pivot + at, mask=mask, other=NOTHING)
        tiles = part_z + at[:, :, None] * DV + dims[None, None, :]
        tile = tl.load(tiles, mask=mask[:, :, None] & (dims < DV)[None, None, :], other=0.0)
        new_pivot = tl.maximum(pivot, tl.max(part, 0))
        weight = tl.exp2(part - new_pivot[None, :])
        shrink = tl.exp2(pivot - new_pivot)
        total = total * shrink + tl.sum(weight * tl.load(part_sum + at, mask=mask, other=0.0), 0)
        sums = sums * shrink[:, None] + tl.sum(weight[:, :, None] * tile, 0)
        pivot = new_pivot
    return pivot, total, sums


@triton.jit(do_not_specialize=["chunks_per_segment", "pieces", "token_chunks_per_segment", "token_pieces", "M"])
def merge_kernel(
    parts, offsets, token_parts, token_offsets, z, lse, lse_low,
    chunks_per_segment, pieces, token_chunks_per_segment, token_pieces, M,
    H: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """All chunks of one segment: z, and its log-sum-exp in base 2 (+∞ where nothing has weight)."""
    num_blocks = tl.cdiv(M, BLOCK_M)
    pair = tl.program_id(0) // num_blocks
    segment = pair // H
    head = pair % H
    latents = (tl.program_id(0) % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    pivot = tl.full([BLOCK_M], NOTHING, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    pivot, total, sums = merge_chunks(
        pivot, total, sums, parts, pieces, offsets, chunks_per_segment, segment, head, latents, M,
        H, DV, BLOCK_C, BLOCK_DV,
    )  # fmt: skip
    if token_parts is not None:
        pivot, total, sums = merge_chunks(
            pivot, total, sums, token_parts, token_pieces, token_offsets, token_chunks_per_segment, segment, head,
            latents, M, H, DV, BLOCK_C, BLOCK_DV,
        )  # fmt: skip
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    out = pair.to(tl.int64) * M
    store_rows(z + out * DV, latents, DV, M, sums / safe[:, None], DV, BLOCK_DV)
    if lse_low is not None:
        tl.store(lse_low + out + latents, tl.log2(safe), mask=latents < M)
    else:
        pivot += tl.log2(safe)
    tl.store(lse + out + latents, tl.where(empty, float("inf"), pivot), mask=latents < M)
