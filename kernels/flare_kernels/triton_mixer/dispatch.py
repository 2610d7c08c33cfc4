"""Launching a compiled kernel without asking the compiler again.

Triton looks at every argument of every call to find the compiled kernel, which for thirty arguments takes longer than
a small mixer runs. Here a call is known by what a kernel is compiled for: constants, strides, element types, which
tensors are there. What is not aligned to 16 bytes goes the long way.
"""

from typing import Any

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

_compiled: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any,
    programs: int | tuple[int, int],
    tensors: tuple[Tensor | None, ...],
    numbers: tuple[int | float, ...],
    strides: tuple[int, ...],
    constants: tuple[Any, ...],
    num_warps: int = 4,
    num_stages: int = 2,
) -> None:
    """Run `kernel(*tensors, *numbers, *strides, *constants)`, in the order of its signature.

    Args:
        kernel: a function under `triton.jit`.
        programs: size of the grid.
        tensors: pointers, None where a kernel is to do without.
        numbers: arguments that a kernel is not compiled for, listed in its `do_not_specialize`, or of type float.
        strides: integers that it is compiled for.
        constants: `tl.constexpr` arguments.
        num_warps: warps a program.
        num_stages: stages of the load pipeline.
    """
    grid = (programs, 1, 1) if isinstance(programs, int) else (*programs, 1)
    if 0 in grid:
        return
    if isinstance(kernel, InterpretedFunction):
        kernel[grid](*tensors, *numbers, *strides, *constants)
        return
    device = next(x.device.index for x in tensors if x is not None)
    if device != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, programs, tensors, numbers, strides, constants, num_warps, num_stages)
        return
    aligned = True
    types: list[torch.dtype | None] = []
    addresses: list[int | None] = []
    for x in tensors:
        if x is None:
            types.append(None)
            addresses.append(None)
        else:
            address = x.data_ptr()
            types.append(x.dtype)
            addresses.append(address)
            aligned &= address % 16 == 0
    key = (kernel, constants, strides, num_warps, num_stages, device, *types)
    known = _compiled.get(key) if aligned else None
    if known is not None:
        # Addresses, not tensors: of a tensor Triton would ask the driver where each pointer points.
        known[grid](*addresses, *numbers, *strides, *constants)
        return
    made = kernel[grid](
        *tensors, *numbers, *strides, *constants, num_warps=num_warps, num_stages=num_stages
    )  # fmt: skip
    if aligned:
        _compiled[key] = made
