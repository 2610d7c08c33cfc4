"""One token more of each sequence: its score, what latents know after it, and what it reads of them, in one go.

A program takes a head of a sequence with all of its latents, a block at a time, and overwrites their state in place.
No two programs share a head: each would read log-sum-exps that the other has overwritten already, or would have to
wait for it. Scores are sums and not matrix products, of which one row in sixteen would be used.
"""

import triton
import triton.language as tl

from ..triton_mixer.tiles import load_numbers, load_rows, store_rows
from .scan import joined


@triton.jit
def decode_kernel(
    q, k, v, log_weights, q_decode, k_decode, lse, z, y,
    scale,
    stride_qb, stride_qh, stride_qm, stride_kb, stride_kh, stride_vb, stride_vh,
    stride_pb, stride_ph, stride_pm, stride_db, stride_dh,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DP: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Writes `lse`, `z` and y [B, H, Dv]; the softmax over latents goes along with its largest score so far."""
    head = tl.program_id(0) % H
    sequence = (tl.program_id(0) // H).to(tl.int64)
    at = (sequence * H + head) * M
    lse += at
    z += at * DV
    q += sequence * stride_qb + head * stride_qh
    key = load_dims(k + sequence * stride_kb + head * stride_kh, D, BLOCK_D)
    value = load_dims(v + sequence * stride_vb + head * stride_vh, DV, BLOCK_DV)
    if q_decode is not None:
        q_decode += sequence * stride_pb + head * stride_ph
        key_decode = load_dims(k_decode + sequence * stride_db + head * stride_dh, DP, BLOCK_DP)

    peak = -float("inf")
    total = 0.0
    out = tl.zeros([BLOCK_DV], tl.float32)
    for first in range(0, M, BLOCK_M):
        latents = first + tl.arange(0, BLOCK_M)
        mean = load_rows(z, latents, DV, M, True, DV, BLOCK_DV)
        before = load_numbers(lse, latents, 1, M, -float("inf"), True)
        s = token_scores(q, key, latents, stride_qm, M, scale, D, BLOCK_D)
        t = s
        if q_decode is not None:
            t = token_scores(q_decode, key_decode, latents, stride_pm, M, scale, DP, BLOCK_DP)
        if log_weights is not None:
            s += tl.load(log_weights + sequence).to(tl.float32)
        _, new, after = joined(before, s)
        mean += new[:, None] * (value[None, :] - mean)
        # Some numbers are read by several threads, of which one writes: not before all have read.
        tl.debug_barrier()
        tl.store(lse + latents, after, mask=latents < M)
        store_rows(z, latents, DV, M, mean, DV, BLOCK_DV)

        t = tl.where(latents < M, t, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(t, 0))
        kept, p = tl.exp(peak - new_peak), tl.exp(t - new_peak)
        total = total * kept + tl.sum(p, 0)
        out = out * kept + tl.sum(p[:, None] * mean, 0)
        peak = new_peak
    dims = tl.arange(0, BLOCK_DV)
    place = y + (sequence * H + head) * DV + dims
    tl.store(place, (out / total).to(y.dtype.element_ty), mask=dims < DV)


@triton.jit
def load_dims(base, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """One row in fp32; zero past the dims."""
    dims = tl.arange(0, BLOCK_DIM)
    return tl.load(base + dims, mask=dims < DIM, other=0.0).to(tl.float32)


@triton.jit
def token_scores(q, key, latents, stride_m, M, scale, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Scores [BLOCK_M] of latents and one key."""
    query = load_rows(q, latents, stride_m, M, True, D, BLOCK_D).to(tl.float32)
    return tl.sum(query * key[None, :], 1) * scale
