"""Which implementation runs: what was asked for, else what suits device, dtype and size."""

import importlib.util
import os

import torch
from torch import Tensor

from .validation import check_choice

IMPLEMENTATIONS = ("auto", "triton", "sdpa", "reference")
VARIABLE = "FLARE_KERNELS_IMPL"
# In bytes of a row: what a tile of 64 latents in one block leaves room for in shared memory.
LARGEST_ROW = 512
_TRITON_IS_THERE = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choose(impl: str, k: Tensor, value_dim: int, *, with_lse: bool = False) -> str:
    """The implementation for these keys: "triton", "sdpa" or "reference".

    Args:
        impl: "auto" or a name; the environment variable `FLARE_KERNELS_IMPL` takes the place of "auto".
        k: keys.
        value_dim: Dv.
        with_lse: whether the log-sum-exp of the gather is wanted, which SDPA does not give.

    Raises:
        ValueError: if the name is unknown, or Triton cannot run these keys.
    """
    check_choice("impl", impl, IMPLEMENTATIONS)
    if impl == "auto":
        impl = os.environ.get(VARIABLE, "auto")
        check_choice(VARIABLE, impl, IMPLEMENTATIONS)
    if impl in ("auto", "triton"):
        obstacle = _obstacle(k, value_dim)
        if obstacle is None:
            return "triton" if impl == "triton" or k.is_cuda else "sdpa" if not with_lse else "reference"
        if impl == "triton":
            raise ValueError(f"impl='triton' {obstacle}; use impl='auto'")
        impl = "sdpa"
    return "reference" if with_lse else impl


def _obstacle(k: Tensor, value_dim: int) -> str | None:
    """Why Triton cannot run, if so."""
    if not _TRITON_IS_THERE:
        return "needs the package triton, which is not installed (it exists for Linux)"
    if not k.is_cuda and not os.environ.get("TRITON_INTERPRET"):
        return f"needs a GPU, or its interpreter (TRITON_INTERPRET=1) for tests; `k` is on {k.device}"
    if k.dtype not in _DTYPES:
        return f"takes float32, bfloat16 and float16, got {k.dtype}"
    largest = LARGEST_ROW // k.element_size()
    if max(k.shape[-1], value_dim) > largest:
        return f"takes head dims up to {largest} in {str(k.dtype)[6:]}, got {max(k.shape[-1], value_dim)}"
    return None
