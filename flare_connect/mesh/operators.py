"""Discrete operators of a mesh: the P1 Laplacian, arrays in, sparse matrix out, no loop over cells."""

import math
from collections.abc import Mapping

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from flare_connect.mesh.cells import CellKind
from flare_connect.mesh.connectivity import kind_of, topological_dim

_CHUNK = 1 << 22  # entries of local matrices at a time: a few tens of megabytes


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
    top = topological_dim(cells)
    rows, columns, values = [], [], []
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim != top or kind.dim == 0:
            continue
        size = max(1, _CHUNK // (kind.num_nodes + len(kind.virtual)) ** 2)
        for start in range(0, len(nodes), size):
            block = nodes[start : start + size]
            local = _local(pos, block, kind)
            rows.append(np.repeat(block, kind.num_nodes, axis=1).reshape(-1))
            columns.append(np.tile(block, (1, kind.num_nodes)).reshape(-1))
            values.append(local.reshape(-1))
    if not rows:
        return csr_matrix((len(pos), len(pos)))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    matrix = coo_matrix(entries, shape=(len(pos), len(pos))).tocsr()
    return (matrix + matrix.T) / 2  # sums in another order differ in the last bit


def _local(pos: np.ndarray, nodes: np.ndarray, kind: CellKind) -> np.ndarray:
    """Local matrices `[n, k, k]`."""
    points = pos[nodes]
    extend = np.eye(kind.num_nodes)
    if len(kind.virtual):
        extend = np.concatenate([extend, kind.virtual])
        points = np.einsum("vk,nkd->nvd", extend, points)
    whole = np.zeros((len(nodes), len(extend), len(extend)))
    for simplex, weight in zip(kind.simplices, kind.weights, strict=True):
        whole[:, simplex[:, None], simplex[None, :]] += weight * _simplex(points[:, simplex])
    if not len(kind.virtual):
        return whole
    return np.einsum("vk,nvw,wl->nkl", extend, whole, extend, optimize=True)


def _simplex(points: np.ndarray) -> np.ndarray:
    """Matrices `[n, d + 1, d + 1]` of simplices in any space, from the Gram matrix of their sides."""
    sides = points[:, 1:] - points[:, :1]
    gram = sides @ sides.transpose(0, 2, 1)
    dim = gram.shape[1]
    determinant = np.linalg.det(gram)
    # A flat simplex has no gradient worth the name; without it the matrix stays finite and semidefinite.
    size = np.trace(gram, axis1=1, axis2=2) ** dim
    sound = determinant > 1e-24 * size
    inverse = np.zeros_like(gram)
    inverse[sound] = np.linalg.inv(gram[sound])
    inner = inverse * (np.sqrt(np.maximum(determinant, 0)) / math.factorial(dim))[:, None, None]
    out = np.empty((len(points), dim + 1, dim + 1))
    out[:, 1:, 1:] = inner
    out[:, 0, 1:] = out[:, 1:, 0] = -inner.sum(1)
    out[:, 0, 0] = inner.sum((1, 2))
    return out
