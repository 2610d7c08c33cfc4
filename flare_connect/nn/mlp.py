"""Residual multilayer perceptron, used for key and value projections, encoders and decoders."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ResidualMLP(nn.Module):
    """`h = act(W_in x)`; `h ← h + act(W_i h)` for each hidden layer; `y = W_out h`.

    The input is added to the first layer and the last layer's input to the output wherever the widths agree, so that
    a deep projection still starts close to a linear one.

    Args:
        in_features: width of the input.
        hidden_features: width inside.
        out_features: width of the output.
        num_layers: hidden layers between the first and the last; 0 is a two-layer perceptron.

    Good values: 1 to 3 layers for keys and values, 0 for encoders of few features.
    Source: the projections of FLARE, arXiv 2508.12594.
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int, *, num_layers: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, hidden_features)
        self.hidden = nn.ModuleList(nn.Linear(hidden_features, hidden_features) for _ in range(num_layers))
        self.last = nn.Linear(hidden_features, out_features)

    def forward(self, x: Float[Tensor, "*N Cin"]) -> Float[Tensor, "*N Cout"]:
        """Apply to the last axis."""
        h = F.gelu(self.first(x), approximate="tanh")
        if h.shape[-1] == x.shape[-1]:
            h = h + x
        for layer in self.hidden:
            h = h + F.gelu(layer(h), approximate="tanh")
        y = self.last(h)
        return y + h if y.shape[-1] == h.shape[-1] else y


def applied(layer: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """`layer(x)`; with `recompute` only `x` is kept for the backward pass."""
    if recompute and torch.is_grad_enabled():
        y: Tensor = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
        return y
    result: Tensor = layer(x)
    return result


def together(maps: Sequence[nn.Linear], x: Float[Tensor, "N C"]) -> tuple[Tensor, ...]:
    """Linear maps of the same points, each [N, its width]; on a GPU as one product, forward and backward.

    A CPU starts a product in no time, and then reads rows of one tensor faster than parts of the rows of another.
    """
    return tuple(each(x) for each in maps) if x.device.type == "cpu" else one_product(maps, x)


def one_product(maps: Sequence[nn.Linear], x: Float[Tensor, "N C"]) -> tuple[Tensor, ...]:
    """Linear maps of the same points, each [N, its width], a part of the rows of one tensor."""
    weights: list[Tensor] = [each.weight for each in maps]
    biases: list[Tensor] = [x.new_zeros(each.out_features) if each.bias is None else each.bias for each in maps]
    bias = None if all(each.bias is None for each in maps) else torch.cat(biases)
    y = F.linear(x, torch.cat(weights), bias)
    return y.split([each.out_features for each in maps], dim=1)
