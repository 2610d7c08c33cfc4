"""What a step on a GPU must not do, seen on a machine without one."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
# Sizes or numbers of these are known only when the device is done.
_WAITS = {
    _ATEN._local_scalar_dense, _ATEN.item, _ATEN.is_nonzero, _ATEN.equal, _ATEN.nonzero, _ATEN.masked_select,
    _ATEN.unique_consecutive, _ATEN.unique_dim, _ATEN._unique2, _ATEN.bincount,
}  # fmt: skip


class AloneOnTheDevice(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: the device asks the host, or the host the device.

    For models and data on the meta device, which stands for a GPU; what is on the CPU is on the host.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = kwargs or {}
        found = func(*args, **given)
        leaves = tree_leaves((args, given, found))
        if any(isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu" for leaf in leaves):
            raise AssertionError(f"{func} has a tensor of the host")
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise AssertionError(f"{func} draws with a generator of the host")
        if func.overloadpacket in _WAITS or (func is _ATEN.repeat_interleave.Tensor and not given.get("output_size")):
            raise AssertionError(f"the host waits for {func}")
        return found


@pytest.fixture
def meta(monkeypatch):
    """The meta device as a device to train on: torch knows no autocast there, so there is none."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled

    def none_there(kind, *args, **options):
        return nullcontext() if kind == "meta" else autocast(kind, *args, **options)

    monkeypatch.setattr(torch, "autocast", none_there)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": kind != "meta" and is_enabled(kind))
    return torch.device("meta")
