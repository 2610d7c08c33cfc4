"""Pieces that the kernels share: what a program takes, tiles of points and latents, scores.

Scores are kept in base 2: `t = S·scale·log2(e)`, so that a softmax takes one exp2 and no further product. Where nothing
has weight the log-sum-exp is +∞ and not −∞: then `exp2(t − lse)` is 0 there without a question asked.

A log-sum-exp is a pivot and the logarithm of a sum. In float32 the two are kept apart: their sum, rounded, would cost a
large score as many digits as the score has before its point. In half precision the inputs have fewer digits than that.
"""

import triton
import triton.language as tl

# A pivot that no score reaches: finite, because −∞ − −∞ would be NaN where nothing has weight.
NOTHING = tl.constexpr(-1.0e38)
# Added to slopes, so that slope 0 times an infinite cost is infinite too; a cost of 1e4 then weighs 1e-26.
LEAST_SLOPE = tl.constexpr(1.0e-30)
# What an infinite cost becomes before it meets a weight of 0, which it has.
LARGEST = tl.constexpr(3.0e38)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def chunk_rows(chunk, table, width, chunks_per_segment, chunk_size):
    """Segment, first row and number of rows of a chunk; from the table where segments are ragged."""
    if table is None:
        segment = chunk // chunks_per_segment
        offset = (chunk % chunks_per_segment) * chunk_size
        start = segment.to(tl.int64) * width + offset
        length = tl.minimum(width - offset, chunk_size)
    else:
        segment = tl.load(table + 3 * chunk).to(tl.int32)
        start = tl.load(table + 3 * chunk + 1)
        length = tl.load(table + 3 * chunk + 2).to(tl.int32)
    return segment, start, length


@triton.jit
def block_program(M, H: tl.constexpr, BLOCK_M: tl.constexpr):
    """Head, chunk and latents of a program that takes one block of latents.

    Heads vary fastest: the programs that run side by side then read the same rows of points and costs.
    """
    head = tl.program_id(0) % H
    others = tl.program_id(0) // H
    num_blocks = tl.cdiv(M, BLOCK_M)
    return head, others // num_blocks, (others % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)


@triton.jit
def load_rows(base, rows, stride, end, MASKED: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """A tile [rows, BLOCK_DIM]; zero past the dims and, if masked, from row `end` on."""
    dims = tl.arange(0, BLOCK_DIM)
    pointers = base + rows[:, None] * stride + dims[None, :]
    if MASKED:
        tile = tl.load(pointers, mask=(rows < end)[:, None] & (dims < DIM)[None, :], other=0.0)
    elif BLOCK_DIM == DIM:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, mask=(dims < DIM)[None, :], other=0.0)
    return tile


@triton.jit
def load_numbers(base, rows, stride, end, outside, MASKED: tl.constexpr):
    """One number a row; `outside` from row `end` on."""
    if MASKED:  # noqa: SIM108 (a condition at compile time)
        numbers = tl.load(base + rows * stride, mask=rows < end, other=outside)
    else:
        numbers = tl.load(base + rows * stride)
    return numbers


@triton.jit
def store_rows(base, rows, stride, end, tile, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Write the rows before `end` of a tile [rows, BLOCK_DIM], in the element type of `base`."""
    dims = tl.arange(0, BLOCK_DIM)
    pointers = base + rows[:, None] * stride + dims[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=(rows < end)[:, None] & (dims < DIM)[None, :])


@triton.jit
def load_cost(
    cost, rows, stride_rows, end_rows, columns, stride_columns, end_columns,
    MASK_ROWS: tl.constexpr, MASK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of costs [rows, columns] in fp32; zero outside. A mask along the latents would cost the wide loads."""
    pointers = cost + rows[:, None] * stride_rows + columns[None, :] * stride_columns
    if MASK_ROWS and MASK_COLUMNS:
        tile = tl.load(pointers, mask=(rows < end_rows)[:, None] & (columns < end_columns)[None, :], other=0.0)
    elif MASK_ROWS:
        tile = tl.load(pointers, mask=(rows < end_rows)[:, None], other=0.0)
    elif MASK_COLUMNS:
        tile = tl.load(pointers, mask=(columns < end_columns)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile.to(tl.float32)


@triton.jit
def head_cost(cost, slope, head_scale, head, stride_scale, scale2):
    """Where a head's costs start, and its slope over the scale, both in base 2."""
    base = cost
    if head_scale is not None:
        base = cost + tl.load(head_scale + head) * stride_scale
    return base, (tl.load(slope + head).to(tl.float32) * LOG2_E + LEAST_SLOPE) / scale2


@triton.jit
def products(left, right, price, ratio, PRECISION: tl.constexpr):
    """`left rightᵀ − ratio·price`: scores before the scale, `ratio` the slope over the scale.

    Costs are what the product starts from and not what is taken off it later: its layout then is that of everything
    after it, and the softmax is not computed in the layout that costs are loaded in.
    """
    if price is None:
        result = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    else:
        result = tl.dot(left, tl.trans(right), price * (-ratio), input_precision=PRECISION)
    return result


@triton.jit
def scores(
    left, right, cost, ratio, rows, stride_rows, end_rows, columns, stride_columns, end_columns,
    MASK_ROWS: tl.constexpr, MASK_COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`products` with the costs loaded, if there are any."""
    price = None
    if cost is not None:
        price = load_cost(
            cost, rows, stride_rows, end_rows, columns, stride_columns, end_columns, MASK_ROWS, MASK_COLUMNS
        )
    return products(left, right, price, ratio, PRECISION)


@triton.jit
def weight_of(t, lse, low):
    """`exp2(t − lse)`, where `lse` (and `low`, the second part in float32) have a dimension of 1 across the softmax."""
    t -= lse
    if low is not None:
        t -= low
    return tl.exp2(t)
