"""The kernels as operators of torch, under the namespace `flare_connect`, without autograd; everything in fp32."""

from typing import Any

import torch
from torch import Tensor

from ..operators import register
from ..triton_mixer.dispatch import launch
from ..triton_mixer.sizes import block_of
from .scan import scan_grad_kernel, scan_kernel

# Latents of a program: few, so that there are enough programs, for each goes through a whole sequence.
_BLOCK_M = 4
_SCHEMAS = {
    "latent_scan": "(Tensor lse, Tensor z, Tensor first_lse, Tensor first_z, Tensor ptr) -> (Tensor, Tensor)",
    "latent_scan_grad": "(Tensor lse, Tensor z, Tensor ptr, Tensor lse_states, Tensor z_states, Tensor dlse_states,"
    " Tensor dz_states) -> (Tensor, Tensor, Tensor, Tensor)",
}


def _programs(z: Tensor, ptr: Tensor) -> int:
    return (len(ptr) - 1) * z.shape[1] * -(-z.shape[2] // _BLOCK_M)


def _constants(z: Tensor) -> tuple[int, ...]:
    return z.shape[1], z.shape[3], _BLOCK_M, block_of(z.shape[3])


def latent_scan(lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """All states [T + B, H, M] and [T + B, H, M, Dv]; see `scan`."""
    states = len(lse) + len(first_lse)
    lse_states, z_states = lse.new_empty((states, *lse.shape[1:])), z.new_empty((states, *z.shape[1:]))
    launch(
        scan_kernel, _programs(z, ptr), (lse, z, first_lse, first_z, ptr, lse_states, z_states), (z.shape[2],), (),
        _constants(z),
    )  # fmt: skip
    return lse_states, z_states


def latent_scan_grad(
    lse: Tensor, z: Tensor, ptr: Tensor, lse_states: Tensor, z_states: Tensor, dlse_states: Tensor, dz_states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `lse`, `z`, and of the first state of each sequence."""
    sequences = len(lse_states) - len(lse)
    dlse, dz = torch.empty_like(lse), torch.empty_like(z)
    first_dlse, first_dz = lse.new_empty((sequences, *lse.shape[1:])), z.new_empty((sequences, *z.shape[1:]))
    launch(
        scan_grad_kernel, _programs(z, ptr),
        (lse, z, ptr, lse_states, z_states, dlse_states, dz_states, dlse, dz, first_dlse, first_dz),
        (z.shape[2],), (), _constants(z),
    )  # fmt: skip
    return dlse, dz, first_dlse, first_dz


def _fake_scan(lse: Tensor, z: Tensor, first_lse: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    states = len(lse) + len(first_lse)
    return lse.new_empty((states, *lse.shape[1:])), z.new_empty((states, *z.shape[1:]))


def _fake_grad(lse: Tensor, z: Tensor, ptr: Tensor, lse_states: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    sequences = len(lse_states) - len(lse)
    return (
        torch.empty_like(lse), torch.empty_like(z), lse.new_empty((sequences, *lse.shape[1:])),
        z.new_empty((sequences, *z.shape[1:])),
    )  # fmt: skip


library = register(
    {
        "latent_scan": (_SCHEMAS["latent_scan"], latent_scan, _fake_scan),
        "latent_scan_grad": (_SCHEMAS["latent_scan_grad"], latent_scan_grad, _fake_grad),
    }
)
