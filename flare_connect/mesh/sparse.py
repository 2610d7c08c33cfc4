"""Compressed sparse rows in torch: made, converted, and their diagonal."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from torch import Tensor


def to_csr(matrix: csr_matrix, device: torch.device | str, dtype: torch.dtype = torch.float64) -> Tensor:
    """A SciPy matrix as a compressed sparse torch tensor."""
    csr = matrix.copy()
    csr.sum_duplicates()
    return csr_tensor(
        torch.from_numpy(csr.indptr.astype(np.int64)),
        torch.from_numpy(csr.indices.astype(np.int64)),
        torch.from_numpy(csr.data).to(dtype),
        csr.shape,
    ).to(device)


def csr_tensor(start: Tensor, column: Tensor, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A compressed sparse tensor, checked."""
    with warnings.catch_warnings():
        # torch calls its compressed rows "beta" once a process; products are all that is used of them here.
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(start, column, value, size=shape, check_invariants=True)


def to_scipy(matrix: Tensor) -> csr_matrix:
    """A compressed sparse torch tensor as a SciPy matrix, on the CPU."""
    parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
    return csr_matrix(tuple(part.cpu().numpy() for part in parts), shape=tuple(matrix.shape))


def diagonal_of(matrix: Tensor) -> Float[Tensor, " N"]:
    """The diagonal of a compressed sparse tensor."""
    start, column, value = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    count = matrix.shape[0]
    row = torch.repeat_interleave(torch.arange(count, device=value.device), start[1:] - start[:-1])
    on = row == column
    return value.new_zeros(count).index_add_(0, row[on], value[on])
