"""Loads through a mesh: a stream of channels that every layer is linear in, steered by what the geometry is.

A linear problem answers to twice the load with twice the field, and to two loads with the sum of both answers. Here
that holds exactly, whatever the weights: points decide where to look and how much of it to take, loads are what is
taken. So a model learns how a mesh answers, instead of an answer for every load that it has seen.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from flare_kernels import EdgePlan, edge_difference

from .anchored import AnchoredFlare
from .attention import FlareAttention
from .hybrid import BlockInputs
from .mlp import together

# Channels whose root of the sum of squares is one number of a homogeneous readout: as many as a stress has in 2-D.
_GROUP = 4


class LoadEntry(nn.Module):
    """`u_n = W f_n ⊙ (1 + G h_n)` of the loads f at each point.

    Args:
        channels: C, width of the points h.
        num_loads: L, loads at a point.
        load_channels: Cu, width of the stream.
    """

    def __init__(self, channels: int, num_loads: int, load_channels: int) -> None:
        super().__init__()
        self.loads = nn.Linear(num_loads, load_channels, bias=False)
        self.gate = nn.Linear(channels, load_channels)

    def forward(self, loads: Float[Tensor, "N L"], h: Float[Tensor, "N C"]) -> Float[Tensor, "N Cu"]:
        """The stream where it starts."""
        return self.loads(loads) * (1 + self.gate(h))


class LoadStencil(MessagePassing):
    """`y_i = V mean_{j→i} softsign(A ĥ_j + B ĥ_i + W e_ij) ⊙ (u_j − u_i)`: differences of the stream along the mesh.

    A stencil of derivatives whose weights follow from the points at both ends and from the edge. What couples the
    components of a stress is derivatives, and across a slit there is none to take.

    Args:
        channels: C, width of the points ĥ.
        load_channels: Cu, width of the stream.
        edge_features: E, width of the edge features.
    """

    def __init__(self, channels: int, load_channels: int, edge_features: int) -> None:
        super().__init__(aggr="mean")
        self.source = nn.Linear(channels, load_channels, bias=False)
        self.target = nn.Linear(channels, load_channels)
        self.edge = nn.Linear(edge_features, load_channels, bias=False)
        self.output = nn.Linear(load_channels, load_channels, bias=False)

    def forward(
        self,
        u: Float[Tensor, "N Cu"],
        points: Float[Tensor, "N C"],
        edge_index: Int[Tensor, "2 Ne"],
        edge_attr: Float[Tensor, "Ne E"],
        plan: EdgePlan | None = None,
    ) -> Float[Tensor, "N Cu"]:
        """What comes in at each point; arguments as of `MeshConv`."""
        return self.weighted(u, self.source(points), self.target(points), edge_index, edge_attr, plan)

    def weighted(
        self,
        u: Float[Tensor, "N Cu"],
        source: Float[Tensor, "N Cu"],
        target: Float[Tensor, "N Cu"],
        edge_index: Int[Tensor, "2 Ne"],
        edge_attr: Float[Tensor, "Ne E"],
        plan: EdgePlan | None = None,
    ) -> Float[Tensor, "N Cu"]:
        """The same of `A ĥ` and `B ĥ`, which someone has made."""
        if plan is not None:
            received = edge_difference(u, source, target, edge_attr, self.edge.weight, plan)
        else:
            given = {"source": source, "target": target, "u": u, "edge": self.edge(edge_attr)}
            received = self.propagate(edge_index, size=(len(u), len(u)), **given)
        y: Tensor = self.output(received)
        return y

    def message(self, source_j: Tensor, target_i: Tensor, u_i: Tensor, u_j: Tensor, edge: Tensor) -> Tensor:
        """What node i is told of node j."""
        return F.softsign(source_j + target_i + edge) * (u_j - u_i)


class LoadBlock(nn.Module):
    """`u ← u + G ĥ ⊙ stencil(ĥ; u)` in rounds, `u ← u + G' ĥ ⊙ attention(ĥ; u)`, `u ← u + V (W u ⊙ gelu(G″ ĥ))`.

    ĥ are the normalised points.

    Args:
        channels: C, width of the points.
        load_channels: Cu, width of the stream.
        attention: with `value_channels` Cu; mixes the stream with weights that follow from the points. None to leave
            the stream to what is near.
        edge_features: E, width of the edge features.
        num_rounds: rounds of differences along the mesh; 0 for none.
        mlp_ratio: hidden width of the perceptron in units of Cu.

    Good values: as many channels as the points have.
    """

    def __init__(
        self,
        channels: int,
        load_channels: int,
        attention: FlareAttention | None,
        *,
        edge_features: int = 0,
        num_rounds: int = 0,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        hidden = int(mlp_ratio * load_channels)
        self.norm = nn.LayerNorm(channels)
        self.stencils = nn.ModuleList(LoadStencil(channels, load_channels, edge_features) for _ in range(num_rounds))
        self.passed = nn.ModuleList(nn.Linear(channels, load_channels) for _ in range(num_rounds))
        self.attention = attention
        self.taken = nn.Linear(channels, load_channels) if attention is not None else None
        self.up = nn.Linear(load_channels, hidden, bias=False)
        self.gate = nn.Linear(channels, hidden)
        self.down = nn.Linear(hidden, load_channels, bias=False)

    def forward(self, u: Float[Tensor, "N Cu"], h: Float[Tensor, "N C"], inputs: BlockInputs) -> Float[Tensor, "N Cu"]:
        """The stream after the block."""
        points = self.norm(h)
        maps: list[Any] = [self.gate]
        for stencil, passed in zip(self.stencils, self.passed, strict=True):
            maps += [stencil.source, stencil.target, passed]
        gate, *weights = together(maps, points)
        stencils: Any = self.stencils
        for i, stencil in enumerate(stencils):
            if inputs.edge_index is None or inputs.edge_attr is None:
                raise ValueError("differences along the mesh need `edge_index` and `edge_attr` in the block's inputs")
            source, target, kept = weights[3 * i : 3 * i + 3]
            taken = stencil.weighted(u, source, target, inputs.edge_index, inputs.edge_attr, inputs.plan)
            u = torch.addcmul(u, kept, taken)
        if self.attention is not None and self.taken is not None:
            anchors = {"anchors": inputs.anchors} if isinstance(self.attention, AnchoredFlare) else {}
            mixed = self.attention(
                points,
                inputs.segments,
                **anchors,
                values=u,
                log_weights=inputs.log_weights,
                rank=inputs.rank,
                recompute=inputs.recompute,
            )
            u = torch.addcmul(u, self.taken(points), mixed)
        return u + self.down(self.up(u) * F.gelu(gate, approximate="tanh"))


class LoadReadout(nn.Module):
    """`y = W u'`, `u' = u ⊙ (1 + G ĥ)`; of a homogeneous response also of the norms of groups of u'.

    Args:
        channels: C, width of the points.
        load_channels: Cu.
        outputs: columns predicted at each point.
        homogeneous: read norms too, which are in proportion to the loads but do not add up.
    """

    def __init__(self, channels: int, load_channels: int, outputs: int, *, homogeneous: bool) -> None:
        super().__init__()
        self.homogeneous = homogeneous
        self.gate = nn.Linear(channels, load_channels)
        norms = -(-load_channels // _GROUP) if homogeneous else 0
        self.output = nn.Linear(load_channels + norms, outputs, bias=False)

    def forward(self, u: Float[Tensor, "N Cu"], h: Float[Tensor, "N C"]) -> Float[Tensor, "N Cout"]:
        """Outputs at the points, which are normalised."""
        u = u * (1 + self.gate(h))
        if self.homogeneous:
            padded = F.pad(u, (0, -u.shape[1] % _GROUP))
            # Where the stream is zero, so is the gradient of its norm.
            norms = padded.unflatten(1, (-1, _GROUP)).float().square().sum(-1).clamp_min(1e-24).sqrt()
            u = torch.cat([u, norms.to(u.dtype)], dim=1)
        return self.output(u)
