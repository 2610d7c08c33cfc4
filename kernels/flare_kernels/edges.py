"""Messages along the edges of a mesh, averaged at each node."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import reference, tiled_edges
from .autocast import as_autocast
from .choice import choose_for_edges
from .validation import check_device


@dataclass(frozen=True, eq=False, kw_only=True)
class EdgePlan:
    """The directed edges of a graph in two orders, by the node they go to and by the node they come from.

    Made once a batch and read by every layer. Edges with the same node keep the order they were given in.

    Attributes:
        edge_index: source and target of each edge, as given.
        num_nodes: N.
        target_ptr: the edges to node i are `target_ptr[i]:target_ptr[i+1]` of the next two.
        arriving_from: source of each edge, sorted by target.
        arriving: number of each edge, sorted by target.
        source_ptr: where the edges from each node are in the last two.
        leaving_to: target of each edge, sorted by source.
        leaving: number of each edge, sorted by source.
    """

    edge_index: Int[Tensor, "2 Ne"]
    num_nodes: int
    target_ptr: Int[Tensor, " Np1"]
    arriving_from: Int[Tensor, " Ne"]
    arriving: Int[Tensor, " Ne"]
    source_ptr: Int[Tensor, " Np1"]
    leaving_to: Int[Tensor, " Ne"]
    leaving: Int[Tensor, " Ne"]

    @classmethod
    def from_edges(cls, edge_index: Int[Tensor, "2 Ne"], num_nodes: int) -> "EdgePlan":
        """Sort the edges; on a GPU nothing waits for the device.

        Args:
            edge_index: source and target of each directed edge, below `num_nodes`; checked on a CPU only, because a
                look at the values on a GPU would have to wait for it.
            num_nodes: N.

        Raises:
            ValueError: if `edge_index` is not of that form.
        """
        if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"`edge_index` must be int64 [2, Ne], got {edge_index.dtype} {list(edge_index.shape)}")
        visible = edge_index.device.type == "cpu" and not torch.compiler.is_compiling()
        if visible and edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
            raise ValueError(
                f"`edge_index` must hold nodes from 0 to {num_nodes - 1}, got {int(edge_index.min())} to "
                f"{int(edge_index.max())}"
            )
        source, target = edge_index[0], edge_index[1]
        by_target, by_source = _sorted(target, source, num_nodes), _sorted(source, target, num_nodes)
        return cls(
            edge_index=edge_index, num_nodes=num_nodes,
            target_ptr=by_target[0], arriving_from=by_target[1], arriving=by_target[2],
            source_ptr=by_source[0], leaving_to=by_source[1], leaving=by_source[2],
        )  # fmt: skip

    @property
    def by_target(self) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets of each node's incoming edges, where they come from, their numbers."""
        return self.target_ptr, self.arriving_from, self.arriving

    @property
    def by_source(self) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets of each node's outgoing edges, where they go, their numbers."""
        return self.source_ptr, self.leaving_to, self.leaving

    @property
    def num_edges(self) -> int:
        """Ne."""
        return self.edge_index.shape[1]


def edge_mean(
    source: Float[Tensor, "N C"],
    target: Float[Tensor, "N C"],
    edge_attr: Float[Tensor, "Ne E"],
    weight: Float[Tensor, "C E"],
    plan: EdgePlan,
    *,
    impl: str = "auto",
) -> Float[Tensor, "N C"]:
    """The mean of the messages that arrive at each node: `y_i = mean_{j→i} gelu(source_j + target_i + W e_ij)`.

    GELU is the tanh form. Triton keeps nothing of the size of edges × channels, computes in fp32, and adds up in the
    order of the plan: the same inputs give the same bits. Under autocast `source` and `target` are taken in its dtype,
    features and weight as they are.

    Args:
        source: what each node sends, before the edge is known.
        target: what each node adds to what it receives; of the dtype of `source`.
        edge_attr: features of the edges, in the order of `plan.edge_index`. Gradients flow into it on the reference
            path only, which "auto" takes for features that want one.
        weight: W, from edge features to channels.
        plan: the edges.
        impl: "auto", "triton", "tiled" or "reference"; "auto" is Triton on a GPU for up to 1024 channels and 16 edge
            features in float32, bfloat16 or float16, and plain torch tile by tile on a CPU.

    Returns:
        Y, in the dtype of `source`; zero at nodes where no edge arrives.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or Triton is asked for what it cannot do.
    """
    source, target, use = _ready(source, target, edge_attr, weight, plan, impl)
    if use == "reference":
        return reference.edge_mean(source, target, edge_attr, weight, plan.edge_index)
    if use == "tiled":
        return tiled_edges.edge_mean(source, target, edge_attr, weight, plan)
    from .triton_edges import autograd

    return autograd.edge_mean(source, target, edge_attr, weight, plan.by_target, plan.by_source)


def edge_difference(
    values: Float[Tensor, "N C"],
    source: Float[Tensor, "N C"],
    target: Float[Tensor, "N C"],
    edge_attr: Float[Tensor, "Ne E"],
    weight: Float[Tensor, "C E"],
    plan: EdgePlan,
    *,
    impl: str = "auto",
) -> Float[Tensor, "N C"]:
    """Weighted differences to the neighbours: `y_i = mean_{j→i} softsign(source_j + target_i + W e_ij) ⊙ (v_j − v_i)`.

    Linear in the values, and zero where they are constant: a stencil of derivatives whose weights are learned. The
    softsign is `x / (1 + |x|)`. Computation, memory and autocast are as in `edge_mean`, but for the values, which stay
    in their own dtype: neighbours differ by little, and half precision would leave mostly noise of it.

    Args:
        values: what differences are taken of.
        source: what a node adds to the weight of the edges that leave it.
        target: what a node adds to the weight of those that arrive; of the dtype of `source`.
        edge_attr: features of the edges; no gradient on the Triton path, as in `edge_mean`.
        weight: W, from edge features to channels.
        plan: the edges.
        impl: as in `edge_mean`.

    Returns:
        Y, in the dtype of `values`; zero at nodes where no edge arrives.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or Triton is asked for what it cannot do.
    """
    source, target, use = _ready(source, target, edge_attr, weight, plan, impl)
    if values.shape != source.shape or not values.is_floating_point():
        raise ValueError(
            f"`values` must be a floating-point tensor {list(source.shape)} as `source` is, got {values.dtype} "
            f"{list(values.shape)}"
        )
    check_device("values", values, source)
    if use == "triton":
        use = choose_for_edges(impl, values, edge_attr)  # of another dtype than `source`, perhaps none that it takes
    if use == "reference":
        return reference.edge_difference(values, source, target, edge_attr, weight, plan.edge_index)
    if use == "tiled":
        return tiled_edges.edge_difference(values, source, target, edge_attr, weight, plan)
    from .triton_edges import autograd

    return autograd.edge_difference(values, source, target, edge_attr, weight, plan.by_target, plan.by_source)


def _ready(
    source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, plan: EdgePlan, impl: str
) -> tuple[Tensor, Tensor, str]:
    """Both in the dtype of autocast, and the implementation to use, after everything was checked."""
    _check(source, target, edge_attr, weight, plan)
    source, target = as_autocast(source, target)
    return source, target, choose_for_edges(impl, source, edge_attr)


def _sorted(key: Tensor, other: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets of each node's edges sorted by `key`, the nodes at their other ends, their numbers."""
    # Half the bytes where the numbers fit.
    dtype = torch.int32 if max(num_nodes, len(key)) < 2**31 else torch.int64
    ordered, edges = torch.sort(key, stable=True)
    starts = torch.arange(num_nodes + 1, device=key.device, dtype=key.dtype)
    return torch.searchsorted(ordered, starts).to(dtype), other[edges].to(dtype), edges.to(dtype)


def _check(source: Tensor, target: Tensor, edge_attr: Tensor, weight: Tensor, plan: EdgePlan) -> None:
    if source.dim() != 2 or source.shape[0] != plan.num_nodes:
        raise ValueError(f"`source` must be [N, C] with the plan's N = {plan.num_nodes}, got {list(source.shape)}")
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(
            f"`target` must be {source.dtype} {list(source.shape)} as `source` is, got {target.dtype} "
            f"{list(target.shape)}"
        )
    if edge_attr.dim() != 2 or edge_attr.shape[0] != plan.num_edges:
        raise ValueError(f"`edge_attr` must be [{plan.num_edges}, E], one row an edge, got {list(edge_attr.shape)}")
    if tuple(weight.shape) != (source.shape[1], edge_attr.shape[1]):
        raise ValueError(f"`weight` must be [{source.shape[1]}, {edge_attr.shape[1]}], got {list(weight.shape)}")
    for name, x in (("source", source), ("edge_attr", edge_attr), ("weight", weight)):
        if not x.is_floating_point():
            raise ValueError(f"`{name}` must be a floating-point tensor, got {x.dtype}")
    for name, x in (("target", target), ("edge_attr", edge_attr), ("weight", weight), ("plan", plan.target_ptr)):
        check_device(name, x, source)
