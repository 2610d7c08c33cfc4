"""MeshGraphNet: encode, many rounds of messages along the edges, decode."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.utils import scatter

from .base import Baseline, PeerInputs, check_edge_features, edges_of


class MessageRound(nn.Module):
    """`e_ij ← e_ij + norm(mlp[e_ij, x_i, x_j])`, then `x_j ← x_j + norm(mlp[Σ_i e_ij, x_j])`.

    Args:
        channels: C, width of nodes and edges.
        num_hidden: hidden layers of each perceptron.
    """

    def __init__(self, channels: int, num_hidden: int) -> None:
        super().__init__()
        # The first map of the edges is kept apart: it is applied to the nodes before the edges read them.
        self.edge_first = nn.Linear(3 * channels, channels)
        self.edge_rest = layers(channels, channels, channels, num_hidden, norm=True)[1:]
        self.node = layers(2 * channels, channels, channels, num_hidden, norm=True)

    def forward(
        self, x: Float[Tensor, "N C"], edges: Float[Tensor, "Ne C"], edge_index: Int[Tensor, "2 Ne"]
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "Ne C"]]:
        """Nodes and edges after the round."""
        source, target = edge_index
        of_edge, of_source, of_target = self.edge_first.weight.chunk(3, dim=1)
        h = F.linear(edges, of_edge, self.edge_first.bias)
        h = h + F.linear(x, of_source).index_select(0, source) + F.linear(x, of_target).index_select(0, target)
        edges = edges + self.edge_rest(h)
        received = scatter(edges, target, dim=0, dim_size=len(x), reduce="sum")
        return x + self.node(torch.cat([received, x], dim=1)), edges


class MeshGraphNet(Baseline):
    """Encoders of nodes and edges, rounds of message passing, decoder of nodes.

    Args:
        features: F, width of the node features.
        edge_features: E, width of the edge features.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        dim: space dimension.
        channels: C, width of nodes and edges.
        num_blocks: rounds; a node knows its neighbours up to that many edges away.
        num_hidden: hidden layers of each perceptron.

    Raises:
        ConfigError: if there are no edge features.

    Good values: the defaults, the paper's.
    Source: arXiv 2010.03409; equal to `physicsnemo.models.meshgraphnet.MeshGraphNet` with the same weights.
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
        num_blocks: int = 15,
        num_hidden: int = 2,
    ) -> None:
        super().__init__(dim)
        check_edge_features(edge_features, "MeshGraphNet")
        self.encode = layers(features + conditions, channels, channels, num_hidden, norm=True)
        self.encode_edges = layers(edge_features, channels, channels, num_hidden, norm=True)
        self.blocks = nn.ModuleList(MessageRound(channels, num_hidden) for _ in range(num_blocks))
        self.hidden = layers(channels, channels, outputs, num_hidden, norm=False)[:-1]
        self.decode = nn.Linear(channels, outputs)

    def _fields(self, x: Float[Tensor, "N FG"], inputs: PeerInputs) -> Float[Tensor, "N Cout"]:
        edge_index, edge_attr = edges_of(inputs, self)
        h, edges = self.encode(x), self.encode_edges(edge_attr)
        for block in self.blocks:
            h, edges = self._applied(block, h, edges, edge_index)
        return self.decode(self.hidden(h))


def layers(in_features: int, hidden_features: int, out_features: int, num_hidden: int, *, norm: bool) -> nn.Sequential:
    """Perceptron with ReLU, its output normalised where asked for."""
    widths = [in_features, *[hidden_features] * num_hidden]
    parts: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        parts += [nn.Linear(before, after), nn.ReLU()]
    parts.append(nn.Linear(widths[-1], out_features))
    return nn.Sequential(*parts, *([nn.LayerNorm(out_features)] if norm else []))
