"""Attention whose latents sit on the mesh and whose scores decay along it: nothing crosses a void."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import flare_kernels
from flare_connect.errors import ConfigError
from flare_kernels import JointSegments, Segments

from .attention import Costs, FlareAttention


@dataclass(frozen=True, eq=False, kw_only=True)
class Anchors:
    """Where the latents of each mesh sit, the same for all layers.

    Attributes:
        cost: cost of going from each anchor to each point along the mesh, ≥ 0, infinite where there is no path. Best a
            transposed [N, S, M] in half precision; `flare_connect.mesh.anchor_costs` makes it.
        token_cost: the same of the conditioning tokens; None if there are none.
        typical: a typical cost of each scale, which makes decays of different scales comparable.
    """

    cost: Float[Tensor, "N M S"]
    typical: Float[Tensor, " S"]
    token_cost: Float[Tensor, "Nt M S"] | None = None


class AnchoredFlare(FlareAttention):
    r"""FLARE with latents anchored at mesh nodes and scores that decay with the cost of getting there.

    `S_nm = s·q_m·k_n − γ_h² c(n, m) / c̄`, with another γ_h on the way back; c̄ is a third of the typical cost, so that
    γ = 1 weighs a point at a typical cost with e⁻³. With γ = 0 it is FLARE, but for what no path leads to. Heads take
    the scales in turn, and start from nearly global (γ = 0.2) to local (γ = 1.5).

    Args:
        channels: C, width of the points.
        num_scales: S of the costs.
        options: of `FlareAttention`.

    Raises:
        ConfigError: if the numbers do not fit.

    Good values: two scales of diffusion, at least four heads, so that each scale has a local and a global one.
    """

    def __init__(self, channels: int, *, num_scales: int = 2, **options: Any) -> None:
        super().__init__(channels, **options)
        start, scales = first_decays(self.num_heads, num_scales)
        self.decay, self.decode_decay = (nn.Parameter(start.clone()) for _ in range(2))
        self.head_scale: Tensor
        self.register_buffer("head_scale", scales, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "N C"],
        segments: Segments,
        *,
        anchors: Anchors | None = None,
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
            anchors: where the latents of the meshes sit.
            values: what is mixed, where it is given apart from the points.
            log_weights: log of each point's weight in the gather.
            tokens: conditioning tokens, packed.
            token_segments: where each mesh's tokens start, or these joined with the points.
            rank: use only the first `rank` latents, with their anchors; None for all.
            recompute: compute the insides of the perceptrons for keys and values again in the backward pass.

        Raises:
            ValueError: without anchors, and as in `FlareAttention.forward`.
        """
        if anchors is None:
            raise ValueError("anchored attention needs `anchors`: see `flare_connect.mesh.anchor_costs`")
        rank = self._checked_rank(rank)
        token_cost = None if tokens is None or anchors.token_cost is None else anchors.token_cost[:, :rank]
        encode, decode = decay_costs(anchors, rank, self.head_scale, self.decay, self.decode_decay)
        costs = Costs(encode, decode, token_cost)
        return self._mix(x, values, segments, log_weights, tokens, token_segments, rank, recompute, costs)


def first_decays(num_heads: int, num_scales: int) -> tuple[Float[Tensor, " H"], Int[Tensor, " H"]]:
    """The decay γ that each head starts from, and the scale that it uses.

    Raises:
        ConfigError: if there are more scales than heads, or none.
    """
    if not 1 <= num_scales <= num_heads:
        raise ConfigError(
            f"`num_scales` must be between 1 and `num_heads` = {num_heads}, one scale a head, got {num_scales}"
        )
    return torch.linspace(0.2, 1.5, num_heads), torch.arange(num_heads) % num_scales


def decay_costs(
    anchors: Anchors, rank: int | None, head_scale: Int[Tensor, " H"], *decays: Float[Tensor, " H"]
) -> tuple[flare_kernels.Cost, ...]:
    """What scores lose with each set of decays, for the first `rank` latents."""
    unit = 3.0 / anchors.typical[head_scale]
    return tuple(
        flare_kernels.Cost(values=anchors.cost[:, :rank], slope=decay.square() * unit, head_scale=head_scale)
        for decay in decays
    )
