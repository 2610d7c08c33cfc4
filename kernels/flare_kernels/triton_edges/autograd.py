"""Means along edges with gradients, on the operators of `ops`; messages are computed again in the backward pass."""

from typing import Any

import torch
from torch import Tensor

from ..once import refuse_second_derivatives
from ..triton_mixer.autograd import rows_together
from . import ops  # noqa: F401 (the operators are registered there)


def edge_mean(
    source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, by_target: tuple[Tensor, ...],
    by_source: tuple[Tensor, ...],
) -> Tensor:  # fmt: skip
    """Y [N, C] in the dtype of `source` and `target`, which have the same.

    Args:
        source: [N, C].
        target: [N, C].
        edge_attr: [Ne, E], which gets no gradient.
        weight: [C, E] of any dtype that a GPU computes in.
        by_target: offsets of each node's incoming edges, the node at the other end of each, the edge's number.
        by_source: the same of the outgoing edges.
    """
    source, target, edge_attr = (rows_together(x) for x in (source, target, edge_attr.detach()))
    y: Tensor = _EdgeMean.apply(source, target, edge_attr, weight.contiguous(), *by_target, *by_source)
    return y


class _EdgeMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        y: Tensor = torch.ops.flare_connect.edge_mean(*inputs[:7])
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        inputs = ctx.saved_tensors
        values, by_target, by_source = inputs[:4], inputs[4:7], inputs[7:]
        need = ctx.needs_input_grad
        dy = rows_together(dy)
        dsource, dtarget, dweight = None, None, None
        if need[0]:
            dsource = torch.ops.flare_connect.edge_source_grad(*values, by_target[0], *by_source, dy)
        if need[1] or need[3]:
            dtarget, dweight = torch.ops.flare_connect.edge_target_grad(*values, *by_target, dy)
            dweight = dweight.to(values[3].dtype)
        return dsource, dtarget, None, dweight, *6 * (None,)


def edge_difference(
    values: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, by_target: tuple[Tensor, ...],
    by_source: tuple[Tensor, ...],
) -> Tensor:  # fmt: skip
    """Y [N, C] in the dtype of `values` [N, C]; the rest as for `edge_mean`."""
    values, source, target, edge_attr = (rows_together(x) for x in (values, source, target, edge_attr.detach()))
    y: Tensor = _EdgeDifference.apply(values, source, target, edge_attr, weight.contiguous(), *by_target, *by_source)
    return y


class _EdgeDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        y: Tensor = torch.ops.flare_connect.edge_difference(*inputs[:8])
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        inputs = ctx.saved_tensors
        given, by_target, by_source = inputs[:5], inputs[5:8], inputs[8:]
        dy = rows_together(dy)
        dtarget, dweight, taken = torch.ops.flare_connect.edge_difference_target_grad(*given, *by_target, dy)
        dsource, dvalues = None, None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            dsource, dvalues = torch.ops.flare_connect.edge_difference_source_grad(
                *given, by_target[0], *by_source, dy, taken
            )
        return dvalues, dsource, dtarget, None, dweight.to(given[4].dtype), *6 * (None,)
