"""FLARE along time steps of many points: a point sees its own step and all steps before."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flare_kernels import Cost, LatentState, Segments, block_causal_mixer, gather, scatter
from flare_kernels.autocast import as_autocast
from flare_kernels.causal.state import States, running
from flare_kernels.choice import choose_for_states
from flare_kernels.segments import Ptr

from .anchored import Anchors, decay_costs, first_decays
from .fading import Fading, places_in
from .gated import CausalState, Gate, GatedLayer
from .latents import Queries, normalised
from .mlp import applied

# Steps that the slowest latents remember at first.
_LONGEST = 32.0


class BlockCausalFlare(GatedLayer):
    r"""Block-causal low-rank attention: the points of a time step read what their step and all before it wrote.

    Step T of a sequence: `Z_m = Σ_n softmax_n(s·q_m·k_n + b_n) v_n` over the points n of the steps 1…T, then
    `Y_n = Σ_m softmax_m(s·q'_m·k'_n) Z_m` for the points of step T, the output gate and a linear map. It costs what
    `FlareAttention` does, which it is for sequences of one step. What the past leaves behind is of fixed size
    (`CausalState`), so a rollout gives one step at a time and hands the state on.

    Anchored, with `num_scales`, both scores lose `γ_h² c(n, m) / c̄` as in `AnchoredFlare`: a latent sits at a place of
    the mesh and remembers what happened around it.

    Adapted queries: each step reads with its own, `Q_T = norm(Q_fixed) + sigmoid(g_h) · Z̃_T`, where Z̃_T is what seeds
    have read of the steps 1…T. All points of a step see the whole step, so this is exact and depends on nothing later;
    a point keeps the weight that it had at its step, or the past would have to be read anew.

    Args:
        channels: C, width of the points.
        num_heads: H; must divide C.
        num_latents: M, latents a head.
        queries: "fixed", or "adapted" to the steps so far, which normalises queries and keys.
        num_kv_layers: hidden layers of the residual perceptrons that make keys and values; −1 is one linear map.
        qk_norm: normalise queries and keys to unit root mean square; without, training can become unstable.
        separate_decode: own queries and keys for what points read; these are never adapted.
        output_gate: "sigmoid" or "silu" of a linear map of the points, times what they have read; None for none.
        write_gate: a learned log-weight of each point, `logsigmoid(x w)`, one for all heads.
        num_scales: S of the costs of anchored latents; 0 for latents that sit nowhere.
        fading: whether latents forget, at learned rates λ that begin between 1/32 and 1 a step, see `Fading`.
        impl: implementation, see `flare_kernels.block_causal_mixer`.

    Raises:
        ConfigError: if the numbers do not fit.

    Good values: 8 heads, 64 latents, normalised and with separate decode; two scales of diffusion on meshes with holes.
    Source: FLARE, arXiv 2508.12594; gates: gated linear attention, arXiv 2312.06635; adapted queries: FLARE++, arXiv
    2608.11519.
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
        num_scales: int = 0,
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
        self.fading = Fading(num_heads, num_latents, _LONGEST, self.scale) if fading else None
        self.decay = self.decode_decay = None
        if num_scales:
            start, scales = first_decays(num_heads, num_scales)
            self.decay, self.decode_decay = (nn.Parameter(start.clone()) for _ in range(2))
            self.head_scale: Tensor
            self.register_buffer("head_scale", scales, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "N C"],
        steps: Int[Tensor, " Tp1"] | Segments | None = None,
        *,
        sequences: Ptr = None,
        anchors: Anchors | None = None,
        log_weights: Float[Tensor, " N"] | None = None,
        state: CausalState | None = None,
        return_state: bool = False,
        rank: int | None = None,
        recompute: bool = False,
    ) -> Float[Tensor, "N C"] | tuple[Float[Tensor, "N C"], CausalState]:
        """Mix the points of each sequence.

        Args:
            x: points, packed: the steps of a sequence one after another, then the next sequence.
            steps: where each step of all sequences starts in the points, as offsets or `Segments`; None for one step.
            sequences: where each sequence starts in the steps; None for a single sequence.
            anchors: where latents sit. Their costs are of all N points, or, of meshes that stay, of the points of one
                step of each sequence: then they hold for all its steps.
            log_weights: log of each point's weight in the gather (node volume, mask), mean weight 1.
            state: what is known before the first step of each sequence, from an earlier call; gradients flow through.
            return_state: also return what is known after the last, with which the sequences go on.
            rank: use only the first `rank` latents, with their anchors; None for all, or for those of the state.
            recompute: compute the insides of the perceptrons for keys and values again in the backward pass.

        Raises:
            ValueError: if shapes do not fit, `rank` is not between 1 and M, anchors are given or missing against
                `num_scales`, or the state is of another layer.
        """
        blocks = self._segments("steps", steps, x)
        order = _sequences(sequences, blocks)
        rank = self._rank_with(state, rank, order.num_segments)
        encode, decode = self._costs(anchors, rank, blocks, order)
        weights = self._write_weights(x, log_weights)
        state = self.initial_state(order.num_segments, rank=rank) if state is None else state
        k = self._split(applied(self.key, x, recompute), self.normalise)
        v = self._split(applied(self.value, x, recompute))
        q = normalised(self.latents[:, :rank], self.normalise)
        q_decode, k_decode = self._decoding(x, rank, recompute)
        seeding = self._seeding(x, rank)
        given: dict[str, Any] = {"scale": self.scale, "log_weights": weights, "impl": self.impl}
        if seeding is None or state.seeds is None or not blocks.num_segments:
            y, last = block_causal_mixer(
                v=v, steps=blocks, sequences=order, cost=encode, cost_decode=decode, initial_state=state.latents,
                return_state=True, **self._timed(q, k, blocks, order, q_decode, k_decode), **given,
            )  # fmt: skip
            after = CausalState(last, state.seeds)
        else:
            y, after = self._adapted(q, k, v, blocks, order, q_decode, k_decode, seeding, state, encode, decode, given)
        if self.fading is not None:
            rates = self.fading.rates(q, as_autocast(k).dtype)
            passed = partial(self.fading.passed, count=order.ptr.diff(), rates=rates)
            after = CausalState(passed(after.latents), None if after.seeds is None else passed(after.seeds))
        y = self._given_out(x, y)
        return (y, after) if return_state else y

    def _adapted(
        self, q: Tensor, k: Tensor, v: Tensor, steps: Segments, order: Segments, q_decode: Tensor | None,
        k_decode: Tensor | None, seeding: tuple[Tensor, Tensor, Tensor], state: CausalState, encode: Cost | None,
        decode: Cost | None, given: dict[str, Any],
    ) -> tuple[Tensor, CausalState]:  # fmt: skip
        """With queries of each step; the operator takes those of a sequence: so its three parts, one after another."""
        assert state.seeds is not None
        given = given | {"ptr": steps, "cost": encode}
        seeds, own, share = seeding
        timed = self._timed(seeds, own, steps, order)
        seen = _read(timed["q"], timed["k"], own, state.seeds, order, **given)
        q = q + share * seen.after.z
        timed = self._timed(q, k, steps, order, q_decode, k_decode)
        held = _read(timed["q"], timed["k"], v, state.latents, order, **given)
        y = scatter(
            timed["q_decode"], timed["k_decode"], held.after.z.to(v.dtype), scale=self.scale, ptr=steps, cost=decode,
            impl=self.impl,
        )  # fmt: skip
        return y, CausalState(held.last, seen.last)

    def _timed(
        self, q: Tensor, k: Tensor, steps: Segments, sequences: Segments, q_decode: Tensor | None = None,
        k_decode: Tensor | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Queries and keys as arguments of the operators, with the step of points where latents forget."""
        if self.fading is None:
            reads = (q if q_decode is None else q_decode, k if k_decode is None else k_decode)
            return dict(zip(("q", "k", "q_decode", "k_decode"), (q, k, *reads), strict=True))
        last = max(sequences.lengths, default=0) - 1
        places = places_in(sequences)[steps.batch]
        return self.fading.timed(places, last, q, as_autocast(k), q_decode, k_decode)

    def _costs(
        self, anchors: Anchors | None, rank: int | None, steps: Segments, sequences: Segments
    ) -> tuple[Cost, Cost] | tuple[None, None]:
        """Of all points, in the gather and in the scatter."""
        if self.decay is None or self.decode_decay is None:
            if anchors is not None:
                raise ValueError(
                    "`anchors` would do nothing in a layer with `num_scales` = 0: set it, or leave them out"
                )
            return None, None
        if anchors is None:
            raise ValueError("anchored attention needs `anchors`: see `flare_connect.mesh.anchor_costs`")
        if not steps.num_segments:
            return None, None
        few = Anchors(cost=_of_all_steps(anchors.cost[:, :rank], steps, sequences), typical=anchors.typical)
        encode, decode = decay_costs(few, None, self.head_scale, self.decay, self.decode_decay)
        return encode, decode


def _read(q: Tensor, k: Tensor, v: Tensor, before: LatentState, order: Segments, **given: Any) -> States:
    """What latents hold before, after and at the end of steps, each of which they read with its own queries."""
    z, lse = gather(q, k, v, return_lse=True, **given)
    dtype = torch.promote_types(v.dtype, torch.float32)
    steps, start = (LatentState(state.lse.to(dtype), state.z.to(dtype)) for state in (LatentState(lse, z), before))
    return running(steps, start, order, choose_for_states(given["impl"], steps.lse))


def _sequences(sequences: Ptr, steps: Segments) -> Segments:
    """Where sequences start in the steps."""
    if sequences is None:
        return Segments.uniform(1, steps.num_segments, steps.ptr.device)
    order = sequences if isinstance(sequences, Segments) else Segments.from_ptr(sequences)
    if order.num_rows != steps.num_segments:
        raise ValueError(f"`sequences` must end at {steps.num_segments}, the number of steps, got {order.num_rows}")
    return order


def _of_all_steps(cost: Float[Tensor, "Nm M S"], steps: Segments, sequences: Segments) -> Float[Tensor, "N M S"]:
    """Costs of the points of all steps, from those of one step of each sequence.

    A rollout has one step a call, and nothing is copied.
    """
    if len(cost) == steps.num_rows:
        return cost
    sizes = [steps.lengths[mine] for mine in sequences.slices]
    meshes = [size[0] if size else 0 for size in sizes]
    if len(cost) != sum(meshes) or any(len(set(size)) > 1 for size in sizes):
        raise ValueError(
            f"the costs of `anchors` must be of all N = {steps.num_rows} points, or of those of one step of each "
            f"sequence where its steps have as many points each, got {len(cost)} rows for steps of {sizes} points"
        )
    starts = Segments.from_lengths(meshes, cost.device).ptr
    first = starts[sequences.batch] - steps.ptr[:-1]
    rows = torch.arange(steps.num_rows, device=cost.device) + first[steps.batch]
    # Rows of the layout that costs are best in.
    return cost.transpose(1, 2).index_select(0, rows).transpose(1, 2)
