"""What callers use on sequences of tokens: validation and packing. The mathematics is in `reference`.

Letters: B sequences, N tokens (packed over the batch), H heads, M latents a head, D head dim, Dv value dim.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..api import PRECISIONS
from ..autocast import as_autocast
from ..choice import choose_for_tokens
from ..segments import Ptr, Segments, packed
from ..validation import check_choice, check_device, check_log_weights, check_points
from . import reference
from .chunked import CHUNK, chunked
from .spans import by_spans
from .state import LatentState

IMPLEMENTATIONS = ("auto", "triton", "chunked", "reference")


def causal_mixer(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "*Bn N H D"],
    v: Float[Tensor, "*Bn N H Dv"],
    *,
    scale: float,
    ptr: Ptr = None,
    log_weights: Float[Tensor, "..."] | None = None,
    q_decode: Float[Tensor, "*B H M D"] | None = None,
    k_decode: Float[Tensor, "*Bn N H D"] | None = None,
    initial_state: LatentState | None = None,
    return_state: bool = False,
    chunk: int = CHUNK,
    impl: str = "auto",
    precision: str = "ieee",
) -> Float[Tensor, "*Bn N H Dv"] | tuple[Float[Tensor, "*Bn N H Dv"], LatentState]:
    """Low-rank attention in which a token reads itself and what came before; O(N·M) time, O(N) memory.

    `s_tm = scale · q_m·k_t + b_t`, `lse_tm = log Σ_{τ≤t} exp s_τm`, `z_tm = Σ_{τ≤t} exp(s_τm − lse_tm) v_τ`,
    `y_t = Σ_m softmax_m(scale · q'_m·k'_t) z_tm`.

    Args:
        q: latent queries, shared [H, M, D] or one set a sequence [B, H, M, D].
        k: keys, packed [N, H, D] or dense [B, N, H, D].
        v: values, like `k`; their dim may differ.
        scale: factor of the scores.
        ptr: offsets [B+1] of the sequences in the packed form, or `Segments`; None for a single sequence.
        log_weights: b, one a token, for the reading of the latents: a write gate; −inf keeps a token out.
        q_decode: q', queries of what tokens read, where they differ from `q`.
        k_decode: k', likewise.
        initial_state: what latents know before the first token. Gradients flow through it.
        return_state: also return what they know after the last, with which the sequence goes on.
        chunk: tokens that "chunked" works on together; changes memory and time, not the result.
        impl: "triton" on a GPU, "chunked" in plain torch, or "reference", a loop over tokens. "auto" is "triton" where
            that runs, or else "chunked".
        precision: of the products of float32 inputs in Triton, as in `gather`.

    Returns:
        Y, in the layout and the dtype of `v` (under autocast, in its dtype); zero where nothing with weight came yet.
        With `return_state` also the state, in float32 (float64 for float64 inputs).

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.

    Source: FLARE, arXiv 2508.12594; with `f_t = exp(lse_{t−1} − lse_t)` it is linear attention with a gate a latent.
    """
    check_choice("impl", impl, IMPLEMENTATIONS)
    check_choice("precision", precision, PRECISIONS)
    if chunk < 1:
        raise ValueError(f"`chunk` must be at least 1, got {chunk}")
    k, v, log_weights, segments, dense = packed(k, v, log_weights, ptr)
    check_points(q, k, v, segments)
    check_log_weights(log_weights, k)
    apart = q_decode is not None or k_decode is not None
    q_decode = q if q_decode is None else q_decode
    k_decode = k if k_decode is None else packed(k_decode, None, None, ptr)[0]
    check_points(q_decode, k_decode, v, segments)
    check_same_latents(q, q_decode)
    k, v, k_decode = as_autocast(k, v, k_decode)
    impl = choose_for_tokens(impl, k, v, k_decode)
    dtype = torch.promote_types(torch.promote_types(k.dtype, v.dtype), torch.float32)
    state = ready(initial_state, q, v, segments.num_segments, dtype)
    # The inputs are what autocast wants them to be; sums over all of the past keep their precision.
    with torch.autocast(k.device.type, enabled=False):
        if impl == "triton":
            decode = (q_decode, k_decode) if apart else None
            y, last = by_spans(q, k, v, segments, scale, log_weights, decode, state, precision)
        else:
            along = reference.recurrent if impl == "reference" else partial(chunked, chunk=chunk)
            y, last = _one_by_one(along, q, k, v, segments, scale, log_weights, q_decode, k_decode, state)
    y = y if dense is None else y.view(*dense, *y.shape[1:])
    return (y, last) if return_state else y


def _one_by_one(
    along: Callable[[Tensor, Tensor, Tensor, LatentState], tuple[Tensor, LatentState]],
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, log_weights: Tensor | None, q_decode: Tensor,
    k_decode: Tensor, initial: LatentState,
) -> tuple[Tensor, LatentState]:  # fmt: skip
    """Each sequence in plain torch, `along` it from scores, shares and values in the dtype of the state."""
    dtype, outputs, states = initial.lse.dtype, [], []
    for b, rows in enumerate(segments.slices):
        s = scores(q, b, k[rows], scale, dtype)
        if log_weights is not None:
            s = s + log_weights[rows].to(dtype)[:, None, None]
        p = torch.softmax(scores(q_decode, b, k_decode[rows], scale, dtype), dim=-1)
        y, last = along(s, p, v[rows].to(dtype), initial.of(slice(b, b + 1)))
        outputs.append(y)
        states.append(last)
    last = LatentState(torch.cat([each.lse for each in states]), torch.cat([each.z for each in states]))
    return torch.cat(outputs).to(v.dtype), last


def scores(
    q: Float[Tensor, "*B H M D"], sequence: int, k: Float[Tensor, "N H D"], scale: float, dtype: torch.dtype
) -> Float[Tensor, "N H M"]:
    """Of the tokens of one sequence."""
    mine = q if q.dim() == 3 else q[sequence]
    return scale * torch.einsum("hmd,nhd->nhm", mine.to(dtype), k.to(dtype))


def check_same_latents(q: Tensor, q_decode: Tensor) -> None:
    """Tokens read the latents that have read them.

    Raises:
        ValueError: if there are other numbers of heads or latents.
    """
    if q.shape[-3:-1] != q_decode.shape[-3:-1]:
        raise ValueError(
            f"`q_decode` must hold the heads and latents of `q`, {list(q.shape[-3:-1])}, got "
            f"{list(q_decode.shape[-3:-1])}"
        )


def ready(state: LatentState | None, q: Tensor, v: Tensor, num_sequences: int, dtype: torch.dtype) -> LatentState:
    """The given state in the dtype of computation, or an empty one."""
    if state is None:
        heads, latents = q.shape[-3:-1]
        return LatentState.empty(num_sequences, heads, latents, v.shape[-1], v.device, dtype)
    check_state(state, q, v, num_sequences)
    return LatentState(state.lse.to(dtype), state.z.to(dtype))


def check_state(state: LatentState, q: Tensor, v: Tensor, num_sequences: int) -> None:
    """What latents know must fit them, the values and the sequences.

    Raises:
        ValueError: if shape, dtype or device do not.
    """
    expected = (num_sequences, *q.shape[-3:-1], v.shape[-1])
    if tuple(state.z.shape) != expected or tuple(state.lse.shape) != expected[:-1]:
        raise ValueError(
            f"the state must have `lse` {list(expected[:-1])} and `z` {list(expected)}, got {list(state.lse.shape)} "
            f"and {list(state.z.shape)}"
        )
    if state.lse.dtype not in (torch.float32, torch.float64) or state.z.dtype != state.lse.dtype:
        raise ValueError(
            f"the state must be in float32, or float64, got {state.lse.dtype} and {state.z.dtype}: it sums up all "
            "of the past"
        )
    check_device("state", state.lse, v)
    check_device("state", state.z, v)
