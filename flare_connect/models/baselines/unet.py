"""U-Net: convolutions on a grid that is halved again and again, and on the way back."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import ConfigError, InputError

from .fno import check_grid_dim, pointwise

_CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_UPS: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class UNet(nn.Module):
    """Two convolutions a level, down by maxima over pairs, up by transposed convolutions, levels joined across.

    Args:
        features: F, channels that are read, coordinates included.
        outputs: channels predicted.
        dim: axes of the grid, 1 to 3.
        channels: C of the finest level; each level below has twice as many.
        num_levels: times that the grid is halved; its points must be a multiple of 2 to this power along each axis.
        periodic: whether the grid repeats, and the convolutions with it; if not, they see zeros outside.

    Raises:
        ConfigError: if a number is out of range.

    Good values: 32 channels, 4 levels, as in PDEBench. There each convolution is followed by batch normalisation and
    tanh; here by normalisation of each sample and GELU, which do as well alone as in a batch.
    Source: arXiv 1505.04597; arXiv 2210.07182 for the sizes.
    """

    def __init__(
        self,
        *,
        features: int,
        outputs: int,
        dim: int,
        channels: int = 32,
        num_levels: int = 4,
        periodic: bool = True,
    ) -> None:
        super().__init__()
        check_grid_dim(dim)
        if channels < 1 or num_levels < 1:
            raise ConfigError(f"`channels` and `num_levels` must be at least 1, got {channels} and {num_levels}")
        self.dim, self.num_levels = dim, num_levels
        widths = [channels * 2**level for level in range(num_levels + 1)]
        self.down = nn.ModuleList(
            _twice(before, after, dim, periodic) for before, after in zip([features, *widths], widths, strict=False)
        )
        self.pool = _POOLS[dim - 1](2)
        self.up = nn.ModuleList(_UPS[dim - 1](2 * width, width, 2, stride=2) for width in widths[:-1])
        self.joined = nn.ModuleList(_twice(2 * width, width, dim, periodic) for width in widths[:-1])
        self.decode = pointwise(channels, outputs)

    def forward(self, x: Float[Tensor, "B F *X"]) -> Float[Tensor, "B Cout *X"]:
        """Fields in, fields out.

        Raises:
            InputError: if the grid cannot be halved so often.
        """
        size = x.shape[2:]
        if len(size) != self.dim or any(n % 2**self.num_levels for n in size):
            raise InputError(
                f"a grid for `num_levels` = {self.num_levels} must have {self.dim} axes of a multiple of "
                f"{2**self.num_levels} points, got {list(size)}: lower `num_levels`"
            )
        passed: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            passed.append(x)
        x = passed.pop()
        for up, block in zip(reversed(self.up), reversed(self.joined), strict=True):
            x = block(torch.cat([up(x), passed.pop()], dim=1))
        found: Tensor = self.decode(x.flatten(2)).unflatten(2, size)
        return found


def _twice(in_channels: int, out_channels: int, dim: int, periodic: bool) -> nn.Sequential:
    """Two convolutions, each normalised and activated."""
    mode = "circular" if periodic else "zeros"
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        conv = _CONVS[dim - 1](channels, out_channels, 3, padding=1, padding_mode=mode, bias=False)
        layers += [conv, nn.GroupNorm(1, out_channels), nn.GELU()]
    return nn.Sequential(*layers)
