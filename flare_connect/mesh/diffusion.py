"""The cost of diffusing along the mesh: what an anchor reaches, whatever lies close in space alone.

Nothing here crosses a void: a node in another part of the mesh costs infinitely much.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.distances import checked_nodes
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.operators import assemble, symmetric
from flare_connect.mesh.solvers import elimination_order, solve_direct, solve_iterative
from flare_connect.mesh.sparse import csr_tensor
from flare_connect.mesh.topology import glued

_SPOT = 0.03  # radius, in units of the mesh's diagonal, of what counts as the anchor's own place
_UNIT_BALL = (1.0, 2.0, math.pi, 4 / 3 * math.pi)
_FLOOR = 1e-14  # relative to the value at its anchor, a diffused quantity below this is lost in rounding
_SIDE_BY_SIDE = 20_000  # nodes from which scales are worked on at once
_DIRECT, _DIRECT_SOLID = 1_000_000, 60_000  # nodes up to which a factorisation is faster than multigrid


def diffusion_cost(
    mesh: Mesh,
    anchor_nodes: Int[Tensor, " M"],
    scales: Sequence[float] = (1.0, 60.0),
    *,
    solver: Literal["auto", "direct", "polynomial", "multigrid"] = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N M S"]:
    r"""How hard it is for something released at an anchor to diffuse to a node.

    $c = \max(0, -\log(u_m(n) / \bar u_m))$ with $(L + \kappa/\ell^2\, V) u_m = \delta_{a_m}$, L the P1 Laplacian, V the
    node volumes, $\ell$ the mesh's diagonal: for small κ like the Green's function of the domain, for large κ like √κ
    times the geodesic distance over ℓ. $\bar u_m$ is the mean of $u_m$ over the spot of radius 0.03 ℓ where it is
    largest: at the anchor itself $u_m$ grows without end as a mesh gets finer, and costs would depend on it.

    Args:
        mesh: a mesh whose highest-dimensional cells all have a known kind.
        anchor_nodes: nodes.
        scales: κ, each positive.
        solver: "direct" factorises the system on the CPU, exact to rounding; "polynomial" and "multigrid" are conjugate
            gradients, whose residual of 1e-10 hides costs above some 20; "auto" is "polynomial" on a GPU; on a CPU it
            is "direct" as long as that is faster, then "multigrid" if pyamg is installed, else "polynomial".
        device: where to compute; None is where the mesh is.

    Returns:
        Float64, ≥ 0, at most 32 (rounding hides what is farther) and infinite in other parts of the mesh; on `device`.

    Raises:
        MeshError: if an anchor is no node or is used by no cell, a scale is not positive, or the iteration fails.

    Good values: (1, 60), which differ in reach by an order of magnitude.
    """
    if not scales or min(scales) <= 0:
        raise MeshError(f"`scales` must be positive numbers, got {list(scales)}")
    nodes = checked_nodes(mesh, anchor_nodes)
    system = DiffusionSystem(mesh, mesh.pos.device if device is None else device)
    unused = system.volume[system.glue][torch.from_numpy(nodes).to(system.glue)] <= 0
    if unused.any():
        raise MeshError(f"anchor {int(nodes[unused.cpu().numpy()][0])} is a node that no cell uses")
    chosen = _best_solver(mesh, system.volume.device) if solver == "auto" else solver
    at = torch.from_numpy(nodes).to(system.glue)
    part = system.part()
    apart = part[:, None] != part[at]
    kappas = [kappa / mesh.length_scale**2 for kappa in scales]
    solved: Iterable[Tensor]
    if chosen == "direct" and mesh.num_nodes > _SIDE_BY_SIDE:  # a factorisation holds no lock, what follows it does
        _ = system.elimination
        with ThreadPoolExecutor(min(len(kappas), max(1, torch.get_num_threads()))) as pool:
            solved = list(pool.map(lambda kappa: system.solve(kappa, system.glue[at], chosen), kappas))
    else:
        solved = (system.solve(kappa, system.glue[at], chosen) for kappa in kappas)  # one at a time in memory
    spot = _UNIT_BALL[mesh.topological_dim] * (_SPOT * mesh.length_scale) ** mesh.topological_dim
    out = torch.empty(mesh.num_nodes, len(nodes), len(scales), dtype=torch.float64, device=at.device)
    for s, solution in enumerate(solved):
        reference = _mean_of_spot(solution, system.volume, spot)
        # Obtuse cells can push far values below zero by a hair; they are as far as can be told.
        cost = (solution[system.glue] / reference).clamp_min_(_FLOOR).log_().neg_().clamp_min_(0.0)
        out[:, :, s] = cost.masked_fill_(apart, torch.inf)
    return out


def _mean_of_spot(values: Tensor, volume: Tensor, spot: float) -> Tensor:
    """Mean of each column `[N, M]` over the part of the mesh, `spot` in volume, where it is largest `[M]`."""
    count = min(64, len(values))
    while True:
        top, place = values.topk(count, dim=0)
        within = volume[place]
        before = within.cumsum(0) - within
        if count == len(values) or bool((before[-1] + within[-1] >= spot).all()):
            break
        count = min(4 * count, len(values))
    # The last node counts in part, and the first wholly: a mesh coarser than the spot has no more to say.
    weight = torch.minimum(within, (spot - before).clamp_min(0.0))
    weight[0] = within[0]
    return (weight * top).sum(0) / weight.sum(0)


def _best_solver(mesh: Mesh, device: torch.device) -> str:
    if device.type == "cuda":
        return "polynomial"
    if mesh.num_nodes <= (_DIRECT_SOLID if mesh.topological_dim == 3 else _DIRECT):
        return "direct"
    return "multigrid" if find_spec("pyamg") else "polynomial"


class DiffusionSystem:
    """Laplacian and node volumes of a mesh on one device, periodic partners as one unknown.

    Attributes:
        pairs: nodes with a conductance between them, each pair once, smaller first `[2, P]`.
        conductance: what flows between them for a difference of one `[P]`.
        volume: node volumes `[N]`; that of a periodic partner is with the node that stands for both.
        glue: the node that stands for each `[N]`.
    """

    def __init__(self, mesh: Mesh, device: torch.device | str):
        cells = {kind: nodes.to(device) for kind, nodes in mesh.cells.items()}
        pairs, conductance, volume = assemble(mesh.pos.to(device, torch.float64), cells)
        count = mesh.num_nodes
        self.glue: Tensor = torch.arange(count, device=device)
        if mesh.periodic_pairs is not None:
            self.glue = torch.from_numpy(glued(mesh.periodic_pairs.cpu().numpy(), count)).to(device)
            pairs = self.glue[pairs]
            volume = torch.zeros_like(volume).index_add_(0, self.glue, volume)
        self.volume: Tensor = volume
        self._order = _morton(mesh.pos.to(device))
        self.pairs, self.conductance = _summed(pairs, conductance, count)

    def solve(self, kappa: float, at: Tensor, solver: str) -> Tensor:
        """Solutions `[N, M]` of (L + κ V) u = unit vectors at nodes; nodes without volume keep zero."""
        rows = self._order[self.volume[self._order] > 0]
        place = torch.full_like(self.glue, -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        right = self.volume.new_zeros(len(rows), len(at))
        right[place[at], torch.arange(len(at), device=at.device)] = 1.0
        if solver == "direct":
            ids = rows.cpu().numpy()
            matrix = self.matrix(kappa)[ids][:, ids]
            solved = solve_direct(matrix.tocsc(), right.cpu().numpy(), self.elimination)
            found = torch.from_numpy(solved).to(right.device)
        else:
            operator = _operator(place[self.pairs], self.conductance, kappa * self.volume[rows])
            found = solve_iterative(operator, right, preconditioner=solver)  # type: ignore[arg-type]
        return right.new_zeros(len(self.volume), len(at)).index_copy_(0, rows, found)

    @cached_property
    def elimination(self) -> np.ndarray | None:
        """The order of elimination that all scales share."""
        rows = self._order[self.volume[self._order] > 0].cpu().numpy()
        return elimination_order(self.matrix(1.0)[rows][:, rows])

    def matrix(self, kappa: float = 0.0) -> csr_matrix:
        """L + κ V `[N, N]`."""
        laplacian = symmetric(self.pairs.cpu().numpy(), -self.conductance.cpu().numpy(), len(self.volume))
        return (laplacian + diags(kappa * self.volume.cpu().numpy())).tocsr() if kappa else laplacian

    def part(self) -> Tensor:
        """The connected part that each node is in `[N]`, some number for each part."""
        count = len(self.volume)
        if self.volume.device.type == "cpu":
            ones = np.ones(self.pairs.shape[1], dtype=np.int8)
            graph = coo_matrix((ones, tuple(self.pairs.numpy())), shape=(count, count))
            label = torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))
        else:
            label = _linked(self.pairs, count)
        return label[self.glue]


def _morton(pos: Tensor) -> Tensor:
    """An order of the nodes in which neighbours are near each other: products with a matrix then stay in the cache."""
    bits = 62 // pos.shape[1]
    low = pos.amin(0)
    size = (pos.amax(0) - low).amax().clamp_min(torch.finfo(pos.dtype).tiny)
    cell = ((pos - low) / size * (2**bits - 1)).long()
    key = torch.zeros(len(pos), dtype=torch.long, device=pos.device)
    for bit in range(bits):
        for axis in range(pos.shape[1]):
            key |= (cell[:, axis] >> bit & 1) << (bit * pos.shape[1] + axis)
    return torch.argsort(key, stable=True)


def _summed(pairs: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each pair once, smaller node first, with the sum of its values; loops left out."""
    low, high = torch.minimum(pairs[0], pairs[1]), torch.maximum(pairs[0], pairs[1])
    if pairs.device.type == "cpu":  # SciPy's counting sort is faster than a sort of keys
        matrix = coo_matrix((values.numpy(), (low.numpy(), high.numpy())), shape=(count, count)).tocsr().tocoo()
        keep = matrix.row != matrix.col
        both = np.stack([matrix.row[keep], matrix.col[keep]]).astype(np.int64)
        return torch.from_numpy(both), torch.from_numpy(matrix.data[keep])
    apart = low != high
    key, index = torch.unique(low[apart] * count + high[apart], return_inverse=True)
    return torch.stack([key // count, key % count]), values.new_zeros(len(key)).index_add_(0, index, values[apart])


def _operator(pairs: Tensor, conductance: Tensor, mass: Tensor) -> Tensor:
    """L + diag(mass) as a compressed sparse tensor."""
    count = len(mass)
    on = torch.arange(count, device=mass.device)
    diagonal = mass.index_add(0, pairs[0], conductance).index_add_(0, pairs[1], conductance)
    row = torch.cat([pairs[0], pairs[1], on])
    column = torch.cat([pairs[1], pairs[0], on])
    value = torch.cat([-conductance, -conductance, diagonal])
    key, order = torch.sort(row * count + column)
    start = torch.searchsorted(key, torch.arange(count + 1, device=key.device) * count)
    return csr_tensor(start, key % count, value[order], (count, count))


def _linked(pairs: Tensor, count: int) -> Tensor:
    """Labels of the connected parts, the smallest node of each: minima pass along links, and chains are cut short."""
    label = torch.arange(count, device=pairs.device)
    while True:
        ends = label[pairs]
        least = ends.amin(0)
        new = label.clone()
        for end in (*pairs, *ends):
            new.scatter_reduce_(0, end, least, "amin")
        new = new[new]
        if torch.equal(new, label):
            return label
        label = new
