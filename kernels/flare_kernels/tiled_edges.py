"""Messages along edges in plain torch, a tile of nodes at a time: for CPUs, where a tile stays in the cache.

Nothing of the size of edges × channels is kept: the backward pass computes messages again, as the kernels do.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .once import refuse_second_derivatives
from .tiled import without_autocast

if TYPE_CHECKING:
    from .edges import EdgePlan

# Numbers of a tile of messages: what is computed of it then takes about what a core has for itself.
TILE = 1 << 17


class _Tile(NamedTuple):
    """Edges that arrive at a few nodes, one after another.

    Attributes:
        nodes: which nodes.
        node: of each edge, counted from the first of them.
        start: where each edge comes from.
        attr: features of the edges.
    """

    nodes: slice
    node: Tensor
    start: Tensor
    attr: Tensor


def edge_mean(source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, plan: "EdgePlan") -> Tensor:
    """Y [N, C] in the dtype of `source`; arguments as in `edges.edge_mean`, already checked."""
    dtype = torch.promote_types(source.dtype, torch.float32)
    y: Tensor = _Mean.apply(*(x.to(dtype) for x in (source, target, edge_attr, weight)), plan)
    return y.to(source.dtype)


def edge_difference(
    values: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, plan: "EdgePlan"
) -> Tensor:
    """Y [N, C] in the dtype of `values`; arguments as in `edges.edge_difference`, already checked."""
    dtype = torch.promote_types(torch.promote_types(values.dtype, source.dtype), torch.float32)
    y: Tensor = _Difference.apply(*(x.to(dtype) for x in (values, source, target, edge_attr, weight)), plan)
    return y.to(values.dtype)


class _Mean(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, source: Tensor, target: Tensor, attr: Tensor, weight: Tensor, plan: "EdgePlan") -> Tensor:
        y = torch.zeros_like(source)
        for tile in _tiles(plan, attr, source.shape[1]):
            message = F.gelu(_mixed(tile, source, target, weight), approximate="tanh")
            y[tile.nodes].index_add_(0, tile.node, message)
        ctx.plan = plan
        ctx.save_for_backward(source, target, attr, weight)
        return y.div_(_degrees(plan, y))

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        source, target, attr, weight = ctx.saved_tensors
        ds, dt, dw = (torch.zeros_like(x) for x in (source, target, weight))
        dy = dy / _degrees(ctx.plan, dy)
        for tile in _tiles(ctx.plan, attr, source.shape[1]):
            slope = dy[tile.nodes].index_select(0, tile.node)
            mixed = _mixed(tile, source, target, weight)
            _add(tile, torch.ops.aten.gelu_backward(slope, mixed, approximate="tanh"), ds, dt, dw)
        return ds, dt, None, dw, None


class _Difference(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, values: Tensor, source: Tensor, target: Tensor, attr: Tensor, weight: Tensor, plan: "EdgePlan"
    ) -> Tensor:
        y = torch.zeros_like(values)
        for tile in _tiles(plan, attr, source.shape[1]):
            share = F.softsign(_mixed(tile, source, target, weight))
            y[tile.nodes].index_add_(0, tile.node, share.mul_(_apart(tile, values)))
        ctx.plan = plan
        ctx.save_for_backward(values, source, target, attr, weight)
        return y.div_(_degrees(plan, y))

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        values, source, target, attr, weight = ctx.saved_tensors
        dv, ds, dt, dw = (torch.zeros_like(x) for x in (values, source, target, weight))
        dy = dy / _degrees(ctx.plan, dy)
        for tile in _tiles(ctx.plan, attr, source.shape[1]):
            slope = dy[tile.nodes].index_select(0, tile.node)
            mixed = _mixed(tile, source, target, weight)
            over = mixed.abs().add_(1).reciprocal_()  # the softsign is `mixed · over`, its slope `over²`
            moved = mixed.mul_(over).mul_(slope)
            dv.index_add_(0, tile.start, moved)
            dv[tile.nodes].index_add_(0, tile.node, moved, alpha=-1)
            _add(tile, slope.mul_(_apart(tile, values)).mul_(over).mul_(over), ds, dt, dw)
        return dv, ds, dt, None, dw, None


def _mixed(tile: _Tile, source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`source_j + target_i + W e_ij` of each edge."""
    mixed = source.index_select(0, tile.start).addmm_(tile.attr, weight.t())
    return mixed.add_(target[tile.nodes].index_select(0, tile.node))


def _apart(tile: _Tile, values: Tensor) -> Tensor:
    """`v_j − v_i` of each edge."""
    return values.index_select(0, tile.start).sub_(values[tile.nodes].index_select(0, tile.node))


def _add(tile: _Tile, slope: Tensor, ds: Tensor, dt: Tensor, dw: Tensor) -> None:
    """What the gradient of `_mixed` brings to source, target and weight."""
    ds.index_add_(0, tile.start, slope)
    dt[tile.nodes].index_add_(0, tile.node, slope)
    dw.addmm_(slope.t(), tile.attr)


def _degrees(plan: "EdgePlan", like: Tensor) -> Tensor:
    """Edges that arrive at each node, at least 1."""
    return plan.target_ptr.diff().clamp(min=1).to(like.dtype)[:, None]


def _tiles(plan: "EdgePlan", attr: Tensor, channels: int) -> Iterator[_Tile]:
    """Nodes in their order, as many at a time as have about `TILE / channels` edges, and at least one."""
    most = max(1, TILE // channels)
    ends = plan.target_ptr[1:].contiguous()
    marks = torch.tensor(range(most, plan.num_edges, most), dtype=ends.dtype, device=ends.device)
    cuts = torch.searchsorted(ends, marks).add_(1).unique().tolist()
    bounds = [0, *(cut for cut in cuts if 0 < cut < plan.num_nodes), plan.num_nodes]
    edges = plan.target_ptr[torch.tensor(bounds)].tolist()
    node_of = plan.edge_index[1].index_select(0, plan.arriving)
    for (first, last), (start, end) in zip(
        zip(bounds, bounds[1:], strict=False), zip(edges, edges[1:], strict=False), strict=True
    ):
        if start < end:
            these = slice(start, end)
            attr_of = attr.index_select(0, plan.arriving[these])
            yield _Tile(slice(first, last), node_of[these] - first, plan.arriving_from[these], attr_of)
