"""Mean and spread of the training data, kept as buffers so that they travel with the weights."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.data import Data

from flare_connect.errors import InputError
from flare_connect.mesh.moments import Moments


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

    def forward(self, x: Float[Tensor, "*N W"]) -> Float[Tensor, "*N W"]:
        """To zero mean and unit spread."""
        return (x - self.mean) / self.std

    def inverse(self, x: Float[Tensor, "*N W"]) -> Float[Tensor, "*N W"]:
        """Back to physical units."""
        return x * self.std + self.mean

    def fit(self, parts: Iterable[Float[Tensor, "_ W"]], *, scaled: Sequence[int] = ()) -> None:
        """Set mean and standard deviation over the rows of all parts, accumulated in fp64 in one pass.

        Args:
            parts: rows of the training split.
            scaled: columns that are only divided, by their root mean square, so that zero stays zero.

        Raises:
            InputError: if there are no rows.
        """
        moments = Moments()
        for part in parts:
            moments.add("x", part.detach().cpu().numpy())
        found = moments.result()
        if not found:
            raise InputError("the training split holds no nodes to compute statistics from")
        mean, std = (torch.tensor(found["x"][key], dtype=torch.float64) for key in ("mean", "std"))
        at = list(scaled)
        std[at], mean[at] = (std[at].square() + mean[at].square()).sqrt(), 0.0
        constant = std <= 1e-6 * mean.abs().clamp_min(1e-30)
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(constant, 1.0))


def typical_cost(graphs: Sequence[Data]) -> Float[Tensor, " S"]:
    """Median cost of each scale between an anchor and a node that a path leads to, averaged over the graphs.

    Raises:
        InputError: if no cost is finite and positive.
    """
    medians = []
    for graph in graphs:
        # Some of the nodes tell as much as all of them.
        cost = graph.cost[:: max(1, len(graph.cost) // 1000)].transpose(0, 1).flatten(1).float().cpu()
        medians.append(cost.masked_fill(cost.isinf(), torch.nan).nanmedian(1).values)
    found = torch.stack(medians).nanmean(0)
    if not (found > 0).all():
        raise InputError("no anchor of the training meshes leads anywhere: their costs are all infinite or zero")
    return found
