"""One pass over the points each way: nothing but points and their gradients is kept or written."""

import triton
import triton.language as tl

from flare_kernels.triton_mixer.tiles import chunk_rows


@triton.jit
def _normalised(x, columns, C: tl.constexpr, eps):
    """Rows without mean and with unit variance, and one over what they were divided by."""
    share = 1.0 / C  # known to the compiler; a division would be off by two in the last place
    centred = tl.where((columns < C)[None, :], x - (tl.sum(x, 1) * share)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) * share + eps)
    return centred * rstd[:, None], rstd


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "chunk_size"])
def norm_kernel(
    x, modulation, table, y, width, chunks_per_segment, chunk_size, eps,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`y = x̂ (1 + a) + b` of some rows of a chunk; `modulation` is a and b of each segment, side by side."""
    segment, start, length = chunk_rows(tl.program_id(0), table, width, chunks_per_segment, chunk_size)
    first = tl.program_id(1) * BLOCK_N
    if first >= length:
        return
    rows = first + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_C)
    inside = (rows < length)[:, None] & (columns < C)[None, :]
    places = (start + rows).to(tl.int64)[:, None] * C + columns[None, :]
    of_mesh = modulation + segment.to(tl.int64) * 2 * C + columns
    factor = 1.0 + tl.load(of_mesh, mask=columns < C, other=0.0).to(tl.float32)
    shift = tl.load(of_mesh + C, mask=columns < C, other=0.0).to(tl.float32)
    hat, _ = _normalised(tl.load(x + places, mask=inside, other=0.0).to(tl.float32), columns, C, eps)
    tl.store(y + places, (hat * factor[None, :] + shift[None, :]).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["width", "chunks_per_segment", "chunk_size", "splits"])
def norm_grad_kernel(
    x, modulation, dy, table, dx, parts, width, chunks_per_segment, chunk_size, splits, eps,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of the same rows, and what they add to that of `modulation`."""
    chunk, split = tl.program_id(0), tl.program_id(1)
    segment, start, length = chunk_rows(chunk, table, width, chunks_per_segment, chunk_size)
    rows = split * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_C)
    inside = (rows < length)[:, None] & (columns < C)[None, :]
    places = (start + rows).to(tl.int64)[:, None] * C + columns[None, :]
    of_mesh = modulation + segment.to(tl.int64) * 2 * C + columns
    factor = 1.0 + tl.load(of_mesh, mask=columns < C, other=0.0).to(tl.float32)
    hat, rstd = _normalised(tl.load(x + places, mask=inside, other=0.0).to(tl.float32), columns, C, eps)
    grad = tl.load(dy + places, mask=inside, other=0.0).to(tl.float32)
    part = parts + (chunk.to(tl.int64) * splits + split) * 2 * C + columns
    tl.store(part, tl.sum(grad * hat, 0), mask=columns < C)
    tl.store(part + C, tl.sum(grad, 0), mask=columns < C)
    inner = grad * factor[None, :]
    share = 1.0 / C
    along = tl.sum(inner * hat, 1) * share
    found = (inner - (tl.sum(inner, 1) * share)[:, None] - hat * along[:, None]) * rstd[:, None]
    tl.store(dx + places, found.to(dx.dtype.element_ty), mask=inside)
