"""What callers use: validation, packing, choice of implementation. The mathematics is in `reference`.

Letters: B meshes, N points (packed over the batch), H heads, M latents a head, D head dim, Dv value dim, S cost scales.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import reference, sdpa, tiled
from .choice import choose
from .merge import merge_partials
from .rows import is_known_finite, place
from .segments import JointSegments, Ptr, Segments, packed
from .validation import check_choice, check_cost, check_latents, check_log_weights, check_points

PRECISIONS = ("ieee", "tf32x3", "tf32")


@dataclass(frozen=True, eq=False, kw_only=True)
class Cost:
    """Additive score `−slope[h] · values[n, m, head_scale[h]]`, for latents anchored on the mesh.

    Attributes:
        values: cost of going from latent m's anchor to point n, ≥ 0; infinite where there is no path. Best in
            float16, with the costs of a point for one scale side by side in memory. Gradients do not flow into it.
        slope: decay of each head, ≥ 0.
        head_scale: which of the S scales each head uses; may be left out when S = 1.
    """

    values: Float[Tensor, "N M S"]
    slope: Float[Tensor, " H"]
    head_scale: Int[Tensor, " H"] | None = None

    def bias(self, of: Tensor | None = None) -> Float[Tensor, "N H M"]:
        """The additive scores, of other values if given; −inf where the cost is infinite, even for a slope of 0."""
        values = (self.values if of is None else of).detach().to(torch.promote_types(self.slope.dtype, torch.float32))
        is_finite = is_known_finite(values)
        values = values.expand(-1, -1, len(self.slope)) if self.head_scale is None else values[:, :, self.head_scale]
        values = values.transpose(1, 2)
        if is_finite:
            return -self.slope[:, None] * values
        unreachable = torch.isinf(values)
        # Infinity is taken out before the product: 0·∞ is NaN, and so would be the slope's gradient.
        finite = values.masked_fill(unreachable, 0.0)
        return (-self.slope[:, None] * finite).masked_fill(unreachable, -torch.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens:
    """Further keys and values that latents gather from and nothing is scattered to (boundary conditions, say).

    Attributes:
        k: keys, packed like the points.
        v: values, packed like the points.
        cost: cost of going from each latent's anchor to each token, as in `Cost.values`, with the slopes and scales of
            the points' costs; None: tokens cost nothing.
        ptr: where each mesh's tokens start, or these already joined with the points by `Segments.interleave`, which
            saves the joining in each layer; None for a single mesh.
    """

    k: Float[Tensor, "Nt H D"]
    v: Float[Tensor, "Nt H Dv"]
    cost: Float[Tensor, "Nt M S"] | None = None
    ptr: Ptr | JointSegments = None


def gather(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "*Bn N H D"],
    v: Float[Tensor, "*Bn N H Dv"],
    *,
    scale: float,
    ptr: Ptr = None,
    log_weights: Float[Tensor, "..."] | None = None,
    cost: Cost | None = None,
    tokens: Tokens | None = None,
    return_lse: bool = False,
    impl: str = "auto",
    precision: str = "ieee",
) -> Float[Tensor, "B2 H M Dv"] | tuple[Float[Tensor, "B2 H M Dv"], Float[Tensor, "B2 H M"]]:
    """Read the points into the latents (encode), a softmax over the points of each mesh.

    `S = scale · K Qᵀ`, `lse_m = log Σ_n exp(S_nm + b_n)`, `Z_m = Σ_n exp(S_nm + b_n − lse_m) V_n`.

    Args:
        q: latent queries, shared [H, M, D] or one set a mesh [B, H, M, D].
        k: keys, packed [N, H, D] or dense [B, N, H, D].
        v: values, like `k`.
        scale: factor of the scores; no default, because published code disagrees on one.
        ptr: offsets [B+1] of the meshes in the packed form, or `Segments`; None for a single mesh.
        log_weights: b, one a point; −inf masks a point, log of the node volume makes the sum an integral.
        cost: anchored scores.
        tokens: further keys and values to gather from.
        return_lse: also return `lse` [B, H, M], with which `merge_partials` joins partial gathers. SDPA does not
            give it: without Triton this takes the reference path.
        impl: "auto", "triton", "sdpa", "tiled" or "reference"; see `flare_kernels.choice`.
        precision: of the products of float32 inputs in Triton: "ieee", "tf32x3" (nearly as exact, on tensor cores) or
            "tf32".

    Returns:
        Z [B, H, M, Dv]; zero for a latent that nothing reaches.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    check_choice("precision", precision, PRECISIONS)
    k, v, log_weights, segments, _ = packed(k, v, log_weights, ptr)
    check_points(q, k, v, segments)
    check_log_weights(log_weights, k)
    _check_cost(cost, k, q)
    chosen = choose(impl, k, v.shape[-1], with_lse=return_lse, costs=cost is not None)
    if chosen == "triton":
        from . import fused

        more = _token_rows(tokens, q, segments, cost)
        z, lse = fused.gather(q, k, v, segments, scale, cost, log_weights, precision, more)
        z = z.to(v.dtype)
        return (z, lse) if return_lse else z
    if chosen == "tiled":
        z, lse = tiled.gather(q, k, v, segments, scale, cost, log_weights)
        if tokens is not None:
            z, lse = _with_tokens(z, lse, q, segments, scale, cost, tokens)
        return (z, lse) if return_lse else z
    bias = None if cost is None else cost.bias()
    if tokens is not None:
        _check_token_cost(tokens, q, cost)
        token_bias = None if cost is None or tokens.cost is None else cost.bias(tokens.cost)
        k, v, segments, bias, log_weights = _join(k, v, segments, bias, token_bias, log_weights, tokens)
        check_points(q, k, v, segments)
    if chosen == "reference":
        z, lse = reference.gather(q, k, v, segments, scale, bias, log_weights)
        return (z, lse) if return_lse else z
    return sdpa.gather(q, k, v, segments, scale, bias, log_weights)


def scatter(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "*Bn N H D"],
    z: Float[Tensor, "B2 H M Dv"],
    *,
    scale: float,
    ptr: Ptr = None,
    cost: Cost | None = None,
    impl: str = "auto",
    precision: str = "ieee",
) -> Float[Tensor, "*Bn N H Dv"]:
    """Write the latents back to the points (decode), a softmax over the latents at each point.

    `lse_n = log Σ_m exp(S_nm)`, `Y_n = Σ_m exp(S_nm − lse_n) Z_m`.

    Args:
        q: latent queries, as in `gather`.
        k: keys of the points, as in `gather`.
        z: latent values [B, H, M, Dv].
        scale: factor of the scores.
        ptr: offsets of the meshes, as in `gather`.
        cost: anchored scores.
        impl: "auto", "triton", "sdpa", "tiled" or "reference"; see `flare_kernels.choice`.
        precision: of the products of float32 inputs in Triton: "ieee", "tf32x3" (nearly as exact, on tensor cores) or
            "tf32".

    Returns:
        Y, in the layout of `k`; zero at a point that no latent reaches.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    check_choice("precision", precision, PRECISIONS)
    k, _, _, segments, dense = packed(k, None, None, ptr)
    check_points(q, k, None, segments)
    check_latents(q, z, segments)
    _check_cost(cost, k, q)
    chosen = choose(impl, k, z.shape[-1], costs=cost is not None)
    if chosen == "triton":
        from . import fused

        y = fused.scatter(q, k, z, segments, scale, cost, precision).to(z.dtype)
    elif chosen == "tiled":
        y = tiled.scatter(q, k, z, segments, scale, cost)
    else:
        plain = reference if chosen == "reference" else sdpa
        y = plain.scatter(q, k, z, segments, scale, None if cost is None else cost.bias())
    return y if dense is None else y.view(*dense, *y.shape[1:])


def mixer(
    q: Float[Tensor, "*B H M D"],
    k: Float[Tensor, "*Bn N H D"],
    v: Float[Tensor, "*Bn N H Dv"],
    *,
    scale: float,
    ptr: Ptr = None,
    log_weights: Float[Tensor, "..."] | None = None,
    q_decode: Float[Tensor, "*B H M D"] | None = None,
    k_decode: Float[Tensor, "*Bn N H D"] | None = None,
    cost: Cost | None = None,
    cost_decode: Cost | None = None,
    tokens: Tokens | None = None,
    impl: str = "auto",
    precision: str = "ieee",
) -> Float[Tensor, "*Bn N H Dv"]:
    """Global low-rank attention: `gather` to M latents, `scatter` back; O(N·M) time, O(N) memory.

    Args:
        q: latent queries, shared [H, M, D] or one set a mesh [B, H, M, D].
        k: keys, packed [N, H, D] or dense [B, N, H, D].
        v: values, like `k`; their dim may differ.
        scale: factor of the scores.
        ptr: offsets [B+1] of the meshes in the packed form, or `Segments`; None for a single mesh.
        log_weights: b, one a point, in the gather only.
        q_decode: queries of the scatter where they differ from `q`.
        k_decode: keys of the scatter where they differ from `k`.
        cost: anchored scores of the gather.
        cost_decode: anchored scores of the scatter; give both or neither.
        tokens: further keys and values that latents gather from.
        impl: "auto", "triton", "sdpa", "tiled" or "reference"; see `flare_kernels.choice`.
        precision: of the products of float32 inputs in Triton: "ieee", "tf32x3" (nearly as exact, on tensor cores) or
            "tf32".

    Returns:
        Y, in the layout of `k`.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.

    Source: FLARE, arXiv 2508.12594.
    """
    if (cost is None) != (cost_decode is None):
        raise ValueError("give both `cost` and `cost_decode`, or neither: anchored latents decay in both halves")
    check_choice("precision", precision, PRECISIONS)
    if choose(impl, k, v.shape[-1]) == "triton" and q_decode is None and k_decode is None:
        from . import fused

        k, v, log_weights, segments, dense = packed(k, v, log_weights, ptr)
        check_points(q, k, v, segments)
        check_log_weights(log_weights, k)
        _check_cost(cost, k, q)
        _check_cost(cost_decode, k, q)
        more = _token_rows(tokens, q, segments, cost)
        y = fused.mixer(q, k, v, segments, scale, cost, cost_decode, log_weights, precision, more).to(v.dtype)
        return y if dense is None else y.view(*dense, *y.shape[1:])
    if ptr is None and k.dim() == 3:
        ptr = Segments.uniform(1, k.shape[0], k.device)
    elif isinstance(ptr, Tensor):
        ptr = Segments.from_ptr(ptr)
    z = gather(
        q, k, v, scale=scale, ptr=ptr, log_weights=log_weights, cost=cost, tokens=tokens, impl=impl, precision=precision
    )
    assert isinstance(z, Tensor)
    return scatter(
        q if q_decode is None else q_decode,
        k if k_decode is None else k_decode,
        z,
        scale=scale,
        ptr=ptr,
        cost=cost_decode,
        impl=impl,
        precision=precision,
    )


def _check_cost(cost: Cost | None, k: Tensor, q: Tensor) -> None:
    if cost is not None:
        check_cost(cost.values, cost.slope, cost.head_scale, k, q)


def _check_token_cost(tokens: Tokens, q: Tensor, cost: Cost | None) -> None:
    if tokens.cost is None:
        return
    if cost is None:
        raise ValueError("the tokens have a `cost`, the points none: slopes and scales are those of the points' costs")
    check_cost(tokens.cost, cost.slope, cost.head_scale, tokens.k, q)


def _token_rows(
    tokens: Tokens | None, q: Tensor, segments: Segments, cost: Cost | None
) -> tuple[Tensor, Tensor, Tensor | None, Segments] | None:
    """Keys, values and costs of the tokens, and where those of each mesh are."""
    if tokens is None:
        return None
    _check_token_cost(tokens, q, cost)
    if isinstance(tokens.ptr, JointSegments):
        alone = tokens.ptr.token_segments
    elif tokens.ptr is None:
        alone = Segments.uniform(1, tokens.k.shape[0], tokens.k.device)
    else:
        alone = tokens.ptr if isinstance(tokens.ptr, Segments) else Segments.from_ptr(tokens.ptr)
    if alone.num_segments != segments.num_segments:
        raise ValueError(
            f"the `ptr` of the tokens holds {alone.num_segments} meshes, that of the points {segments.num_segments}"
        )
    check_points(q, tokens.k, tokens.v, alone)
    return tokens.k, tokens.v, tokens.cost, alone


def _with_tokens(
    z: Tensor, lse: Tensor, q: Tensor, segments: Segments, scale: float, cost: Cost | None, tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """What latents have read of the points, joined with what they read of the tokens."""
    rows = _token_rows(tokens, q, segments, cost)
    assert rows is not None
    token_k, token_v, values, alone = rows
    prices = None
    if cost is not None and values is not None:
        prices = Cost(values=values, slope=cost.slope, head_scale=cost.head_scale)
    more_z, more_lse = tiled.gather(q, token_k, token_v, alone, scale, prices, None)
    joined, lse = merge_partials((z, more_z), (lse, more_lse))
    return joined.to(z.dtype), lse


def _join(
    k: Tensor, v: Tensor, segments: Segments, bias: Tensor | None, token_bias: Tensor | None,
    log_weights: Tensor | None, tokens: Tokens,
) -> tuple[Tensor, Tensor, Segments, Tensor | None, Tensor | None]:  # fmt: skip
    """Put each mesh's tokens behind its points; tokens have weight 1, and no cost unless it is given."""
    joint = tokens.ptr
    if not isinstance(joint, JointSegments):
        if joint is None:
            joint = Segments.uniform(1, tokens.k.shape[0], k.device)
        joint = segments.interleave(joint if isinstance(joint, Segments) else Segments.from_ptr(joint))
    if (len(joint.points), len(joint.tokens)) != (k.shape[0], tokens.k.shape[0]):
        raise ValueError(
            f"the `ptr` of the tokens must end at {tokens.k.shape[0]} and join {k.shape[0]} points, got "
            f"{len(joint.tokens)} and {len(joint.points)}"
        )
    total = joint.segments.num_rows

    def merged(points: Tensor, extra: Tensor) -> Tensor:
        return place(points, joint.points, total).index_copy(0, joint.tokens, extra.to(points.dtype))

    if bias is not None:
        bias = place(bias, joint.points, total)
        if token_bias is not None:
            bias = bias.index_copy(0, joint.tokens, token_bias.to(bias.dtype))
    if log_weights is not None:
        log_weights = place(log_weights, joint.points, total)
    return merged(k, tokens.k), merged(v, tokens.v), joint.segments, bias, log_weights
