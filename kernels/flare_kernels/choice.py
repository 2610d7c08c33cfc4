"""Which implementation runs: what was asked for, else what suits device, dtype and size."""

import importlib.util
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from .once import is_transformed
from .validation import check_choice

IMPLEMENTATIONS = ("auto", "triton", "sdpa", "tiled", "reference")
VARIABLE = "FLARE_KERNELS_IMPL"
# In bytes of a row: what a tile of 64 latents in one block leaves room for in shared memory.
LARGEST_ROW = 512
# Of messages along edges: a tile holds all channels of a node, and one tile is kept for each feature of an edge.
MOST_CHANNELS = 1024
MOST_EDGE_FEATURES = 16
# Of what is done to rows: a program holds whole ones.
MOST_COLUMNS = 4096
# Of one token more: a tile of latents holds whole queries and whole values.
MOST_DIMS = 256
_TRITON_IS_THERE = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choose(impl: str, k: Tensor, value_dim: int, *, with_lse: bool = False, costs: bool = False) -> str:
    """The implementation for these keys: "triton", "sdpa", "tiled" or "reference".

    Args:
        impl: "auto" or a name; the environment variable `FLARE_KERNELS_IMPL` takes the place of "auto".
        k: keys.
        value_dim: Dv.
        with_lse: whether the log-sum-exp of the gather is wanted, which SDPA does not give.
        costs: whether there are any, with which "tiled" is the faster on a CPU.

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
            if impl == "triton" or k.is_cuda:
                return "triton"
        elif impl == "triton":
            raise ValueError(f"impl='triton' {obstacle}; use impl='auto'")
        impl = "tiled" if costs and _tiles_suit(k) else "sdpa"
    return "reference" if with_lse and impl == "sdpa" else impl


def choose_for_edges(impl: str, source: Tensor, edge_attr: Tensor) -> str:
    """The implementation for messages along edges: "triton", "tiled" or "reference"; else as `choose`.

    There is nothing for SDPA to do: where the environment variable asks for it, plain torch runs.
    """
    check_choice("impl", impl, ("auto", "triton", "tiled", "reference"))
    wanted = os.environ.get(VARIABLE, "auto") if impl == "auto" else impl
    obstacle = _gradient_obstacle(edge_attr)
    if wanted == "tiled":
        if obstacle is not None:
            raise ValueError(f"impl='tiled' {obstacle}")
        return "tiled"
    use = _triton_or_reference(impl, source, _edge_obstacle(source, edge_attr))
    return "tiled" if use == "reference" and wanted == "auto" and obstacle is None and _tiles_suit(source) else use


def _tiles_suit(x: Tensor) -> bool:
    """Whether tile by tile is the way: on a CPU. Traced, every size of a mesh would be a graph of its own."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()


def choose_for_rows(impl: str, x: Tensor) -> str:
    """The implementation for what is done to each row [C] of points: as `choose_for_edges`."""
    obstacle = _general_obstacle("x", x)
    if obstacle is None and not 1 <= x.shape[1] <= MOST_COLUMNS:
        obstacle = f"takes 1 to {MOST_COLUMNS} channels, got {x.shape[1]}"
    return _triton_or_reference(impl, x, obstacle)


def choose_for_tokens(impl: str, k: Tensor, v: Tensor, k_decode: Tensor) -> str:
    """The implementation along sequences of tokens: "triton", "chunked" or "reference".

    Plain torch there is "chunked", also where the environment variable asks for another kind of it.

    Args:
        impl: "auto" or a name.
        k: keys, `v` the values, and `k_decode` the keys of what tokens read.
        v: see `k`.
        k_decode: see `k`.

    Raises:
        ValueError: if Triton is asked for and cannot run these.
    """
    if impl in ("chunked", "reference"):
        return impl
    if choose(impl, k, v.shape[-1]) != "triton":
        return "chunked"
    if v.dtype == k.dtype == k_decode.dtype and k_decode.shape == k.shape:
        return "triton"
    if impl == "triton":
        raise ValueError(
            f"impl='triton' takes `v` and `k_decode` in the dtype of `k`, and `k_decode` {list(k.shape)}; got "
            f"{k.dtype}, {v.dtype}, {k_decode.dtype} and {list(k_decode.shape)}: use impl='auto'"
        )
    return "chunked"


def choose_for_token(impl: str, inputs: Mapping[str, Tensor], lse: Tensor, z: Tensor) -> str:
    """The implementation for one token more of sequences: as `choose_for_edges`.

    Args:
        impl: "auto" or a name.
        inputs: queries, keys and values by name.
        lse: of the state.
        z: of the state.
    """
    return _triton_or_reference(impl, z, _token_obstacle(inputs, lse, z))


def choose_for_states(impl: str, lse: Tensor) -> str:
    """The implementation for states along sequences, never an error: what cannot be in Triton is in plain torch.

    Args:
        impl: what runs beside it, "auto" or a name.
        lse: of the states.
    """
    if lse.dtype != torch.float32 or _general_obstacle("lse", lse) is not None:
        return "reference"
    return _triton_or_reference("reference" if impl in ("sdpa", "tiled") else impl, lse, None)


def _triton_or_reference(impl: str, x: Tensor, obstacle: str | None) -> str:
    check_choice("impl", impl, ("auto", "triton", "reference"))
    if impl == "auto":
        impl = os.environ.get(VARIABLE, "auto")
        check_choice(VARIABLE, impl, IMPLEMENTATIONS)
    if impl in ("auto", "triton"):
        if obstacle is None:
            return "triton" if impl == "triton" or x.is_cuda else "reference"
        if impl == "triton":
            raise ValueError(f"impl='triton' {obstacle}; use impl='auto'")
    return "reference"


def _obstacle(k: Tensor, value_dim: int) -> str | None:
    """Why Triton cannot run, if so."""
    general = _general_obstacle("k", k)
    if general is not None:
        return general
    largest = LARGEST_ROW // k.element_size()
    if max(k.shape[-1], value_dim) > largest:
        return f"takes head dims up to {largest} in {str(k.dtype)[6:]}, got {max(k.shape[-1], value_dim)}"
    return None


def _edge_obstacle(source: Tensor, edge_attr: Tensor) -> str | None:
    general = _general_obstacle("source", source)
    if general is not None:
        return general
    obstacle = _gradient_obstacle(edge_attr)
    if obstacle is not None:
        return obstacle
    for name, size, most in (
        ("channels", source.shape[1], MOST_CHANNELS),
        ("edge features", edge_attr.shape[1], MOST_EDGE_FEATURES),
    ):
        if not 1 <= size <= most:
            return f"takes 1 to {most} {name}, got {size}"
    return None


def _gradient_obstacle(edge_attr: Tensor) -> str | None:
    """Features that want a gradient get one on the reference path only."""
    if edge_attr.requires_grad and torch.is_grad_enabled():
        return "gives no gradient to `edge_attr`, which requires one: detach it, or use impl='reference'"
    return None


def _token_obstacle(inputs: Mapping[str, Tensor], lse: Tensor, z: Tensor) -> str | None:
    for name, x in inputs.items():
        general = _general_obstacle(name, x)
        if general is not None:
            return general
        if not 1 <= x.shape[-1] <= MOST_DIMS:
            return f"takes head dims of 1 to {MOST_DIMS}, got {x.shape[-1]} of `{name}`"
    if z.dtype != torch.float32:
        return f"takes a state in float32, got {z.dtype}"
    for name, x in (("lse", lse), ("z", z)):
        if not x.is_contiguous():
            return f"takes a contiguous state, got `{name}` {list(x.shape)} with strides {list(x.stride())}"
    return None


def _general_obstacle(name: str, x: Tensor) -> str | None:
    """What stands in the way of every kernel."""
    if not _TRITON_IS_THERE:
        return "needs the package triton, which is not installed (it exists for Linux)"
    if not x.is_cuda and not os.environ.get("TRITON_INTERPRET"):
        return f"needs a GPU, or its interpreter (TRITON_INTERPRET=1) for tests; `{name}` is on {x.device}"
    if x.dtype not in _DTYPES:
        return f"takes float32, bfloat16 and float16, got {x.dtype}"
    return None
