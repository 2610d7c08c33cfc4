"""How boundary conditions and per-mesh numbers (load, material, time) reach the layers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

import flare_kernels
from flare_kernels import Segments

from .mlp import ResidualMLP


class BoundaryConditioner(nn.Module):
    """Boundary nodes as tokens: position, normal, type and prescribed value of each become one token of width C.

    The latents of every attention layer gather from these tokens beside the points, so that a condition on a few
    boundary nodes is not lost among many interior ones.

    Args:
        boundary_features: width of a boundary node's features.
        channels: C, width of the tokens.

    Good values: no settings; features in units of the domain size.
    """

    def __init__(self, boundary_features: int, channels: int) -> None:
        super().__init__()
        self.encode = ResidualMLP(boundary_features, channels, channels)

    def forward(self, features: Float[Tensor, "Nt F"]) -> Float[Tensor, "Nt C"]:
        """Tokens of the boundary nodes, packed over the batch."""
        return self.encode(features)


class AdaptiveNorm(nn.Module):
    """Layer normalisation whose scale and shift come from the mesh's conditions: `norm(x)·(1 + a(g)) + b(g)`.

    `a` and `b` start at zero, so that an untrained model ignores the conditions instead of amplifying them.

    Args:
        channels: C, width of the points.
        condition_features: width of the condition; 0 is a plain layer normalisation with learned scale and shift.

    Source: adaptive layer normalisation with zero initialisation, arXiv 2212.09748.
    """

    def __init__(self, channels: int, condition_features: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=condition_features == 0)
        self.modulation = None
        if condition_features:
            self.modulation = nn.Linear(condition_features, 2 * channels)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Float[Tensor, "N C"], segments: Segments, condition: Float[Tensor, "B G"] | None = None
    ) -> Float[Tensor, "N C"]:
        """Normalise each point, modulated by the condition of its mesh."""
        if self.modulation is None or condition is None:
            return _layer_norm(self.norm, x)
        return flare_kernels.adaptive_norm(x, self.modulation(condition), segments, eps=self.norm.eps)


def _layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The norm in the dtype of `x`, sums in float32; under autocast torch would write float32, twice the memory."""
    weight, bias = (None if p is None else p.to(x.dtype) for p in (norm.weight, norm.bias))
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
