"""Pieces that the kernels share: the chunk of a program, tiles of points and latents, scores.

Scores are kept in base 2: `t = S·scale·log2(e)`, so that a softmax takes one exp2 and no further product.
"""

import triton
import triton.language as tl

# A pivot that no score reaches: finite, because −∞ − −∞ would be NaN where nothing has weight.
NOTHING = tl.constexpr(-1.0e38)
# Added to slopes, so that slope 0 times an infinite cost is infinite too; a cost of 1e4 then weighs 1e-26.
LEAST_SLOPE = tl.constexpr(1.0e-30)
LARGEST = tl.constexpr(3.0e38)


@triton.jit
def chunk_rows(chunk, table, width, chunks_per_segment, CHUNK: tl.constexpr):
    """Segment, first row and number of rows of a chunk; from the table where segments are ragged."""
    if table is None:
        segment = chunk // chunks_per_segment
        offset = (chunk % chunks_per_segment) * CHUNK
        start = segment.to(tl.int64) * width + offset
        length = tl.minimum(width - offset, CHUNK)
    else:
        segment = tl.load(table + 3 * chunk).to(tl.int32)
        start = tl.load(table + 3 * chunk + 1)
        length = tl.load(table + 3 * chunk + 2).to(tl.int32)
    return segment, start, length


@triton.jit
def load_rows(base, rows, stride, inside, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """A tile [rows, BLOCK_DIM]; zero outside."""
    dims = tl.arange(0, BLOCK_DIM)
    pointers = base + rows[:, None] * stride + dims[None, :]
    if BLOCK_DIM == DIM:
        return tl.load(pointers, mask=inside[:, None], other=0.0)
    return tl.load(pointers, mask=inside[:, None] & (dims[None, :] < DIM), other=0.0)


@triton.jit
def store_rows(base, rows, stride, inside, tile, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Write a tile [rows, BLOCK_DIM], in the element type of `base`."""
    dims = tl.arange(0, BLOCK_DIM)
    pointers = base + rows[:, None] * stride + dims[None, :]
    mask = inside[:, None] & (dims[None, :] < DIM)
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def head_cost(cost, slope, head_scale, head, stride_scale):
    """Where a head's costs start, and its slope in base 2."""
    base = cost
    if head_scale is not None:
        base = cost + tl.load(head_scale + head) * stride_scale
    return base, tl.load(slope + head).to(tl.float32) * 1.4426950408889634 + LEAST_SLOPE
