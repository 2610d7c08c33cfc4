"""Latents back to points: a softmax over the latents at each point."""

import triton
import triton.language as tl

from .tiles import NOTHING, chunk_rows, head_cost, load_rows, scores, store_rows


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "chunk_size", "M"])
def scatter_kernel(
    q, k, z, cost, slope, head_scale, table, y, y_rest, lse, lse_low,
    width, chunks_per_segment, chunk_size, M, scale2,
    stride_qb, stride_qh, stride_qm, stride_kn, stride_kh, stride_cn, stride_cm, stride_cs,
    H: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    ONE_BLOCK: tl.constexpr, EVEN_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of points, one head, all latents: y, and if asked for the log-sum-exp in base 2 of each point.

    `y_rest` is what rounding, of y and of the weights in its sum, took from y.
    """
    head = tl.program_id(0) % H
    chunk = tl.program_id(0) // H
    segment, start, length = chunk_rows(chunk, table, width, chunks_per_segment, chunk_size)
    q += segment.to(tl.int64) * stride_qb + head * stride_qh
    z += (segment.to(tl.int64) * H + head) * M * DV
    k += start * stride_kn + head * stride_kh
    y += (start * H + head) * DV
    if y_rest is not None:
        y_rest += (start * H + head) * DV
    if lse is not None:
        lse += start * H + head
    if lse_low is not None:
        lse_low += start * H + head
    ratio = 0.0
    if cost is not None:
        cost, ratio = head_cost(cost, slope, head_scale, head, stride_cs, scale2)
        cost += start * stride_cn
    latents = tl.arange(0, BLOCK_M)
    if ONE_BLOCK:
        query = load_rows(q, latents, stride_qm, M, True, D, BLOCK_D).to(k.dtype.element_ty)
        latent = load_rows(z, latents, DV, M, True, DV, BLOCK_DV).to(k.dtype.element_ty)
    for first in range(0, length, BLOCK_N):
        rows = first + tl.arange(0, BLOCK_N)
        key = load_rows(k, rows, stride_kn, length, True, D, BLOCK_D)
        if ONE_BLOCK:
            t = scores(
                key, query, cost, ratio, rows, stride_cn, length, latents, stride_cm, M, True, not EVEN_M, PRECISION
            )  # fmt: skip
            if not EVEN_M:
                t = tl.where((latents < M)[None, :], t, -float("inf"))
            # The scale is positive: see the gather.
            pivot = tl.maximum(tl.max(t, 1) * scale2, NOTHING)
            p = tl.exp2(t * scale2 - pivot[:, None])
            total = tl.sum(p, 1)
            rounded = p.to(latent.dtype)
            out = tl.dot(rounded, latent, input_precision=PRECISION)
            if y_rest is not None:
                rest = tl.dot((p - rounded.to(tl.float32)).to(latent.dtype), latent)
        else:
            pivot = tl.full([BLOCK_N], NOTHING, tl.float32)
            total = tl.zeros([BLOCK_N], tl.float32)
            out = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
            if y_rest is not None:
                rest = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
            for block in range(0, M, BLOCK_M):
                these = block + latents
                query = load_rows(q, these, stride_qm, M, not EVEN_M, D, BLOCK_D).to(k.dtype.element_ty)
                latent = load_rows(z, these, DV, M, not EVEN_M, DV, BLOCK_DV).to(k.dtype.element_ty)
                t = scores(
                    key, query, cost, ratio, rows, stride_cn, length, these, stride_cm, M, True, not EVEN_M, PRECISION
                )  # fmt: skip
                if not EVEN_M:
                    t = tl.where((these < M)[None, :], t, -float("inf"))
                new_pivot = tl.maximum(pivot, tl.max(t, 1) * scale2)
                p = tl.exp2(t * scale2 - new_pivot[:, None])
                shrink = tl.exp2(pivot - new_pivot)
                total = total * shrink + tl.sum(p, 1)
                rounded = p.to(latent.dtype)
                out = tl.dot(rounded, latent, out * shrink[:, None], input_precision=PRECISION)
                if y_rest is not None:
                    rest = tl.dot((p - rounded.to(tl.float32)).to(latent.dtype), latent, rest * shrink[:, None])
                pivot = new_pivot
        empty = total == 0.0
        safe = tl.where(empty, 1.0, total)
        out *= (1.0 / safe)[:, None]
        store_rows(y, rows, H * DV, length, out, DV, BLOCK_DV)
        if y_rest is not None:
            out -= out.to(y.dtype.element_ty).to(tl.float32)
            store_rows(y_rest, rows, H * DV, length, out + rest * (1.0 / safe)[:, None], DV, BLOCK_DV)
        if lse is not None:
            if lse_low is not None:
                tl.store(lse_low + rows * H, tl.log2(safe), mask=rows < length)
            else:
                pivot += tl.log2(safe)
            tl.store(lse + rows * H, tl.where(empty, float("inf"), pivot), mask=rows < length)
