"""Triton's interpreter with bfloat16 as a GPU has it: rounded to the nearest number, and multiplied as matrices.

It keeps such numbers as the upper halves of float32, as integers. By itself it multiplies these integers, and cuts what
does not fit.
"""

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_cast, _dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot


def install() -> None:
    """From now on, for all kernels of this process that are interpreted."""
    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast, dot


def cast(self: InterpreterBuilder, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
    """Numbers in another type."""
    kinds = src.dtype.scalar, dst_type.scalar
    if kinds == (tl.float32, tl.bfloat16):
        halves = torch.from_numpy(np.array(src.data, dtype=np.float32)).to(torch.bfloat16).view(torch.int16)
        return TensorHandle(halves.numpy().view(np.uint16), tl.bfloat16)
    if kinds == (tl.bfloat16, tl.float32):
        return TensorHandle(_wide(src), tl.float32)
    return _cast(self, src, dst_type)


def dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, d: TensorHandle, *how: object) -> TensorHandle:
    """`a b + d`, summed in the type of d."""
    if a.dtype.scalar != tl.bfloat16:
        return _dot(self, a, b, d, *how)
    return TensorHandle(np.matmul(_wide(a), _wide(b), dtype=d.data.dtype) + d.data, d.dtype.scalar)


def _wide(x: TensorHandle) -> np.ndarray:
    return (x.data.astype(np.uint32) << 16).view(np.float32)
