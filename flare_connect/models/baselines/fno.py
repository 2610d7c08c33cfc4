"""FNO: convolutions by a few Fourier modes, beside a linear map at each point of a grid."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError, InputError


class SpectralConv(nn.Module):
    """`y = F⁻¹(R · F x)`, R a matrix over channels for each of the lowest modes, zero for the others.

    Args:
        channels: C.
        modes: m; along the last axis the waves 0 … m − 1 are kept, along the others −m … m − 1.
        dim: axes of the grid.

    Good values: the weights start as published, evenly in [0, 1/C²) in both parts.
    """

    def __init__(self, channels: int, modes: int, dim: int) -> None:
        super().__init__()
        self.modes, self.dim = modes, dim
        shape = (channels, channels, *(2 * modes,) * (dim - 1), modes)
        # Both parts as real numbers: optimisers that are one kernel take no complex ones.
        self.weight = nn.Parameter(torch.rand(*shape, 2) / channels**2)

    def forward(self, x: Float[Tensor, "B C *X"]) -> Float[Tensor, "B C *X"]:
        """The convolution; in single precision at least, since half has no Fourier transform for most sizes."""
        self._check(x)
        axes, m = list(range(2, 2 + self.dim)), self.modes
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        spectrum = torch.fft.rfftn(wide, dim=axes)
        low = spectrum[..., :m]
        for axis in axes[:-1]:
            low = torch.cat([low.narrow(axis, 0, m), low.narrow(axis, low.shape[axis] - m, m)], dim=axis)
        mixed = torch.einsum("bi...,io...->bo...", low, torch.view_as_complex(self.weight.to(wide.dtype)))
        for axis in axes[:-1]:
            rest = list(mixed.shape)
            rest[axis] = x.shape[axis] - 2 * m
            parts = [mixed.narrow(axis, 0, m), mixed.new_zeros(rest), mixed.narrow(axis, m, m)]
            mixed = torch.cat(parts, dim=axis)
        y = torch.fft.irfftn(F.pad(mixed, (0, spectrum.shape[-1] - m)), s=x.shape[2:], dim=axes)
        return y.to(x.dtype)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 + self.dim or min(x.shape[2:]) < 2 * self.modes:
            raise InputError(
                f"a grid for {self.modes} modes must have {self.dim} axes of at least {2 * self.modes} points, got "
                f"{list(x.shape[2:])}: lower `modes`"
            )


class FourierLayer(nn.Module):
    """`x ← act(spectral x + W x)`; with a perceptron `x ← act(mlp(act(spectral x + W x)) + s ⊙ x)`.

    Args:
        channels: C.
        modes: see `SpectralConv`.
        dim: axes of the grid.
        mlp_ratio: hidden width of the perceptron in units of C; 0 for none, as published.
        last: without an activation at its end, and before its perceptron.
    """

    def __init__(self, channels: int, modes: int, dim: int, mlp_ratio: float, last: bool) -> None:
        super().__init__()
        self.last = last
        self.spectral = SpectralConv(channels, modes, dim)
        self.linear = pointwise(channels, channels)
        hidden = int(mlp_ratio * channels)
        self.mlp = self.skip = None
        if hidden:
            self.mlp = nn.Sequential(pointwise(channels, hidden), nn.GELU(), pointwise(hidden, channels))
            self.skip = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Float[Tensor, "B C *X"]) -> Float[Tensor, "B C *X"]:
        """Apply the layer."""
        y = self._activated(self.spectral(x) + self.linear(x.flatten(2)).view_as(x))
        if self.mlp is None or self.skip is None:
            return y
        flat = self.mlp(y.flatten(2)) + self.skip * x.flatten(2)
        return self._activated(flat.view_as(x))

    def _activated(self, x: Tensor) -> Tensor:
        return x if self.last else F.gelu(x)


class FNO(nn.Module):
    """Linear map, Fourier layers, perceptron: from fields on a grid to fields on it.

    Args:
        features: F, channels that are read, coordinates included.
        outputs: channels predicted.
        dim: axes of the grid, 1 to 3.
        channels: C.
        modes: m, waves kept along each axis; a grid needs at least 2m points along each.
        num_layers: Fourier layers.
        hidden: width of the last perceptron.
        mlp_ratio: as in `FourierLayer`.
        periodic: whether the grid repeats; if not, it is lengthened by zeros.
        padding: by so many points along each axis.

    Raises:
        ConfigError: if a number is out of range.

    Good values: 20 channels and 12 modes, the setting of PDEBench; its padding is 2 points.
    Source: arXiv 2010.08895; with the same weights equal to `neuralop.models.FNO`, `mlp_ratio` 0.5 being its default.
    """

    def __init__(
        self,
        *,
        features: int,
        outputs: int,
        dim: int,
        channels: int = 20,
        modes: int = 12,
        num_layers: int = 4,
        hidden: int = 128,
        mlp_ratio: float = 0.0,
        periodic: bool = True,
        padding: int = 2,
    ) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("modes", modes), ("num_layers", num_layers), ("hidden", hidden)):
            if value < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {value}")
        check_grid_dim(dim)
        if padding < 0 or mlp_ratio < 0:
            raise ConfigError(f"`padding` and `mlp_ratio` must not be negative, got {padding} and {mlp_ratio}")
        self.padding = 0 if periodic else padding
        self.encode = pointwise(features, channels)
        self.layers = nn.ModuleList(
            FourierLayer(channels, modes, dim, mlp_ratio, last=i == num_layers - 1) for i in range(num_layers)
        )
        self.decode = nn.Sequential(pointwise(channels, hidden), nn.GELU(), pointwise(hidden, outputs))

    def forward(self, x: Float[Tensor, "B F *X"]) -> Float[Tensor, "B Cout *X"]:
        """Fields in, fields out, on a grid of any size that holds the modes."""
        size = x.shape[2:]
        h = self.encode(x.flatten(2)).unflatten(2, size)
        if self.padding:
            h = F.pad(h, [0, self.padding] * len(size))
        for layer in self.layers:
            h = layer(h)
        if self.padding:
            h = h[(..., *(slice(n) for n in size))]
        found: Tensor = self.decode(h.flatten(2)).unflatten(2, size)
        return found


def pointwise(in_channels: int, out_channels: int) -> nn.Conv1d:
    """A linear map at each point of a flattened grid `[B, C, N]`."""
    return nn.Conv1d(in_channels, out_channels, 1)


def check_grid_dim(dim: int) -> None:
    """Refuse grids of other dimensions.

    Raises:
        ConfigError: if so.
    """
    if dim not in (1, 2, 3):
        raise ConfigError(f"`dim` must be 1, 2 or 3, the axes of a grid, got {dim}")
