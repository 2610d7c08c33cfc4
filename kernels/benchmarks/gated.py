"""Causal FLARE as gated linear attention: what `fla.ops.gla.chunk_gla` (package fla-core) is given.

With `f_t = exp(lse_{t−1} − lse_t)` the latents follow `z_t = f_t z_{t−1} + (1 − f_t) v_t`. So queries are the tokens'
softmax over the latents, keys `exp(s_t − lse_t) = 1 − f_t`, the logarithm of the gate `lse_{t−1} − lse_t`, of the first
token 0 (there is nothing yet to be kept), and the key dim is M.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import measure
import torch
from torch import Tensor


def gated(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and logarithms of the gates [N, H, M] of one sequence, in float32 or float64.

    Args:
        q: latent queries [H, M, D].
        k: keys [N, H, D].
        scale: factor of the scores.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    s = scale * torch.einsum("hmd,nhd->nhm", q.to(dtype), k.to(dtype))
    lse = torch.logcumsumexp(s, 0)
    before = torch.cat([lse[:1], lse[:-1]])
    return torch.softmax(s, -1), torch.exp(s - lse), before - lse


def prepared(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The operator alone on inputs that are made beforehand, in the dtype of `v`, gates in float32; its leaves."""
    from fla.ops.gla import chunk_gla

    with torch.no_grad():
        queries, keys, gates = gated(q, k, scale)
    leaves = [x.detach()[None].requires_grad_() for x in (queries.to(v.dtype), keys.to(v.dtype), v, gates)]

    def work() -> Tensor:
        queries, keys, values, gates = leaves
        y: Tensor = chunk_gla(queries, keys, values, gates, scale=1.0)[0]
        return y

    return work, leaves


def compile_ahead(heads: int, latents: int, dim: int) -> None:
    """Fill the compiler's cache on disk, in as many processes as there are cores.

    The package tries some hundred configurations at the first call, and compiles them one by one.
    """
    count = min(16, os.cpu_count() or 1)
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        for share in range(count):
            pool.submit(_compile, share, count, heads, latents, dim)


def _compile(share: int, count: int, heads: int, latents: int, dim: int) -> None:
    """One call with a share of the configurations of each kernel."""
    shapes = (heads, latents, dim), *2 * [(256, heads, dim)]
    q, k, v = (measure.draw(shape, torch.bfloat16, torch.device("cuda"), 1) for shape in shapes)
    work, leaves = prepared(q, k, v, dim**-0.5)
    for kernel in _tuners():
        kernel.configs = kernel.configs[share::count] or kernel.configs[:1]
    torch.autograd.grad(work(), leaves, torch.ones_like(v)[None])


def _tuners() -> list[Any]:
    """All that the package would tune, each once."""
    from triton.runtime import Autotuner

    modules = [module for name, module in sys.modules.items() if name.startswith("fla.ops")]
    found = {}
    for kernel in [x for module in modules for x in vars(module).values()]:
        for _ in range(3):  # heuristics around a tuner around the function
            if isinstance(kernel, Autotuner):
                found[id(kernel)] = kernel
                break
            kernel = getattr(kernel, "fn", None)
    return list(found.values())
