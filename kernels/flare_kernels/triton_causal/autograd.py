"""States along sequences and what tokens read of them, with gradients, on the operators of `ops`."""

from typing import Any

import torch
from torch import Tensor

from ..once import refuse_second_derivatives
from ..segments import Segments
from . import ops  # noqa: F401 (the operators are registered there)


def latent_scan(lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """All states of all sequences, [T + B, H, M] and [T + B, H, M, Dv], the first of each as given."""
    given = (x.contiguous() for x in (lse, z, first_lse, first_z))
    states: tuple[Tensor, Tensor] = _Scan.apply(*given, ptr)
    return states


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor
    ) -> tuple[Tensor, ...]:
        states: tuple[Tensor, ...] = torch.ops.flare_connect.latent_scan(lse, z, first_lse, first_z, ptr)
        ctx.save_for_backward(lse, z, ptr, *states)
        return states

    @staticmethod
    def backward(ctx: Any, dlse_states: Tensor, dz_states: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        given = (*ctx.saved_tensors, dlse_states.contiguous(), dz_states.contiguous())
        dlse, dz, first_dlse, first_dz = torch.ops.flare_connect.latent_scan_grad(*given)
        return dlse, dz, first_dlse, first_dz, None


def answer(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    first_lse: Tensor, first_z: Tensor, groups: Segments, order: Segments, spans: Segments, scale: float,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `v`, and the state of each sequence after its last token.

    Args:
        q: latent queries, [H, M, D] or one set a sequence.
        k: keys [N, H, D].
        v: values [N, H, Dv], of the dtype of `k`.
        log_weights: [N].
        q_decode: as `q`; None, as `k_decode` then is, where tokens and latents read one another by the same scores.
        k_decode: as `k`.
        first_lse: [B, H, M], of the state before each sequence.
        first_z: [B, H, M, Dv].
        groups: which tokens a group of spans has.
        order: which groups a sequence has.
        spans: which spans a group has.
        scale: factor of the scores.
        precision: as in `api.gather`.
    """
    found: tuple[Tensor, Tensor, Tensor] = _Answer.apply(
        q, k, v, log_weights, q_decode, k_decode, first_lse.contiguous(), first_z.contiguous(), groups.ptr,
        order.batch, order.ptr, scale, precision, spans.ptr, spans.num_rows,
    )  # fmt: skip
    return found


class _Answer(torch.autograd.Function):
    """All of it, so that the gradient of a token is added up once, and states between spans are kept by nobody."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        *tensors, scale, precision, spans, num_spans = given
        offsets: Tensor = tensors[-1]
        y, lse, z, softmax = torch.ops.flare_connect.causal_answer(*tensors, scale, precision)
        ctx.save_for_backward(*tensors, spans, lse, z, softmax, y)
        ctx.settings = scale, precision, num_spans
        last = offsets[1:] + torch.arange(len(offsets) - 1, device=offsets.device)
        return y, lse.index_select(0, last), z.index_select(0, last)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dlse: Tensor, dz: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        *tensors, spans, lse, z, softmax, y = ctx.saved_tensors
        scale, precision, num_spans = ctx.settings
        found = torch.ops.flare_connect.causal_answer_grad(
            *tensors, scale, precision, spans, num_spans, lse, z, softmax, y, *(x.contiguous() for x in (dy, dlse, dz))
        )
        of_inputs = [None if x is None else each.to(x.dtype) for x, each in zip(tensors, found, strict=False)]
        return *of_inputs, *7 * (None,)
