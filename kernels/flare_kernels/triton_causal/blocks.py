"""Time steps of points in one function: gather of each step, states along the steps, scatter to each step.

Where latents and points read one another by the same queries and keys, gradients of both halves take one pass over the
points together, as those of the mixer do.
"""

from typing import Any

import torch
from torch import Tensor

from ..once import refuse_second_derivatives, refuse_transforms
from ..triton_mixer.autograd import LN_2, Plan, Scores, Settings, if_blocks, rows_together
from . import ops  # noqa: F401 (the operators along states are registered there)


def mixer(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, encode: Scores, decode: Scores, first_lse: Tensor,
    first_z: Tensor, offsets: Tensor, sequence_of_step: Tensor, plan: Plan, settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `k`, and log-sum-exps and values of the last states.

    Args:
        q: [H, M, D], or one set a step.
        k: [N, H, D], and `v` [N, H, Dv] of the same dtype.
        v: see `k`.
        log_weights: [N] in one piece.
        encode: costs and slopes of the gather.
        decode: those of the scatter.
        first_lse: [B, H, M] of the states before the first steps.
        first_z: [B, H, M, Dv].
        offsets: [B+1] of the sequences in the steps.
        sequence_of_step: of each of the T steps.
        plan: where the steps are in the points.
        settings: a positive scale, and the precision of float32.
    """
    refuse_transforms()
    found: tuple[Tensor, Tensor, Tensor] = _Blocks.apply(
        q, k, v, log_weights, *encode, *decode, first_lse, first_z, offsets, sequence_of_step, plan, settings
    )
    return found


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost_encode: Tensor | None,
        slope_encode: Tensor | None, scale_encode: Tensor | None, cost_decode: Tensor | None,
        slope_decode: Tensor | None, scale_decode: Tensor | None, first_lse: Tensor, first_z: Tensor, offsets: Tensor,
        sequence_of_step: Tensor, plan: Plan, settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        run = torch.ops.flare_connect
        encode, decode = (cost_encode, slope_encode, scale_encode), (cost_decode, slope_decode, scale_decode)
        z, lse2 = run.gather(q, k, v, log_weights, *encode, *plan, *settings)
        whole = lse2 if lse2.dim() == 3 else lse2[0] + lse2[1]
        lse = torch.where(whole == torch.inf, -torch.inf, whole * LN_2)
        lse_states, z_states = run.latent_scan(lse, z, first_lse, first_z, offsets)
        rows = torch.arange(1, len(lse) + 1, device=lse.device) + sequence_of_step  # of the states after the steps
        last = offsets[1:] + torch.arange(len(offsets) - 1, device=lse.device)
        z_after = z_states.index_select(0, rows)
        y, lse_points, rest = run.scatter(q, k, z_after, *decode, *plan, *settings, any(ctx.needs_input_grad))
        ctx.plan, ctx.settings = plan, settings
        ctx.save_for_backward(
            q, k, v, log_weights, *encode, *decode, *if_blocks(q, y, rest), z, z_after, lse2, lse, lse_points,
            lse_states, z_states, offsets, rows, last,
        )  # fmt: skip
        return y, lse_states.index_select(0, last), z_states.index_select(0, last)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, last_dlse: Tensor, last_dz: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        q, k, v, log_weights, *scores, y, rest, z, z_after, lse2, lse, lse_points = ctx.saved_tensors[:-5]
        lse_states, z_states, offsets, rows, last = ctx.saved_tensors[-5:]
        need = ctx.needs_input_grad
        dy = rows_together(dy)
        run = torch.ops.flare_connect
        dz_after = run.latent_grad(q, k, dy, lse_points, *scores[3:], *ctx.plan, *ctx.settings)
        dlse_states = torch.zeros_like(lse_states).index_add_(0, last, last_dlse)
        dz_states = torch.zeros_like(z_states).index_copy_(0, rows, dz_after).index_add_(0, last, last_dz)
        dlse, dz, first_dlse, first_dz = run.latent_scan_grad(
            lse, z, offsets, lse_states, z_states, dlse_states, dz_states
        )
        dq, dk, dv, dweights, dslope_encode, dslope_decode = run.point_grad(
            q, k, v, dy, y, rest, z_after, dz, lse2, lse_points, dlse, log_weights, need[3], *scores, *ctx.plan,
            *ctx.settings, z,
        )  # fmt: skip
        _, slope_encode, _, _, slope_decode, _ = scores
        return (
            dq, dk, dv, dweights.to(log_weights.dtype) if need[3] else None,
            None, dslope_encode.to(slope_encode.dtype) if need[5] else None, None,
            None, dslope_decode.to(slope_decode.dtype) if need[8] else None, None,
            first_dlse, first_dz, *4 * (None,),
        )  # fmt: skip
