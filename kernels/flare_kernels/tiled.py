"""Gather and scatter in plain torch, a tile of points at a time, with costs: for CPUs, where a tile stays in the cache.

Nothing of size N·M is kept: the backward pass computes scores again, as the kernels do. Without costs, torch's own
attention (`sdpa`) does the same.
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .once import refuse_second_derivatives
from .rows import is_known_finite
from .segments import Segments

if TYPE_CHECKING:
    from .api import Cost

# Numbers of a tile of scores: with what is computed of it, about what a core has for itself.
TILE = 1 << 17


class _Scores(NamedTuple):
    """What scores are made of, in the dtype of the computation.

    Attributes:
        q: [B or 1, H, M, D].
        k: [N, H, D].
        log_weights: [N], or None.
        cost: [N, M, S] as given, or None.
        slope: [H].
        head_scale: [H], or None.
        finite: whether no cost is infinite.
        scale: factor of the products.
    """

    q: Tensor
    k: Tensor
    log_weights: Tensor | None
    cost: Tensor | None
    slope: Tensor | None
    head_scale: Tensor | None
    finite: bool
    scale: float

    def price(self, rows: slice) -> Tensor | None:
        """Costs [H or 1, M, n] of some points."""
        if self.cost is None:
            return None
        price = self.cost[rows].permute(2, 1, 0).to(self.q.dtype)
        return price if self.head_scale is None else price.index_select(0, self.head_scale)

    def of(self, mesh: int, rows: slice, price: Tensor | None) -> Tensor:
        """[H, M, n] of some points of a mesh."""
        q, k = self.queries(mesh), self.k[rows].permute(1, 2, 0)
        if price is None or self.slope is None:
            s = q.new_empty(*q.shape[:2], k.shape[2]).baddbmm_(q, k, beta=0, alpha=self.scale)
        else:
            loss = price * -self.slope[:, None, None]
            if not self.finite:
                loss.masked_fill_(price == torch.inf, -torch.inf)
            s = loss.baddbmm_(q, k, alpha=self.scale)
        return s if self.log_weights is None else s.add_(self.log_weights[rows])

    def queries(self, mesh: int) -> Tensor:
        """[H, M, D] of a mesh."""
        return self.q[mesh if len(self.q) > 1 else 0]


class _Gradients:
    """Sums over tiles of what scores are made of."""

    def __init__(self, scores: _Scores) -> None:
        self.scores = scores
        self.q, self.k = torch.zeros_like(scores.q), torch.empty_like(scores.k)
        self.slope = None if scores.slope is None else torch.zeros_like(scores.slope)

    def add(self, mesh: int, rows: slice, ds: Tensor, price: Tensor | None) -> None:
        """Those of a tile, from gradients [H, M, n] of its scores."""
        scores = self.scores
        self.k[rows] = torch.bmm(ds.mT, scores.queries(mesh)).mul_(scores.scale).transpose(0, 1)
        self.q[mesh if len(self.q) > 1 else 0].baddbmm_(ds, scores.k[rows].transpose(0, 1), alpha=scores.scale)
        if self.slope is not None and price is not None:
            # What no path leads to has weight 0, and 0·∞ is no number.
            known = price if scores.finite else price.masked_fill(price == torch.inf, 0.0)
            self.slope -= (ds * known).sum((1, 2))


def gather(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, cost: "Cost | None", log_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Z [B, H, M, Dv] in the dtype of `v` and lse [B, H, M]; arguments as in `api.gather`, already checked."""
    dtype = _dtype(k)
    z, lse = _Gather.apply(
        *(x.to(dtype) for x in (q, k, v)), None if log_weights is None else log_weights.to(dtype), *_parts(cost, dtype),
        segments, scale,
    )  # fmt: skip
    return z.to(v.dtype), lse


def scatter(q: Tensor, k: Tensor, z: Tensor, segments: Segments, scale: float, cost: "Cost | None") -> Tensor:
    """Y [N, H, Dv] in the dtype of `z`; arguments as in `api.scatter`, already checked."""
    dtype = _dtype(k)
    y: Tensor = _Scatter.apply(*(x.to(dtype) for x in (q, k, z)), *_parts(cost, dtype), segments, scale)
    return y.to(z.dtype)


def without_autocast(run: Any) -> Any:
    """The function with products in the dtype of what they are of."""

    @functools.wraps(run)
    def exactly(*arguments: Any) -> Any:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return run(*arguments)

    return exactly


class _Gather(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_weights: Tensor | None, cost: Tensor | None,
        slope: Tensor | None, head_scale: Tensor | None, segments: Segments, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scores = _scores(q, k, log_weights, cost, slope, head_scale, scale)
        heads, latents = q.shape[-3:-1]
        z = v.new_zeros(segments.num_segments, heads, latents, v.shape[-1])
        total, peak = (v.new_zeros(segments.num_segments, heads, latents, 1) for _ in range(2))
        peak.fill_(-torch.inf)
        for mesh, rows in _tiles(segments, heads * latents):
            s = scores.of(mesh, rows, scores.price(rows))
            largest = torch.maximum(peak[mesh], s.amax(-1, keepdim=True))
            pivot = largest.masked_fill(largest == -torch.inf, 0.0)
            shrink, p = torch.exp(peak[mesh] - pivot), s.sub_(pivot).exp_()
            total[mesh].mul_(shrink).add_(p.sum(-1, keepdim=True))
            z[mesh].mul_(shrink).baddbmm_(p, v[rows].transpose(0, 1))
            peak[mesh] = largest
        lse = torch.where(total == 0, -torch.inf, peak + torch.log(total))[..., 0]
        z /= total.masked_fill_(total == 0, 1.0)
        ctx.segments, ctx.scale = segments, scale
        ctx.save_for_backward(q, k, v, log_weights, cost, slope, head_scale, z, lse)
        return z, lse

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dz: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        q, k, v, log_weights, cost, slope, head_scale, z, lse = ctx.saved_tensors
        scores = _scores(q, k, log_weights, cost, slope, head_scale, ctx.scale)
        of, dv = _Gradients(scores), torch.empty_like(v)
        dweights = None if log_weights is None else torch.empty_like(log_weights)
        pivot = lse.masked_fill(lse == -torch.inf, torch.inf)[..., None]
        delta = (dz * z).sum(-1, keepdim=True) - dlse[..., None]
        for mesh, rows in _tiles(ctx.segments, q.shape[-3] * q.shape[-2]):
            price = scores.price(rows)
            p = scores.of(mesh, rows, price).sub_(pivot[mesh]).exp_()
            dv[rows] = torch.bmm(p.mT, dz[mesh]).transpose(0, 1)
            ds = torch.baddbmm(-delta[mesh], dz[mesh], v[rows].permute(1, 2, 0)).mul_(p)
            if dweights is not None:
                dweights[rows] = ds.sum((0, 1))
            of.add(mesh, rows, ds, price)
        return of.q.view_as(q), of.k, dv, dweights, None, of.slope, None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, q: Tensor, k: Tensor, z: Tensor, cost: Tensor | None, slope: Tensor | None,
        head_scale: Tensor | None, segments: Segments, scale: float,
    ) -> Tensor:  # fmt: skip
        scores = _scores(q, k, None, cost, slope, head_scale, scale)
        y = z.new_empty(segments.num_rows, z.shape[1], z.shape[3])
        for mesh, rows in _tiles(segments, q.shape[-3] * q.shape[-2]):
            p = _over_latents(scores, scores.of(mesh, rows, scores.price(rows)))
            y[rows] = torch.bmm(p.mT, z[mesh]).transpose(0, 1)
        ctx.segments, ctx.scale = segments, scale
        ctx.save_for_backward(q, k, z, cost, slope, head_scale)
        return y

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        q, k, z, cost, slope, head_scale = ctx.saved_tensors
        scores = _scores(q, k, None, cost, slope, head_scale, ctx.scale)
        of, dz = _Gradients(scores), torch.zeros_like(z)
        for mesh, rows in _tiles(ctx.segments, q.shape[-3] * q.shape[-2]):
            price, grad = scores.price(rows), dy[rows].transpose(0, 1)
            p = _over_latents(scores, scores.of(mesh, rows, price))
            dz[mesh].baddbmm_(p, grad)
            dp = torch.bmm(z[mesh], grad.mT)
            of.add(mesh, rows, dp.sub_((p * dp).sum(1, keepdim=True)).mul_(p), price)
        return of.q.view_as(q), of.k, dz, None, of.slope, None, None, None


def _over_latents(scores: _Scores, s: Tensor) -> Tensor:
    """Softmax [H, M, n] over the latents; zero where none is reached."""
    p = torch.softmax(s, 1)
    return p if scores.finite else p.masked_fill_(s.amax(1, keepdim=True) == -torch.inf, 0.0)


def _tiles(segments: Segments, scores_of_point: int) -> Iterator[tuple[int, slice]]:
    """Mesh and rows of each tile."""
    size = max(16, TILE // scores_of_point)
    for mesh, rows in enumerate(segments.slices):
        for start in range(rows.start, rows.stop, size):
            yield mesh, slice(start, min(start + size, rows.stop))


def _scores(
    q: Tensor, k: Tensor, log_weights: Tensor | None, cost: Tensor | None, slope: Tensor | None,
    head_scale: Tensor | None, scale: float,
) -> _Scores:  # fmt: skip
    finite = cost is None or is_known_finite(cost)
    return _Scores(q if q.dim() == 4 else q[None], k, log_weights, cost, slope, head_scale, finite, scale)


def _parts(cost: "Cost | None", dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return (None, None, None) if cost is None else (cost.values.detach(), cost.slope.to(dtype), cost.head_scale)


def _dtype(k: Tensor) -> torch.dtype:
    return torch.promote_types(k.dtype, torch.float32)
