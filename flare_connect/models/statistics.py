"""Mean and spread of the training data, kept as buffers so that they travel with the weights."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flare_connect.errors import InputError


class Standardiser(nn.Module):
    """`(x − mean) / std` for each column; a column that never varies is only centred.

    Args:
        width: number of columns.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        """To zero mean and unit spread."""
        return (x - self.mean) / self.std

    def inverse(self, x: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        """Back to physical units."""
        return x * self.std + self.mean

    def fit(self, parts: Iterable[Float[Tensor, "_ W"]]) -> None:
        """Set mean and standard deviation over the rows of all parts, accumulated in fp64 in one pass.

        Raises:
            InputError: if there are no rows.
        """
        count, mean, square = 0, torch.zeros_like(self.mean, dtype=torch.float64), None
        for part in parts:
            part = part.detach().double().to(mean.device)
            # Chan's update of mean and squared deviations: no cancellation however far the mean is from zero.
            number = len(part)
            if number == 0:
                continue
            part_mean = part.mean(0)
            part_square = (part - part_mean).square().sum(0)
            delta = part_mean - mean
            square = (
                part_square + (0 if square is None else square) + delta.square() * count * number / (count + number)
            )
            count += number
            mean = mean + delta * number / count
        if square is None:
            raise InputError("the training split holds no nodes to compute statistics from")
        std = (square / count).sqrt()
        constant = std <= 1e-6 * mean.abs().clamp_min(1e-30)
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(constant, 1.0))
