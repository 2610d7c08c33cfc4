"""GeoTransolver and GeoFLARE: attention that also reads a context made of the geometry and the per-mesh numbers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

import flare_kernels
from flare_connect.errors import ConfigError
from flare_kernels import Segments

from .ball_query import Surroundings, ball, nearest
from .base import Baseline, PeerInputs, check_heads, perceptron
from .transolver import PreNormBlock, SliceAttention, SliceProjection


class ContextReader(nn.Module):
    """Queries, keys and values of the cross attention to the context, and the share of its result.

    `mix(own, read) = σ(g)·own + (1 − σ(g))·read`, one learned g a layer.

    Args:
        head_dim: D.
        context_dim: Dc, width of the context.
    """

    def __init__(self, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(head_dim, head_dim)
        self.key = nn.Linear(context_dim, head_dim)
        self.value = nn.Linear(context_dim, head_dim)
        self.share = nn.Parameter(torch.zeros(()))

    def mix(self, own: Float[Tensor, "*S D"], read: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """Blend what was mixed among the points with what was read of the context."""
        share = torch.sigmoid(self.share)
        return share * own + (1 - share) * read


class GaleAttention(SliceAttention):
    """Physics attention whose slices attend to each other and, beside that, to the context.

    Args:
        channels: C.
        num_heads: H; heads have floor(C/H) channels.
        num_slices: M, slices a head.
        context_dim: Dc.
    """

    def __init__(self, channels: int, *, num_heads: int, num_slices: int, context_dim: int) -> None:
        super().__init__(channels, num_heads=num_heads, num_slices=num_slices)
        nn.init.orthogonal_(self.projection.slice.weight)
        self.reader = ContextReader(channels // num_heads, context_dim)

    def _attend(
        self, tokens: Float[Tensor, "B H M D"], context: Float[Tensor, "B H Mc Dc"] | None
    ) -> Float[Tensor, "B H M D"]:
        reader = self.reader
        read = F.scaled_dot_product_attention(reader.query(tokens), reader.key(context), reader.value(context))
        return reader.mix(super()._attend(tokens, context), read)


class GeoFlareAttention(nn.Module):
    """FLARE among the points and, beside that, attention of each point to the context; scores are not scaled.

    Args:
        channels: C.
        num_heads: H; heads have floor(C/H) channels.
        num_slices: M, latents a head.
        context_dim: Dc.
    """

    def __init__(self, channels: int, *, num_heads: int, num_slices: int, context_dim: int) -> None:
        super().__init__()
        head_dim = channels // num_heads
        self.num_heads = num_heads
        self.latents = nn.Parameter(torch.randn(num_heads, num_slices, head_dim))
        self.input = nn.Linear(channels, num_heads * head_dim)
        self.key = nn.Linear(head_dim, head_dim)
        self.value = nn.Linear(head_dim, head_dim)
        self.reader = ContextReader(head_dim, context_dim)
        self.output = nn.Linear(num_heads * head_dim, channels)

    def forward(
        self, x: Float[Tensor, "N C"], segments: Segments, context: Float[Tensor, "B H Mc Dc"]
    ) -> Float[Tensor, "N C"]:
        """Mix the points of each mesh."""
        h = self.input(x).unflatten(-1, (self.num_heads, -1))
        own = flare_kernels.mixer(self.latents, self.key(h), self.value(h), scale=1.0, ptr=segments)
        # Points that read tokens of their mesh: the same operation as the way back from latents to points.
        reader = self.reader
        read = flare_kernels.scatter(
            reader.key(context), reader.query(h), reader.value(context), scale=1.0, ptr=segments
        )
        return self.output(reader.mix(own, read).flatten(1))


class GeometryContext(nn.Module):
    """Tokens of the geometry, of the surroundings within each radius and of the per-mesh numbers, side by side.

    Args:
        dim: space dimension.
        conditions: G; 0 leaves the per-mesh numbers out.
        head_dim: D of the tokens.
        num_heads: H.
        num_slices: M.
        radii: of the balls, in units of half the domain's size; none switches the surroundings off.
        num_neighbours: most neighbours in each ball.
        local_channels: width of the features made of one ball.
    """

    def __init__(
        self,
        *,
        dim: int,
        conditions: int,
        head_dim: int,
        num_heads: int,
        num_slices: int,
        radii: tuple[float, ...],
        num_neighbours: tuple[int, ...],
        local_channels: int,
    ) -> None:
        super().__init__()
        self.radii, self.num_neighbours = radii, num_neighbours
        sizes = (num_heads, head_dim, num_slices)
        self.local = nn.ModuleList(_ball_perceptron(dim * count, local_channels) for count in num_neighbours)
        self.local_tokens = nn.ModuleList(SliceProjection(local_channels, *sizes) for _ in radii)
        self.geometry = SliceProjection(dim, *sizes)
        self.per_mesh = SliceProjection(conditions, *sizes) if conditions else None
        self.width = head_dim * (len(radii) + 1 + (conditions > 0))

    def forward(
        self,
        pos: Float[Tensor, "N dim"],
        condition: Float[Tensor, "B G"],
        segments: Segments,
        surroundings: Surroundings,
    ) -> tuple[Float[Tensor, "B H M Dc"], Float[Tensor, "N Cl"]]:
        """The context, and the features of each node's surroundings."""
        geometry = pos if surroundings.index is None else pos.index_select(0, surroundings.index)
        tokens, of_nodes = [], []
        for radius, count, local, project in zip(
            self.radii, self.num_neighbours, self.local, self.local_tokens, strict=True
        ):
            of_nodes.append(local(ball(geometry, surroundings.near_nodes, radius, count)))
            of_geometry = of_nodes[-1]
            if surroundings.index is not None:
                of_geometry = local(ball(pos, surroundings.near_geometry, radius, count))
            tokens.append(project(of_geometry, surroundings.segments)[1])
        tokens.append(self.geometry(geometry, surroundings.segments)[1])
        if self.per_mesh is not None:
            one_each = Segments.uniform(segments.num_segments, 1, pos.device)
            tokens.append(self.per_mesh(condition, one_each)[1])
        return torch.cat(tokens, dim=-1), torch.cat([pos.new_zeros(len(pos), 0), *of_nodes], dim=-1)


class GeoTransolver(Baseline):
    """Transolver whose slices also read the geometry; each node also knows the points around it.

    The geometry is the boundary nodes where they are given, all nodes otherwise. Neighbours are searched in straight
    lines: `surroundings` does it once for a batch that is used again.

    Args:
        features: F, width of the node features.
        edge_features: not read.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        dim: space dimension; the first `dim` columns of the features are the position unless `pos` is given.
        channels: C, width before the features of the surroundings are joined.
        num_blocks: blocks.
        num_heads: H; must divide C.
        num_slices: M, slices a head (latents a head in `GeoFlare`).
        mlp_ratio: hidden width of the feed-forward in units of its input.
        radii: of the balls, in units of half the domain's size; none switches the surroundings off.
        num_neighbours: most neighbours in each ball.
        local_channels: width of the features made of one ball.

    Raises:
        ConfigError: if heads do not divide the channels, or balls and neighbours do not pair up.

    Good values: the defaults, those of nvidia-physicsnemo.
    Source: arXiv 2512.20399; equal to `physicsnemo.models.geotransolver.GeoTransolver` 2.2.2 with the same weights.
    """

    attention: type[GaleAttention] | type[GeoFlareAttention] = GaleAttention

    def __init__(
        self,
        *,
        features: int,
        edge_features: int,
        conditions: int,
        outputs: int,
        dim: int,
        channels: int = 256,
        num_blocks: int = 4,
        num_heads: int = 8,
        num_slices: int = 32,
        mlp_ratio: float = 4.0,
        radii: tuple[float, ...] = (0.05, 0.25),
        num_neighbours: tuple[int, ...] = (8, 32),
        local_channels: int = 32,
    ) -> None:
        super().__init__(dim)
        check_heads(channels, num_heads)
        if len(radii) != len(num_neighbours):
            raise ConfigError(f"each of `radii` needs its `num_neighbours`, got {radii} and {num_neighbours}")
        self.context = GeometryContext(
            dim=dim,
            conditions=conditions,
            head_dim=channels // num_heads,
            num_heads=num_heads,
            num_slices=num_slices,
            radii=tuple(radii),
            num_neighbours=tuple(num_neighbours),
            local_channels=local_channels,
        )
        self.encode = perceptron(features + conditions, 2 * channels, channels)
        width = channels + local_channels * len(radii)
        sizes = {"num_heads": num_heads, "num_slices": num_slices, "context_dim": self.context.width}
        self.blocks = nn.ModuleList(
            PreNormBlock(width, self.attention(width, **sizes), mlp_ratio) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.decode = nn.Linear(width, outputs)

    def surroundings(
        self,
        pos: Float[Tensor, "N dim"],
        segments: Segments,
        boundary_index: Int[Tensor, " Nb"] | None = None,
        boundary_segments: Segments | None = None,
    ) -> Surroundings:
        """Neighbours between nodes and geometry; once a batch, to be passed to every call on it.

        Args:
            pos: position of each node in units of half the domain's size.
            segments: where each mesh starts.
            boundary_index: nodes that make the geometry, sorted by mesh; None for all.
            boundary_segments: where each mesh's boundary nodes start; None to ask the device.
        """
        if boundary_index is not None and boundary_segments is None:
            boundary_segments = Segments.from_ptr(torch.searchsorted(boundary_index, segments.ptr))
        geometry = pos if boundary_index is None else pos[boundary_index]
        own = segments if boundary_segments is None or boundary_index is None else boundary_segments
        most = max(self.context.num_neighbours, default=1)
        near_nodes = nearest(geometry, own, pos, segments, num_neighbours=most)
        near_geometry = near_nodes
        if boundary_index is not None:
            near_geometry = nearest(pos, segments, geometry, own, num_neighbours=most)
        return Surroundings(index=boundary_index, segments=own, near_nodes=near_nodes, near_geometry=near_geometry)

    def _fields(self, x: Float[Tensor, "N FG"], inputs: PeerInputs) -> Float[Tensor, "N Cout"]:
        found = inputs.surroundings
        if found is None:
            found = self.surroundings(inputs.pos, inputs.segments, inputs.boundary_index, inputs.boundary_segments)
        context, local = self.context(inputs.pos, inputs.condition, inputs.segments, found)
        return self._decoded(torch.cat([self.encode(x), local], dim=1), inputs.segments, context)


class GeoFlare(GeoTransolver):
    """GeoTransolver with FLARE in place of slices; settings and geometry are the same."""

    attention = GeoFlareAttention


def _ball_perceptron(in_features: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, channels),
        nn.GELU(),
        nn.Linear(channels, channels // 2),
        nn.GELU(),
        nn.Linear(channels // 2, channels),
        nn.Tanh(),
    )
