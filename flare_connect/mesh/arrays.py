"""Between torch, which users hold, and numpy, which files and sparse algebra want."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flare_connect.errors import MeshError


def host(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values as a numpy array on the CPU; shares memory where it is there already."""
    return tensor.detach().cpu().numpy()


def numpy_of(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Each tensor's values as a numpy array on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


def map_tensors(func: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `func` to a tensor or to all tensors of nested dicts."""
    if isinstance(value, dict):
        return {key: map_tensors(func, item) for key, item in value.items()}
    return func(value)


def to_torch(value: Any, device: torch.device) -> Any:
    """Numpy arrays, or all those of nested dicts, as tensors on a device."""
    if isinstance(value, dict):
        return {key: to_torch(item, device) for key, item in value.items()}
    return torch.from_numpy(np.ascontiguousarray(value)).to(device)


def as_tensor(what: str, value: Any) -> Tensor:
    """Numbers as a tensor that nobody else holds: float32, float64, integer or bool.

    Raises:
        MeshError: the values are no real numbers; the message names `what`.
    """
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise MeshError(f"{what} has dtype {array.dtype}; give real numbers (float, integer or bool)")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        # a copy, made native-endian and contiguous: the caller's array may be read-only or change later
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    if tensor.is_complex():
        raise MeshError(f"{what} has dtype {tensor.dtype}; give its real and imaginary parts as two fields")
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)
    return tensor


def as_indices(what: str, value: Any) -> Tensor:
    """Integers as an int64 tensor.

    Raises:
        MeshError: the values are no integers; the message names `what`.
    """
    tensor = as_tensor(what, value)
    if tensor.numel() and (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise MeshError(f"{what} has dtype {tensor.dtype}; indices must be integers")
    return tensor.to(torch.long)
