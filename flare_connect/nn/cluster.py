"""FLARE within the clusters around the anchors: attention that stays in one connected piece of a mesh."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flare_kernels import Segments

from .attention import FlareAttention


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterOrder:
    """The points of a batch sorted by cluster, the same for all layers.

    Attributes:
        order: the point at each place of the sorted packing.
        inverse: the place of each point in it.
        segments: where each cluster starts in it; clusters may be empty.
    """

    order: Int[Tensor, " N"]
    inverse: Int[Tensor, " N"]
    segments: Segments

    @classmethod
    def from_clusters(cls, cluster: Int[Tensor, " N"], num_clusters: int) -> "ClusterOrder":
        """Sort, once a batch and outside of what is compiled; on a GPU the host waits for the device once.

        Args:
            cluster: cluster of each point, 0 to K − 1, numbered over the batch, as in `CoarseGraph.cluster`.
            num_clusters: K, of all meshes together.

        Raises:
            ValueError: if a cluster's number is out of range.
        """
        ids, order = torch.sort(cluster, stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        # Not `torch.bincount`, which waits for the device to learn how long its result is.
        ptr = torch.searchsorted(ids, torch.arange(num_clusters + 1, dtype=ids.dtype, device=ids.device))
        offsets: list[int] = ptr.tolist()
        # Numbers below 0 lie before the first offset, numbers from K on behind the last: no more waiting to find them.
        if offsets[0] != 0 or offsets[-1] != len(order):
            raise ValueError(
                f"clusters must be numbered from 0 to `num_clusters` − 1 = {num_clusters - 1}, got {int(ids[0])} … "
                f"{int(ids[-1])}; what no anchor reaches has a number of its own, see `flare_connect.mesh.coarse_mesh`"
            )
        lengths = tuple(end - start for start, end in itertools.pairwise(offsets))
        return cls(order=order, inverse=inverse, segments=Segments(ptr, lengths).with_indices())


class ClusterFlare(nn.Module):
    """FLARE in which the points of each cluster have latents to themselves: no cluster sees another.

    For the points n of cluster c, `Z_cm = Σ_n softmax_{n in c}(s·q_m·k_n + b_n) v_n`, `Y_n = Σ_m softmax_m(s·q_m·k_n)
    Z_cm`, then a linear map. Queries, keys, values and the map are those of `FlareAttention`, shared by all clusters;
    adapted queries are adapted to each cluster. Without points a cluster costs nothing but its latents.

    Where clusters are connected (`flare_connect.mesh.coarse_mesh`), nothing crosses a void. The one exception is the
    cluster of what no anchor reaches: it may hold several parts of a mesh, and these see each other.

    Args:
        channels: C, width of the points.
        num_latents: M, latents a head in each cluster.
        options: of `FlareAttention`.

    Raises:
        ConfigError: if the numbers do not fit.

    Good values: to start from, 4 to 8 latents for clusters of up to some hundred points.
    Source: the attention is FLARE, arXiv 2508.12594.
    """

    def __init__(self, channels: int, *, num_latents: int = 8, **options: Any) -> None:
        super().__init__()
        self.attention = FlareAttention(channels, num_latents=num_latents, **options)

    def forward(
        self,
        x: Float[Tensor, "N C"],
        clusters: ClusterOrder,
        *,
        log_weights: Float[Tensor, " N"] | None = None,
        recompute: bool = False,
    ) -> Float[Tensor, "N C"]:
        """Mix the points of each cluster.

        Args:
            x: points, packed over the batch, in any order.
            clusters: the cluster of each point.
            log_weights: log of each point's weight in the gather.
            recompute: compute the insides of the perceptrons for keys and values again in the backward pass.

        Returns:
            One row a point, in the order of `x`.

        Raises:
            ValueError: if `clusters` or `log_weights` belong to another number of points.
        """
        for name, rows in (("x", x), ("log_weights", log_weights)):
            # Else a selection of the rows would be taken without a word.
            if rows is not None and rows.shape[0] != clusters.segments.num_rows:
                raise ValueError(f"`{name}` has {rows.shape[0]} rows, `clusters` {clusters.segments.num_rows} points")
        # Points are moved before keys and values are made, and after heads are joined: C numbers each way.
        y: Tensor = self.attention(
            x.index_select(0, clusters.order),
            clusters.segments,
            log_weights=None if log_weights is None else log_weights.index_select(0, clusters.order),
            recompute=recompute,
        )
        return y.index_select(0, clusters.inverse)
