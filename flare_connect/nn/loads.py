"""Loads through a mesh: a stream of channels that every layer is linear in, steered by what the geometry is.

A linear problem answers to twice the load with twice the field, and to two loads with the sum of both answers. Here
that holds exactly, whatever the weights: points decide where to look and how much of it to take, loads are what is
taken. So a model learns how a mesh answers, instead of an answer for every load that it has seen.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .anchored import AnchoredFlare
from .attention import FlareAttention
from .hybrid import BlockInputs

# Channels whose root of the sum of squares is one number of a homogeneous readout: as many as a stress has in 2-D.
_GROUP = 4


class LoadEntry(nn.Module):
    """`u_n = W f_n ⊙ (1 + G h_n)` of the loads f at each point.

    Args:
        channels: C, width of the points h.
        num_loads: L, loads at a point.
        load_channels: Cu, width of the stream.
    """

    def __init__(self, channels: int, num_loads: int, load_channels: int) -> None:
        super().__init__()
        self.loads = nn.Linear(num_loads, load_channels, bias=False)
        self.gate = nn.Linear(channels, load_channels)

    def forward(self, loads: Float[Tensor, "N L"], h: Float[Tensor, "N C"]) -> Float[Tensor, "N Cu"]:
        """The stream where it starts."""
        return self.loads(loads) * (1 + self.gate(h))


class LoadBlock(nn.Module):
    """`u ← u + G ĥ ⊙ attention(ĥ; u)`, `u ← u + V (W u ⊙ gelu(G' ĥ))`, ĥ the normalised points.

    Args:
        channels: C, width of the points.
        load_channels: Cu, width of the stream.
        attention: with `value_channels` Cu; mixes the stream with weights that follow from the points.

    Good values: as many channels as the points have.
    """

    def __init__(self, channels: int, load_channels: int, attention: FlareAttention) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = attention
        self.taken = nn.Linear(channels, load_channels)
        self.up = nn.Linear(load_channels, 2 * load_channels, bias=False)
        self.gate = nn.Linear(channels, 2 * load_channels)
        self.down = nn.Linear(2 * load_channels, load_channels, bias=False)

    def forward(self, u: Float[Tensor, "N Cu"], h: Float[Tensor, "N C"], inputs: BlockInputs) -> Float[Tensor, "N Cu"]:
        """The stream after the block."""
        points = self.norm(h)
        anchors = {"anchors": inputs.anchors} if isinstance(self.attention, AnchoredFlare) else {}
        mixed = self.attention(
            points,
            inputs.segments,
            **anchors,
            values=u,
            log_weights=inputs.log_weights,
            rank=inputs.rank,
            recompute=inputs.recompute,
        )
        u = u + self.taken(points) * mixed
        return u + self.down(self.up(u) * F.gelu(self.gate(points), approximate="tanh"))


class LoadReadout(nn.Module):
    """`y = W u'`, `u' = u ⊙ (1 + G ĥ)`; of a homogeneous response also of the norms of groups of u'.

    Args:
        channels: C, width of the points.
        load_channels: Cu.
        outputs: columns predicted at each point.
        homogeneous: read norms too, which are in proportion to the loads but do not add up.
    """

    def __init__(self, channels: int, load_channels: int, outputs: int, *, homogeneous: bool) -> None:
        super().__init__()
        self.homogeneous = homogeneous
        self.gate = nn.Linear(channels, load_channels)
        norms = -(-load_channels // _GROUP) if homogeneous else 0
        self.output = nn.Linear(load_channels + norms, outputs, bias=False)

    def forward(self, u: Float[Tensor, "N Cu"], h: Float[Tensor, "N C"]) -> Float[Tensor, "N Cout"]:
        """Outputs at the points, which are normalised."""
        u = u * (1 + self.gate(h))
        if self.homogeneous:
            padded = F.pad(u, (0, -u.shape[1] % _GROUP))
            # Where the stream is zero, so is the gradient of its norm.
            norms = padded.unflatten(1, (-1, _GROUP)).float().square().sum(-1).clamp_min(1e-24).sqrt()
            u = torch.cat([u, norms.to(u.dtype)], dim=1)
        return self.output(u)
