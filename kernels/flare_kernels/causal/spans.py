"""Causal FLARE on its kernels: sequences cut into spans of tokens, and those taken in groups."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..segments import Segments
from .state import LatentState


def by_spans(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, log_weights: Tensor | None,
    decode: tuple[Tensor, Tensor] | None, initial: LatentState, precision: str,
) -> tuple[Tensor, LatentState]:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `v` and the last states; arguments as in `api.causal_mixer`, checked.

    `decode` are `q_decode` and `k_decode` where either differs from `q` and `k`.
    """
    from ..triton_causal.autograd import answer
    from ..triton_causal.ops import SPAN, spans_of_group
    from ..triton_mixer.autograd import rows_together

    q, k, v = (rows_together(x) for x in (q, k, v))
    q_decode, k_decode = (None, None) if decode is None else (rows_together(x) for x in decode)
    if log_weights is not None:
        log_weights = log_weights.contiguous()
    of_group = spans_of_group(-(-segments.num_rows // SPAN), q.shape[-3])
    groups, order, spans = cut(segments, SPAN, of_group)
    if groups.num_segments == 0:
        return v.new_zeros(v.shape), initial
    y, lse, z = answer(
        q, k, v, log_weights, q_decode, k_decode, *initial, groups, order, spans, scale, precision
    )  # fmt: skip
    return y, LatentState(lse, z)


def cut(segments: Segments, size: int, of_group: int) -> tuple[Segments, Segments, Segments]:
    """Groups of at most `of_group` spans of at most `size` tokens, none across two sequences.

    Returns the tokens of groups, the groups of sequences, the spans of groups. Made once for each `segments`: their
    offsets are copied to the device, for which the host waits, and which no CUDA graph may hold.
    """
    if torch.compiler.is_compiling():
        return _cut(segments, size, of_group)
    known = _known.setdefault(segments, {})
    if (size, of_group) not in known:
        known[size, of_group] = _cut(segments, size, of_group)
    return known[size, of_group]


_known: WeakKeyDictionary[Segments, dict[tuple[int, int], tuple[Segments, Segments, Segments]]] = WeakKeyDictionary()


def _cut(segments: Segments, size: int, of_group: int) -> tuple[Segments, Segments, Segments]:
    most = size * of_group
    counts = [-(-length // most) for length in segments.lengths]
    lengths = [min(most, length - first) for length in segments.lengths for first in range(0, length, most)]
    spans = [-(-length // size) for length in lengths]
    device = segments.ptr.device
    groups, order = Segments.from_lengths(lengths, device), Segments.from_lengths(counts, device)
    return groups, order, Segments.from_lengths(spans, device)
