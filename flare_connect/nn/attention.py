"""FLARE: global attention of N points through M latents a head."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

import flare_kernels
from flare_connect.errors import ConfigError
from flare_kernels import JointSegments, Segments, Tokens

from .mlp import ResidualMLP, applied

Queries = Literal["fixed", "adapted"]


class Costs(NamedTuple):
    """What anchored attention adds to scores: in the gather, in the scatter, and for the tokens."""

    encode: flare_kernels.Cost | None = None
    decode: flare_kernels.Cost | None = None
    tokens: Tensor | None = None


class FlareAttention(nn.Module):
    """Low-rank global attention: points → M latents → points, linear in the number of points.

    `Z_m = Σ_n softmax_n(s·q_m·k_n + b_n) v_n`, `Y_n = Σ_m softmax_m(s·q_m·k_n) Z_m`, then a linear map.

    With adapted queries each mesh gets its own latents,
    `Q = norm(Q_fixed) + sigmoid(g_h) · gather(norm(Q_seed), K̃, K̃)`, `K̃ = norm(x W̃)`.

    Args:
        channels: C, width of the points.
        num_heads: H; must divide C.
        num_latents: M, latents a head.
        queries: "fixed" (learned, the same for every mesh) or "adapted" (learned plus read off the mesh).
        num_kv_layers: hidden layers of the residual perceptrons that make keys and values; −1 is one linear map.
        qk_norm: normalise queries and keys to unit root mean square; always on with adapted queries.
        separate_decode: own queries and keys for the way back from latents to points.
        value_channels: Cv, width of values that are given apart from the points; the layer is linear in them, and gives
            as many. None: values are made from the points.
        impl: implementation of the operators, see `flare_kernels.IMPLEMENTATIONS`.

    Raises:
        ConfigError: if the numbers do not fit.

    Good values: 8 heads, 64 latents, 1 to 3 layers for keys and values, D = C/H of 8 or 16.
    Source: FLARE, arXiv 2508.12594; adapted queries: FLARE++, arXiv 2608.11519.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        num_latents: int = 64,
        queries: Queries = "fixed",
        num_kv_layers: int = 1,
        qk_norm: bool = False,
        separate_decode: bool = False,
        value_channels: int | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        if value_channels is not None and (value_channels < 1 or value_channels % num_heads):
            raise ConfigError(
                f"`value_channels` must be divisible by `num_heads`, got {value_channels} and {num_heads}"
            )
        if num_heads < 1 or channels % num_heads:
            raise ConfigError(f"`channels` must be divisible by `num_heads`, got {channels} and {num_heads}")
        if num_latents < 1:
            raise ConfigError(f"`num_latents` must be at least 1, got {num_latents}")
        if queries not in ("fixed", "adapted"):
            raise ConfigError(f"`queries` must be 'fixed' or 'adapted', got {queries!r}")
        self.num_heads, self.num_latents, self.impl = num_heads, num_latents, impl
        self.head_dim = channels // num_heads
        self.normalise = qk_norm or queries == "adapted"
        # Learned scores start near zero without normalisation, so 1 is the published scale; unit queries and keys
        # have products of order sqrt(D).
        self.scale = self.head_dim**-0.5 if self.normalise else 1.0
        self.latents = nn.Parameter(0.1 * torch.randn(num_heads, num_latents, self.head_dim))
        self.key = _projection(channels, num_kv_layers)
        self.value_channels = value_channels
        if value_channels is None:
            self.value, self.output = _projection(channels, num_kv_layers), nn.Linear(channels, channels)
        else:
            self.value, self.output = (nn.Linear(value_channels, value_channels, bias=False) for _ in range(2))
        self.decode_latents = self.decode_key = None
        if separate_decode:
            self.decode_latents = nn.Parameter(0.1 * torch.randn(num_heads, num_latents, self.head_dim))
            self.decode_key = _projection(channels, num_kv_layers)
        self.seeds = self.seed_key = self.seed_gate = None
        if queries == "adapted":
            self.seeds = nn.Parameter(torch.randn(num_heads, num_latents, self.head_dim))
            self.seed_key = nn.Linear(channels, channels)
            self.seed_gate = nn.Parameter(torch.zeros(num_heads, 1, 1))

    def forward(
        self,
        x: Float[Tensor, "N C"],
        segments: Segments,
        *,
        values: Float[Tensor, "N Cv"] | None = None,
        log_weights: Float[Tensor, " N"] | None = None,
        tokens: Float[Tensor, "Nt C"] | None = None,
        token_segments: Segments | JointSegments | None = None,
        rank: int | None = None,
        recompute: bool = False,
    ) -> Float[Tensor, "N Co"]:
        """Mix the points of each mesh.

        Args:
            x: points, packed over the batch.
            segments: where each mesh starts.
            values: what is mixed, where it is given apart from the points.
            log_weights: log of each point's weight in the gather (node volume, mask), mean weight 1.
            tokens: conditioning tokens that the latents gather from too, packed.
            token_segments: where each mesh's tokens start, or these joined with the points (once a batch instead of
                once a layer); required with `tokens`.
            rank: use only the first `rank` latents; None for all.
            recompute: compute the insides of the perceptrons for keys and values again in the backward pass.

        Returns:
            As many channels as the points have, or as the values.

        Raises:
            ValueError: if `rank` is not between 1 and M, shapes do not fit, or values are given or missing against
                `value_channels`.
        """
        rank = self._checked_rank(rank)
        return self._mix(x, values, segments, log_weights, tokens, token_segments, rank, recompute)

    def _checked_rank(self, rank: int | None) -> int | None:
        if rank is not None and not 1 <= rank <= self.num_latents:
            raise ValueError(f"`rank` must be between 1 and `num_latents` = {self.num_latents}, got {rank}")
        return rank

    def _mix(
        self,
        x: Tensor,
        values: Tensor | None,
        segments: Segments,
        log_weights: Tensor | None,
        tokens: Tensor | None,
        token_segments: Segments | JointSegments | None,
        rank: int | None,
        recompute: bool,
        costs: Costs = Costs(),  # noqa: B008 (never changed)
    ) -> Tensor:
        """The layer, with or without costs."""
        k = self._split(applied(self.key, x, recompute), self.normalise)
        if (values is None) != (self.value_channels is None) or (values is not None and tokens is not None):
            raise ValueError(
                "`values` go with `value_channels` and without `tokens`, got "
                f"values {values is not None}, value_channels {self.value_channels}, tokens {tokens is not None}"
            )
        v = self._split(applied(self.value, x if values is None else values, recompute))
        joined = None
        if tokens is not None:
            token_k = self._split(self.key(tokens), self.normalise)
            joined = Tokens(k=token_k, v=self._split(self.value(tokens)), cost=costs.tokens, ptr=token_segments)
        q = self._queries(x, segments, log_weights, rank, costs.encode)
        q_decode = k_decode = None
        if self.decode_latents is not None and self.decode_key is not None:
            q_decode = _normalised(self.decode_latents[:, :rank], self.normalise)
            k_decode = self._split(applied(self.decode_key, x, recompute), self.normalise)
        y = flare_kernels.mixer(
            q,
            k,
            v,
            scale=self.scale,
            ptr=segments,
            log_weights=log_weights,
            q_decode=q_decode,
            k_decode=k_decode,
            cost=costs.encode,
            cost_decode=costs.decode,
            tokens=joined,
            impl=self.impl,
        )
        return self.output(y.flatten(-2))

    def _queries(
        self,
        x: Tensor,
        segments: Segments,
        log_weights: Tensor | None,
        rank: int | None,
        cost: flare_kernels.Cost | None = None,
    ) -> Float[Tensor, "*B H M D"]:
        q = _normalised(self.latents[:, :rank], self.normalise)
        if self.seeds is None or self.seed_key is None or self.seed_gate is None:
            return q
        k = self._split(self.seed_key(x), True)
        read = flare_kernels.gather(
            _normalised(self.seeds[:, :rank], True),
            k,
            k,
            scale=self.scale,
            ptr=segments,
            log_weights=log_weights,
            cost=cost,
            impl=self.impl,
        )
        assert isinstance(read, Tensor)
        return q + torch.sigmoid(self.seed_gate) * read

    def _split(self, x: Tensor, normalise: bool = False) -> Float[Tensor, "N H D"]:
        return _normalised(x.unflatten(-1, (self.num_heads, -1)), normalise)


def _projection(channels: int, num_layers: int) -> nn.Module:
    if num_layers < 0:
        return nn.Linear(channels, channels)
    return ResidualMLP(channels, channels, channels, num_layers=num_layers)


def _normalised(x: Tensor, normalise: bool) -> Tensor:
    if not normalise:
        return x
    # Not `F.rms_norm`: its kernels take a block for each row, and rows of a head are short.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    scale = (wide.square().mean(-1, keepdim=True) + torch.finfo(wide.dtype).eps).rsqrt()
    return (wide * scale).to(x.dtype)
