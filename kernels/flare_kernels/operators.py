"""Kernels as operators of torch: what autograd and `torch.compile` see of them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def register(operators: Mapping[str, tuple[str, Callable[..., Any], Callable[..., Any]]]) -> torch.library.Library:
    """Define operators under the namespace `flare_connect`; they are there as long as what is returned is.

    Args:
        operators: name → schema without the name, function, and function that makes empty results of the right shapes.
    """
    library = torch.library.Library("flare_connect", "FRAGMENT")
    for name, (schema, run, fake) in operators.items():
        library.define(name + schema)
        # On a CPU the kernels run in Triton's interpreter: for tests, and only when it was asked for.
        for device in ("CUDA", "CPU"):
            library.impl(name, run, device)
        torch.library.register_fake(f"flare_connect::{name}", fake, lib=library)
    return library
