"""Linear systems with many right-hand sides: by factorisation, or by conjugate gradients on any device."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csc_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.multigrid import Multigrid
from flare_connect.mesh.sparse import csr_tensor, diagonal_of, to_csr, to_scipy

_DISSECT = 5_000  # unknowns from which nested dissection saves more than it costs


def elimination_order(matrix: csr_matrix) -> np.ndarray | None:
    """Unknowns `[N]` in the order to eliminate them, by nested dissection, which pays on solids.

    None for few unknowns, and where pymetis is not installed: `solve_direct` then takes minimum degree. Matrices of one
    pattern share it.
    """
    return _dissection(matrix) if matrix.shape[0] >= _DISSECT and find_spec("pymetis") else None


def solve_direct(matrix: csc_matrix, right: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """Solution `[N, M]` by one sparse factorisation, accurate to rounding.

    Args:
        matrix: symmetric positive definite `[N, N]`.
        right: right-hand sides `[N, M]`.
        order: `[N]`, see `elimination_order`.
    """
    options = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    if order is None:
        return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", **options).solve(right)
    factor = splu(matrix.tocsr()[order][:, order].tocsc(), permc_spec="NATURAL", **options)
    out = np.empty_like(right)
    out[order] = factor.solve(right[order])
    return out


def solve_iterative(
    matrix: csr_matrix | Tensor,
    right: Float[Tensor, "N M"],
    *,
    preconditioner: Literal["polynomial", "multigrid"] = "polynomial",
    tolerance: float = 1e-10,
    max_iterations: int = 2_000,
) -> Float[Tensor, "N M"]:
    """Solution by preconditioned conjugate gradients, all right-hand sides at once, in float64.

    Args:
        matrix: symmetric positive definite `[N, N]`, a SciPy matrix or a compressed sparse torch tensor.
        right: right-hand sides, on the device that computes.
        preconditioner: "multigrid" needs pyamg, which sets it up on the CPU: some 20 iterations whatever the size.
            "polynomial" needs nothing, and a tenth of as many iterations as the mesh is nodes wide: better on a GPU.
        tolerance: residual over right-hand side at which a column is done.
        max_iterations: give up after so many.

    Raises:
        MeshError: if a column has not converged by then; the message says how far it came.

    Source: preconditioned conjugate gradients; columns share the matrix products, not the search directions.
    """
    tiny = torch.finfo(torch.float64).tiny
    b = right.to(torch.float64)
    operator = matrix if isinstance(matrix, Tensor) else to_csr(matrix, b.device)
    if preconditioner == "multigrid":
        scipy = to_scipy(matrix) if isinstance(matrix, Tensor) else matrix.tocsr()
        precondition: Callable[[Tensor], Tensor] = Multigrid(scipy, b.device)
    else:
        precondition = Polynomial(operator)
    x, r = torch.zeros_like(b), b.clone()
    z = precondition(r)
    p, rz = z.clone(), (r * z).sum(0)
    goal = tolerance * b.norm(dim=0)
    for _ in range(max_iterations):
        product = operator @ p
        # A finished column goes on with steps of zero: 0/0 is kept out of it.
        step = rz / (p * product).sum(0).clamp_min(tiny)
        x.addcmul_(step, p)
        r.addcmul_(-step, product)
        worst = float((r.norm(dim=0) / goal).max())
        if worst <= 1:
            return x
        if not np.isfinite(worst):
            break
        z = precondition(r)
        new = (r * z).sum(0)
        p.mul_(new / rz.clamp_min(tiny)).add_(z)
        rz = new
    raise MeshError(
        f"conjugate gradients stopped within {max_iterations} iterations at a residual of {worst * tolerance:.1e}, not"
        f" {tolerance:.1e}: look for cells of no volume (`flare-connect info`), or raise `max_iterations`"
    )


class Polynomial:
    """A polynomial of a matrix, scaled by its diagonal, that is roughly its inverse; in float32.

    Args:
        operator: symmetric positive definite `[N, N]`, compressed sparse.
        degree: matrix products a time; iterations fall about as fast as it grows.

    Source: Chebyshev iteration on the upper part of the spectrum, as in Adams, Brezina, Hu and Tuminaro 2003.
    """

    def __init__(self, operator: Tensor, degree: int = 10):
        diagonal = diagonal_of(operator)
        largest = _largest(operator, diagonal)
        smallest = largest / (3 * degree**2)  # what lies below is left to the conjugate gradients
        self._middle, self._half = (largest + smallest) / 2, (largest - smallest) / 2
        self._degree = degree
        self._inverse = (1 / diagonal).float()[:, None]
        self._operator = csr_tensor(
            operator.crow_indices(), operator.col_indices(), operator.values().float(), tuple(operator.shape)
        )

    def __call__(self, residual: Float[Tensor, "N M"]) -> Float[Tensor, "N M"]:
        """Roughly what must be added to the solution where this is left over; float64."""
        # Columns shrink by ten orders of magnitude, which float32 holds, but their squares would not.
        size = residual.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
        right = (residual / size).float()
        ratio = self._half / self._middle
        step = self._inverse * right / self._middle
        x = step.clone()
        for _ in range(self._degree - 1):
            new = 1 / (2 * self._middle / self._half - ratio)
            left = (right - self._operator @ x).mul_(self._inverse)
            step.mul_(new * ratio).add_(left, alpha=2 * new / self._half)
            x += step
            ratio = new
        return x.double().mul_(size)


def _largest(operator: Tensor, diagonal: Tensor) -> float:
    """Largest eigenvalue of the matrix scaled by its diagonal, a little too large: the power method, and a bound."""
    start = operator.crow_indices()
    row = torch.repeat_interleave(torch.arange(len(diagonal), device=start.device), start[1:] - start[:-1])
    sums = torch.zeros_like(diagonal).index_add_(0, row, operator.values().abs())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(diagonal), 1, generator=generator, dtype=torch.float64).to(diagonal.device)
    for _ in range(20):
        x = (operator @ (x / x.norm())) / diagonal[:, None]
    return min(1.1 * float(x.norm()), float((sums / diagonal).max()))


def _dissection(matrix: csr_matrix) -> np.ndarray:
    import pymetis

    graph = csr_matrix(matrix - diags(matrix.diagonal()))
    graph.eliminate_zeros()
    pairs = pymetis.CSRAdjacency(adj_starts=graph.indptr, adjacent=graph.indices)
    return np.asarray(pymetis.nested_dissection(adjacency=pairs)[0])
