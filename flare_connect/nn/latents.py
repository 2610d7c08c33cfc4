"""What every FLARE layer is made of: latents, and maps from points to keys and values."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError

from .mlp import ResidualMLP, applied

Queries = Literal["fixed", "adapted"]


class LatentLayer(nn.Module):
    """The parts of a layer in which points talk through M latents a head; how they talk is up to what derives from it.

    Args:
        channels: C, width of the points.
        num_heads: H; must divide C.
        num_latents: M, latents a head.
        queries: "fixed" (learned) or "adapted" (learned plus read off the points).
        num_kv_layers: hidden layers of the residual perceptrons that make keys and values; −1 is one linear map.
        qk_norm: normalise queries and keys to unit root mean square; always on with adapted queries.
        separate_decode: own queries and keys for the way back from latents to points.
        value_channels: Cv, width of values that are given apart from the points, or None.
        impl: implementation of the operators.

    Raises:
        ConfigError: if the numbers do not fit.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_latents: int,
        queries: Queries,
        num_kv_layers: int,
        qk_norm: bool,
        separate_decode: bool,
        value_channels: int | None,
        impl: str,
    ) -> None:
        super().__init__()
        if value_channels is not None and (value_channels < 1 or value_channels % num_heads):
            raise ConfigError(
                f"`value_channels` must be divisible by `num_heads`, got {value_channels} and {num_heads}"
            )
        if num_heads < 1 or channels < 1 or channels % num_heads:
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
        self.key = projection(channels, num_kv_layers)
        self.value_channels = value_channels
        if value_channels is None:
            self.value, self.output = projection(channels, num_kv_layers), nn.Linear(channels, channels)
        else:
            self.value, self.output = (nn.Linear(value_channels, value_channels, bias=False) for _ in range(2))
        self.decode_latents = self.decode_key = None
        if separate_decode:
            self.decode_latents = nn.Parameter(0.1 * torch.randn(num_heads, num_latents, self.head_dim))
            self.decode_key = projection(channels, num_kv_layers)
        self.seeds = self.seed_key = self.seed_gate = None
        if queries == "adapted":
            self.seeds = nn.Parameter(torch.randn(num_heads, num_latents, self.head_dim))
            self.seed_key = nn.Linear(channels, channels)
            self.seed_gate = nn.Parameter(torch.zeros(num_heads, 1, 1))

    def _checked_rank(self, rank: int | None) -> int | None:
        if rank is not None and not 1 <= rank <= self.num_latents:
            raise ValueError(f"`rank` must be between 1 and `num_latents` = {self.num_latents}, got {rank}")
        return rank

    def _decoding(self, x: Tensor, rank: int | None, recompute: bool) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Queries and keys of the way back, where they are its own."""
        if self.decode_latents is None or self.decode_key is None:
            return None, None
        q = normalised(self.decode_latents[:, :rank], self.normalise)
        return q, self._split(applied(self.decode_key, x, recompute), self.normalise)

    def _seeding(self, x: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor] | None:
        """Of adapted queries: seeds, the keys that they read, and the share of that which is added. None if fixed."""
        if self.seeds is None or self.seed_key is None or self.seed_gate is None:
            return None
        keys = self._split(self.seed_key(x), True)
        return normalised(self.seeds[:, :rank], True), keys, torch.sigmoid(self.seed_gate)

    def _split(self, x: Tensor, normalise: bool = False) -> Float[Tensor, "N H D"]:
        return normalised(x.unflatten(-1, (self.num_heads, -1)), normalise)


def projection(channels: int, num_layers: int) -> nn.Module:
    """A map of points to as many channels; −1 layers are a linear one."""
    if num_layers < 0:
        return nn.Linear(channels, channels)
    return ResidualMLP(channels, channels, channels, num_layers=num_layers)


def normalised(x: Tensor, normalise: bool) -> Tensor:
    """Of unit root mean square along the last axis, or as it is."""
    if not normalise:
        return x
    # Not `F.rms_norm`: its kernels take a block for each row, and rows of a head are short.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    scale = (wide.square().mean(-1, keepdim=True) + torch.finfo(wide.dtype).eps).rsqrt()
    return (wide * scale).to(x.dtype)
