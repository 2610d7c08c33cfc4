"""Latents that forget: what was read long ago weighs less, for each latent at a rate of its own."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flare_kernels import LatentState, Segments

_GOLDEN = 0.6180340


class Fading(nn.Module):
    r"""`z_tm = Σ_{τ≤t} softmax_{τ≤t}(s_τm − λ_m (t − τ)) v_τ`, with learned rates λ.

    A running softmax weighs a token by what it is and not by how long ago it was, so what comes new counts for less and
    less. With rates of many sizes some latents hold what was just said and others the whole. The operators need not
    know: places are coordinates of the keys and rates of the queries, and a score gains `λ_m τ`; a state is seen from
    the place after the last, so that its log-sum-exp loses λ with each place that goes by.

    Args:
        num_heads: H.
        num_latents: M.
        longest: 1/λ of the slowest latents at first; of the fastest it is 1.
        scale: of the scores.

    Source: the linear biases of ALiBi, arXiv 2108.12409, here learned, and of latents.
    """

    def __init__(self, num_heads: int, num_latents: int, longest: float, scale: float) -> None:
        super().__init__()
        # Any number of the first latents covers the range evenly: multiples of the golden ratio do.
        share = torch.arange(num_latents) * _GOLDEN % 1
        self.log_rates = nn.Parameter((-math.log(longest) * share).repeat(num_heads, 1))
        self.scale = scale

    def rates(self, q: Tensor, dtype: torch.dtype) -> Float[Tensor, "H M"]:
        """λ of the latents of queries, as it is where these meet keys of this dtype."""
        return self.scale * self._column(q, dtype).to(torch.promote_types(dtype, torch.float32))

    def timed(
        self,
        places: Int[Tensor, " N"],
        last: int,
        q: Float[Tensor, "*B H M D"],
        k: Float[Tensor, "N H D"],
        q_decode: Tensor | None = None,
        k_decode: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Queries and keys with rates and places among their coordinates, as arguments of the operators.

        Args:
            places: of each token, from 0 on.
            last: the largest of them.
            q: queries of what latents read.
            k: keys, in the dtype in which they will be read; half precision holds places exactly, in digits.
            q_decode: queries of what tokens read, None for `q`; that does not depend on when they read.
            k_decode: keys likewise, None for `k`.
        """
        base = 256 if k.dtype in (torch.float16, torch.bfloat16) else 2**24  # where whole numbers end
        count = 1
        while base**count <= last:
            count += 1
        digits = torch.stack([places // base**i % base for i in range(count)], dim=-1).to(k.dtype)
        column = self._column(q, k.dtype)
        columns = torch.stack([column * float(base) ** i for i in range(count)], dim=-1).to(q.dtype)
        timed = torch.cat([k, digits[:, None].expand(-1, k.shape[1], -1)], dim=-1)
        return {
            "q": torch.cat([q, columns.expand(*q.shape[:-1], -1)], dim=-1),
            "k": timed,
            "q_decode": F.pad(q if q_decode is None else q_decode, (0, count)),
            "k_decode": timed if k_decode is None else F.pad(k_decode, (0, count)),
        }

    def passed(self, state: LatentState, count: Int[Tensor, " B"], rates: Float[Tensor, "H M"]) -> LatentState:
        """A state seen from so many places later."""
        gone = count[:, None, None].to(state.lse.dtype) * rates.to(state.lse.dtype)
        return LatentState(state.lse - gone, state.z)

    def _column(self, q: Tensor, dtype: torch.dtype) -> Float[Tensor, "H M"]:
        wide = torch.promote_types(dtype, torch.float32)
        return (self.log_rates[:, : q.shape[-2]].to(wide).exp() / self.scale).to(dtype)


def places_in(segments: Segments) -> Int[Tensor, " N"]:
    """The place of each row in its segment."""
    rows = torch.arange(segments.num_rows, device=segments.ptr.device)
    return rows - segments.ptr.index_select(0, segments.batch)
