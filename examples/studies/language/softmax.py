"""Softmax attention for the decoder of `04_language_model.py`: what causal FLARE is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flare_connect.nn import CausalConv
from flare_kernels import Segments


class SoftmaxAttention(nn.Module):
    """Attention with rotary positions over packed sequences of one length.

    By default with the convolution and the output gate that a `CausalFlare` can have, so that the two differ in how a
    token reads those before it and in nothing else.

    Args:
        channels: C, width of the tokens.
        num_heads: H; C/H must be even.
        conv_width: tokens that queries, keys and values are made of; 0 for the token alone.
        gate: whether what was read is multiplied by `silu` of a linear map of the token.
    """

    def __init__(self, channels: int, num_heads: int, *, conv_width: int = 4, gate: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.conv = CausalConv(channels, conv_width) if conv_width else None
        self.qkv, self.output = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, channels) if gate else None

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """Tokens `[N, C]` to as many."""
        u = x if self.conv is None else self.conv(x, segments)[0]
        heads = self.qkv(u).view(segments.num_segments, -1, 3, self.num_heads, x.shape[1] // self.num_heads)
        q, k, v = heads.unbind(2)
        q, k, v = rotated(q).transpose(1, 2), rotated(k).transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        return self.output(y if self.gate is None else y * F.silu(self.gate(x)))


def rotated(x: Tensor) -> Tensor:
    """Pairs of coordinates of `[B, L, H, D]`, turned by angles that grow with the position."""
    a, b = x.float().chunk(2, dim=-1)
    rates = 10_000 ** -torch.linspace(0, 1, a.shape[-1], device=x.device)
    angle = torch.arange(x.shape[1], device=x.device)[:, None, None] * rates
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1).to(x.dtype)
