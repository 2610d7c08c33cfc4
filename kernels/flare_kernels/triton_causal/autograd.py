"""States along sequences and what tokens read of them, with gradients, on the operators of `ops`."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    @once_differentiable
    def backward(ctx: Any, dlse_states: Tensor, dz_states: Tensor) -> tuple[Tensor | None, ...]:
        given = (*ctx.saved_tensors, dlse_states.contiguous(), dz_states.contiguous())
        dlse, dz, first_dlse, first_dz = torch.ops.flare_connect.latent_scan_grad(*given)
        return dlse, dz, first_dlse, first_dz, None


def answer(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    lse: Tensor, z: Tensor, ptr: Tensor, sequences: Tensor, offsets: Tensor, scale: float, precision: str,
) -> Tensor:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `v`, from the states that `latent_scan` gives.

    Args:
        q: latent queries, [H, M, D] or one set a sequence.
        k: keys [N, H, D].
        v: values [N, H, Dv], of the dtype of `k`.
        log_weights: [N].
        q_decode: as `q`; None, as `k_decode` then is, where tokens and latents read one another by the same scores.
        k_decode: as `k`.
        lse: [K + B, H, M], of B sequences with K spans.
        z: [K + B, H, M, Dv].
        ptr: offsets of the spans in the tokens.
        sequences: of each span.
        offsets: of the sequences in the spans.
        scale: factor of the scores.
        precision: as in `api.gather`.
    """
    y: Tensor = _Answer.apply(
        q, k, v, log_weights, q_decode, k_decode, lse.contiguous(), z.contiguous(), ptr, sequences, offsets, scale,
        precision,
    )  # fmt: skip
    return y


class _Answer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, offsets, scale, precision = given
        y: Tensor = torch.ops.flare_connect.causal_answer(*tensors, scale, precision)
        ctx.save_for_backward(*tensors, offsets, y)
        ctx.settings = scale, precision
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, offsets, y = ctx.saved_tensors
        found = torch.ops.flare_connect.causal_answer_grad(*tensors, *ctx.settings, offsets, y, dy.contiguous())
        of_inputs = [None if x is None else each.to(x.dtype) for x, each in zip(tensors, found, strict=False)]
        return *of_inputs, *5 * (None,)
