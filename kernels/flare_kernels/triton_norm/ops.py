"""The kernels as operators of torch, under the namespace `flare_connect`, without autograd."""

from typing import Any

import torch
from torch import Tensor

from flare_kernels.operators import register
from flare_kernels.triton_mixer.backward import sum_kernel
from flare_kernels.triton_mixer.dispatch import launch
from flare_kernels.triton_mixer.sizes import Chunks, block_of, uniform_chunks

from .kernels import norm_grad_kernel, norm_kernel

# Numbers in a tile of rows; registers of a program of 4 warps.
_TILE = 4096
_CHUNKS = "Tensor? table, Tensor? offsets, int segments, int width, int size"
_SCHEMAS = {
    "adaptive_norm": f"(Tensor x, Tensor modulation, {_CHUNKS}, float eps, ScalarType dtype) -> Tensor",
    "adaptive_norm_grad": f"(Tensor x, Tensor modulation, Tensor dy, {_CHUNKS}, float eps) -> (Tensor, Tensor)",
}


def _sizes(x: Tensor, table: Tensor | None, segments: int, width: int, size: int) -> tuple[Chunks, int, int, int]:
    chunks = uniform_chunks(segments, width, 1) if table is None else Chunks(size, table.shape[0], 0)
    block_c = block_of(x.shape[1])
    block_n = max(1, min(64, _TILE // block_c))
    return chunks, -(-chunks.size // block_n), block_n, block_c


def adaptive_norm(
    x: Tensor, modulation: Tensor, table: Tensor | None, offsets: Tensor | None, segments: int, width: int, size: int,
    eps: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Y [N, C] in `dtype`."""
    chunks, splits, block_n, block_c = _sizes(x, table, segments, width, size)
    y = torch.empty_like(x, dtype=dtype)
    launch(
        norm_kernel, (chunks.pieces, splits), (x, modulation, table, y),
        (width, chunks.per_segment, chunks.size, eps), (), (x.shape[1], block_n, block_c),
    )  # fmt: skip
    return y


def adaptive_norm_grad(
    x: Tensor, modulation: Tensor, dy: Tensor, table: Tensor | None, offsets: Tensor | None, segments: int, width: int,
    size: int, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of `x` [N, C] in its dtype, and of `modulation` [B, 2C] in fp32."""
    chunks, splits, block_n, block_c = _sizes(x, table, segments, width, size)
    dx = torch.empty_like(x)
    row = splits * 2 * x.shape[1]
    parts = x.new_empty((chunks.pieces, splits, 2 * x.shape[1]), dtype=torch.float32)
    launch(
        norm_grad_kernel, (chunks.pieces, splits), (x, modulation, dy, table, dx, parts),
        (width, chunks.per_segment, chunks.size, splits, eps), (), (x.shape[1], block_n, block_c),
    )  # fmt: skip
    by_split = x.new_empty((segments, splits, 2 * x.shape[1]), dtype=torch.float32)
    launch(
        sum_kernel, (-(-row // 32), segments), (parts, offsets, by_split), (chunks.per_segment, 1, row, 1.0), (),
        (64, 32),
    )  # fmt: skip
    return dx, by_split.sum(1)


def _fake_norm(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x, dtype=rest[-1])


def _fake_grad(x: Tensor, modulation: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(modulation, dtype=torch.float32)


library = register(
    {
        "adaptive_norm": (_SCHEMAS["adaptive_norm"], adaptive_norm, _fake_norm),
        "adaptive_norm_grad": (_SCHEMAS["adaptive_norm_grad"], adaptive_norm_grad, _fake_grad),
    }
)
