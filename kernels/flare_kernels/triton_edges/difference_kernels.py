"""Weighted differences along edges; programs, tiles and edges as in `kernels`.

Differences are small beside the values that they are of, so these come in a precision of their own, and gradients of
both ends of an edge are added up before they are rounded.
"""

import triton
import triton.language as tl

from .kernels import (
    added,
    edge_at,
    edge_range,
    load_features,
    load_rows,
    load_weight,
    store_rows,
    store_sums,
    weighted,
    zeros,
)


@triton.jit(do_not_specialize=["num_nodes"])
def edge_difference_kernel(
    values, source, target, attr, weight, ptr, nodes, edges, y,
    num_nodes,
    STRIDE_V: tl.constexpr, STRIDE_S: tl.constexpr, STRIDE_T: tl.constexpr, STRIDE_E: tl.constexpr,
    C: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The mean over what comes in at each node of a block; zero where nothing does."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < num_nodes
    first, degree = edge_range(ptr, rows, inside)
    columns = load_weight(weight, C, E, BLOCK_C)
    own = load_rows(target, rows, STRIDE_T, inside, C, BLOCK_C)
    here_value = load_rows(values, rows, STRIDE_V, inside, C, BLOCK_C)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for step in range(0, tl.max(degree, 0)):
        here, node, edge = edge_at(nodes, edges, first, degree, step)
        x = own + load_rows(source, node, STRIDE_S, here, C, BLOCK_C)
        x = weighted(x, load_features(attr, edge, STRIDE_E, here, E), columns, E)
        difference = load_rows(values, node, STRIDE_V, here, C, BLOCK_C) - here_value
        total += tl.where(here[:, None], softsign(x) * difference, 0.0)
    store_rows(y, rows, inside, total / tl.maximum(degree, 1).to(tl.float32)[:, None], C, BLOCK_C)


@triton.jit(do_not_specialize=["num_nodes", "num_blocks"])
def difference_target_grad_kernel(
    values, source, target, attr, weight, ptr, nodes, edges, dy, dtarget, taken, parts,
    num_nodes, num_blocks,
    STRIDE_V: tl.constexpr, STRIDE_S: tl.constexpr, STRIDE_T: tl.constexpr, STRIDE_E: tl.constexpr,
    STRIDE_DY: tl.constexpr,
    C: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the target rows, what those of the values lose where edges end, and parts of that of the weight."""
    columns = load_weight(weight, C, E, BLOCK_C)
    sums = zeros(E, BLOCK_N, BLOCK_C)
    for block in range(0, num_blocks):
        rows = (tl.program_id(0).to(tl.int64) * num_blocks + block) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = rows < num_nodes
        first, degree = edge_range(ptr, rows, inside)
        own = load_rows(target, rows, STRIDE_T, inside, C, BLOCK_C)
        here_value = load_rows(values, rows, STRIDE_V, inside, C, BLOCK_C)
        share = load_rows(dy, rows, STRIDE_DY, inside, C, BLOCK_C) / tl.maximum(degree, 1).to(tl.float32)[:, None]
        total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        lost = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        for step in range(0, tl.max(degree, 0)):
            here, node, edge = edge_at(nodes, edges, first, degree, step)
            x = own + load_rows(source, node, STRIDE_S, here, C, BLOCK_C)
            features = load_features(attr, edge, STRIDE_E, here, E)
            x = weighted(x, features, columns, E)
            difference = load_rows(values, node, STRIDE_V, here, C, BLOCK_C) - here_value
            d = tl.where(here[:, None], share * difference * softsign_slope(x), 0.0)
            total += d
            lost += tl.where(here[:, None], share * softsign(x), 0.0)
            sums = added(sums, features, d, E)
        store_rows(dtarget, rows, inside, total, C, BLOCK_C)
        store_rows(taken, rows, inside, lost, C, BLOCK_C)
    store_sums(parts, sums, C, E, BLOCK_C)


@triton.jit(do_not_specialize=["num_nodes"])
def difference_source_grad_kernel(
    values, source, target, attr, weight, target_ptr, ptr, nodes, edges, dy, taken, dsource, dvalues,
    num_nodes,
    STRIDE_V: tl.constexpr, STRIDE_S: tl.constexpr, STRIDE_T: tl.constexpr, STRIDE_E: tl.constexpr,
    STRIDE_DY: tl.constexpr,
    C: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the source rows and of the values, along the edges that leave a block of nodes."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < num_nodes
    first, degree = edge_range(ptr, rows, inside)
    columns = load_weight(weight, C, E, BLOCK_C)
    own = load_rows(source, rows, STRIDE_S, inside, C, BLOCK_C)
    here_value = load_rows(values, rows, STRIDE_V, inside, C, BLOCK_C)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    gained = -load_rows(taken, rows, C, inside, C, BLOCK_C)
    for step in range(0, tl.max(degree, 0)):
        here, node, edge = edge_at(nodes, edges, first, degree, step)
        _, arriving = edge_range(target_ptr, node, here)
        x = own + load_rows(target, node, STRIDE_T, here, C, BLOCK_C)
        x = weighted(x, load_features(attr, edge, STRIDE_E, here, E), columns, E)
        share = load_rows(dy, node, STRIDE_DY, here, C, BLOCK_C) / tl.maximum(arriving, 1).to(tl.float32)[:, None]
        difference = here_value - load_rows(values, node, STRIDE_V, here, C, BLOCK_C)
        total += tl.where(here[:, None], share * difference * softsign_slope(x), 0.0)
        gained += tl.where(here[:, None], share * softsign(x), 0.0)
    store_rows(dsource, rows, inside, total, C, BLOCK_C)
    store_rows(dvalues, rows, inside, gained, C, BLOCK_C)


@triton.jit
def softsign(x):
    """`x / (1 + |x|)`."""
    return x / (1.0 + tl.abs(x))


@triton.jit
def softsign_slope(x):
    """Derivative of the softsign."""
    r = 1.0 / (1.0 + tl.abs(x))
    return r * r
