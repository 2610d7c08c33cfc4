"""FLARE: global attention of N points through M latents a head."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

import flare_kernels
from flare_kernels import JointSegments, Segments, Tokens

from .latents import LatentLayer, Queries, normalised
from .mlp import applied


class Costs(NamedTuple):
    """What anchored attention adds to scores: in the gather, in the scatter, and for the tokens."""

    encode: flare_kernels.Cost | None = None
    decode: flare_kernels.Cost | None = None
    tokens: Tensor | None = None


class FlareAttention(LatentLayer):
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
        super().__init__(
            channels,
            num_heads=num_heads,
            num_latents=num_latents,
            queries=queries,
            num_kv_layers=num_kv_layers,
            qk_norm=qk_norm,
            separate_decode=separate_decode,
            value_channels=value_channels,
            impl=impl,
        )

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
        q_decode, k_decode = self._decoding(x, rank, recompute)
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
        q = normalised(self.latents[:, :rank], self.normalise)
        seeding = self._seeding(x, rank)
        if seeding is None:
            return q
        seeds, k, share = seeding
        read = flare_kernels.gather(
            seeds,
            k,
            k,
            scale=self.scale,
            ptr=segments,
            log_weights=log_weights,
            cost=cost,
            impl=self.impl,
        )
        assert isinstance(read, Tensor)
        return q + share * read
