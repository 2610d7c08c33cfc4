"""Transolver: points are assigned softly to slices, slices attend to each other, points read them back."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flare_kernels import Segments
from flare_kernels.rows import place, take

from .base import Baseline, PeerInputs, check_heads, perceptron


class SliceProjection(nn.Module):
    """Soft assignment of points to M slices a head, and the mean of the points of each slice.

    `w_nm = softmax_m(W k_n / t)`, `z_m = Σ_n w_nm v_n / (Σ_n w_nm + floor)`, `k` and `v` linear in the point.

    Args:
        features: width of the points.
        num_heads: H.
        head_dim: D.
        num_slices: M.
        temperature_range: limits of the learned temperature t of each head.
        floor: added to the weight of a slice, so that an empty one is zero.

    Good values: the defaults are those of nvidia-physicsnemo; the paper's own code has no limits and a floor of 1e-5.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        head_dim: int,
        num_slices: int,
        *,
        temperature_range: tuple[float, float] = (0.5, 5.0),
        floor: float = 1e-2,
    ) -> None:
        super().__init__()
        self.num_heads, self.temperature_range, self.floor = num_heads, temperature_range, floor
        self.key = nn.Linear(features, num_heads * head_dim)
        self.value = nn.Linear(features, num_heads * head_dim)
        self.slice = nn.Linear(head_dim, num_slices)
        self.temperature = nn.Parameter(torch.full((num_heads, 1), 0.5))

    def forward(
        self, x: Float[Tensor, "N Cin"], segments: Segments
    ) -> tuple[Float[Tensor, "B L H M"], Float[Tensor, "B H M D"]]:
        """Weights of the points, mesh by mesh, and tokens of the slices."""
        key, value = (layer(x).unflatten(-1, (self.num_heads, -1)) for layer in (self.key, self.value))
        weights = torch.softmax(self.slice(key) / self.temperature.clamp(*self.temperature_range), dim=-1)
        weights = dense(weights, segments)
        # Normalised before the sum, which could leave the range of half precision.
        shares = weights / (weights.sum(1, keepdim=True) + self.floor)
        return weights, torch.einsum("blhm,blhd->bhmd", shares, dense(value, segments))


class SliceAttention(nn.Module):
    """Physics attention: slice, attend among the slices, give back with the same weights.

    Args:
        channels: C.
        num_heads: H; heads have floor(C/H) channels.
        num_slices: M, slices a head.
        projection: keywords of `SliceProjection`.

    Source: Transolver, arXiv 2402.02366, for irregular meshes.
    """

    def __init__(self, channels: int, *, num_heads: int, num_slices: int, **projection: object) -> None:
        super().__init__()
        head_dim = channels // num_heads
        self.projection = SliceProjection(channels, num_heads, head_dim, num_slices, **projection)  # type: ignore[arg-type]
        self.qkv = nn.Linear(head_dim, 3 * head_dim, bias=False)
        self.output = nn.Linear(num_heads * head_dim, channels)

    def forward(
        self, x: Float[Tensor, "N C"], segments: Segments, context: Float[Tensor, "B H Mc Dc"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Mix the points of each mesh; the context is for subclasses that read one."""
        weights, tokens = self.projection(x, segments)
        mixed = torch.einsum("blhm,bhmd->blhd", weights, self._attend(tokens, context))
        return self.output(packed(mixed, segments).flatten(1))

    def _attend(
        self, tokens: Float[Tensor, "B H M D"], context: Float[Tensor, "B H Mc Dc"] | None
    ) -> Float[Tensor, "B H M D"]:
        return F.scaled_dot_product_attention(*self.qkv(tokens).chunk(3, dim=-1))


class PreNormBlock(nn.Module):
    """`x ← x + attention(norm x)`, then `x ← x + mlp(norm x)`.

    Args:
        channels: C.
        attention: called with points, segments and context.
        mlp_ratio: hidden width of the perceptron in units of C.
    """

    def __init__(self, channels: int, attention: nn.Module, mlp_ratio: float) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = attention
        self.mlp = perceptron(channels, int(mlp_ratio * channels), channels)

    def forward(
        self, x: Float[Tensor, "N C"], segments: Segments, context: Float[Tensor, "B H Mc Dc"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Apply the block to the packed points."""
        x = x + self.attention(self.norm(x), segments, context)
        return x + self.mlp(self.mlp_norm(x))


class Transolver(Baseline):
    """Perceptron, blocks of physics attention, linear map.

    Args:
        features: F, width of the node features.
        edge_features: not read.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        dim: space dimension.
        channels: C.
        num_blocks: blocks.
        num_heads: H; must divide C.
        num_slices: M, slices a head.
        mlp_ratio: hidden width of the feed-forward in units of C.
        temperature_range: see `SliceProjection`.
        floor: see `SliceProjection`.

    Raises:
        ConfigError: if heads do not divide the channels.

    Good values: the defaults, the paper's for elasticity.
    Source: arXiv 2402.02366; equal to `physicsnemo.models.transolver.Transolver` with the same weights.
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
        num_blocks: int = 8,
        num_heads: int = 8,
        num_slices: int = 64,
        mlp_ratio: float = 1.0,
        temperature_range: tuple[float, float] = (0.5, 5.0),
        floor: float = 1e-2,
    ) -> None:
        super().__init__(dim)
        check_heads(channels, num_heads)
        self.encode = perceptron(features + conditions, 2 * channels, channels)
        self.blocks = nn.ModuleList(
            PreNormBlock(
                channels,
                SliceAttention(
                    channels,
                    num_heads=num_heads,
                    num_slices=num_slices,
                    temperature_range=temperature_range,
                    floor=floor,
                ),
                mlp_ratio,
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(channels)
        self.decode = nn.Linear(channels, outputs)
        self.apply(_initialise)

    def _fields(self, x: Float[Tensor, "N FG"], inputs: PeerInputs) -> Float[Tensor, "N Cout"]:
        return self._decoded(self.encode(x), inputs.segments)


def dense(x: Float[Tensor, "N ..."], segments: Segments) -> Float[Tensor, "B L ..."]:
    """Points mesh by mesh, zeros after the last of each: one product for all meshes instead of one for each."""
    if not segments.is_uniform:
        x = place(x, segments.row_slots, segments.num_segments * segments.width)
    return x.unflatten(0, (segments.num_segments, segments.width))


def packed(x: Float[Tensor, "B L ..."], segments: Segments) -> Float[Tensor, "N ..."]:
    """The way back from `dense`."""
    x = x.flatten(0, 1)
    return x if segments.is_uniform else take(x, segments.row_slots)


def _initialise(module: nn.Module) -> None:
    """Small weights and no biases, as published."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
