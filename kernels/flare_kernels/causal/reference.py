"""The oracle of causal FLARE: one sequence and one token at a time, in any floating dtype, differentiable."""

import torch
from jaxtyping import Float
from torch import Tensor

from .state import LatentState


def recurrent(
    s: Float[Tensor, "N H M"],
    p: Float[Tensor, "N H M"],
    v: Float[Tensor, "N H Dv"],
    initial: LatentState,
) -> tuple[Float[Tensor, "N H Dv"], LatentState]:
    """`lse_t = log(exp lse_{t−1} + exp s_t)`, `z_t = z_{t−1} + exp(s_t − lse_t)(v_t − z_{t−1})`, `y_t = Σ_m p_tm z_tm`.

    Args:
        s: scores with which latents read the tokens of one sequence.
        p: weights with which tokens read the latents.
        v: values.
        initial: of this sequence, B = 1.
    """
    lse, z = initial.lse[0], initial.z[0]
    outputs = []
    for t in range(len(s)):
        lse, z = advanced(lse, z, s[t], v[t])
        outputs.append(torch.einsum("hm,hmd->hd", p[t], z))
    y = torch.stack(outputs) if outputs else v.new_zeros(v.shape)
    return y, LatentState(lse[None], z[None])


def advanced(
    lse: Float[Tensor, "*B H M"], z: Float[Tensor, "*B H M Dv"], s: Float[Tensor, "*B H M"], v: Float[Tensor, "*B H Dv"]
) -> tuple[Float[Tensor, "*B H M"], Float[Tensor, "*B H M Dv"]]:
    """The state one token later; finite, gradients included, where nothing has weight."""
    peak = torch.maximum(lse, s).detach()
    pivot = torch.where(torch.isfinite(peak), peak, 0.0)
    old, new = torch.exp(lse - pivot), torch.exp(s - pivot)
    total = old + new
    empty = total == 0
    safe = total.masked_fill(empty, 1.0)
    share = (new / safe)[..., None]
    return (pivot + safe.log()).masked_fill(empty, -torch.inf), z + share * (v[..., None, :] - z)
