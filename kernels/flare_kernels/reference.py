"""The oracle: one mesh at a time, one equation a line, in any floating dtype (fp64 in tests), differentiable.

Every other implementation is tested against this file. Half-precision inputs are computed in fp32.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .segments import Segments


def gather(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "N H D"],
    v: Float[Tensor, "N H Dv"],
    segments: Segments,
    scale: float,
    bias: Float[Tensor, "N H M"] | None,
    log_weights: Float[Tensor, " N"] | None,
) -> tuple[Float[Tensor, "B H M Dv"], Float[Tensor, "B H M"]]:
    """Softmax over the points of each mesh: `Z_m = Σ_n exp(S_nm + b_n − lse_m) V_n`."""
    latents, lses = [], []
    for mesh, rows in enumerate(segments.slices):
        s = _scores(_of_mesh(q, mesh), k[rows], scale, None if bias is None else bias[rows])
        if log_weights is not None:
            s = s + log_weights[rows].to(s.dtype)[:, None, None]
        p, lse = softmax(s, dim=0)
        latents.append(torch.einsum("nhm,nhd->hmd", p, v[rows].to(p.dtype)))
        lses.append(lse)
    return torch.stack(latents).to(v.dtype), torch.stack(lses)


def scatter(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "N H D"],
    z: Float[Tensor, "B H M Dv"],
    segments: Segments,
    scale: float,
    bias: Float[Tensor, "N H M"] | None,
) -> Float[Tensor, "N H Dv"]:
    """Softmax over the latents at each point: `Y_n = Σ_m exp(S_nm − lse_n) Z_m`."""
    parts = []
    for mesh, rows in enumerate(segments.slices):
        s = _scores(_of_mesh(q, mesh), k[rows], scale, None if bias is None else bias[rows])
        p, _ = softmax(s, dim=2)
        parts.append(torch.einsum("nhm,hmd->nhd", p, z[mesh].to(p.dtype)))
    return torch.cat(parts).to(z.dtype)


def edge_mean(
    source: Float[Tensor, "N C"],
    target: Float[Tensor, "N C"],
    edge_attr: Float[Tensor, "Ne E"],
    weight: Float[Tensor, "C E"],
    edge_index: Int[Tensor, "2 Ne"],
) -> Float[Tensor, "N C"]:
    """Mean of the messages that arrive: `y_i = mean_{j→i} gelu(source_j + target_i + W e_ij)`, 0 where none does."""
    start, end = edge_index[0], edge_index[1]
    dtype = torch.promote_types(source.dtype, torch.float32)
    s, t, e, w = (x.to(dtype) for x in (source, target, edge_attr, weight))
    with torch.autocast(source.device.type, enabled=False):
        message = F.gelu(s.index_select(0, start) + t.index_select(0, end) + F.linear(e, w), approximate="tanh")
    return _mean(message, end, len(s)).to(source.dtype)


def edge_difference(
    values: Float[Tensor, "N C"],
    source: Float[Tensor, "N C"],
    target: Float[Tensor, "N C"],
    edge_attr: Float[Tensor, "Ne E"],
    weight: Float[Tensor, "C E"],
    edge_index: Int[Tensor, "2 Ne"],
) -> Float[Tensor, "N C"]:
    """`y_i = mean_{j→i} softsign(source_j + target_i + W e_ij) ⊙ (v_j − v_i)`, 0 where no edge arrives."""
    start, end = edge_index[0], edge_index[1]
    dtype = torch.promote_types(torch.promote_types(values.dtype, source.dtype), torch.float32)
    v, s, t, e, w = (x.to(dtype) for x in (values, source, target, edge_attr, weight))
    with torch.autocast(source.device.type, enabled=False):
        share = F.softsign(s.index_select(0, start) + t.index_select(0, end) + F.linear(e, w))
    difference = v.index_select(0, start) - v.index_select(0, end)
    return _mean(share * difference, end, len(v)).to(values.dtype)


def _mean(messages: Tensor, end: Tensor, num_nodes: int) -> Tensor:
    """The mean of the messages that arrive at each node; 0 where none does."""
    total = messages.new_zeros(num_nodes, messages.shape[1]).index_add(0, end, messages)
    degree = messages.new_zeros(num_nodes).index_add(0, end, messages.new_ones(len(end)))
    return total / degree.clamp(min=1)[:, None]


def _of_mesh(q: Tensor, mesh: int) -> Tensor:
    return q if q.dim() == 3 else q[mesh]


def _scores(q: Tensor, k: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    s = scale * torch.einsum("hmd,nhd->nhm", q.to(dtype), k.to(dtype))
    return s if bias is None else s + bias.to(dtype)


def softmax(s: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Softmax and log-sum-exp that stay finite, gradients included, where nothing has weight."""
    if s.shape[dim] == 0:
        return s, s.new_full([n for d, n in enumerate(s.shape) if d != dim], -torch.inf)
    peak = s.detach().amax(dim, keepdim=True)
    pivot = torch.where(torch.isfinite(peak), peak, 0.0)
    e = torch.exp(s - pivot)
    total = e.sum(dim, keepdim=True)
    empty = total == 0
    safe = total.masked_fill(empty, 1.0)
    lse = (pivot + safe.log()).masked_fill(empty, -torch.inf).squeeze(dim)
    return e / safe, lse
