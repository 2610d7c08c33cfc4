"""Poisson's equation on a mesh: one system, parts that nothing holds included, any solver."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, reverse_cuthill_mckee
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.arrays import host
from flare_connect.mesh.conditions import Condition
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.operators import assemble, symmetric
from flare_connect.mesh.solvers import elimination_order, solve_direct, solve_iterative
from flare_connect.mesh.topology import glued

Solver = Literal["auto", "direct", "polynomial", "multigrid"]

_DIRECT, _DIRECT_SOLID = 200_000, 10_000  # unknowns up to which a factorisation is about as fast as multigrid


class PoissonSystem:
    """Laplacian and node volumes of a mesh, periodic partners as one unknown; assembled on a device, held on the CPU.

    Args:
        mesh: a mesh whose highest-dimensional cells all have a known kind.
        device: where conjugate gradients run and results are; None is where the mesh is.
    """

    def __init__(self, mesh: Mesh, device: torch.device | str | None = None):
        self.device = mesh.pos.device if device is None else torch.device(device)
        self._dim = mesh.topological_dim
        count = mesh.num_nodes
        cells = {kind: nodes.to(self.device) for kind, nodes in mesh.cells.items()}
        pairs, conductance, volume = assemble(mesh.pos.to(self.device, torch.float64), cells)
        self._glue = host(glued_nodes(mesh))
        self._gather = csr_matrix((np.ones(count), (self._glue, np.arange(count))), shape=(count, count))
        self._open = symmetric(host(pairs), -host(conductance), count)  # before gluing
        self._matrix = (self._gather @ self._open @ self._gather.T).tocsr()
        self._matrix.eliminate_zeros()  # flat cells conduct nothing: what they alone join is not connected
        self._volume = self._gather @ host(volume)
        self._used = self._matrix.diagonal() > 0

    def apply(self, values: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """The Laplacian of fields that need not be periodic."""
        return torch.from_numpy(self._open @ host(values)).to(values.device)

    def check(self, held: Sequence[Condition]) -> None:
        """Conditions must be on nodes of the mesh.

        Raises:
            MeshError: no cell uses any node of one of them.
        """
        for condition in held:
            if not self._used[self._glue[host(condition.nodes)]].any():
                raise MeshError(f"{condition.label}: no {self._dim}-D cell uses its nodes; name a part of the mesh")

    def solve(
        self, load: Float[Tensor, "N K"], nodes: Int[Tensor, " F"], values: Float[Tensor, "F K"], solver: str
    ) -> Float[Tensor, "N K"]:
        """Solutions of L u = load with values at some nodes.

        Parts that hold no such node have the mean of their load taken off, and a solution of zero mean.

        Args:
            load: integrals of the sources against each node's shape function.
            nodes: nodes that stand for themselves, see `glued_nodes`.
            values: u there.
            solver: see `harmonic_extension`.

        Raises:
            MeshError: there is no such solver, or the iteration fails.
        """
        if solver not in get_args(Solver):
            raise MeshError(f"`solver` must be one of {', '.join(get_args(Solver))}, got {solver!r}")
        right, volume = self._gather @ host(load), self._volume[:, None]
        out, held = np.zeros_like(right), np.zeros(len(right), dtype=bool)
        out[host(nodes)] = host(values)
        out[~self._used] = 0
        held[host(nodes)] = True
        loose = self._loose_parts(held)
        size = loose @ volume
        right -= volume * (loose.T @ (loose @ right / size))
        # One node of each loose part is held at zero for now: L alone leaves a constant open.
        held[loose.indices[loose.indptr[:-1]]] = True
        rows = np.flatnonzero(self._used & ~held)
        if len(rows):
            lines = self._matrix[rows]
            out[rows] = self._solved(lines[:, rows].tocsr(), right[rows] - lines @ out, solver)
        out -= loose.T @ (loose @ (volume * out) / size)
        return torch.from_numpy(out[self._glue]).to(self.device)

    def _loose_parts(self, held: np.ndarray) -> csr_matrix:
        """Marks the nodes of each connected part that holds no given value `[parts, N]`."""
        number, part = connected_components(self._matrix, directed=False)
        nodes = np.flatnonzero(self._used)
        marks = csr_matrix((np.ones(len(nodes)), (part[nodes], nodes)), shape=(number, len(part)))
        return marks[(marks @ held == 0) & (np.diff(marks.indptr) > 0)]

    def _solved(self, matrix: csr_matrix, right: np.ndarray, solver: str) -> np.ndarray:
        chosen = self._best_solver(len(right)) if solver == "auto" else solver
        if chosen == "direct":
            return solve_direct(matrix.tocsc(), right, elimination_order(matrix))
        out = np.zeros_like(right)
        busy = np.flatnonzero(right.any(0))  # conjugate gradients have no measure for a right-hand side of zero
        if len(busy):
            order = reverse_cuthill_mckee(matrix, symmetric_mode=True)  # neighbours side by side stay in the cache
            given = torch.from_numpy(right[order][:, busy]).to(self.device)
            found = solve_iterative(matrix[order][:, order], given, preconditioner=chosen)  # type: ignore[arg-type]
            out[order[:, None], busy] = host(found)
        return out

    def _best_solver(self, count: int) -> str:
        if self.device.type == "cuda":
            return "polynomial"
        if count <= (_DIRECT_SOLID if self._dim == 3 else _DIRECT):
            return "direct"
        return "multigrid" if find_spec("pyamg") else "polynomial"


def glued_nodes(mesh: Mesh) -> Int[Tensor, " N"]:
    """The node that stands for each, over periodic pairs; a node without partner stands for itself."""
    if mesh.periodic_pairs is None:
        return torch.arange(mesh.num_nodes, device=mesh.pos.device)
    return torch.from_numpy(glued(host(mesh.periodic_pairs), mesh.num_nodes)).to(mesh.pos.device)
