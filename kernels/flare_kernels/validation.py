"""Checks of the arguments before any work starts; every message states the rule, the values and the mend."""

import torch
from torch import Tensor

from .segments import Segments


def check_points(q: Tensor, k: Tensor, v: Tensor | None, segments: Segments) -> None:
    """Shapes of latents, keys and values must fit each other and the segments.

    Raises:
        ValueError: on a mismatch.
    """
    if q.dim() not in (3, 4):
        raise ValueError(f"`q` must be [H, M, D] or [B, H, M, D], got {list(q.shape)}")
    if k.dim() != 3:
        raise ValueError(f"`k` must be packed [N, H, D] or dense [B, N, H, D], got {list(k.shape)}")
    heads, dim = q.shape[-3], q.shape[-1]
    if k.shape[1] != heads or k.shape[2] != dim:
        raise ValueError(f"`k` must be [N, {heads}, {dim}] to match `q` {list(q.shape)}, got {list(k.shape)}")
    if q.shape[-2] == 0:
        raise ValueError("`q` must hold at least one latent, got M = 0")
    if v is not None and (v.dim() != 3 or v.shape[:2] != k.shape[:2]):
        raise ValueError(f"`v` must be [{k.shape[0]}, {heads}, Dv] to match `k`, got {list(v.shape)}")
    if segments.num_rows != k.shape[0]:
        raise ValueError(f"`ptr` must end at N = {k.shape[0]}, got {segments.num_rows}")
    if q.dim() == 4 and q.shape[0] != segments.num_segments:
        raise ValueError(f"`q` has latents for {q.shape[0]} meshes, but `ptr` holds {segments.num_segments}")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"`{name}` must be a floating-point tensor, got {tensor.dtype}")
        if tensor is not None and tensor.device != k.device:
            raise ValueError(f"`{name}` is on {tensor.device}, `k` on {k.device}; move both to one device")


def check_latents(q: Tensor, z: Tensor, segments: Segments) -> None:
    """Latent values must be [B, H, M, Dv] with the B of the segments and the H, M of `q`."""
    expected = (segments.num_segments, q.shape[-3], q.shape[-2])
    if z.dim() != 4 or tuple(z.shape[:3]) != expected:
        raise ValueError(f"`z` must be [{', '.join(map(str, expected))}, Dv], got {list(z.shape)}")
    check_device("z", z, q)


def check_log_weights(log_weights: Tensor | None, k: Tensor) -> None:
    """Log-weights are one number a point; −inf masks a point out."""
    if log_weights is None:
        return
    if tuple(log_weights.shape) != (k.shape[0],):
        raise ValueError(f"`log_weights` must be [{k.shape[0]}], got {list(log_weights.shape)}")
    check_device("log_weights", log_weights, k)


def check_cost(values: Tensor, slope: Tensor, head_scale: Tensor | None, k: Tensor, q: Tensor) -> None:
    """Costs are [N, M, S], slopes [H], the scale of each head an index below S."""
    heads, num_latents = q.shape[-3], q.shape[-2]
    if values.dim() != 3 or tuple(values.shape[:2]) != (k.shape[0], num_latents):
        raise ValueError(f"cost `values` must be [{k.shape[0]}, {num_latents}, S], got {list(values.shape)}")
    if tuple(slope.shape) != (heads,):
        raise ValueError(f"cost `slope` must be [{heads}], one a head, got {list(slope.shape)}")
    if head_scale is None and values.shape[2] != 1:
        raise ValueError(
            f"cost `values` has {values.shape[2]} scales: give `head_scale` [{heads}], the one of each head"
        )
    if head_scale is not None and (tuple(head_scale.shape) != (heads,) or head_scale.dtype != torch.int64):
        raise ValueError(f"cost `head_scale` must be int64 [{heads}], got {head_scale.dtype} {list(head_scale.shape)}")
    for name, tensor in (("values", values), ("slope", slope), ("head_scale", head_scale)):
        if tensor is not None:
            check_device(f"cost {name}", tensor, k)


def check_device(name: str, tensor: Tensor, beside: Tensor) -> None:
    """A kernel would read another device's memory as its own.

    Raises:
        ValueError: if the two are on different devices.
    """
    if tensor.device != beside.device:
        raise ValueError(f"`{name}` is on {tensor.device}, the points on {beside.device}; move both to one device")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """`value` must be one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")
