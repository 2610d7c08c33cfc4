"""What every peer shares: the call of our own `Trunk`, and the attributes that training sets on it."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, cat, nn
from torch.utils.checkpoint import checkpoint

from flare_connect.errors import ConfigError
from flare_kernels import JointSegments, Segments, spread

from ..config import Recompute
from ..trunk import Trunk
from .ball_query import Surroundings

_KEYWORDS = frozenset(inspect.signature(Trunk.forward).parameters) - {"self"}


@dataclass(frozen=True, eq=False, kw_only=True)
class PeerInputs:
    """What the layers of a peer may need besides the node features, computed once a batch.

    Attributes:
        segments: where each mesh starts.
        condition: per-mesh numbers.
        pos: position of each node, in units of half the domain's size.
        boundary_index: nodes of the boundary, sorted by mesh.
        boundary_segments: where each mesh's boundary nodes start, if it is known without asking the device.
        edge_index: directed edges.
        edge_attr: their features.
        surroundings: neighbours, where the caller has found them before.
    """

    segments: Segments
    condition: Float[Tensor, "B G"]
    pos: Float[Tensor, "N dim"]
    boundary_index: Int[Tensor, " Nb"] | None = None
    boundary_segments: Segments | None = None
    edge_index: Int[Tensor, "2 Ne"] | None = None
    edge_attr: Float[Tensor, "Ne E"] | None = None
    surroundings: Surroundings | None = None


class Baseline(nn.Module):
    """A peer in place of `Trunk`: a method of others under our features, conditions and training.

    A subclass makes `blocks` (repeated layers), `decode` (last linear map) and, for `_decoded`, the `norm` between
    them, and writes `_fields`. Conditions are joined to the features of each node, the same for every peer.

    Attributes:
        recompute: "blocks" keeps the input of each block for the backward pass and computes the rest again.
        stream: there because training sets it; must stay None.
    """

    recompute: Recompute = "nothing"
    stream: torch.dtype | None = None
    blocks: nn.ModuleList
    norm: nn.LayerNorm
    decode: nn.Linear

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(
        self,
        x: Float[Tensor, "N F"],
        condition: Float[Tensor, "B G"],
        *,
        segments: Segments,
        boundary_index: Int[Tensor, " Nb"] | None = None,
        joint: JointSegments | None = None,
        edge_index: Int[Tensor, "2 Ne"] | None = None,
        edge_attr: Float[Tensor, "Ne E"] | None = None,
        rank: int | None = None,
        pos: Float[Tensor, "N dim"] | None = None,
        surroundings: Surroundings | None = None,
        **own: object,
    ) -> Float[Tensor, "N Cout"]:
        """Outputs at the nodes.

        Args:
            x: node features.
            condition: per-mesh numbers.
            segments: where each mesh starts.
            boundary_index: nodes of the boundary, sorted by mesh; the geometry of GeoTransolver and GeoFLARE.
            joint: the points joined with these nodes; saves a question to the device.
            edge_index: directed edges; the graph networks need them.
            edge_attr: their features.
            rank: must be None, peers have no rank to choose.
            pos: position of each node in units of half the domain's size; None for the first `dim` columns of `x`,
                which is where `build_graph` writes it. Read by GeoTransolver and GeoFLARE alone.
            surroundings: what `GeoTransolver.surroundings` found for these meshes; None to find it now.
            own: what `Trunk` alone knows how to read (log weights, anchors); taken so that the call is the same.

        Raises:
            TypeError: if a keyword is not one of `Trunk`'s either.
            ValueError: if `rank` is given, or edges are missing that the method needs.
            ConfigError: if training asks for a saving of memory that peers do not have.
        """
        self._check(rank, own)
        inputs = PeerInputs(
            segments=segments,
            condition=condition,
            pos=x[:, : self.dim] if pos is None else pos,
            boundary_index=boundary_index,
            boundary_segments=None if joint is None else joint.token_segments,
            edge_index=edge_index,
            edge_attr=edge_attr,
            surroundings=surroundings,
        )
        return self._fields(cat([x, spread(condition, segments)], dim=1), inputs)

    def _fields(self, x: Float[Tensor, "N FG"], inputs: PeerInputs) -> Float[Tensor, "N Cout"]:
        raise NotImplementedError

    def _applied(self, block: nn.Module, *args: Any) -> Any:
        """`block(*args)`; with `recompute` only the arguments are kept for the backward pass."""
        if self.recompute == "blocks" and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)
        return block(*args)

    def _decoded(self, h: Tensor, *args: Any) -> Tensor:
        """Through the blocks, each called with `args` too, then normalised and decoded."""
        for block in self.blocks:
            h = self._applied(block, h, *args)
        return self.decode(self.norm(h))

    def _check(self, rank: int | None, own: dict[str, object]) -> None:
        name = type(self).__name__
        unknown = sorted(own.keys() - _KEYWORDS)
        if unknown:
            raise TypeError(f"{name} and `Trunk` have no keyword {unknown[0]!r}; known: {', '.join(sorted(_KEYWORDS))}")
        if rank is not None:
            raise ValueError(f"`rank` must be None for {name}, which has none to choose, got {rank}")
        if self.recompute not in ("nothing", "blocks"):
            raise ConfigError(f"`recompute` must be 'nothing' or 'blocks' for {name}, got {self.recompute!r}")
        if self.stream is not None:
            raise ConfigError(
                f"{name} keeps its points in the dtype of the inputs, got `stream` {self.stream}: "
                "train it with another precision than 'bf16-stream'"
            )


def perceptron(in_features: int, hidden_features: int, out_features: int) -> nn.Sequential:
    """One hidden layer with the exact GELU."""
    return nn.Sequential(nn.Linear(in_features, hidden_features), nn.GELU(), nn.Linear(hidden_features, out_features))


def edges_of(inputs: PeerInputs, method: nn.Module) -> tuple[Int[Tensor, "2 Ne"], Float[Tensor, "Ne E"]]:
    """Edges and their features.

    Raises:
        ValueError: if they were not given.
    """
    if inputs.edge_index is None or inputs.edge_attr is None:
        raise ValueError(f"{type(method).__name__} needs `edge_index` and `edge_attr`: switch on `message_passing`")
    return inputs.edge_index, inputs.edge_attr


def check_edge_features(edge_features: int, name: str) -> None:
    """Refuse a graph network without edges.

    Raises:
        ConfigError: if there are no edge features.
    """
    if edge_features < 1:
        raise ConfigError(
            f"{name} needs `edge_features` of at least 1, got {edge_features}: switch on `message_passing`"
        )


def check_heads(channels: int, num_heads: int) -> None:
    """Refuse a width that heads do not divide.

    Raises:
        ConfigError: if so.
    """
    if num_heads < 1 or channels < 1 or channels % num_heads:
        raise ConfigError(f"`channels` must be divisible by `num_heads`, got {channels} and {num_heads}")
