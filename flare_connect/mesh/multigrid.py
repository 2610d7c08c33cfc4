"""Algebraic multigrid as a preconditioner: the hierarchy is pyamg's, the cycle runs in torch on many columns."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.sparse import to_csr

_COARSEST = 300  # unknowns that are solved for by a dense inverse
_DAMPING = 4 / 3  # of Jacobi's method, over the largest eigenvalue: damps the upper half of the spectrum evenly


class Multigrid:
    """One V-cycle of smoothed aggregation, symmetric, in float32: good enough to precondition float64.

    Args:
        matrix: symmetric positive definite `[N, N]`.
        device: where the cycle runs; pyamg builds the hierarchy on the CPU.

    Raises:
        MeshError: pyamg is not installed.

    Source: Vaněk, Mandel and Brezina 1996, as in pyamg.
    """

    def __init__(self, matrix: csr_matrix, device: torch.device | str):
        try:
            from pyamg import smoothed_aggregation_solver
        except ImportError as error:
            raise MeshError("preconditioner='multigrid' needs pyamg: pip install pyamg") from error
        # pyamg estimates eigenvalues from random vectors of numpy's global state: the same ones every time, and the
        # caller's state left as it was.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            levels = smoothed_aggregation_solver(matrix, max_coarse=_COARSEST).levels
        finally:
            np.random.set_state(state)  # noqa: NPY002
        self._levels = []
        for level in levels[:-1]:
            diagonal = level.A.diagonal()
            weight = torch.from_numpy(_DAMPING / _largest(level.A, diagonal) / diagonal)[:, None]
            self._levels.append(
                (
                    to_csr(csr_matrix(level.A), device, torch.float32),
                    to_csr(csr_matrix(level.P), device, torch.float32),
                    to_csr(csr_matrix(level.R), device, torch.float32),
                    weight.to(device, torch.float32),
                )
            )
        coarse = torch.from_numpy(np.asarray(levels[-1].A.todense(), dtype=np.float64))
        self._coarse = torch.linalg.pinv(coarse, hermitian=True).to(device, torch.float32)

    def __call__(self, residual: Float[Tensor, "N M"]) -> Float[Tensor, "N M"]:
        """Roughly what must be added to the solution where this is left over; float64."""
        # Columns shrink by ten orders of magnitude, which float32 holds, but their squares would not.
        size = residual.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
        return self._cycle((residual / size).float(), 0).double() * size

    def _cycle(self, right: Tensor, depth: int) -> Tensor:
        if depth == len(self._levels):
            return self._coarse @ right
        matrix, prolong, restrict, weight = self._levels[depth]
        x = weight * right
        x += prolong @ self._cycle(restrict @ (right - matrix @ x), depth + 1)
        return x.addcmul_(weight, right - matrix @ x)


def _largest(matrix: csr_matrix, diagonal: np.ndarray) -> float:
    """Largest eigenvalue of the matrix scaled by its diagonal, a little too large: twenty steps of the power method."""
    bound = float((np.asarray(abs(matrix).sum(1)).reshape(-1) / diagonal).max())
    x = np.random.default_rng(0).standard_normal(len(diagonal))
    for _ in range(20):
        x = matrix @ (x / np.linalg.norm(x)) / diagonal
    return min(1.1 * float(np.linalg.norm(x)), bound)
