"""One token more of each sequence, in place: what runs while a sequence is being made."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..autocast import as_autocast
from ..choice import choose_for_token
from ..validation import check_device, check_log_weights
from . import reference
from .api import check_same_latents, check_state
from .state import LatentState


@torch.no_grad()
def decode_step(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "B H D"],
    v: Float[Tensor, "B H Dv"],
    state: LatentState,
    *,
    scale: float,
    log_weights: Float[Tensor, " B"] | None = None,
    q_decode: Float[Tensor, "*B H M D"] | None = None,
    k_decode: Float[Tensor, "B H D"] | None = None,
    impl: str = "auto",
) -> Float[Tensor, "B H Dv"]:
    """One token more of each sequence, in time and memory that do not grow with what came before.

    `s_m = scale · q_m·k + b`, `lse'_m = lse_m + softplus(s_m − lse_m)`, `z'_m = z_m + sigmoid(s_m − lse_m)(v − z_m)`,
    `y = Σ_m softmax_m(scale · q'_m·k') z'_m`.

    Args:
        q: latent queries, shared [H, M, D] or one set a sequence [B, H, M, D].
        k: key of the token of each sequence.
        v: its value.
        state: from `causal_mixer` or `LatentState.empty`; overwritten with what latents know after the token.
        scale: factor of the scores.
        log_weights: b of each token; −inf keeps it out.
        q_decode: q', as in `causal_mixer`.
        k_decode: k' of each token.
        impl: "triton", one launch that waits for nothing and can be captured in a CUDA graph, for a contiguous state in
            float32 and head dims up to 256; or "reference", plain torch. "auto" is "triton" on a GPU where it
            can run them.

    Returns:
        Y of the token, in the dtype of `v` (under autocast, in its dtype). No gradients: for training there is
        `causal_mixer`.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or `impl` cannot run them.

    Source: as of `causal_mixer`, whose recurrence this is.
    """
    _check_tokens("", q, k, v)
    check_log_weights(log_weights, k)
    apart = q_decode is not None or k_decode is not None
    q_decode, k_decode = q if q_decode is None else q_decode, k if k_decode is None else k_decode
    if apart:
        _check_tokens("_decode", q_decode, k_decode, v)
        check_same_latents(q, q_decode)
    check_state(state, q, v, len(k))
    k, v, k_decode = as_autocast(k, v, k_decode)
    inputs = {"q": q, "k": k, "v": v, "q_decode": q_decode, "k_decode": k_decode}
    if choose_for_token(impl, inputs, *state) == "triton":
        reads = {"q_decode": q_decode, "k_decode": k_decode} if apart else {}
        return _in_one_launch(q, k, v, log_weights, state, scale, **reads)
    dtype = state.lse.dtype
    with torch.autocast(k.device.type, enabled=False):  # as in `causal_mixer`
        s = _scores(q, k, scale, dtype)
        if log_weights is not None:
            s = s + log_weights.to(dtype)[:, None, None]
        p = torch.softmax(_scores(q_decode, k_decode, scale, dtype), dim=-1)
        lse, z = reference.advanced(state.lse, state.z, s, v.to(dtype))
        state.lse.copy_(lse)
        state.z.copy_(z)
        return torch.einsum("bhm,bhmd->bhd", p, z).to(v.dtype)


def _in_one_launch(
    q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, state: LatentState, scale: float,
    q_decode: Tensor | None = None, k_decode: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """On the kernel; without `q_decode` tokens read with the scores that latents read with."""
    from ..triton_causal import ops  # noqa: F401 (the operator is registered there)
    from ..triton_mixer.autograd import rows_together

    if q_decode is not None and k_decode is not None:
        q_decode, k_decode = rows_together(q_decode), rows_together(k_decode)
    if log_weights is not None:
        log_weights = log_weights.contiguous()
    q, k, v = (rows_together(x) for x in (q, k, v))
    y: Tensor = torch.ops.flare_connect.causal_decode(q, k, v, log_weights, q_decode, k_decode, *state, scale)
    return y


def _scores(q: Tensor, k: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Scores [B, H, M] of one token a sequence."""
    return scale * torch.einsum("hmd,bhd->bhm" if q.dim() == 3 else "bhmd,bhd->bhm", q.to(dtype), k.to(dtype))


def _check_tokens(suffix: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Queries, and the key and value of one token a sequence, must fit each other.

    Raises:
        ValueError: if shapes, dtypes or devices do not.
    """
    query, key = f"`q{suffix}`", f"`k{suffix}`"
    if q.dim() not in (3, 4) or q.shape[-2] == 0:
        raise ValueError(f"{query} must be [H, M, D] or [B, H, M, D] with M at least 1, got {list(q.shape)}")
    if k.dim() != 3 or k.shape[1:] != (q.shape[-3], q.shape[-1]):
        raise ValueError(f"{key} must be [B, {q.shape[-3]}, {q.shape[-1]}], got {list(k.shape)}")
    if q.dim() == 4 and len(q) != len(k):
        raise ValueError(f"{query} has latents for {len(q)} sequences, there are {len(k)}")
    if v.dim() != 3 or v.shape[:2] != k.shape[:2]:
        raise ValueError(f"`v` must be [{len(k)}, {k.shape[1]}, Dv] to match {key}, got {list(v.shape)}")
    for name, x in ((query, q), (key, k), ("`v`", v)):
        if not x.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {x.dtype}")
        check_device(name.strip("`"), x, k)
