"""Gradients of nodal fields, by cells and averaged to the nodes, on any device."""

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CellKind
from flare_connect.mesh.connectivity import kind_of
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.poisson import glued_nodes

_FLAT = 1e-12  # height over side of a simplex below which rounding has made up the height
_CHUNK = 1 << 22  # numbers at a time: some tens of megabytes


def nodal_gradient(mesh: Mesh, values: Float[Tensor, "N K"]) -> Float[Tensor, "N K dim"]:
    r"""Gradient at each node: the mean of $\nabla u$ over the highest-dimensional cells there, weighted by volume.

    Cells are cut into the simplices of the mesh Laplacian and u is linear in each. So a linear field has its exact
    gradient on any mesh; other fields have it to first order in the size of an element at the boundary, and to second
    order inside where the mesh is even. On surfaces and lines in space it is the tangential gradient. Periodic
    partners share their cells: a field that grows by the same amount across every period (a displacement under a mean
    strain) has a gradient like any other.

    Args:
        mesh: a mesh whose highest-dimensional cells all have a known kind.
        values: K fields at the nodes.

    Returns:
        Float64, in units of `values` over those of `pos`, on the mesh's device; zero at nodes that no cell uses.

    Raises:
        MeshError: if `values` are not one row a node, or a kind is not known.
    """
    if values.ndim != 2 or len(values) != mesh.num_nodes:
        raise MeshError(
            f"`values` must have the shape [{mesh.num_nodes}, K], one row a node, got {list(values.shape)}; a single"
            " field is `values[:, None]`"
        )
    pos = mesh.pos.double()
    field = values.detach().to(pos)
    total = pos.new_zeros(mesh.num_nodes, field.shape[1] * mesh.dim)
    weight = pos.new_zeros(mesh.num_nodes)
    glue = glued_nodes(mesh)
    for name, nodes in mesh.cells.items():
        kind = kind_of(name)
        if kind.dim != mesh.topological_dim or not kind.dim:
            continue
        numbers = (kind.num_nodes + len(kind.simplices)) * max(32, field.shape[1] * mesh.dim)
        for block in nodes.split(max(1, _CHUNK // numbers)):
            slopes, share = _of_cells(pos, field, block, kind)
            at = glue[block.reshape(-1)]
            total.index_add_(0, at, slopes.flatten(0, 1))
            weight.index_add_(0, at, share.reshape(-1))
    mean = total / torch.where(weight > 0, weight, 1.0)[:, None]
    return mean[glue].reshape(mesh.num_nodes, field.shape[1], mesh.dim)


def _of_cells(pos: Tensor, field: Tensor, nodes: Tensor, kind: CellKind) -> tuple[Tensor, Tensor]:
    """What each cell adds at its nodes: gradients times volumes `[n, k, K dim]`, and volumes `[n, k]`, in one unit."""
    points, values = pos[nodes], field[nodes]
    if len(kind.virtual):
        helpers = torch.as_tensor(kind.virtual, dtype=pos.dtype, device=pos.device)
        points = torch.cat([points, torch.einsum("vk,nkd->nvd", helpers, points)], 1)
        values = torch.cat([values, torch.einsum("vk,nkd->nvd", helpers, values)], 1)
    ids = torch.as_tensor(kind.simplices, device=pos.device)
    sides = points[:, ids[:, 1:]] - points[:, ids[:, :1]]  # [n, s, d, dim]
    steps = values[:, ids[:, 1:]] - values[:, ids[:, :1]]  # [n, s, d, K]
    slopes, measure = _slopes(sides, steps)
    shares = torch.as_tensor(kind.shares, dtype=pos.dtype, device=pos.device)
    weighted = (slopes * measure[..., None, None]).flatten(2)
    return torch.einsum("sk,nsf->nkf", shares, weighted), measure @ shares


def _slopes(sides: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients `[n, s, K, dim]` of simplices from how much a field grows along sides, and measures times d! `[n, s]`.

    Sides are made orthogonal one after the other, and the field's steps with them: unlike products of sides this keeps
    thin simplices apart from flat ones.
    """
    slopes = sides.new_zeros(*steps.shape[:2], steps.shape[3], sides.shape[3])
    measure = sides.new_ones(sides.shape[:2])
    directions: list[tuple[Tensor, Tensor]] = []
    for i in range(sides.shape[2]):
        side, step = sides[:, :, i], steps[:, :, i]
        length = side.norm(dim=-1, keepdim=True)
        for direction, slope in directions:
            along = (side * direction).sum(-1, keepdim=True)
            side, step = side - along * direction, step - along * slope
        height = side.norm(dim=-1, keepdim=True)
        # A flat simplex has no gradient worth the name, and no volume to count it by.
        sound = height > _FLAT * length
        height = torch.where(sound, height, 0.0)
        inverse = torch.where(sound, 1 / torch.where(sound, height, 1.0), 0.0)
        directions.append((side * inverse, step * inverse))
        slopes += (step * inverse)[..., None] * (side * inverse)[..., None, :]
        measure *= height[..., 0]
    return slopes, measure
