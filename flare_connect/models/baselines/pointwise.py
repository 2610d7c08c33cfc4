"""A perceptron at each node on its own: tells what the features alone can do from what the layers add."""

from jaxtyping import Float
from torch import Tensor, nn

from .base import Baseline, PeerInputs, perceptron


class PointBlock(nn.Module):
    """`x ← x + mlp(norm x)`.

    Args:
        channels: C.
        mlp_ratio: hidden width in units of C.
    """

    def __init__(self, channels: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mlp = perceptron(channels, int(mlp_ratio * channels), channels)

    def forward(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Apply to each node."""
        return x + self.mlp(self.norm(x))


class Pointwise(Baseline):
    """Perceptron, residual blocks, linear map; no node sees another.

    Args:
        features: F, width of the node features.
        edge_features: not read.
        conditions: G, per-mesh numbers.
        outputs: columns predicted at each node.
        dim: space dimension.
        channels: C.
        num_blocks: residual blocks.
        mlp_ratio: hidden width of a block in units of C.

    Good values: the defaults, with the same features as the model beside it.
    """

    def __init__(
        self,
        *,
        features: int,
        edge_features: int,
        conditions: int,
        outputs: int,
        dim: int,
        channels: int = 128,
        num_blocks: int = 4,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__(dim)
        self.encode = perceptron(features + conditions, 2 * channels, channels)
        self.blocks = nn.ModuleList(PointBlock(channels, mlp_ratio) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(channels)
        self.decode = nn.Linear(channels, outputs)

    def _fields(self, x: Float[Tensor, "N FG"], inputs: PeerInputs) -> Float[Tensor, "N Cout"]:
        return self._decoded(self.encode(x))
