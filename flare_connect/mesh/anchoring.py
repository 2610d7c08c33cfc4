"""What anchored attention is told of a mesh: where its latents sit, and what it costs to go from there to each node."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float16, Int
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.diffusion import diffusion_cost
from flare_connect.mesh.distances import anchors, geodesic_cost
from flare_connect.mesh.mesh import Mesh

CostKind = Literal["diffusion", "geodesic", "straight"]


def anchor_costs(
    mesh: Mesh,
    count: int,
    *,
    kind: CostKind = "diffusion",
    scales: Sequence[float] = (1.0, 60.0),
    device: torch.device | str | None = None,
) -> tuple[Int[Tensor, " M"], Float16[Tensor, "N S M"]]:
    """Anchors of a mesh and the costs between them and its nodes.

    Anchors come in the order of farthest-point sampling, so that any first few of them are spread over the mesh too:
    the rank of a model can be chosen after training.

    Args:
        mesh: any mesh.
        count: M. A mesh with fewer nodes has as many anchors as nodes; those missing are node 0, which costs infinitely
            much to go anywhere from, so that no point reads or writes them.
        kind: "diffusion" at each of the scales (see `diffusion_cost`); "geodesic", squared and in units of the
            mesh's diagonal, S = 1; or "straight", the same of the straight line: a control that knows no topology.
        scales: of the diffusion, S of them.
        device: where to compute; None is where the mesh is.

    Returns:
        Nodes, and costs in half precision with those of a point for one scale side by side, as kernels read them; both
        on the mesh's device.

    Raises:
        MeshError: if `count` is below 1, a kind is not known or a scale is not positive.

    Good values: 64 anchors, diffusion at (1, 60).
    """
    if count < 1:
        raise MeshError(f"`count` must be at least 1, got {count}")
    if kind not in ("diffusion", "geodesic", "straight"):
        raise MeshError(f"`kind` must be 'diffusion', 'geodesic' or 'straight', got {kind!r}")
    found = min(count, mesh.num_nodes - len(mesh.orphan_nodes))
    nodes, _ = anchors(mesh, found, device=device)
    if kind == "diffusion":
        cost = diffusion_cost(mesh, nodes, scales, device=device)
    elif kind == "geodesic":
        cost = geodesic_cost(mesh, nodes, through="edges", device=device)[:, :, None]
    else:
        offsets = mesh.pos.double()[:, None] - mesh.pos[nodes].double()
        cost = (offsets / mesh.length_scale).square().sum(-1, keepdim=True)
    at = mesh.pos.device
    filled = torch.full((mesh.num_nodes, cost.shape[2], count), torch.inf, dtype=torch.float16, device=at)
    filled[:, :, :found] = cost.to(at).transpose(1, 2)
    return torch.cat([nodes, nodes.new_zeros(count - found)]), filled
