"""Causal FLARE on its kernels: the states of spans of tokens, the running softmax over them, and what tokens read."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..api import gather
from ..segments import Segments
from .state import LatentState, running


def by_spans(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, log_weights: Tensor | None,
    decode: tuple[Tensor, Tensor] | None, initial: LatentState, precision: str,
) -> tuple[Tensor, LatentState]:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `v` and the last states; arguments as in `api.causal_mixer`, checked.

    `decode` are `q_decode` and `k_decode` where either differs from `q` and `k`.
    """
    from ..triton_causal.autograd import answer
    from ..triton_causal.ops import SPAN
    from ..triton_mixer.autograd import rows_together

    q, k, v = (rows_together(x) for x in (q, k, v))
    q_decode, k_decode = (None, None) if decode is None else (rows_together(x) for x in decode)
    if log_weights is not None:
        log_weights = log_weights.contiguous()
    spans, order = cut(segments, SPAN)
    if spans.num_segments == 0:
        return v.new_zeros(v.shape), initial
    of_spans = q if q.dim() == 3 else q.index_select(0, order.batch)
    z, lse = gather(
        of_spans, k, v, scale=scale, ptr=spans, log_weights=log_weights, return_lse=True, impl="triton",
        precision=precision,
    )  # fmt: skip
    states = running(LatentState(lse.float(), z.float()), initial, order, "triton")
    y = answer(
        q, k, v, log_weights, q_decode, k_decode, *states.every, spans.ptr, order.batch, order.ptr, scale, precision
    )
    return y, states.last


def cut(segments: Segments, size: int) -> tuple[Segments, Segments]:
    """Spans of at most `size` tokens, none across two sequences; and which of them each sequence has.

    Made once for each `segments`: their offsets are copied to the device, for which the host waits, and which no CUDA
    graph may hold.
    """
    if torch.compiler.is_compiling():
        return _cut(segments, size)
    known = _known.setdefault(segments, {})
    if size not in known:
        known[size] = _cut(segments, size)
    return known[size]


_known: WeakKeyDictionary[Segments, dict[int, tuple[Segments, Segments]]] = WeakKeyDictionary()


def _cut(segments: Segments, size: int) -> tuple[Segments, Segments]:
    counts = [-(-length // size) for length in segments.lengths]
    lengths = [min(size, length - first) for length in segments.lengths for first in range(0, length, size)]
    device = segments.ptr.device
    return Segments.from_lengths(lengths, device), Segments.from_lengths(counts, device)
