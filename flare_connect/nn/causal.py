"""FLARE along sequences of tokens: a token reads itself and what came before."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_kernels import LatentState, causal_mixer, decode_step
from flare_kernels.autocast import as_autocast
from flare_kernels.segments import Ptr

from .causal_conv import CausalConv
from .fading import Fading, places_in
from .gated import CausalState, Gate, GatedLayer
from .latents import Queries, normalised
from .mlp import applied

# Tokens that the slowest latents remember at first.
_LONGEST = 1000.0


class CausalFlare(GatedLayer):
    """Causal low-rank attention: each token writes into M latents and reads what they hold by then; O(N·M) time.

    `z_tm = Σ_{τ≤t} softmax_{τ≤t}(s·q_m·k_τ + b_τ) v_τ`, `y_t = Σ_m softmax_m(s·q'_m·k'_t) z_tm`, then the output gate
    and a linear map. Latents are a running softmax, so what a sequence leaves behind is of fixed size (`CausalState`):
    `forward` goes through whole sequences or parts of them, `step` adds a token.

    Adapted queries: a running softmax cannot change a query once a token was read, or the weights of all that came
    would have to be computed anew. But a score is a product, and its other factor may know the past. A first causal
    read with seeds tells each token what its prefix holds, and that is added to its keys,
    `k_t ← k_t + sigmoid(g_h) · causal(norm(Q_seed), k̃, k̃)_t`, `k̃ = norm(u W̃)`, likewise `k'_t` with another gate. So
    the scores of a token depend on its prefix and on nothing later, at the price of one more read; the weight with
    which it was written stays. These are the adapted queries of FLARE++ with the roles of tokens and latents exchanged,
    and they can do less: there each latent gets a query of its own, here the scores `q_m·k_t` of a token stay a
    combination of the D coordinates of the fixed queries.

    Fading: each latent forgets at a rate of its own, see `Fading`, so that some hold what was just said and others the
    whole.

    Args:
        channels: C, width of the tokens.
        num_heads: H; must divide C.
        num_latents: M, latents a head; any number of the first of them can be used at inference.
        queries: "fixed", or "adapted" to the prefix, which normalises queries and keys.
        num_kv_layers: hidden layers of the residual perceptrons that make keys and values; −1 is one linear map.
        qk_norm: normalise queries and keys to unit root mean square; without, training can become unstable.
        separate_decode: own queries and keys for what tokens read.
        output_gate: "sigmoid" or "silu" of a linear map of the tokens, times what they have read; None for none.
        write_gate: a learned log-weight of each token, `b_t = logsigmoid(u_t w)`, one for all heads.
        conv_width: W, tokens that keys, values and write gate are made of, `u = x + conv(x)`; 0 for the token alone.
        fading: whether latents forget, at learned rates λ that begin between 1/1000 and 1 a token.
        impl: implementation, see `flare_kernels.causal_mixer`.

    Raises:
        ConfigError: if the numbers do not fit.

    Good values: 8 heads, 64 latents, D = C/H of 16 or 32, normalised and with separate decode; for language a
    convolution of 4, an output gate and fading, but no fading where single values are to be found again much later.
    Source: FLARE, arXiv 2508.12594; gates: gated linear attention, arXiv 2312.06635; convolution: Mamba, arXiv
    2312.00752; adapted queries: after FLARE++, arXiv 2608.11519.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        num_latents: int = 64,
        queries: Queries = "fixed",
        num_kv_layers: int = 1,
        qk_norm: bool = True,
        separate_decode: bool = True,
        output_gate: Gate | None = None,
        write_gate: bool = False,
        conv_width: int = 0,
        fading: bool = False,
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
            output_gate=output_gate,
            write_gate=write_gate,
            impl=impl,
        )
        self.conv = CausalConv(channels, conv_width) if conv_width else None
        self.decode_gate = None
        if queries == "adapted" and separate_decode:
            self.decode_gate = nn.Parameter(torch.zeros(num_heads, 1))
        self.fading = Fading(num_heads, num_latents, _LONGEST, self.scale) if fading else None

    @property
    def _num_recent(self) -> int:
        return 0 if self.conv is None else self.conv.width - 1

    def forward(
        self,
        x: Float[Tensor, "N C"],
        segments: Ptr = None,
        *,
        state: CausalState | None = None,
        return_state: bool = False,
        rank: int | None = None,
        recompute: bool = False,
    ) -> Float[Tensor, "N C"] | tuple[Float[Tensor, "N C"], CausalState]:
        """Mix the tokens of each sequence.

        Args:
            x: tokens, packed over the batch.
            segments: where each sequence starts, as offsets or `Segments`; None for a single sequence.
            state: what is known before the first token of each sequence, from an earlier call; gradients flow through.
            return_state: also return what is known after the last, with which the sequences go on.
            rank: use only the first `rank` latents; None for all, or for those of the state.
            recompute: compute the insides of the perceptrons for keys and values again in the backward pass.

        Raises:
            ValueError: if shapes do not fit, `rank` is not between 1 and M, or the state is of another layer.
        """
        segments = self._segments("segments", segments, x)
        rank = self._rank_with(state, rank, segments.num_segments)
        u, recent = x, None
        if self.conv is not None:
            u, recent = self.conv(x, segments, None if state is None else state.recent)
        after: dict[str, LatentState] = {}

        def read(part: str, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            given = {"q": q, "k": k} | more
            if self.fading is not None:
                given |= self.fading.timed(
                    places_in(segments), max(segments.lengths, default=0) - 1, q, k := as_autocast(k),
                    more.get("q_decode"), more.get("k_decode"),
                )  # fmt: skip
            y, last = causal_mixer(
                v=v, scale=self.scale, ptr=segments, impl=self.impl, return_state=True,
                initial_state=None if state is None else getattr(state, part), **given,
            )  # fmt: skip
            if self.fading is not None:
                last = self.fading.passed(last, segments.ptr.diff(), self.fading.rates(q, k.dtype))
            after[part] = last
            return y

        y = self._mix(x, u, rank, recompute, read)
        return (y, CausalState(after["latents"], after.get("seeds"), recent)) if return_state else y

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B C"], state: CausalState) -> Float[Tensor, "B C"]:
        """One token more of each sequence, in time and memory that do not grow with what came before.

        Args:
            x: a token of each sequence.
            state: from `forward` or `initial_state`; overwritten with what is known after the token, so no backward
                pass can go through it any more. Its rank is used.

        Returns:
            What `forward` gives for the token. No gradients.

        Raises:
            ValueError: if shapes do not fit, or the state is of another layer.
        """
        self._check_points(x)
        rank = self._rank_with(state, None, len(x))
        u = x if self.conv is None or state.recent is None else self.conv.step(x, state.recent)

        def read(part: str, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            before: LatentState = getattr(state, part)
            y = decode_step(q, k, v, before, scale=self.scale, **more)
            if self.fading is not None:
                before.lse.sub_(self.fading.rates(q, as_autocast(k).dtype))
            return y

        return self._mix(x, u, rank, False, read)

    def _mix(
        self, x: Tensor, u: Tensor, rank: int | None, recompute: bool, read: Callable[..., Tensor]
    ) -> Float[Tensor, "N C"]:
        """The layer; `read(part of the state, q, k, v)` is the causal read of sequences or of one token of each."""
        weights = self._write_weights(u)
        k = self._split(applied(self.key, u, recompute), self.normalise)
        v = self._split(applied(self.value, u, recompute))
        q_decode, k_decode = self._decoding(u, rank, recompute)
        seeding = self._seeding(u, rank)
        if seeding is not None:
            seeds, own, share = seeding
            held = read("seeds", seeds, own, own, log_weights=weights)
            k = k + (share[..., 0] * held).to(k.dtype)
            if k_decode is not None and self.decode_gate is not None:
                k_decode = k_decode + (torch.sigmoid(self.decode_gate) * held).to(k_decode.dtype)
        q = normalised(self.latents[:, :rank], self.normalise)
        y = read("latents", q, k, v, log_weights=weights, q_decode=q_decode, k_decode=k_decode)
        return self._given_out(x, y)
