"""The mixer as calls of `torch.nn.functional.scaled_dot_product_attention`: the fast path without own kernels.

Two calls where meshes have the same length or padding them to one length wastes little, otherwise two for each bucket
of meshes of similar length; `buckets` says which meshes share one.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .buckets import Buckets
from .rows import is_known_finite
from .segments import Segments

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
        return v.new_zeros(segments.num_segments, q.shape[-3], q.shape[-2], v.shape[-1])
    buckets = Buckets.of(segments)
    masks = _gather_masks(buckets, bias, log_weights, k.dtype)
    batches = zip(_latents(q, buckets, k.dtype), buckets.split_rows(k), buckets.split_rows(v), masks, strict=True)
    return buckets.join_meshes(
        [_attention(q, k.transpose(1, 2), v.transpose(1, 2), mask, scale) for q, k, v, mask in batches]
    )


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
    buckets = Buckets.of(segments)
    masks: list[Tensor | None] = [None for _ in buckets.shapes]
    if bias is not None:
        masks = [*(part.transpose(1, 2) for part in buckets.split_rows(bias.to(k.dtype)))]
    latents, values = _latents(q, buckets, k.dtype), buckets.split_meshes(z.to(k.dtype))
    batches = zip(buckets.split_rows(k), latents, values, masks, strict=True)
    parts = [_attention(k.transpose(1, 2), q, z, mask, scale).transpose(1, 2) for k, q, z, mask in batches]
    return buckets.join_rows(parts).to(z.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """SDPA that gives zero, not NaN, where the mask lets nothing through, whatever its backend does."""
    nothing = None
    if mask is not None and not is_known_finite(mask):
        nothing = (mask == -torch.inf).all(-1, keepdim=True)
        mask = mask.masked_fill(nothing, 0.0)
    with sdpa_kernel(_BACKENDS):
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return y if nothing is None else y.masked_fill(nothing, 0.0)


def _latents(q: Tensor, buckets: Buckets, dtype: torch.dtype) -> list[Tensor]:
    """The latent queries of each batch, [B_i, H, M, D]."""
    q = q.to(dtype)
    if q.dim() == 4:
        return buckets.split_meshes(q)
    return [q.expand(meshes, *q.shape) for meshes, _ in buckets.shapes]


def _gather_masks(
    buckets: Buckets, bias: Tensor | None, log_weights: Tensor | None, dtype: torch.dtype
) -> list[Tensor | None]:
    """Additive scores of the gather for each batch, broadcastable to [B_i, H, M, L_i]; None for nothing to add."""
    masks: list[Tensor | None] = [None if empty is None else _forbid(empty, dtype) for empty in buckets.padding]
    for scores in (None if log_weights is None else log_weights[:, None, None], bias):
        if scores is not None:
            parts = [part.permute(0, 2, 3, 1) for part in buckets.split_rows(scores.to(dtype))]
            masks = [part if mask is None else part + mask for part, mask in zip(parts, masks, strict=True)]
    return masks


def _forbid(empty: Bool[Tensor, "B L"], dtype: torch.dtype) -> Float[Tensor, "B 1 1 L"]:
    zeros = torch.zeros(empty.shape, dtype=dtype, device=empty.device)
    return zeros.masked_fill(empty, -torch.inf)[:, None, None, :]
