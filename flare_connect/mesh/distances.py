"""How far it is along the mesh: shortest paths, anchors spread by them, the cost of going from an anchor to a node.

Nothing here crosses a void: a node in another part of the mesh is infinitely far.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.operators import laplacian
from flare_connect.mesh.solvers import solve_direct, solve_iterative
from flare_connect.mesh.topology import glued

# Relative to the value at its anchor, a diffused quantity below this is lost in the rounding of the solution.
_FLOOR = 1e-14
_DIRECT = 200_000  # unknowns up to which the factorisation of a solid fits into a few gigabytes


def geodesic_distance(mesh: Mesh, sources: Int[Tensor, " K"]) -> Float[Tensor, "K N"]:
    """Length of the shortest path along mesh edges from each source to each node.

    Paths follow edges, so they are longer than the true distance: by 10 % in the mean on unstructured meshes (20 % at
    worst), by up to 41 % across the diagonals of structured triangles. Periodic pairs are one place.

    Args:
        mesh: any mesh.
        sources: nodes.

    Returns:
        Float64, in units of `pos`; infinite where there is no path.

    Raises:
        MeshError: if a source is no node.
    """
    nodes = _checked(mesh, sources)
    return torch.from_numpy(np.atleast_2d(dijkstra(edge_graph(mesh), indices=nodes)))


def anchors(mesh: Mesh, count: int) -> tuple[Int[Tensor, " M"], Float[Tensor, " N"]]:
    """Nodes spread over the mesh by farthest-point sampling in mesh distance.

    Nested: the first m of M anchors are the anchors asked for with `count=m`, so any prefix is a valid choice. Every
    connected part is reached before a second anchor falls into any. The first anchor is the node farthest from the
    centroid, so that numbering, position and orientation of the mesh do not matter (but for exact ties).

    Args:
        mesh: any mesh; nodes that no cell uses are left out.
        count: M, at most the number of nodes in use.

    Returns:
        The anchors, and each node's distance to the nearest of them (infinite at orphans).

    Raises:
        MeshError: if `count` is below 1 or above the number of nodes in use.
    """
    used = mesh.component.numpy() >= 0
    if not 1 <= count <= used.sum():
        raise MeshError(f"`count` must be between 1 and the mesh's {int(used.sum())} nodes in use, got {count}")
    pos, volume = mesh.pos.double().numpy(), mesh.node_volume.double().numpy()
    straight = np.linalg.norm(pos - (volume[:, None] * pos).sum(0) / volume.sum(), axis=1)
    graph = edge_graph(mesh)
    nearest = np.where(used, np.inf, -1.0)
    chosen = np.empty(count, dtype=np.int64)
    for i in range(count):
        farthest = nearest.max()
        ties = np.flatnonzero(nearest >= farthest * (1 - 1e-12) if np.isfinite(farthest) else np.isinf(nearest))
        chosen[i] = ties[np.argmax(straight[ties])]
        # Beyond the present covering radius nothing gets nearer: later searches stay in a small ball.
        found = dijkstra(graph, indices=chosen[i], limit=farthest)
        np.minimum(nearest, found, out=nearest, where=used)
    nearest[~used] = np.inf
    return torch.from_numpy(chosen), torch.from_numpy(nearest)


def clusters(mesh: Mesh, anchor_nodes: Int[Tensor, " M"]) -> Int[Tensor, " N"]:
    """The nearest anchor of each node along the mesh: connected cells around the anchors.

    Returns:
        Number of the anchor, 0 to M − 1; -1 where none can be reached. Of equally near anchors one is taken whose cell
        stays connected.

    Raises:
        MeshError: if an anchor is no node.
    """
    nodes = _checked(mesh, anchor_nodes)
    found = dijkstra(edge_graph(mesh), indices=nodes, min_only=True, return_predecessors=True)[2]
    number = np.full(mesh.num_nodes + 1, -1, dtype=np.int64)
    number[nodes[::-1]] = np.arange(len(nodes))[::-1]
    return torch.from_numpy(number[np.where(found < 0, mesh.num_nodes, found)])


def geodesic_cost(mesh: Mesh, anchor_nodes: Int[Tensor, " M"]) -> Float[Tensor, "N M"]:
    """Squared geodesic distance to each anchor in units of the mesh's diagonal; infinite without a path.

    Raises:
        MeshError: if an anchor is no node.
    """
    return (geodesic_distance(mesh, anchor_nodes).T / mesh.length_scale).square().contiguous()


def diffusion_cost(
    mesh: Mesh,
    anchor_nodes: Int[Tensor, " M"],
    scales: Sequence[float] = (1.0, 60.0),
    *,
    solver: Literal["auto", "direct", "iterative"] = "auto",
    device: torch.device | str = "cpu",
) -> Float[Tensor, "N M S"]:
    r"""How hard it is for something released at an anchor to diffuse to a node.

    $c = -\log(u_m(n) / u_m(a_m))$ with $(L + \kappa/\ell^2\, V) u_m = \delta_{a_m}$, L the P1 Laplacian, V the node
    volumes, $\ell$ the mesh's diagonal: for small κ like the Green's function of the domain, for large κ like √κ times
    the geodesic distance over ℓ. It does not depend on resolution beyond an element's size around the anchor.

    Args:
        mesh: a mesh whose highest-dimensional cells all have a known kind.
        anchor_nodes: nodes.
        scales: κ, each positive.
        solver: "direct" factorises the system, exact to rounding; "iterative" takes conjugate gradients, whose residual
            of 1e-10 hides costs above some 20; "auto" is direct up to 200,000 nodes.
        device: where the iterative solver computes.

    Returns:
        Float64, ≥ 0, at most 32 (rounding hides what is farther) and infinite in other parts of the mesh.

    Raises:
        MeshError: if an anchor is no node or is used by no cell, a scale is not positive, or the iteration fails.

    Good values: (1, 60), which differ in reach by an order of magnitude.
    """
    if not scales or min(scales) <= 0:
        raise MeshError(f"`scales` must be positive numbers, got {list(scales)}")
    nodes = _checked(mesh, anchor_nodes)
    system, volume, glue = diffusion_system(mesh)
    unused = volume[glue][nodes] <= 0
    if unused.any():
        raise MeshError(f"anchor {int(nodes[unused][0])} is a node that no cell uses")
    part = connected_components(edge_graph(mesh), directed=False)[1]
    apart = part[:, None] != part[nodes][None, :]
    out = np.empty((mesh.num_nodes, len(nodes), len(scales)))
    for s, kappa in enumerate(scales):
        weight = volume * (kappa / mesh.length_scale**2)
        solved = _solve(system, weight, glue[nodes], solver, device)[glue]
        relative = solved / solved[nodes, np.arange(len(nodes))]
        # Obtuse cells can push far values below zero by a hair; they are as far as can be told.
        out[:, :, s] = np.where(apart, np.inf, np.maximum(-np.log(np.maximum(relative, _FLOOR)), 0.0))
    return torch.from_numpy(out)


def _solve(
    stiffness: csr_matrix, weight: np.ndarray, columns: np.ndarray, solver: str, device: torch.device | str
) -> np.ndarray:
    """Solutions `[N, M]` of (stiffness + diag(weight)) u = unit vectors; nodes without weight keep zero."""
    rows = np.flatnonzero(weight > 0)
    place = np.full(len(weight), -1)
    place[rows] = np.arange(len(rows))
    matrix = (stiffness[rows][:, rows] + diags(weight[rows])).tocsc()
    right = np.zeros((len(rows), len(columns)))
    right[place[columns], np.arange(len(columns))] = 1.0
    out = np.zeros((len(weight), len(columns)))
    if solver == "direct" or (solver == "auto" and len(rows) <= _DIRECT):
        out[rows] = solve_direct(matrix, right)
    else:
        out[rows] = solve_iterative(matrix.tocsr(), torch.from_numpy(right), device=device).numpy()
    return out


def diffusion_system(mesh: Mesh) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Laplacian `[N, N]`, node volumes `[N]`, and the node that stands for each: periodic partners are one unknown."""
    matrix = laplacian(mesh.pos.double().numpy(), {kind: nodes.numpy() for kind, nodes in mesh.cells.items()})
    volume = mesh.node_volume.double().numpy()
    glue = np.arange(mesh.num_nodes)
    if mesh.periodic_pairs is not None:
        glue = glued(mesh.periodic_pairs.numpy(), mesh.num_nodes)
        gather = csr_matrix((np.ones(len(glue)), (glue, np.arange(len(glue)))), shape=matrix.shape)
        matrix, volume = (gather @ matrix @ gather.T).tocsr(), gather @ volume
    return matrix, volume, glue


def edge_graph(mesh: Mesh) -> csr_matrix:
    """Edges weighted by their length `[N, N]`; periodic pairs are joined by an edge that is as good as nothing long."""
    edges = mesh.edge_index.numpy()
    pos = mesh.pos.double().numpy()
    length = np.linalg.norm(pos[edges[1]] - pos[edges[0]], axis=1)
    if mesh.periodic_pairs is not None:
        pairs = mesh.periodic_pairs.numpy()
        edges = np.concatenate([edges, pairs, pairs[::-1]], axis=1)
        length = np.concatenate([length, np.zeros(2 * pairs.shape[1])])
    # Sparse graphs drop zeros when they are made, and sum what is given twice; neither may happen here.
    tiny = np.finfo(float).tiny
    return coo_matrix((np.maximum(length, tiny), (edges[0], edges[1])), shape=(len(pos), len(pos))).tocsr()


def _checked(mesh: Mesh, nodes: Tensor) -> np.ndarray:
    ids = nodes.detach().cpu().numpy().reshape(-1)
    if ids.size and not (ids.min() >= 0 and ids.max() < mesh.num_nodes):
        raise MeshError(f"nodes must be between 0 and {mesh.num_nodes - 1}, got {int(ids.min())} … {int(ids.max())}")
    return ids
