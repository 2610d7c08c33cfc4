"""The kernels as operators of torch, under the namespace `flare_connect`: functions of tensors without autograd.

Rows have their channels next to each other in memory; edges are in the two orders of an `EdgePlan`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..operators import register
from ..triton_mixer.dispatch import launch
from .difference_kernels import (
    difference_source_grad_kernel,
    difference_target_grad_kernel,
    edge_difference_kernel,
)
from .kernels import edge_mean_kernel, source_grad_kernel, target_grad_kernel

_INPUTS = "Tensor source, Tensor target, Tensor edge_attr, Tensor weight"
_SCHEMAS = {
    "edge_mean": f"({_INPUTS}, Tensor ptr, Tensor nodes, Tensor edges) -> Tensor",
    "edge_target_grad": f"({_INPUTS}, Tensor ptr, Tensor nodes, Tensor edges, Tensor dy) -> (Tensor, Tensor)",
    "edge_source_grad": f"({_INPUTS}, Tensor target_ptr, Tensor ptr, Tensor nodes, Tensor edges, Tensor dy) -> Tensor",
    "edge_difference": f"(Tensor values, {_INPUTS}, Tensor ptr, Tensor nodes, Tensor edges) -> Tensor",
    "edge_difference_target_grad": (
        f"(Tensor values, {_INPUTS}, Tensor ptr, Tensor nodes, Tensor edges, Tensor dy) -> (Tensor, Tensor, Tensor)"
    ),
    "edge_difference_source_grad": (
        f"(Tensor values, {_INPUTS}, Tensor target_ptr, Tensor ptr, Tensor nodes, Tensor edges, Tensor dy, "
        "Tensor taken) -> (Tensor, Tensor)"
    ),
}
# Numbers of a tile: eight in each thread of four warps, so that a tile for each edge feature fits beside the others.
_TILE = 1024
_NUM_WARPS = 4
# Programs that keep a part of the gradient of the weight; from shapes alone, so that sums are always in the same order.
_MAX_PARTS = 4096


class Blocks(NamedTuple):
    """How the nodes are cut: rows and channels of a tile, and how many tiles there are."""

    rows: int
    channels: int
    number: int


def _blocks(num_nodes: int, channels: int) -> Blocks:
    block_c = max(16, 1 << (channels - 1).bit_length())
    block_n = max(1, _TILE // block_c)
    return Blocks(block_n, block_c, -(-num_nodes // block_n))


def _constants(blocks: Blocks, weight: Tensor, *rows: Tensor) -> tuple[int, ...]:
    """What kernels are compiled for: from row to row of each tensor, channels, features, and the tile."""
    return (*(x.stride(0) for x in rows), *weight.shape, blocks.rows, blocks.channels)


def edge_mean(
    source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, ptr: Tensor, nodes: Tensor, edges: Tensor
) -> Tensor:
    """Y [N, C] in the dtype of `target`; edges by target, `nodes` where they come from."""
    y = torch.empty_like(target, memory_format=torch.contiguous_format)
    blocks = _blocks(*target.shape)
    launch(
        edge_mean_kernel, blocks.number,
        (source, target, edge_attr, weight, ptr, nodes, edges, y),
        (len(target),), (), _constants(blocks, weight, source, target, edge_attr), _NUM_WARPS,
    )  # fmt: skip
    return y


def target_grad(
    source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, ptr: Tensor, nodes: Tensor, edges: Tensor,
    dy: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of `target`, and of `weight` in fp32; edges as in `edge_mean`."""
    blocks = _blocks(*target.shape)
    channels, features = weight.shape
    per_program = max(1, -(-blocks.number // _MAX_PARTS))
    programs = -(-blocks.number // per_program)
    dtarget = torch.empty_like(target, memory_format=torch.contiguous_format)
    parts = weight.new_empty((programs, features, channels), dtype=torch.float32)
    launch(
        target_grad_kernel, programs,
        (source, target, edge_attr, weight, ptr, nodes, edges, dy, dtarget, parts),
        (len(target), per_program), (), _constants(blocks, weight, source, target, edge_attr, dy), _NUM_WARPS,
    )  # fmt: skip
    return dtarget, parts.sum(0).t().contiguous()


def source_grad(
    source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, target_ptr: Tensor, ptr: Tensor, nodes: Tensor,
    edges: Tensor, dy: Tensor,
) -> Tensor:  # fmt: skip
    """Gradient of `source`; edges by source, `nodes` where they go, `target_ptr` for how many arrive there."""
    blocks = _blocks(*source.shape)
    dsource = torch.empty_like(source, memory_format=torch.contiguous_format)
    launch(
        source_grad_kernel, blocks.number,
        (source, target, edge_attr, weight, target_ptr, ptr, nodes, edges, dy, dsource),
        (len(source),), (), _constants(blocks, weight, source, target, edge_attr, dy), _NUM_WARPS,
    )  # fmt: skip
    return dsource


def edge_difference(
    values: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, ptr: Tensor, nodes: Tensor,
    edges: Tensor,
) -> Tensor:  # fmt: skip
    """Y [N, C] in the dtype of `values`; edges by target, `nodes` where they come from."""
    y = torch.empty_like(values, memory_format=torch.contiguous_format)
    blocks = _blocks(*target.shape)
    launch(
        edge_difference_kernel, blocks.number,
        (values, source, target, edge_attr, weight, ptr, nodes, edges, y),
        (len(target),), (), _constants(blocks, weight, values, source, target, edge_attr), _NUM_WARPS,
    )  # fmt: skip
    return y


def difference_target_grad(
    values: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, ptr: Tensor, nodes: Tensor,
    edges: Tensor, dy: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `target`, of `weight` in fp32, and in fp32 what those of `values` lose where edges end."""
    blocks = _blocks(*target.shape)
    channels, features = weight.shape
    per_program = max(1, -(-blocks.number // _MAX_PARTS))
    programs = -(-blocks.number // per_program)
    dtarget = torch.empty_like(target, memory_format=torch.contiguous_format)
    taken = torch.empty_like(target, memory_format=torch.contiguous_format, dtype=torch.float32)
    parts = weight.new_empty((programs, features, channels), dtype=torch.float32)
    launch(
        difference_target_grad_kernel, programs,
        (values, source, target, edge_attr, weight, ptr, nodes, edges, dy, dtarget, taken, parts),
        (len(target), per_program), (), _constants(blocks, weight, values, source, target, edge_attr, dy), _NUM_WARPS,
    )  # fmt: skip
    return dtarget, parts.sum(0).t().contiguous(), taken


def difference_source_grad(
    values: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, target_ptr: Tensor, ptr: Tensor,
    nodes: Tensor, edges: Tensor, dy: Tensor, taken: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of `source` and of `values`; edges by source, `taken` from `difference_target_grad`."""
    blocks = _blocks(*source.shape)
    dsource = torch.empty_like(source, memory_format=torch.contiguous_format)
    dvalues = torch.empty_like(values, memory_format=torch.contiguous_format)
    launch(
        difference_source_grad_kernel, blocks.number,
        (values, source, target, edge_attr, weight, target_ptr, ptr, nodes, edges, dy, taken, dsource, dvalues),
        (len(source),), (), _constants(blocks, weight, values, source, target, edge_attr, dy), _NUM_WARPS,
    )  # fmt: skip
    return dsource, dvalues


def _fake_edge_mean(source: Tensor, target: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(target, memory_format=torch.contiguous_format)


def _fake_target_grad(
    source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    dtarget = torch.empty_like(target, memory_format=torch.contiguous_format)
    return dtarget, weight.new_empty(weight.shape, dtype=torch.float32)


def _fake_source_grad(source: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(source, memory_format=torch.contiguous_format)


def _fake_difference(values: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _fake_difference_target_grad(
    values: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dtarget, dweight = _fake_target_grad(source, target, edge_attr, weight)
    return dtarget, dweight, torch.empty_like(dtarget, dtype=torch.float32)


def _fake_difference_source_grad(values: Tensor, source: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_source_grad(source), _fake_difference(values)


library = register(
    {
        "edge_mean": (_SCHEMAS["edge_mean"], edge_mean, _fake_edge_mean),
        "edge_target_grad": (_SCHEMAS["edge_target_grad"], target_grad, _fake_target_grad),
        "edge_source_grad": (_SCHEMAS["edge_source_grad"], source_grad, _fake_source_grad),
        "edge_difference": (_SCHEMAS["edge_difference"], edge_difference, _fake_difference),
        "edge_difference_target_grad": (
            _SCHEMAS["edge_difference_target_grad"],
            difference_target_grad,
            _fake_difference_target_grad,
        ),
        "edge_difference_source_grad": (
            _SCHEMAS["edge_difference_source_grad"],
            difference_source_grad,
            _fake_difference_source_grad,
        ),
    }
)
