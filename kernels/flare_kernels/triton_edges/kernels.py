"""Programs take a few nodes with all channels and walk along the edges of each, to the largest degree among them.

Everything is in fp32 between the loads and the stores. Messages are computed again wherever they are needed: an edge is
a few numbers of its own and a row that is mostly in the cache, the message a row that nobody else reads. Strides are
constants, so that rows of 56 channels are loaded in wide pieces as well.
"""

import triton
import triton.language as tl

# The tanh form of GELU is x·sigmoid(2√(2/π)(x + 0.044715 x³)).
LINEAR = tl.constexpr(1.5957691216057308)
CUBIC = tl.constexpr(1.5957691216057308 * 0.044715)


@triton.jit(do_not_specialize=["num_nodes"])
def edge_mean_kernel(
    source, target, attr, weight, ptr, nodes, edges, y,
    num_nodes,
    STRIDE_S: tl.constexpr, STRIDE_T: tl.constexpr, STRIDE_E: tl.constexpr,
    C: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The mean of what comes in at each node of a block; zero where nothing does."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < num_nodes
    first, degree = edge_range(ptr, rows, inside)
    columns = load_weight(weight, C, E, BLOCK_C)
    own = load_rows(target, rows, STRIDE_T, inside, C, BLOCK_C)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for step in range(0, tl.max(degree, 0)):
        here, node, edge = edge_at(nodes, edges, first, degree, step)
        x = own + load_rows(source, node, STRIDE_S, here, C, BLOCK_C)
        x = weighted(x, load_features(attr, edge, STRIDE_E, here, E), columns, E)
        total += tl.where(here[:, None], gelu(x), 0.0)
    store_rows(y, rows, inside, total / tl.maximum(degree, 1).to(tl.float32)[:, None], C, BLOCK_C)


@triton.jit(do_not_specialize=["num_nodes", "num_blocks"])
def target_grad_kernel(
    source, target, attr, weight, ptr, nodes, edges, dy, dtarget, parts,
    num_nodes, num_blocks,
    STRIDE_S: tl.constexpr, STRIDE_T: tl.constexpr, STRIDE_E: tl.constexpr, STRIDE_DY: tl.constexpr,
    C: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the target rows of some blocks of nodes, and these nodes' part of the gradient of the weight."""
    columns = load_weight(weight, C, E, BLOCK_C)
    sums = zeros(E, BLOCK_N, BLOCK_C)
    for block in range(0, num_blocks):
        rows = (tl.program_id(0).to(tl.int64) * num_blocks + block) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = rows < num_nodes
        first, degree = edge_range(ptr, rows, inside)
        own = load_rows(target, rows, STRIDE_T, inside, C, BLOCK_C)
        share = load_rows(dy, rows, STRIDE_DY, inside, C, BLOCK_C) / tl.maximum(degree, 1).to(tl.float32)[:, None]
        total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        for step in range(0, tl.max(degree, 0)):
            here, node, edge = edge_at(nodes, edges, first, degree, step)
            x = own + load_rows(source, node, STRIDE_S, here, C, BLOCK_C)
            features = load_features(attr, edge, STRIDE_E, here, E)
            x = weighted(x, features, columns, E)
            d = tl.where(here[:, None], share * gelu_slope(x), 0.0)
            total += d
            sums = added(sums, features, d, E)
        store_rows(dtarget, rows, inside, total, C, BLOCK_C)
    store_sums(parts, sums, C, E, BLOCK_C)


@triton.jit(do_not_specialize=["num_nodes"])
def source_grad_kernel(
    source, target, attr, weight, target_ptr, ptr, nodes, edges, dy, dsource,
    num_nodes,
    STRIDE_S: tl.constexpr, STRIDE_T: tl.constexpr, STRIDE_E: tl.constexpr, STRIDE_DY: tl.constexpr,
    C: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the source rows of a block of nodes, along the edges that leave them."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < num_nodes
    first, degree = edge_range(ptr, rows, inside)
    columns = load_weight(weight, C, E, BLOCK_C)
    own = load_rows(source, rows, STRIDE_S, inside, C, BLOCK_C)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for step in range(0, tl.max(degree, 0)):
        here, node, edge = edge_at(nodes, edges, first, degree, step)
        _, arriving = edge_range(target_ptr, node, here)
        x = own + load_rows(target, node, STRIDE_T, here, C, BLOCK_C)
        x = weighted(x, load_features(attr, edge, STRIDE_E, here, E), columns, E)
        share = load_rows(dy, node, STRIDE_DY, here, C, BLOCK_C) / tl.maximum(arriving, 1).to(tl.float32)[:, None]
        total += tl.where(here[:, None], share * gelu_slope(x), 0.0)
    store_rows(dsource, rows, inside, total, C, BLOCK_C)


@triton.jit
def edge_range(ptr, rows, inside):
    """Place of the first edge of each node, and how many there are."""
    first = tl.load(ptr + rows, mask=inside, other=0)
    return first, tl.load(ptr + rows + 1, mask=inside, other=0) - first


@triton.jit
def load_weight(weight, C: tl.constexpr, E: tl.constexpr, BLOCK_C: tl.constexpr):
    """The columns [1, BLOCK_C] of a weight [C, E], in fp32."""
    channels = tl.arange(0, BLOCK_C)
    columns = ()
    for e in tl.static_range(E):
        column = tl.load(weight + channels * E + e, mask=channels < C, other=0.0).to(tl.float32)
        columns = columns + (column[None, :],)  # noqa: RUF005 (Triton does not know the other form)
    return columns


@triton.jit
def edge_at(nodes, edges, first, degree, step):
    """Which nodes of a block have an edge so many places after their first; its other end, and the edge's number."""
    here = step < degree
    node = tl.load(nodes + first + step, mask=here, other=0).to(tl.int64)
    return here, node, tl.load(edges + first + step, mask=here, other=0).to(tl.int64)


@triton.jit
def load_features(attr, edge, STRIDE: tl.constexpr, here, E: tl.constexpr):
    """Each feature [BLOCK_N, 1] of the edges, in fp32; zero where there is no edge."""
    features = ()
    for e in tl.static_range(E):
        feature = tl.load(attr + edge * STRIDE + e, mask=here, other=0.0).to(tl.float32)
        features = features + (feature[:, None],)  # noqa: RUF005
    return features


@triton.jit
def weighted(x, features, columns, E: tl.constexpr):
    """`x` and what the features bring to each channel [BLOCK_N, BLOCK_C].

    A sum that starts with the features would take its layout from them, and each thread would load them many times.
    """
    for e in tl.static_range(E):
        x += features[e] * columns[e]
    return x


@triton.jit
def zeros(E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile for each feature."""
    tiles = ()
    for _ in tl.static_range(E):
        tiles = tiles + (tl.zeros([BLOCK_N, BLOCK_C], tl.float32),)  # noqa: RUF005
    return tiles


@triton.jit
def added(tiles, features, d, E: tl.constexpr):
    """Tiles with each feature times d added."""
    more = ()
    for e in tl.static_range(E):
        more = more + (tiles[e] + features[e] * d,)  # noqa: RUF005
    return more


@triton.jit
def store_sums(parts, tiles, C: tl.constexpr, E: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums of each tile over its rows, to the place of this program."""
    channels = tl.arange(0, BLOCK_C)
    for e in tl.static_range(E):
        place = parts + (tl.program_id(0).to(tl.int64) * E + e) * C + channels
        tl.store(place, tl.sum(tiles[e], 0), mask=channels < C)


@triton.jit
def load_rows(x, rows, STRIDE: tl.constexpr, there, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile [rows, BLOCK_C] in fp32; zero where there is no row, and past the channels."""
    channels = tl.arange(0, BLOCK_C)
    mask = there[:, None]
    if BLOCK_C != C:
        mask = mask & (channels < C)[None, :]
    return tl.load(x + rows[:, None] * STRIDE + channels[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_rows(x, rows, there, tile, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Write a tile to rows that lie one after another, in the element type of `x`."""
    channels = tl.arange(0, BLOCK_C)
    mask = there[:, None]
    if BLOCK_C != C:
        mask = mask & (channels < C)[None, :]
    tl.store(x + rows[:, None] * C + channels[None, :], tile.to(x.dtype.element_ty), mask=mask)


@triton.jit
def gelu(x):
    """Its tanh form, `x·s` with s the sigmoid of a cubic."""
    s, _ = sigmoid(x * (LINEAR + CUBIC * x * x))
    return x * s


@triton.jit
def gelu_slope(x):
    """Derivative of the GELU."""
    s, product = sigmoid(x * (LINEAR + CUBIC * x * x))
    return s + product * x * (LINEAR + 3.0 * CUBIC * x * x)


@triton.jit
def sigmoid(a):
    """The sigmoid s and s(1 − s), of an exponential that cannot overflow, without a difference of near equals."""
    t = tl.exp(-tl.abs(a))
    r = 1.0 / (1.0 + t)
    return tl.where(a < 0.0, t * r, r), t * r * r
