"""The kernels as operators of torch, under the namespace `flare_connect`: four functions of tensors without autograd.

Each takes packed tensors and a `Plan` of the segments; `autograd.py` joins them. Gradients of sums over points come
back summed. Log-sum-exps are in base 2.
"""

from typing import Any

import torch
from torch import Tensor

from ..operators import register
from .backward import latent_grad_kernel, point_grad_kernel, sum_kernel
from .dispatch import launch
from .gather import gather_kernel, merge_kernel
from .scatter import scatter_kernel
from .sizes import ALWAYS_ONE_BLOCK, Chunks, Tile, block_of, tile, uniform_chunks

LOG2_E = 1.4426950408889634

_CHUNKS = "Tensor? table, Tensor? offsets, int segments, int width, int size"
_COST = "Tensor? cost, Tensor? slope, Tensor? head_scale"
_SCHEMAS = {
    "gather": f"(Tensor q, Tensor k, Tensor v, Tensor? log_weights, {_COST}, {_CHUNKS}, float scale, str precision,"
    " Tensor? token_k=None, Tensor? token_v=None, Tensor? token_table=None, Tensor? token_offsets=None,"
    " int token_width=0, int token_size=0, Tensor? token_cost=None) -> (Tensor, Tensor)",
    "scatter": f"(Tensor q, Tensor k, Tensor z, {_COST}, {_CHUNKS}, float scale, str precision, bool with_lse)"
    " -> (Tensor, Tensor, Tensor)",
    "latent_grad": f"(Tensor q, Tensor k, Tensor dy, Tensor lse, {_COST}, {_CHUNKS}, float scale, str precision)"
    " -> Tensor",
    "point_grad": "(Tensor q, Tensor k, Tensor? v, Tensor? dy, Tensor? y, Tensor? y_rest, Tensor z, Tensor? dz,"
    " Tensor? lse_latents, Tensor? lse_points, Tensor? dlse, Tensor? log_weights, bool weight_grad,"
    " Tensor? cost_encode, Tensor? slope_encode, Tensor? scale_encode,"
    " Tensor? cost_decode, Tensor? slope_decode, Tensor? scale_decode,"
    f" {_CHUNKS}, float scale, str precision, Tensor? z_read=None)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
}


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _chunks(table: Tensor | None, segments: int, width: int, size: int, heads: int) -> Chunks:
    return uniform_chunks(segments, width, heads) if table is None else Chunks(size, table.shape[0], 0)


def _sizes(kernel: str, q: Tensor, k: Tensor, value_dim: int) -> tuple[Tile, tuple[int, ...]]:
    """Tile of a kernel, and the constants that all kernels begin with: H, D, DV and the four blocks."""
    heads, latents, dim = q.shape[-3:]
    chosen = tile(kernel, latents, max(dim, value_dim), k.element_size())
    blocks = chosen.block_m, chosen.block_n, block_of(dim), block_of(value_dim)
    return chosen, (heads, dim, value_dim, *blocks)


def _terms_shape(k: Tensor) -> tuple[int, ...]:
    """Log-sum-exps are in two parts in float32; see `tiles`."""
    return (2,) if k.element_size() == 4 else ()


def _terms(lse: Tensor | None, dims: int) -> tuple[Tensor | None, Tensor | None]:
    if lse is None or lse.dim() == dims:
        return lse, None
    return lse[0], lse[1]


def _cost_strides(cost: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if cost is None else (cost.stride(0), cost.stride(1), cost.stride(2))


def _latent_strides(q: Tensor) -> tuple[int, int, int]:
    return (0 if q.dim() == 3 else q.stride(0), q.stride(-3), q.stride(-2))


def _sum(parts: Tensor, out: Tensor, factor: float, groups: int, step: int, per_segment: int, offsets: Any) -> None:
    row = out.numel() // groups
    block = 32
    launch(
        sum_kernel, (_cdiv(row, block), groups), (parts, offsets, out), (per_segment, step, row, factor), (),
        (64, block),
    )  # fmt: skip


def gather(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None,
    cost: Tensor | None, slope: Tensor | None, head_scale: Tensor | None,
    table: Tensor | None, offsets: Tensor | None, segments: int, width: int, size: int,
    scale: float, precision: str,
    token_k: Tensor | None = None, token_v: Tensor | None = None, token_table: Tensor | None = None,
    token_offsets: Tensor | None = None, token_width: int = 0, token_size: int = 0, token_cost: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Z [B, H, M, Dv] and its log-sum-exp [B, H, M], in fp32, over points and tokens; see `_terms_shape`."""
    heads, latents = q.shape[-3:-1]
    value_dim = v.shape[-1]
    chunks = _chunks(table, segments, width, size, heads)
    parts = _gather_parts(q, k, v, log_weights, (cost, slope, head_scale), table, width, chunks, scale, precision)
    token_parts, token_chunks = None, Chunks(0, 0, 0)
    if token_k is not None and token_v is not None:
        token_chunks = _chunks(token_table, segments, token_width, token_size, heads)
        scores = (None, None, None) if token_cost is None else (token_cost, slope, head_scale)
        token_parts = _gather_parts(
            q, token_k, token_v, None, scores, token_table, token_width, token_chunks, scale, precision
        )
    z = k.new_empty((segments, heads, latents, value_dim), dtype=torch.float32)
    lse = k.new_empty((*_terms_shape(k), segments, heads, latents), dtype=torch.float32)
    block_dv = block_of(value_dim)
    launch(
        merge_kernel, segments * heads * _cdiv(latents, 4),
        (parts, offsets, token_parts, token_offsets, z, *_terms(lse, 3)),
        (chunks.per_segment, chunks.pieces * heads * latents, token_chunks.per_segment,
         token_chunks.pieces * heads * latents, latents), (),
        (heads, value_dim, 4, max(4, 1024 // block_dv), block_dv),
    )  # fmt: skip
    return z, lse


def _gather_parts(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, scores: tuple[Tensor | None, ...],
    table: Tensor | None, width: int, chunks: Chunks, scale: float, precision: str,
) -> Tensor:  # fmt: skip
    """Partial z, pivots and sums of every chunk, in one workspace: an allocation takes as long as a small kernel."""
    heads, latents = q.shape[-3:-1]
    value_dim = v.shape[-1]
    chosen, constants = _sizes("gather", q, k, value_dim)
    pieces = chunks.pieces * heads * latents
    parts = k.new_empty(pieces * (value_dim + 2), dtype=torch.float32)
    launch(
        gather_kernel, heads * chunks.pieces * _cdiv(latents, chosen.block_m),
        (q, k, v, log_weights, *scores, table, parts),
        (width, chunks.per_segment, chunks.size, latents, pieces, scale * LOG2_E),
        (*_latent_strides(q), k.stride(0), k.stride(1), v.stride(0), v.stride(1), *_cost_strides(scores[0])),
        (*constants, latents % chosen.block_m == 0, precision, chosen.num_stages),
        chosen.num_warps, chosen.num_stages,
    )  # fmt: skip
    return parts


def scatter(
    q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, slope: Tensor | None, head_scale: Tensor | None,
    table: Tensor | None, offsets: Tensor | None, segments: int, width: int, size: int,
    scale: float, precision: str, with_lse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `k`, and the log-sum-exp [N, H] of each point, empty unless asked for.

    Third, what rounding took from Y, where the gradient of the slopes will need it, else empty.
    """
    heads, latents = q.shape[-3:-1]
    value_dim = z.shape[-1]
    size, count, per_segment = _chunks(table, segments, width, size, heads)
    chosen, constants = _sizes("scatter", q, k, value_dim)
    block_m = chosen.block_m
    if latents > block_m:
        # Loaded again for each tile of points: in the element type of the products, half the bytes.
        z = z.to(k.dtype)
    y = k.new_empty((k.shape[0], heads, value_dim))
    lse = k.new_empty((*_terms_shape(k), k.shape[0] if with_lse else 0, heads), dtype=torch.float32)
    terms = _terms(lse, 2) if with_lse else (None, None)
    rest = k.new_empty(_rest_shape(q, k, z, cost, with_lse))
    launch(
        scatter_kernel, heads * count,
        (q, k, z, cost, slope, head_scale, table, y, rest if rest.dim() == 3 else None, *terms),
        (width, per_segment, size, latents, scale * LOG2_E),
        (*_latent_strides(q), k.stride(0), k.stride(1), *_cost_strides(cost)),
        (*constants, latents <= block_m,
         latents % block_m == 0, precision),
        chosen.num_warps, chosen.num_stages,
    )  # fmt: skip
    return y, lse, rest


def _rest_shape(q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, with_lse: bool) -> tuple[int, ...]:
    # A slope's gradient sums `dY·Y` over all points, weighed by costs: of a rounded Y the sum would be wrong by far
    # more than one rounding. With one block of latents the backward computes Y again.
    if with_lse and cost is not None and q.shape[-2] > ALWAYS_ONE_BLOCK and k.element_size() == 2:
        return k.shape[0], q.shape[-3], z.shape[-1]
    return (0,)


def latent_grad(
    q: Tensor, k: Tensor, dy: Tensor, lse: Tensor, cost: Tensor | None, slope: Tensor | None,
    head_scale: Tensor | None, table: Tensor | None, offsets: Tensor | None, segments: int, width: int, size: int,
    scale: float, precision: str,
) -> Tensor:  # fmt: skip
    """Gradient dZ [B, H, M, Dv] in fp32, from the gradient of the points."""
    heads, latents = q.shape[-3:-1]
    value_dim = dy.shape[-1]
    size, count, per_segment = _chunks(table, segments, width, size, heads)
    chosen, constants = _sizes("latent_grad", q, k, value_dim)
    block_m = chosen.block_m
    parts = k.new_empty((count, heads, latents, value_dim), dtype=torch.float32)
    dz = k.new_empty((segments, heads, latents, value_dim), dtype=torch.float32)
    launch(
        latent_grad_kernel, heads * count * _cdiv(latents, block_m),
        (q, k, dy, *_terms(lse, 2), cost, slope, head_scale, table, parts),
        (width, per_segment, size, latents, scale * LOG2_E),
        (*_latent_strides(q), k.stride(0), k.stride(1), dy.stride(0), dy.stride(1), *_cost_strides(cost)),
        (*constants, latents % block_m == 0,
         precision),
        chosen.num_warps, chosen.num_stages,
    )  # fmt: skip
    _sum(parts, dz, 1.0, segments, 1, per_segment, offsets)
    return dz


def point_grad(
    q: Tensor, k: Tensor, v: Tensor | None, dy: Tensor | None, y: Tensor | None, y_rest: Tensor | None, z: Tensor,
    dz: Tensor | None, lse_latents: Tensor | None, lse_points: Tensor | None, dlse: Tensor | None,
    log_weights: Tensor | None, weight_grad: bool,
    cost_encode: Tensor | None, slope_encode: Tensor | None, scale_encode: Tensor | None,
    cost_decode: Tensor | None, slope_decode: Tensor | None, scale_decode: Tensor | None,
    table: Tensor | None, offsets: Tensor | None, segments: int, width: int, size: int,
    scale: float, precision: str, z_read: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """(dq, dk, dv, dlog_weights, dslope_encode, dslope_decode); None for what there is nothing of.

    `dz` is of what the gather gave: `z_read`, or `z` where the scatter takes the same.
    """
    heads, latents, dim = q.shape[-3:]
    value_dim = z.shape[-1]
    num_rows = k.shape[0]
    size, count, per_segment = _chunks(table, segments, width, size, heads)
    chosen, constants = _sizes("point_grad", q, k, value_dim)
    block_m = chosen.block_m
    encode, decode = dz is not None, dy is not None
    dk = k.new_empty((num_rows, heads, dim))
    dv = k.new_empty((num_rows, heads, value_dim)) if encode else None
    dweights = k.new_empty((num_rows, heads), dtype=torch.float32) if weight_grad else None
    parts = k.new_empty((count, heads, latents, dim), dtype=torch.float32)
    slopes_encode = k.new_empty((count, heads), dtype=torch.float32) if cost_encode is not None else None
    slopes_decode = k.new_empty((count, heads), dtype=torch.float32) if cost_decode is not None else None
    delta = None if dlse is None else -dlse
    if dz is not None and latents > block_m:
        # With one block the kernel sums it; see `load_latents`.
        products = ((z if z_read is None else z_read) * dz.to(k.dtype)).sum(-1)
        delta = products if delta is None else products + delta
    if latents > block_m:
        # Latents are loaded again for each tile of points: in the element type of the products, half the bytes.
        z, dz = z.to(k.dtype), None if dz is None else dz.to(k.dtype)
    shared = _same(cost_encode, cost_decode) and _same(scale_encode, scale_decode)
    value_strides = (0, 0) if v is None else (v.stride(0), v.stride(1))
    grad_strides = (0, 0) if dy is None else (dy.stride(0), dy.stride(1))
    launch(
        point_grad_kernel, heads * count,
        (q, k, v, dy, y, y_rest, z, z_read, dz, *_terms(lse_latents, 3), *_terms(lse_points, 2), delta, log_weights,
         cost_encode, slope_encode, scale_encode, cost_decode, slope_decode, scale_decode, table,
         dk, dv, parts, dweights, slopes_encode, slopes_decode),
        (width, per_segment, size, latents, scale * LOG2_E, scale),
        (*_latent_strides(q), k.stride(0), k.stride(1), *value_strides, *grad_strides, *_cost_strides(cost_encode),
         *_cost_strides(cost_decode)),
        (*constants, encode, decode, shared,
         latents <= block_m, latents % block_m == 0, precision, chosen.num_stages),
        chosen.num_warps, chosen.num_stages,
    )  # fmt: skip
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    if q.dim() == 3:
        _sum(parts, dq, scale, 1, segments, per_segment, offsets)
    else:
        _sum(parts, dq, scale, segments, 1, per_segment, offsets)
    return (
        dq, dk, dv,
        None if dweights is None else dweights.sum(1),
        None if slopes_encode is None else slopes_encode.sum(0),
        None if slopes_decode is None else slopes_decode.sum(0),
    )  # fmt: skip


def _point_grad(*arguments: Any) -> tuple[Tensor, ...]:
    """The operator of torch, which returns a tensor for each result: an empty one where there is none."""
    dq, dk, dv, *rest = point_grad(*arguments)
    return dq, dk, dk.new_empty(0) if dv is None else dv, *(dq.new_empty(0) if x is None else x for x in rest)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride()


def _fake_gather(q: Tensor, k: Tensor, v: Tensor, log_weights: Any, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = (rest[5], *q.shape[-3:-1])
    z = k.new_empty((*shape, v.shape[-1]), dtype=torch.float32)
    return z, k.new_empty((*_terms_shape(k), *shape), dtype=torch.float32)


def _fake_scatter(q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    heads, with_lse = q.shape[-3], rest[-1]
    y = k.new_empty((k.shape[0], heads, z.shape[-1]))
    lse = k.new_empty((*_terms_shape(k), k.shape[0] if with_lse else 0, heads), dtype=torch.float32)
    return y, lse, k.new_empty(_rest_shape(q, k, z, cost, with_lse))


def _fake_latent_grad(q: Tensor, k: Tensor, dy: Tensor, lse: Tensor, *rest: Any) -> Tensor:
    return k.new_empty((rest[5], *q.shape[-3:-1], dy.shape[-1]), dtype=torch.float32)


def _fake_point_grad(
    q: Tensor, k: Tensor, v: Any, dy: Any, y: Any, y_rest: Any, z: Tensor, dz: Any, lse_latents: Any,
    lse_points: Any, dlse: Any, log_weights: Any, weight_grad: bool,
    cost_encode: Any, slope_encode: Any, scale_encode: Any, cost_decode: Any, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    heads, num_rows = q.shape[-3], k.shape[0]
    return (
        torch.empty_like(q, memory_format=torch.contiguous_format),
        k.new_empty((num_rows, heads, q.shape[-1])),
        k.new_empty((num_rows, heads, z.shape[-1]) if dz is not None else 0),
        k.new_empty(num_rows, dtype=torch.float32) if weight_grad else q.new_empty(0),
        k.new_empty(heads, dtype=torch.float32) if cost_encode is not None else q.new_empty(0),
        k.new_empty(heads, dtype=torch.float32) if cost_decode is not None else q.new_empty(0),
    )


library = register(
    {
        "gather": (_SCHEMAS["gather"], gather, _fake_gather),
        "scatter": (_SCHEMAS["scatter"], scatter, _fake_scatter),
        "latent_grad": (_SCHEMAS["latent_grad"], latent_grad, _fake_latent_grad),
        "point_grad": (_SCHEMAS["point_grad"], _point_grad, _fake_point_grad),
    }
)
