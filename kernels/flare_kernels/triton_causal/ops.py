"""The kernels as operators of torch, under the namespace `flare_connect`, without autograd; everything in fp32."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..operators import register
from ..triton_mixer.backward import sum_kernel
from ..triton_mixer.dispatch import launch
from ..triton_mixer.sizes import block_of
from .answer import answer_kernel, token_kernel
from .answer_grad import answer_grad_kernel
from .decode import decode_kernel
from .scan import carry_kernel, scan_grad_kernel, scan_kernel
from .span import group_grad_kernel, span_kernel

# Tokens of a span, latents of a block. In bfloat16 there are always as many of these: what is 64 high and not as wide,
# Triton compiles wrongly for Hopper where a factor was computed. Few where factors are in float32 and do not fit.
SPAN = 64
_LATENTS = 64
_FEW_LATENTS = 16

# Most spans of a group, and how many programs there should be before groups take as many: for each goes through its
# group, and a GPU holds a few hundred at a time.
SPANS_OF_GROUP = 16
PROGRAMS = 256

# Latents of a program: few, so that there are enough programs, for each goes through a whole sequence.
_BLOCK_M = 4
_AHEAD = 8  # parts that are loaded at a time
_SCAN_WARPS = 1

# How spans are taken, see `answer`: as a whole, in parts where scores are too far apart, else latents one by one.
_FAR = 0, 1, 2

# Warps, and stages of the load pipeline, of what goes along the spans of a group.
_SPAN_LAUNCH = 2, 2
_TOKEN_LAUNCH = 4, 2
_ANSWER_LAUNCH = 4, 3
_ANSWER_GRAD_LAUNCH = 4, 2
_GROUP_GRAD_LAUNCH = 4, 3
# Of more dims nothing is loaded ahead. In float16 more warps than four read past what Triton gave them on Hopper.
_WIDE = 64
_WIDE_WARPS = {torch.float32: 8, torch.bfloat16: 8, torch.float16: 4}

# Parts and numbers that a program adds up at a time; the kernel counts the latter in 32 bits.
_OF_SUM = 4, 1024
_MOST_OF_SUM = 2**31 - _OF_SUM[1]

# Of a program that takes one token: most numbers of a tile of queries or of the state, which stays in registers; how
# many of them a thread is to have, few, so that all are loaded at once; fewest and most warps.
_MOST_OF_TILE = 8192
_OF_THREAD = 16
_WARPS = 4, 16
_ANSWER = (
    "Tensor q, Tensor k, Tensor v, Tensor? log_weights, Tensor? q_decode, Tensor? k_decode, Tensor first_lse,"
    " Tensor first_z, Tensor ptr, Tensor sequences, Tensor offsets, float scale, str precision"
)
_SCHEMAS = {
    "latent_scan": "(Tensor lse, Tensor z, Tensor first_lse, Tensor first_z, Tensor ptr) -> (Tensor, Tensor)",
    "latent_scan_grad": "(Tensor lse, Tensor z, Tensor ptr, Tensor lse_states, Tensor z_states, Tensor dlse_states,"
    " Tensor dz_states) -> (Tensor, Tensor, Tensor, Tensor)",
    "causal_answer": f"({_ANSWER}) -> (Tensor, Tensor, Tensor, Tensor)",
    "causal_answer_grad": f"({_ANSWER}, Tensor spans, int num_spans, Tensor lse, Tensor z, Tensor softmax, Tensor y,"
    " Tensor dy, Tensor dlse, Tensor dz) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "causal_decode": "(Tensor q, Tensor k, Tensor v, Tensor? log_weights, Tensor? q_decode, Tensor? k_decode,"
    " Tensor(a!) lse, Tensor(b!) z, float scale) -> Tensor",
}


def _programs(z: Tensor, ptr: Tensor) -> int:
    return (len(ptr) - 1) * z.shape[1] * -(-z.shape[2] // _BLOCK_M)


def _constants(z: Tensor) -> tuple[int, ...]:
    return z.shape[1], z.shape[3], _BLOCK_M, block_of(z.shape[3]), _AHEAD


def latent_scan(lse: Tensor, z: Tensor, first_lse: Tensor, first_z: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """All states [T + B, H, M] and [T + B, H, M, Dv]; see `scan`."""
    states = len(lse) + len(first_lse)
    lse_states, z_states = lse.new_empty((states, *lse.shape[1:])), z.new_empty((states, *z.shape[1:]))
    launch(
        scan_kernel, _programs(z, ptr), (lse, z, first_lse, first_z, ptr, lse_states, z_states), (z.shape[2],), (),
        _constants(z), num_warps=_SCAN_WARPS,
    )  # fmt: skip
    return lse_states, z_states


def latent_scan_grad(
    lse: Tensor, z: Tensor, ptr: Tensor, lse_states: Tensor, z_states: Tensor, dlse_states: Tensor, dz_states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `lse`, `z`, and of the first state of each sequence."""
    sequences = len(lse_states) - len(lse)
    dlse, dz = torch.empty_like(lse), torch.empty_like(z)
    first_dlse, first_dz = lse.new_empty((sequences, *lse.shape[1:])), z.new_empty((sequences, *z.shape[1:]))
    launch(
        scan_grad_kernel, _programs(z, ptr),
        (lse, z, ptr, lse_states, z_states, dlse_states, dz_states, dlse, dz, first_dlse, first_dz),
        (z.shape[2],), (), _constants(z), num_warps=_SCAN_WARPS,
    )  # fmt: skip
    return dlse, dz, first_dlse, first_dz


def spans_of_group(spans: int, heads: int) -> int:
    """How many, from sizes alone: the most with which there are programs enough."""
    group = SPANS_OF_GROUP
    while group > 1 and spans * heads < group * PROGRAMS:
        group //= 2
    return group


class _Tiles(NamedTuple):
    """How programs take a problem.

    Attributes:
        blocks: of latents.
        precision: of products.
        constants: as kernels want them.
        even: whether blocks are full.
        wide: warps where dims are many, or else 0.
    """

    blocks: int
    precision: str
    constants: tuple[int, ...]
    even: bool
    wide: int

    @property
    def numbers(self) -> int:
        """Of a tile of states."""
        return self.constants[4] * self.constants[6]

    def warps_and_stages(self, how: tuple[int, int]) -> tuple[int, int]:
        """Of these for a few dims."""
        return (self.wide, 1) if self.wide else how

    def launch(
        self, kernel: Any, groups: int, tensors: tuple[Tensor | None, ...], numbers: tuple[int | float, ...],
        strides: tuple[int, ...], how: tuple[int, int], more: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """A program for each group, head and block of latents; `how` are its warps and stages."""
        warps, stages = self.warps_and_stages(how)
        constants = (*self.constants, self.precision, stages, self.even, *more)
        launch(
            kernel, (groups * self.constants[0], self.blocks), tensors, numbers, strides, constants, num_warps=warps
        )  # fmt: skip


def _tiles(q: Tensor, k: Tensor, v: Tensor, precision: str) -> _Tiles:
    heads, latents, dim = q.shape[-3:]
    widths = block_of(dim), block_of(v.shape[-1])
    wide = max(widths) > _WIDE
    block_m = _LATENTS
    if k.dtype == torch.float32 or (k.dtype == torch.float16 and wide):
        block_m = min(_FEW_LATENTS, block_of(latents))
    elif k.dtype == torch.float16:
        block_m = min(_LATENTS, block_of(latents))
    # Factors of the weights reach far beyond what float16 holds, and several of them, rounded, meet in a product: so
    # inside they have more digits than what comes in.
    how = {torch.bfloat16: "tf32", torch.float16: "tf32x3"}.get(k.dtype, precision)
    constants = heads, dim, v.shape[-1], SPAN, block_m, *widths
    return _Tiles(-(-latents // block_m), how, constants, latents % block_m == 0, _WIDE_WARPS[k.dtype] if wide else 0)


def _strides(q: Tensor, k: Tensor, v: Tensor, q_decode: Tensor | None, k_decode: Tensor | None) -> tuple[int, ...]:
    queries = [(0, 0, 0) if x is None else (0 if x.dim() == 3 else x.stride(0), x.stride(-3), x.stride(-2))
               for x in (q, q_decode)]  # fmt: skip
    rows = [(0, 0) if x is None else (x.stride(0), x.stride(1)) for x in (k, v, k_decode)]
    return (*queries[0], *rows[0], *rows[1], *queries[1], *rows[2])


def _room_for_softmax(tiles: _Tiles, k: Tensor) -> Tensor:
    """[2, P ≥ N·H], its rows aligned; nothing where latents are one block, which finds it by itself."""
    numbers = 0 if tiles.blocks == 1 else -(-k.shape[0] * k.shape[1] // 4) * 4
    return k.new_empty((2, numbers), dtype=torch.float32)


def _softmax_of_tokens(
    tiles: _Tiles, q: Tensor, k: Tensor, ptr: Tensor, sequences: Tensor, scale: float, strides: tuple[int, ...]
) -> Tensor:
    """Of each token over all latents, as `token_kernel` has it."""
    found = _room_for_softmax(tiles, k)
    if found.numel():
        heads, dim, _, span, block_m, block_d, _ = tiles.constants
        warps, stages = tiles.warps_and_stages(_TOKEN_LAUNCH)
        launch(
            token_kernel, len(sequences) * heads, (q, k, ptr, sequences, *found), (q.shape[-2], scale), strides,
            (heads, dim, span, block_m, block_d, tiles.precision, stages), num_warps=warps,
        )  # fmt: skip
    return found


def _halves(softmax: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return (softmax[0], softmax[1]) if softmax.numel() else (None, None)


def causal_answer(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    first_lse: Tensor, first_z: Tensor, ptr: Tensor, sequences: Tensor, offsets: Tensor, scale: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Y [N, H, Dv] in the dtype of `v`, all states before and after the groups of spans that `ptr` cuts, softmax.

    The last is that of each token over several blocks of latents, see `token_kernel`.

    Give both `q_decode` and `k_decode`, or neither where tokens and latents read one another by the same scores.
    """
    tiles, groups = _tiles(q, k, v, precision), len(sequences)
    strides, numbers = _strides(q, k, v, q_decode, k_decode), (q.shape[-2], scale)
    lse = first_lse.new_empty((groups, *first_lse.shape[1:]))
    z = first_z.new_empty((groups, *first_z.shape[1:]))
    tiles.launch(
        span_kernel, groups, (q, k, v, log_weights, None, None, ptr, sequences, None, lse, z, *5 * (None,)),
        numbers, strides[:7], _SPAN_LAUNCH,
    )  # fmt: skip
    lse, z = latent_scan(lse, z, first_lse, first_z, offsets)
    readers = (q, k) if q_decode is None or k_decode is None else (q_decode, k_decode)
    of_readers = strides[:5] if k_decode is None else strides[7:]
    softmax = _softmax_of_tokens(tiles, *readers, ptr, sequences, scale, of_readers)
    parts = v.new_empty((tiles.blocks, *v.shape), dtype=v.dtype if tiles.blocks == 1 else torch.float32)
    far = ptr.new_empty((groups * q.shape[-3], tiles.blocks), dtype=torch.int32)
    for far_apart in _FAR:
        tiles.launch(
            answer_kernel, groups,
            (q, k, v, log_weights, q_decode, k_decode, *_halves(softmax), lse, z, ptr, sequences, far, parts),
            (len(k), *numbers), strides, _ANSWER_LAUNCH, (far_apart,),
        )  # fmt: skip
    return _of_blocks(parts, v.dtype), lse, z, softmax


def causal_answer_grad(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    first_lse: Tensor, first_z: Tensor, ptr: Tensor, sequences: Tensor, offsets: Tensor, scale: float, precision: str,
    spans: Tensor, num_spans: int, lse: Tensor, z: Tensor, softmax: Tensor, y: Tensor, dy: Tensor, dlse: Tensor,
    dz: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, log-weights, q_decode, k_decode, first_lse, first_z.

    `lse`, `z` and `softmax` are what the forward pass gave; `dlse` and `dz` the gradients of each sequence's last. Of
    `num_spans` spans the first of group g is `spans[g]`; `offsets` say which groups a sequence has.
    """
    tiles, groups = _tiles(q, k, v, precision), len(sequences)
    strides, numbers = _strides(q, k, v, q_decode, k_decode), (q.shape[-2], scale)
    heads, latents = lse.shape[1:]
    # Sums over blocks are in fp32; where there is one, it writes what is returned.
    one = tiles.blocks == 1
    dk, dv, dk_decode = (
        None if x is None else k.new_empty((tiles.blocks, *x.shape), dtype=x.dtype if one else torch.float32)
        for x in (k, v, k_decode)
    )
    dq, dq_decode = (
        None if x is None else k.new_empty((groups, heads, latents, x.shape[-1]), dtype=torch.float32)
        for x in (q, q_decode)
    )
    of_weights = None if log_weights is None else k.new_empty((tiles.blocks, len(k), heads), dtype=torch.float32)
    of_lse, of_z = lse.new_empty((groups, heads, latents)), z.new_empty((groups, *z.shape[1:]))
    pivots, totals, ends, end_totals = (
        lse.new_empty((num_spans, heads, tiles.blocks, tiles.constants[4])) for _ in range(4)
    )
    last, last_totals = (torch.empty_like(of_lse) for _ in range(2))
    before = z.new_empty((num_spans, heads, tiles.blocks, tiles.numbers))
    tiles.launch(
        span_kernel, groups,
        (q, k, v, log_weights, lse, z, ptr, sequences, spans, pivots, before, totals, ends, end_totals,
         last, last_totals),
        numbers, strides[:7], _SPAN_LAUNCH,
    )  # fmt: skip
    far = ptr.new_empty((groups * heads, tiles.blocks), dtype=torch.int32)
    for far_apart in _FAR:
        tiles.launch(
            answer_grad_kernel, groups,
            (q, k, v, log_weights, q_decode, k_decode, *_halves(softmax), pivots, totals, ends, end_totals, before,
             ptr, sequences, spans, far,
             None if one else y, dy, dq, dk, dv, of_weights, dq_decode, dk_decode, of_lse, of_z),
            (len(k), *numbers), strides, _ANSWER_GRAD_LAUNCH, (far_apart,),
        )  # fmt: skip
    del before
    first_dlse, first_dz = torch.empty_like(first_lse), torch.empty_like(first_z)
    launch(
        carry_kernel, _programs(z, offsets),
        (lse, z, last, last_totals, dlse, dz, offsets, of_lse, of_z, first_dlse, first_dz),
        (latents,), (), (*_constants(z), k.dtype == torch.float32), num_warps=_SCAN_WARPS,
    )  # fmt: skip
    tiles.launch(
        group_grad_kernel, groups,
        (q, k, v, log_weights, last, last_totals, ptr, sequences, of_lse, of_z, dq, dk, dv, of_weights),
        (len(k), *numbers), strides[:7], _GROUP_GRAD_LAUNCH,
    )  # fmt: skip
    of_rows = (k.new_empty(0) if each is None else _of_blocks(each, k.dtype) for each in (dk, dv, dk_decode))
    of_queries = (
        k.new_empty(0) if each is None or x is None else _of_queries(each, x, offsets)
        for each, x in ((dq, q), (dq_decode, q_decode))
    )
    weights = k.new_empty(0) if of_weights is None else of_weights.sum((0, 2))
    (found_k, found_v, found_kd), (found_q, found_qd) = of_rows, of_queries
    return found_q, found_k, found_v, weights, found_qd, found_kd, first_dlse, first_dz


def _of_blocks(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """Parts of blocks of latents added up, in their order."""
    blocks, size = len(parts), parts[0].numel()
    if blocks == 1:
        return parts[0]
    if size >= _MOST_OF_SUM:
        return parts.sum(0).to(dtype)
    out = parts.new_empty(parts.shape[1:], dtype=dtype)
    launch(
        sum_kernel, (-(-size // _OF_SUM[1]), 1), (parts, None, out), (blocks, 1, size, 1.0), (), _OF_SUM
    )  # fmt: skip
    return out


def _of_queries(parts: Tensor, q: Tensor, offsets: Tensor) -> Tensor:
    """Parts of groups added up, in their order, for all or for each sequence."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    groups, row, block = (1 if q.dim() == 3 else len(q)), parts[0].numel(), 32
    step = (len(offsets) - 1) // groups
    launch(sum_kernel, (-(-row // block), groups), (parts, offsets, out), (0, step, row, 1.0), (), (64, block))
    return out


def causal_decode(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    lse: Tensor, z: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """Y [B, H, Dv] of one token each in the dtype of `v`; `lse` and `z`, contiguous and in fp32, are overwritten."""
    reads = (q, k) if q_decode is None or k_decode is None else (q_decode, k_decode)
    strides = _strides(q, k, v, *reads)
    dims = q.shape[-1], reads[0].shape[-1], v.shape[-1]
    widths = [block_of(dim) for dim in dims]
    block_m = min(block_of(q.shape[-2]), _MOST_OF_TILE // max(widths))
    warps = min(max(block_m * max(widths) // (32 * _OF_THREAD), _WARPS[0]), _WARPS[1])
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    torch.autograd.graph.increment_version((lse, z))  # as of every operation in place
    launch(
        decode_kernel, len(k) * q.shape[-3], (q, k, v, log_weights, q_decode, k_decode, lse, z, y),
        (scale,), strides, (*q.shape[-3:-1], *dims, block_m, *widths), num_warps=warps,
    )  # fmt: skip
    return y


def _fake_scan(lse: Tensor, z: Tensor, first_lse: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    states = len(lse) + len(first_lse)
    return lse.new_empty((states, *lse.shape[1:])), z.new_empty((states, *z.shape[1:]))


def _fake_grad(lse: Tensor, z: Tensor, ptr: Tensor, lse_states: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    sequences = len(lse_states) - len(lse)
    return (
        torch.empty_like(lse), torch.empty_like(z), lse.new_empty((sequences, *lse.shape[1:])),
        z.new_empty((sequences, *z.shape[1:])),
    )  # fmt: skip


def _fake_decode(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def _fake_answer(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    first_lse: Tensor, first_z: Tensor, ptr: Tensor, sequences: Tensor, offsets: Tensor, scale: float, precision: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    states = len(sequences) + len(first_lse)
    all_states = (x.new_empty((states, *x.shape[1:])) for x in (first_lse, first_z))
    return y, *all_states, _room_for_softmax(_tiles(q, k, v, precision), k)


def _fake_answer_grad(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, q_decode: Tensor | None, k_decode: Tensor | None,
    first_lse: Tensor, first_z: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    of_weights = k.new_empty(0) if log_weights is None else k.new_empty(len(k), dtype=torch.float32)
    dq, dk, dv, dq_decode, dk_decode = (
        k.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (q, k, v, q_decode, k_decode)
    )
    return dq, dk, dv, of_weights, dq_decode, dk_decode, torch.empty_like(first_lse), torch.empty_like(first_z)


library = register(
    {
        "latent_scan": (_SCHEMAS["latent_scan"], latent_scan, _fake_scan),
        "latent_scan_grad": (_SCHEMAS["latent_scan_grad"], latent_scan_grad, _fake_grad),
        "causal_answer": (_SCHEMAS["causal_answer"], causal_answer, _fake_answer),
        "causal_answer_grad": (_SCHEMAS["causal_answer_grad"], causal_answer_grad, _fake_answer_grad),
        "causal_decode": (_SCHEMAS["causal_decode"], causal_decode, _fake_decode),
    }
)
