"""What `torch.autocast` asks of operators that it does not know."""

from typing import overload

import torch
from torch import Tensor


@overload
def as_autocast(x: Tensor, /) -> Tensor: ...
@overload
def as_autocast(x: Tensor, /, *more: Tensor) -> tuple[Tensor, ...]: ...
def as_autocast(x: Tensor, /, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
    """The tensors in the dtype of autocast where that is on, as they are otherwise; float64 stays."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    cast = tuple(each if dtype is None or each.dtype == torch.float64 else each.to(dtype) for each in (x, *more))
    return cast if more else cast[0]
