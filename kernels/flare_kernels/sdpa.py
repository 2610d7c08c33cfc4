"""The mixer as two calls of `torch.nn.functional.scaled_dot_product_attention`: the fast path without own kernels.

Ragged meshes are padded where little is wasted and visited one by one where much would be.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .rows import place, take
from .segments import Segments

# Padding costs its share of the arithmetic, a visit costs a launch: pad while at most this multiple of N is computed.
_MAX_PADDING = 1.5
# Without cuDNN: it plans anew for every shape, tens of milliseconds each, and no two batches of meshes are alike.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def gather(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "N H D"],
    v: Float[Tensor, "N H Dv"],
    segments: Segments,
    scale: float,
    bias: Float[Tensor, "N H M"] | None,
    log_weights: Float[Tensor, " N"] | None,
) -> Float[Tensor, "B H M Dv"]:
    """Softmax over the points of each mesh; see `reference.gather`."""
    if segments.num_rows == 0:
        return _empty_gather(q, v, segments)
    if _one_by_one(segments):
        parts = [
            gather(_of_mesh(q, mesh), k[rows], v[rows], one, scale, _rows(bias, rows), _rows(log_weights, rows))
            for mesh, (rows, one) in enumerate(_visits(segments))
        ]
        return torch.cat(parts)
    mask = _gather_mask(segments, bias, log_weights, k.dtype)
    out_mask = None
    if mask is not None:
        # A latent that no point may reach gives zero, not NaN, whatever the backend of SDPA does.
        out_mask = (mask == -torch.inf).all(-1, keepdim=True)
        mask = mask.masked_fill(out_mask, 0.0)
    z = _attention(_per_mesh(q, segments).to(k.dtype), _pad(k, segments), _pad(v, segments), mask, scale)
    return z if out_mask is None else z.masked_fill(out_mask, 0.0)


def scatter(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "N H D"],
    z: Float[Tensor, "B H M Dv"],
    segments: Segments,
    scale: float,
    bias: Float[Tensor, "N H M"] | None,
) -> Float[Tensor, "N H Dv"]:
    """Softmax over the latents at each point; see `reference.scatter`."""
    if segments.num_rows == 0:
        return z.new_zeros(0, z.shape[1], z.shape[3])
    if _one_by_one(segments):
        parts = [
            scatter(_of_mesh(q, mesh), k[rows], z[mesh : mesh + 1], one, scale, _rows(bias, rows))
            for mesh, (rows, one) in enumerate(_visits(segments))
        ]
        return torch.cat(parts)
    mask, out_mask = None, None
    if bias is not None:
        mask = _pad(bias.to(k.dtype), segments)
        out_mask = (mask == -torch.inf).all(-1, keepdim=True)
        mask = mask.masked_fill(out_mask, 0.0)
    y = _attention(_pad(k, segments), _per_mesh(q, segments).to(k.dtype), z.to(k.dtype), mask, scale)
    return _unpad(y if out_mask is None else y.masked_fill(out_mask, 0.0), segments).to(z.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    with sdpa_kernel(_BACKENDS):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _one_by_one(segments: Segments) -> bool:
    if segments.num_segments < 2 or segments.is_uniform:
        return False
    return segments.width * segments.num_segments > _MAX_PADDING * segments.num_rows


def _visits(segments: Segments) -> list[tuple[slice, Segments]]:
    device = segments.ptr.device
    return [(rows, Segments.from_lengths([rows.stop - rows.start], device)) for rows in segments.slices]


def _rows(x: Tensor | None, rows: slice) -> Tensor | None:
    return None if x is None else x[rows]


def _of_mesh(q: Tensor, mesh: int) -> Tensor:
    return q if q.dim() == 3 else q[mesh : mesh + 1]


def _per_mesh(q: Tensor, segments: Segments) -> Tensor:
    return q.expand(segments.num_segments, *q.shape) if q.dim() == 3 else q


def _pad(x: Tensor, segments: Segments) -> Tensor:
    """[N, H, D] → [B, H, L, D]."""
    if segments.is_uniform:
        return x.reshape(segments.num_segments, segments.width, *x.shape[1:]).transpose(1, 2)
    padded = place(x, segments.row_slots, segments.num_segments * segments.width)
    return padded.unflatten(0, (segments.num_segments, segments.width)).transpose(1, 2)


def _unpad(x: Tensor, segments: Segments) -> Tensor:
    """[B, H, L, D] → [N, H, D]."""
    x = x.transpose(1, 2).flatten(0, 1)
    return x if segments.is_uniform else take(x, segments.row_slots)


def _gather_mask(
    segments: Segments, bias: Tensor | None, log_weights: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Additive scores of the gather, broadcastable to [B, H, M, L]; None where there is nothing to add."""
    mask = None
    if log_weights is not None:
        mask = _pad(log_weights.to(dtype)[:, None, None], segments).transpose(2, 3)
    if bias is not None:
        cost = _pad(bias.to(dtype), segments).transpose(2, 3)
        mask = cost if mask is None else mask + cost
    if not segments.is_uniform:
        padding = torch.zeros(segments.padding.shape, dtype=dtype, device=segments.ptr.device)
        padding = padding.masked_fill(segments.padding, -torch.inf)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _empty_gather(q: Tensor, v: Tensor, segments: Segments) -> Tensor:
    return v.new_zeros(segments.num_segments, q.shape[-3], q.shape[-2], v.shape[-1])
