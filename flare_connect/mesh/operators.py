"""Discrete operators of a mesh: the P1 Laplacian and the lumped mass, no loop over cells, on any device."""

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csr_matrix
from torch import Tensor

from flare_connect.mesh.cells import CellKind
from flare_connect.mesh.connectivity import kind_of, topological_dim

_CHUNK = 1 << 22  # numbers of local matrices at a time: some tens of megabytes


def laplacian(pos: np.ndarray, cells: Mapping[str, np.ndarray]) -> csr_matrix:
    r"""Assembles $L_{ij} = \int \nabla\varphi_i \cdot \nabla\varphi_j$ of the highest-dimensional cells.

    Linear triangles give the cotangent Laplacian, tetrahedra the P1 stiffness; other kinds are cut into the simplices
    of `CellKind.simplices`, quadratic ones through their midside nodes. Helper points inside a cell are condensed as
    the mean of nodes that they are.

    Args:
        pos: node positions `[N, dim]`; cells may have a lower dimension than space (shells, beams).
        cells: cell kind → nodes `[n, k]`.

    Returns:
        `[N, N]`, float64, symmetric, positive semidefinite, rows sum to zero; in units of `pos` to the power d − 2.

    Raises:
        MeshError: a kind is not known.
    """
    tensors = {kind: torch.from_numpy(np.ascontiguousarray(nodes)) for kind, nodes in cells.items()}
    pairs, weights, _ = assemble(torch.from_numpy(np.ascontiguousarray(pos, dtype=np.float64)), tensors)
    return symmetric(pairs.numpy(), -weights.numpy(), len(pos))


def symmetric(pairs: np.ndarray, values: np.ndarray, count: int) -> csr_matrix:
    """The symmetric matrix `[N, N]` with these off-diagonal entries, summed; the diagonal makes rows sum to zero."""
    half = coo_matrix((values, (pairs[0], pairs[1])), shape=(count, count)).tocsr()
    matrix = (half + half.T).tocsr()
    matrix.setdiag(-np.asarray(matrix.sum(1)).reshape(-1))
    return matrix


def assemble(
    pos: Float[Tensor, "N dim"], cells: Mapping[str, Tensor]
) -> tuple[Int[Tensor, "2 P"], Float[Tensor, " P"], Float[Tensor, " N"]]:
    r"""Conductances between the nodes of each cell, and the node volumes, from one pass over the simplices.

    Args:
        pos: node positions, float64.
        cells: cell kind → nodes `[n, k]`, on the same device.

    Returns:
        Pairs of nodes in one direction, pairs that several cells share given several times; the conductance
        $-L_{ij}$ that each cell adds; the lumped mass. The mass is the mesh's `node_volume` but in inverted or folded
        cells, where it counts what each piece covers without its sign.

    Raises:
        MeshError: a kind is not known.
    """
    top = topological_dim(cells)
    pairs, weights, volume = [], [], torch.zeros(len(pos), dtype=pos.dtype, device=pos.device)
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim != top:
            continue
        local = list(combinations(range(kind.num_nodes), 2))
        size = max(1, _CHUNK // max(len(kind.simplices) * 16, (kind.num_nodes + len(kind.virtual)) ** 2))
        for start in range(0, len(nodes), size):
            block = nodes[start : start + size]
            matrix, share = _local(pos, block, kind)
            volume.index_add_(0, block.reshape(-1), share.reshape(-1))
            if kind.dim:
                a, b = (torch.tensor(ids, device=pos.device) for ids in zip(*local, strict=True))
                pairs.append(torch.stack([block[:, a].reshape(-1), block[:, b].reshape(-1)]))
                weights.append(-matrix[:, a, b].reshape(-1))
    if not pairs:
        return torch.zeros((2, 0), dtype=torch.long, device=pos.device), pos.new_zeros(0), volume
    return torch.cat(pairs, 1), torch.cat(weights), volume


def _local(pos: Tensor, nodes: Tensor, kind: CellKind) -> tuple[Tensor, Tensor]:
    """Stiffness `[n, k, k]` and lumped mass `[n, k]` of each cell."""
    points = pos[nodes]
    extend = torch.eye(kind.num_nodes, dtype=pos.dtype, device=pos.device)
    if len(kind.virtual):
        extend = torch.cat([extend, torch.as_tensor(kind.virtual, dtype=pos.dtype, device=pos.device)])
        points = torch.einsum("vk,nkd->nvd", extend, points)
    weights = torch.as_tensor(kind.weights, dtype=pos.dtype, device=pos.device)
    shares = torch.as_tensor(kind.shares, dtype=pos.dtype, device=pos.device)
    corners = points[:, torch.as_tensor(kind.simplices, device=pos.device)]  # [n, s, d + 1, dim]
    matrices, measure = _simplex(corners)
    share = measure @ shares
    if len(kind.simplices) == 1:
        return matrices[:, 0], share
    whole = points.new_zeros(len(nodes), len(extend), len(extend))
    for i, simplex in enumerate(kind.simplices):
        ids = torch.as_tensor(simplex, device=pos.device)
        whole[:, ids[:, None], ids[None, :]] += weights[i] * matrices[:, i]
    if len(kind.virtual):
        whole = extend.T @ whole @ extend
    return whole, share


def _simplex(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices `[n, s, d + 1, d + 1]` and measures `[n, s]` of simplices in any space."""
    sides = corners[..., 1:, :] - corners[..., :1, :]
    dim = sides.shape[-2]
    if not dim:
        return corners.new_zeros(*corners.shape[:2], 1, 1), corners.new_ones(corners.shape[:2])
    gram = sides @ sides.transpose(-1, -2)
    adjugate, determinant = _adjugate(gram)
    # A flat simplex has no gradient worth the name; without it the matrix stays finite and semidefinite.
    sound = determinant > 1e-24 * gram.diagonal(dim1=-2, dim2=-1).sum(-1) ** dim
    measure = determinant.clamp_min(0).sqrt() / math.factorial(dim)
    scale = torch.where(sound, measure / torch.where(sound, determinant, 1.0), 0.0)
    inner = adjugate * scale[..., None, None]
    out = corners.new_empty(*corners.shape[:2], dim + 1, dim + 1)
    out[..., 1:, 1:] = inner
    out[..., 0, 1:] = -inner.sum(-2)
    out[..., 1:, 0] = out[..., 0, 1:]
    out[..., 0, 0] = inner.sum((-2, -1))
    return out, measure


def _adjugate(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Determinant times inverse of symmetric matrices of up to 3 × 3, and the determinant."""
    dim = gram.shape[-1]
    if dim == 1:
        return torch.ones_like(gram), gram[..., 0, 0]
    out = torch.empty_like(gram)
    if dim == 2:
        out[..., 0, 0], out[..., 1, 1] = gram[..., 1, 1], gram[..., 0, 0]
        out[..., 0, 1] = out[..., 1, 0] = -gram[..., 0, 1]
        return out, gram[..., 0, 0] * gram[..., 1, 1] - gram[..., 0, 1] ** 2
    for i in range(3):
        for j in range(i, 3):
            (a, b), (c, d) = [k for k in range(3) if k != i], [k for k in range(3) if k != j]
            minor = gram[..., a, c] * gram[..., b, d] - gram[..., a, d] * gram[..., b, c]
            out[..., i, j] = out[..., j, i] = minor if (i + j) % 2 == 0 else -minor
    return out, (gram[..., 0, :] * out[..., 0, :]).sum(-1)
