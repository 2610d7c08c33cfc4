"""Block-causal FLARE: a time step is a block of points, which see all of their own step and all steps before."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..api import PRECISIONS, Cost, gather, scatter
from ..choice import choose, choose_for_states
from ..segments import Ptr, Segments
from ..validation import check_choice, check_cost, check_log_weights, check_points
from .api import check_same_latents, ready
from .state import LatentState, running


def block_causal_mixer(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "N H D"],
    v: Float[Tensor, "N H Dv"],
    *,
    scale: float,
    steps: Ptr,
    sequences: Ptr = None,
    log_weights: Float[Tensor, " N"] | None = None,
    q_decode: Float[Tensor, "*B H M D"] | None = None,
    k_decode: Float[Tensor, "N H D"] | None = None,
    cost: Cost | None = None,
    cost_decode: Cost | None = None,
    initial_state: LatentState | None = None,
    return_state: bool = False,
    impl: str = "auto",
    precision: str = "ieee",
) -> Float[Tensor, "N H Dv"] | tuple[Float[Tensor, "N H Dv"], LatentState]:
    """Low-rank attention along time: points read what their step and all before it wrote into the latents.

    A `gather` of each step, a running softmax over the steps, a `scatter` to each step. Nothing is causal among the
    points of a step, so this costs what the mixer does. Steps may have any number of points, each another, and none.

    Args:
        q: latent queries, shared [H, M, D] or one set a sequence [B, H, M, D].
        k: keys of the points, packed: the steps of a sequence one after another, then the next sequence.
        v: values, likewise.
        scale: factor of the scores.
        steps: offsets of the steps of all sequences in the points, or `Segments`.
        sequences: offsets [B+1] of the sequences in the steps, or `Segments`; None for a single sequence.
        log_weights: b, one a point, as in `gather`.
        q_decode: queries of the scatter, where they differ from `q`.
        k_decode: keys of the scatter, where they differ from `k`.
        cost: anchored scores of the gather; of a mesh that stays, those of one step after another.
        cost_decode: anchored scores of the scatter; give both or neither.
        initial_state: what latents know before the first step of each sequence.
        return_state: also return what they know after the last, with which the sequence goes on.
        impl: as in `gather`.
        precision: as in `gather`.

    Returns:
        Y; with `return_state` also the state, in float32 (float64 for float64 inputs).

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.

    Source: FLARE, arXiv 2508.12594, with the softmax over points continued over steps.
    """
    if (cost is None) != (cost_decode is None):
        raise ValueError("give both `cost` and `cost_decode`, or neither: anchored latents decay in both halves")
    blocks = steps if isinstance(steps, Segments) else _segments("steps", steps)
    if sequences is None:
        order = Segments.uniform(1, blocks.num_segments, k.device)
    else:
        order = sequences if isinstance(sequences, Segments) else _segments("sequences", sequences)
    if order.num_rows != blocks.num_segments:
        raise ValueError(f"`sequences` must end at {blocks.num_segments}, the number of steps, got {order.num_rows}")
    shared = q_decode is None and k_decode is None
    q_decode = q if q_decode is None else q_decode
    check_same_latents(q, q_decode)
    for name, each in (("q", q), ("q_decode", q_decode)):
        if each.dim() == 4 and each.shape[0] != order.num_segments:
            raise ValueError(f"`{name}` has latents for {each.shape[0]} sequences, there are {order.num_segments}")
    dtype = torch.promote_types(torch.promote_types(k.dtype, v.dtype), torch.float32)
    state = ready(initial_state, q, v, order.num_segments, dtype)
    keys = k if k_decode is None else k_decode
    check_points(_of_steps(q_decode, order), keys, v, blocks)
    if blocks.num_segments == 0:
        return (v.new_zeros(v.shape), state) if return_state else v.new_zeros(v.shape)
    if shared and choose(impl, k, v.shape[-1]) == "triton" and choose_for_states(impl, state.lse) == "triton":
        from .. import fused

        check_choice("precision", precision, PRECISIONS)
        check_log_weights(log_weights, k)
        for anchored in (cost, cost_decode):
            if anchored is not None:
                check_cost(anchored.values, anchored.slope, anchored.head_scale, k, q)
        y, last = fused.block_mixer(
            _of_steps(q, order), k, v, blocks, order, scale, cost, cost_decode, log_weights, state, precision
        )
        y = y.to(v.dtype)
        return (y, last) if return_state else y
    read = gather(
        _of_steps(q, order), k, v, scale=scale, ptr=blocks, log_weights=log_weights, cost=cost, return_lse=True,
        impl=impl, precision=precision,
    )  # fmt: skip
    z, lse = (each.to(dtype) for each in read)
    states = running(LatentState(lse, z), state, order, choose_for_states(impl, lse))
    y = scatter(
        _of_steps(q_decode, order), keys, states.after.z.to(v.dtype), scale=scale, ptr=blocks, cost=cost_decode,
        impl=impl, precision=precision,
    )  # fmt: skip
    return (y, states.last) if return_state else y


def _of_steps(q: Tensor, order: Segments) -> Tensor:
    """Queries of each step: those of its sequence."""
    return q if q.dim() == 3 else q.index_select(0, order.batch)


def _segments(name: str, ptr: Ptr) -> Segments:
    if not isinstance(ptr, Tensor):
        raise ValueError(f"`{name}` must be offsets or `Segments`, got {ptr!r}")
    return Segments.from_ptr(ptr)
