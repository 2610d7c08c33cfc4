"""A plain graph network: convolutions of PyTorch Geometric in residual blocks."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, SAGEConv
from torch_geometric.utils import add_self_loops

from flare_connect.errors import ConfigError

from .base import Baseline, PeerInputs, check_edge_features, check_heads, edges_of

Convolution = Literal["gat", "sage"]


class GraphBlock(nn.Module):
    """`x ← x + act(conv(norm x))`.

    Args:
        channels: C.
        edge_features: E.
        conv: "gat" (attention among neighbours, reads the edge features) or "sage" (mean of the neighbours, does not).
        num_heads: heads of the attention.
    """

    def __init__(self, channels: int, edge_features: int, conv: Convolution, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reads_edges = conv == "gat"
        if self.reads_edges:
            self.conv = GATv2Conv(
                channels, channels // num_heads, heads=num_heads, edge_dim=edge_features, add_self_loops=False
            )
        else:
            self.conv = SAGEConv(channels, channels)

    def forward(
        self, x: Float[Tensor, "N C"], edge_index: Int[Tensor, "2 Ne"], edge_attr: Float[Tensor, "Ne E"]
    ) -> Float[Tensor, "N C"]:
        """One round."""
        h = self.norm(x)
        received = self.conv(h, edge_index, edge_attr) if self.reads_edges else self.conv(h, edge_index)
        return x + F.gelu(received)


class GraphNet(Baseline):
    """Linear map, graph convolutions, linear map.

    Args:
        features: F, width of the node features.
        edge_features: E, width of the edge features.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        dim: space dimension.
        channels: C.
        num_blocks: convolutions; a node knows its neighbours up to that many edges away.
        num_heads: heads of the attention; must divide C.
        conv: "gat" or "sage", see `GraphBlock`.

    Raises:
        ConfigError: if heads do not divide the channels, the convolution is unknown or there are no edge features.

    Good values: 128 channels, 9 to 15 blocks.
    Source: GATv2, arXiv 2105.14491; GraphSAGE, arXiv 1706.02216.
    """

    def __init__(
        self,
        *,
        features: int,
        edge_features: int,
        conditions: int,
        outputs: int,
        dim: int,
        channels: int = 128,
        num_blocks: int = 9,
        num_heads: int = 8,
        conv: Convolution = "gat",
    ) -> None:
        super().__init__(dim)
        if conv not in ("gat", "sage"):
            raise ConfigError(f"`conv` must be 'gat' or 'sage', got {conv!r}")
        check_heads(channels, num_heads)
        check_edge_features(edge_features, "GraphNet")
        self.attends = conv == "gat"
        self.encode = nn.Linear(features + conditions, channels)
        self.blocks = nn.ModuleList(GraphBlock(channels, edge_features, conv, num_heads) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(channels)
        self.decode = nn.Linear(channels, outputs)

    def _fields(self, x: Float[Tensor, "N FG"], inputs: PeerInputs) -> Float[Tensor, "N Cout"]:
        edge_index, edge_attr = edges_of(inputs, self)
        if self.attends:
            # Each node attends to itself too. Done once and not in each layer, where it would wait for the device.
            edge_index, edge_attr = add_self_loops(edge_index, edge_attr, fill_value="mean", num_nodes=len(x))
        return self._decoded(self.encode(x), edge_index, edge_attr)
