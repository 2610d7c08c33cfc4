"""Persistence: nothing ever changes. What a model must beat to have learned anything."""

from jaxtyping import Float
from torch import Tensor, nn


class Persistence(nn.Module):
    """No change, at no cost; it has no weights.

    Args:
        features: F, channels that are given, and not read.
        outputs: channels predicted.
        dim: axes of the grid.
        periodic: not read.
    """

    def __init__(self, *, features: int, outputs: int, dim: int, periodic: bool = True) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Float[Tensor, "B F *X"]) -> Float[Tensor, "B Cout *X"]:
        """Zeros."""
        return x.new_zeros(x.shape[0], self.outputs, *x.shape[2:])
