"""What latents remember of a sequence, and how states follow one another."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..merge import merge_partials


class LatentState(NamedTuple):
    """Everything that latents know of the past; of the same size however long that is.

    Attributes:
        lse: log of the summed weights that each latent has read; −inf where it has read nothing.
        z: mean of the values that it has read, by these weights.
    """

    lse: Float[Tensor, "B H M"]
    z: Float[Tensor, "B H M Dv"]

    @classmethod
    def empty(
        cls, batch: int, heads: int, latents: int, value_dim: int, device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "LatentState":  # fmt: skip
        """Of sequences that have not begun."""
        lse = torch.full((batch, heads, latents), -torch.inf, device=device, dtype=dtype)
        return cls(lse, torch.zeros(batch, heads, latents, value_dim, device=device, dtype=dtype))

    def then(self, later: "LatentState") -> "LatentState":
        """The state after both; exact, and associative."""
        z, lse = merge_partials((self.z, later.z), (self.lse, later.lse))
        return LatentState(lse, z)


def running(
    lse: Float[Tensor, "T H M"], z: Float[Tensor, "T H M Dv"], initial: LatentState
) -> tuple[Float[Tensor, "Tp1 H M"], Float[Tensor, "Tp1 H M Dv"]]:
    """The states of one sequence before its first part, and after each of its T parts.

    Args:
        lse: of what each part alone brings.
        z: likewise.
        initial: of this sequence, B = 1.
    """
    states = [initial]
    for t in range(len(lse)):
        states.append(states[-1].then(LatentState(lse[t : t + 1], z[t : t + 1])))
    return torch.cat([state.lse for state in states]), torch.cat([state.z for state in states])
