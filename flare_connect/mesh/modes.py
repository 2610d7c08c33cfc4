"""Laplacian modes of a mesh: the vibrations of a membrane of its shape, as smooth coordinates that respect voids."""

import itertools

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh
from scipy.sparse import diags
from scipy.sparse.linalg import eigsh
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.diffusion import DiffusionSystem
from flare_connect.mesh.mesh import Mesh

_DENSE = 400  # below this many unknowns a dense solver is faster and finds every multiplicity
_TOGETHER = 1e-6  # eigenvalues closer than this, relative to their size, span one space
_DEGREE = 4  # of the polynomials that fix the basis of such a space


def laplacian_modes(mesh: Mesh, count: int) -> tuple[Float[Tensor, " K"], Float[Tensor, "N K"]]:
    r"""The `count` smoothest solutions of $L \varphi = \lambda V \varphi$, natural boundary, periodic sides glued.

    The basis is fixed: within eigenvalues that agree, the modes are turned so that the first has all of the space's
    overlap with the first polynomial of the position (1, x, y, z, x², …) that has any, the second none of it, and so
    on; each sign makes that overlap positive. So numbering does not matter, and neither do place and size.

    Args:
        mesh: any mesh whose highest-dimensional cells have a known kind.
        count: K, below the number of nodes in use; one mode of eigenvalue 0 for each connected part is among them.

    Returns:
        Eigenvalues in units of 1/diagonal² ascending, and modes with root mean square 1 over the mesh; zero at nodes
        that no cell uses.

    Raises:
        MeshError: if there are not that many modes.
    """
    system = DiffusionSystem(mesh, "cpu")
    matrix, volume, glue = system.matrix(), system.volume.numpy(), system.glue.numpy()
    rows = np.flatnonzero(volume > 0)
    if not 1 <= count < len(rows):
        raise MeshError(f"`count` must be between 1 and {len(rows) - 1} on this mesh, got {count}")
    scale = mesh.length_scale**2
    root = np.sqrt(volume[rows])
    symmetric = diags(1 / root) @ matrix[rows][:, rows] @ diags(1 / root) * scale
    symmetric = (symmetric + symmetric.T) / 2
    # A few more than asked for, so that a space of equal eigenvalues that the cut goes through is whole.
    wanted = min(count + 4, len(rows) - 1)
    if len(rows) <= _DENSE:
        values, vectors = eigh(symmetric.toarray(), subset_by_index=[0, wanted - 1])
    else:
        start = np.random.default_rng(0).standard_normal(len(rows))
        values, vectors = eigsh(symmetric.tocsc(), k=wanted, sigma=-1.0, v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    values = np.maximum(values, 0.0)
    modes = _fixed_basis(values, vectors, root, _probes(mesh, glue)[rows]) / root[:, None] * np.sqrt(volume.sum())
    out = np.zeros((mesh.num_nodes, count))
    out[rows] = modes[:, :count]
    device = mesh.pos.device
    return torch.from_numpy(values[:count].copy()).to(device), torch.from_numpy(out[glue]).to(device)


def _probes(mesh: Mesh, glue: np.ndarray) -> np.ndarray:
    """Polynomials of the position `[N, P]`, lowest degree first, about the centroid in units of the diagonal.

    Periodic partners have one place in the modes but several in space: they share the mean of their values.
    """
    volume = mesh.node_volume.cpu().numpy()
    pos = mesh.pos.cpu().numpy()
    x = (pos - (volume[:, None] * pos).sum(0) / volume.sum()) / mesh.length_scale
    counts = np.maximum(np.bincount(glue, minlength=len(x)), 1)
    columns = [np.ones(len(x))]
    for degree in range(1, _DEGREE + 1):
        for axes in itertools.combinations_with_replacement(range(mesh.dim), degree):
            values = np.prod(x[:, list(axes)], axis=1)
            columns.append(np.bincount(glue, weights=values, minlength=len(x)) / counts)
    return np.stack(columns, axis=1)


def _fixed_basis(values: np.ndarray, vectors: np.ndarray, root: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Turn each eigenspace, and choose each sign, by the overlap with the probes."""
    out = vectors.copy()
    weighted = probes * root[:, None]
    weighted /= np.linalg.norm(weighted, axis=0)
    starts = np.flatnonzero(np.diff(values, prepend=-np.inf) > _TOGETHER * np.maximum(values, 1.0))
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        space = vectors[:, start:end]
        overlap = space.T @ weighted  # [multiplicity, P]
        turned, left = [], np.eye(end - start)
        for column in overlap.T:
            part = left @ left.T @ column if left.shape[1] else np.zeros(end - start)
            if np.linalg.norm(part) > 1e-4 and left.shape[1]:
                direction = part / np.linalg.norm(part)
                turned.append(direction)
                # What is left of the space, orthogonal to all directions chosen so far.
                left = np.linalg.svd(np.stack(turned))[2][len(turned) :].T
        rest = [axis * np.sign(space[np.argmax(np.abs(space @ axis)), :] @ axis) for axis in left.T]
        out[:, start:end] = space @ np.stack([*turned, *rest], axis=1)
    return out
