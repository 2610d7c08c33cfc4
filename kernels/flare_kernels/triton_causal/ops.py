"""The kernels as operators of torch, under the namespace `flare_connect`, without autograd; everything in fp32."""

from typing import Any

import torch
from torch import Tensor

from ..operators import register
from ..triton_mixer.backward import sum_kernel
from ..triton_mixer.dispatch import launch
from ..triton_mixer.sizes import block_of
from .answer import answer_grad_kernel, answer_kernel
from .decode import decode_kernel
from .scan import scan_grad_kernel, scan_kernel

# Tokens of a span, latents of a block.
SPAN = 64
_LATENTS = 64

# Latents of a program: few, so that there are enough programs, for each goes through a whole sequence.
_BLOCK_M = 4
_AHEAD = 4  # parts that are loaded at a time

# Of a program that takes one token: most numbers of a tile of queries or of the state, which stays in registers; how
# many of them a thread is to have, few, so that all are loaded at once; fewest and most warps.
_MOST_OF_TILE = 8192
_OF_THREAD = 16
_WARPS = 4, 16
_ANSWER = (
    "Tensor q, Tensor k, Tensor v, Tensor? log_weights, Tensor? q_decode, Tensor? k_decode, Tensor lse,"
    " Tensor z, Tensor ptr, Tensor sequences, float scale, str precision"
)
_SCHEMAS = {
    "latent_scan": "(Tensor lse, Tensor z, Tensor first_lse, Tensor first_z, Tensor ptr) -> (Tensor, Tensor)",
    "latent_scan_grad": "(Tensor lse, Tensor z, Tensor ptr, Tensor lse_states, Tensor z_states, Tensor dlse_states,"
    " Tensor dz_states) -> (Tensor, Tensor, Tensor, Tensor)",
    "causal_answer": f"({_ANSWER}) -> Tensor",
    "causal_answer_grad": f"({_ANSWER}, Tensor offsets, Tensor y, Tensor dy)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "causal_decode": "(Tensor q, Tensor k, Tensor v, Tensor? log_weights, Tensor? q_decode, Tensor? k_decode,"
    " Tensor(a!) lse, Tensor(b!) z, float scale) -> Tensor",
}


def _programs(z: Tensor, ptr: Tensor) -> int:
    return (len(ptr) - 1) * z.shape[1] * -(-z.shape[2] // _BLOCK_M)


def _constants(z: Tensor) -> tuple[int, ...]:
    return z.shape[1], z.shape[3], _BLOCK_M, block_of(z.shape[3]), _AHEAD


def latent_scan(lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """All states [T + B, H, M] and [T + B, H, M, Dv]; see `scan`."""
    states = len(lse) + len(first_lse)
    lse_states, z_states = lse.new_empty((states, *lse.shape[1:])), z.new_empty((states, *z.shape[1:]))
    launch(
        scan_kernel, _programs(z, ptr), (lse, z, first_lse, first_z, ptr, lse_states, z_states), (z.shape[2],), (),
        _constants(z),
    )  # fmt: skip
    return lse_states, z_states


def latent_scan_grad(
    lse: Tensor, z: Tensor, ptr: Tensor, lse_states: Tensor, z_states: Tensor, dlse_states: Tensor, dz_states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `lse`, `z`, and of the first state of each sequence."""
    sequences = len(lse_states) - len(lse)
    dlse, dz = torch.empty_like(lse), torch.empty_like(z)
    first_dlse, first_dz = lse.new_empty((sequences, *lse.shape[1:])), z.new_empty((sequences, *z.shape[1:]))
    launch(
        scan_grad_kernel, _programs(z, ptr),
        (lse, z, ptr, lse_states, z_states, dlse_states, dz_states, dlse, dz, first_dlse, first_dz),
        (z.shape[2],), (), _constants(z),
    )  # fmt: skip
    return dlse, dz, first_dlse, first_dz


def _answer_constants(q: Tensor, k: Tensor, v: Tensor, precision: str) -> tuple[tuple[Any, ...], int]:
    """Constants of the kernels that answer, and how many blocks of latents there are."""
    heads, latents, dim = q.shape[-3:]
    block_m = min(_LATENTS, block_of(latents))
    # Factors of the weights reach far beyond what float16 holds, and several of them, rounded, meet in a product: so
    # inside they have more digits than what comes in.
    how = {torch.bfloat16: "tf32", torch.float16: "tf32x3"}.get(k.dtype, precision)
    blocks = SPAN, block_m, block_of(dim), block_of(v.shape[-1])
    return (heads, dim, v.shape[-1], *blocks, latents <= block_m, how), -(-latents // block_m)


def _strides(q: Tensor, k: Tensor, v: Tensor, q_decode: Tensor | None, k_decode: Tensor | None) -> tuple[int, ...]:
    queries = [(0, 0, 0) if x is None else (0 if x.dim() == 3 else x.stride(0), x.stride(-3), x.stride(-2))
               for x in (q, q_decode)]  # fmt: skip
    rows = [(0, 0) if x is None else (x.stride(0), x.stride(1)) for x in (k, v, k_decode)]
    return (*queries[0], *rows[0], *rows[1], *queries[1], *rows[2])


def causal_answer(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    lse: Tensor, z: Tensor, ptr: Tensor, sequences: Tensor, scale: float, precision: str,
) -> Tensor:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `v`; `lse` and `z` are what `latent_scan` gives of the spans that `ptr` cuts.

    Give both `q_decode` and `k_decode`, or neither where tokens and latents read one another by the same scores.
    """
    constants, blocks = _answer_constants(q, k, v, precision)
    parts = v.new_empty((blocks, *v.shape), dtype=v.dtype if blocks == 1 else torch.float32)
    programs = len(sequences) * q.shape[-3], blocks
    far = ptr.new_empty(programs, dtype=torch.int32)
    for again in (False, True):
        launch(
            answer_kernel, programs, (q, k, v, log_weights, q_decode, k_decode, lse, z, ptr, sequences, far, parts),
            (len(k), q.shape[-2], scale), _strides(q, k, v, q_decode, k_decode), (*constants, again),
        )  # fmt: skip
    return parts[0] if blocks == 1 else parts.sum(0).to(v.dtype)


def causal_answer_grad(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    lse: Tensor, z: Tensor, ptr: Tensor, sequences: Tensor, scale: float, precision: str, offsets: Tensor, y: Tensor,
    dy: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, log-weights, q_decode, k_decode, lse, z; `offsets` say which spans a sequence has."""
    constants, blocks = _answer_constants(q, k, v, precision)
    spans, heads, latents = len(sequences), *lse.shape[1:]
    # Sums over blocks are in fp32; where there is one, it writes what is returned.
    rows = [
        None if x is None else k.new_empty((blocks, *x.shape), dtype=x.dtype if blocks == 1 else torch.float32)
        for x in (k, v, k_decode)
    ]
    queries = [
        None if x is None else k.new_empty((spans, heads, latents, x.shape[-1]), dtype=torch.float32)
        for x in (q, q_decode)
    ]
    dweights = None if log_weights is None else k.new_empty((blocks, len(k), heads), dtype=torch.float32)
    dlse, dz = torch.empty_like(lse), torch.empty_like(z)
    far = ptr.new_empty((spans * heads, blocks), dtype=torch.int32)
    for again in (False, True):
        launch(
            answer_grad_kernel, (spans * heads, blocks),
            (q, k, v, log_weights, q_decode, k_decode, lse, z, ptr, sequences, far, None if blocks == 1 else y, dy,
             queries[0], rows[0], rows[1], dweights, queries[1], rows[2], dlse, dz),
            (len(k), latents, scale), _strides(q, k, v, q_decode, k_decode), (*constants, again),
        )  # fmt: skip
    last = offsets[1:] + torch.arange(len(offsets) - 1, device=offsets.device)
    dlse, dz = dlse.index_fill_(0, last, 0.0), dz.index_fill_(0, last, 0.0)  # nothing here reads these
    dk, dv, dk_decode = (
        k.new_empty(0) if each is None else each[0] if blocks == 1 else each.sum(0).to(k.dtype) for each in rows
    )
    dq, dq_decode = (
        k.new_empty(0) if each is None or x is None else _of_queries(each, x, offsets)
        for each, x in zip(queries, (q, q_decode), strict=True)
    )
    of_weights = k.new_empty(0) if dweights is None else dweights.sum((0, 2))
    return dq, dk, dv, of_weights, dq_decode, dk_decode, dlse, dz


def _of_queries(parts: Tensor, q: Tensor, offsets: Tensor) -> Tensor:
    """Parts of spans added up, in their order, for all or for each sequence."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    groups, row, block = (1 if q.dim() == 3 else len(q)), parts[0].numel(), 32
    step = (len(offsets) - 1) // groups
    launch(sum_kernel, (-(-row // block), groups), (parts, offsets, out), (0, step, row, 1.0), (), (64, block))
    return out


def causal_decode(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    lse: Tensor, z: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """Y [B, H, Dv] of one token each in the dtype of `v`; `lse` and `z`, contiguous and in fp32, are overwritten."""
    reads = (q, k) if q_decode is None or k_decode is None else (q_decode, k_decode)
    strides = _strides(q, k, v, *reads)
    dims = q.shape[-1], reads[0].shape[-1], v.shape[-1]
    widths = [block_of(dim) for dim in dims]
    block_m = min(block_of(q.shape[-2]), _MOST_OF_TILE // max(widths))
    warps = min(max(block_m * max(widths) // (32 * _OF_THREAD), _WARPS[0]), _WARPS[1])
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    torch.autograd.graph.increment_version((lse, z))  # as of every operation in place
    launch(
        decode_kernel, len(k) * q.shape[-3], (q, k, v, log_weights, q_decode, k_decode, lse, z, y),
        (scale,), strides, (*q.shape[-3:-1], *dims, block_m, *widths), num_warps=warps,
    )  # fmt: skip
    return y


def _fake_scan(lse: Tensor, z: Tensor, first_lse: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    states = len(lse) + len(first_lse)
    return lse.new_empty((states, *lse.shape[1:])), z.new_empty((states, *z.shape[1:]))


def _fake_grad(lse: Tensor, z: Tensor, ptr: Tensor, lse_states: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    sequences = len(lse_states) - len(lse)
    return (
        torch.empty_like(lse), torch.empty_like(z), lse.new_empty((sequences, *lse.shape[1:])),
        z.new_empty((sequences, *z.shape[1:])),
    )  # fmt: skip


def _fake_answer(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def _fake_answer_grad(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    lse: Tensor, z: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    of_weights = k.new_empty(0) if log_weights is None else k.new_empty(len(k), dtype=torch.float32)
    dq, dk, dv, dq_decode, dk_decode = (
        k.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (q, k, v, q_decode, k_decode)
    )
    return dq, dk, dv, of_weights, dq_decode, dk_decode, torch.empty_like(lse), torch.empty_like(z)


library = register(
    {
        "latent_scan": (_SCHEMAS["latent_scan"], latent_scan, _fake_scan),
        "latent_scan_grad": (_SCHEMAS["latent_scan_grad"], latent_scan_grad, _fake_grad),
        "causal_answer": (_SCHEMAS["causal_answer"], causal_answer, _fake_answer),
        "causal_answer_grad": (_SCHEMAS["causal_answer_grad"], causal_answer_grad, _fake_answer_grad),
        "causal_decode": (_SCHEMAS["causal_decode"], causal_decode, _fake_answer),
    }
)
