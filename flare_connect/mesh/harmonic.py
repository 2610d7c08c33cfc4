"""Harmonic extension: what is given on parts of the boundary, spread along the mesh by one Laplace solve.

The answer knows where a load comes in, where a part is held and which way round the voids leads from one to the other.
Nothing here crosses a void.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.arrays import as_tensor
from flare_connect.mesh.conditions import (
    Conditions,
    Place,
    boundary_measure,
    held_values,
    nodes_of,
    num_columns,
    read_conditions,
)
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.poisson import PoissonSystem, Solver, glued_nodes


def harmonic_extension(
    mesh: Mesh,
    fixed: Conditions | None = None,
    flux: Conditions | None = None,
    *,
    source: Float[Tensor, "N ..."] | None = None,
    solver: Solver = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N K"]:
    r"""Solves $-\Delta u = f$ on the mesh with values on parts of it and fluxes through parts of its boundary.

    $\int \nabla u \cdot \nabla v = \int f v + \int_\Gamma q v$ for all v that vanish where u is fixed, in linear
    elements; $n \cdot \nabla u = q$ on Γ and 0 on the rest of the boundary. Periodic partners are one unknown.

    A part of the mesh without fixed node has u up to a constant: its mean over the part is set to zero. If what comes
    in there by sources and fluxes does not sum to zero there is no solution, and the mean source of the part that
    balances it is taken off.

    ```python
    harmonic_extension(mesh, {"left": 0.0, "right": 1.0})  # [N, 1]
    harmonic_extension(mesh, {"clamp": 0.0}, {"load": [0.0, -1.0]})  # [N, 2], one solve a component of a traction
    ```

    Args:
        mesh: a mesh whose highest-dimensional cells all have a known kind.
        fixed: place → values of u there. A place is the name of a set or a tensor of node ids; values are a number,
            `[K]` (one a column), or `[n, 1]` or `[n, K]` (one a node, in the order of `mesh.set_nodes`).
        flux: place → $n \cdot \nabla u$, in units of u over those of `pos`. It passes the facets of a facet set, and
            of other places the boundary facets all of whose nodes are in it. Facets of two places have both fluxes.
            Where u is fixed it counts for nothing; on a periodic side, which is no boundary, it is a source.
        source: f at the nodes, `[N]` (all columns alike), `[N, 1]` or `[N, K]`, in units of u over `pos` squared.
        solver: "direct" factorises on the CPU; "polynomial" and "multigrid" are conjugate gradients to a residual of
            1e-10, on `device`; "auto" is "polynomial" on a GPU; on a CPU it is "direct" up to 200,000 unknowns (10,000
            of a solid), then "multigrid" if pyamg is installed, else "polynomial".
        device: where to compute; None is where the mesh is.

    Returns:
        Float64, one column for each problem, on `device`; 0 at nodes that no cell of the highest dimension uses.

    Raises:
        MeshError: nothing is given; a set is unknown or empty; a shape does not fit or a value is not finite; a node
            is given two values; a flux has no boundary facet to pass; or the iteration fails.

    Good values: 0 on what is held and 1 on what is loaded, see `load_potential`.
    """
    if not fixed and not flux and source is None:
        raise MeshError("nothing is given to extend; pass `fixed`, `flux` or `source`")
    held = read_conditions(mesh, "fixed", fixed or {})
    through = read_conditions(mesh, "flux", flux or {})
    density = _checked_source(mesh, source)
    columns = num_columns({c.label: c.values for c in (*held, *through)} | {"`source`": density})
    measures = [boundary_measure(mesh, "flux", condition.place) for condition in through]
    load = mesh.node_volume[:, None] * density.expand(mesh.num_nodes, columns)
    for condition, measure in zip(through, measures, strict=True):
        nodes = condition.nodes
        load.index_add_(0, nodes, measure[nodes, None] * condition.values.expand(len(nodes), columns))
    nodes, values = held_values(held, glued_nodes(mesh), columns)
    system = PoissonSystem(mesh, device)
    system.check(held)
    return system.solve(load, nodes, values, solver)


def load_potential(
    mesh: Mesh,
    clamped: Place = "left",
    loaded: Place = "right",
    *,
    solver: Solver = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N 1"]:
    """Harmonic field that is 0 where a part is held and 1 where it is loaded; 0 in parts that are neither.

    Nodes of both count as held.

    Args:
        mesh: a mesh with both places.
        clamped: name of a set, or node ids.
        loaded: likewise.
        solver: see `harmonic_extension`.
        device: where to compute; None is where the mesh is.

    Raises:
        MeshError: a set is unknown or empty, or nothing is loaded but what is held.
    """
    held, pushed = nodes_of(mesh, "clamped", clamped), nodes_of(mesh, "loaded", loaded)
    glue = glued_nodes(mesh)
    free = pushed[~torch.isin(glue[pushed], glue[held])]
    if not len(free):
        raise MeshError(f"every node of `loaded` ({len(pushed)}) is clamped too; name different parts of the mesh")
    return harmonic_extension(mesh, {held: 0.0, free: 1.0}, solver=solver, device=device)


def cell_potentials(
    mesh: Mesh,
    gradient: Float[Tensor, "K dim"] | None = None,
    *,
    solver: Solver = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N K"]:
    r"""Cell problems of homogenisation: how a periodic cell bends a mean gradient round its holes.

    For each row G of `gradient` the periodic χ of zero mean with $-\Delta \chi = 0$ and $n \cdot (\nabla\chi + G) = 0$
    on the holes: $\int \nabla\chi \cdot \nabla v = -\int G \cdot \nabla v$. $G x + \chi$ is the whole potential.

    Args:
        mesh: a mesh with periodic pairs. Sides that they do not join are insulated like holes.
        gradient: mean gradients; None is the unit vectors, K = dim. A mean strain is one too: its rows are the mean
            gradients of the components of the displacement.
        solver: see `harmonic_extension`.
        device: where to compute; None is where the mesh is.

    Returns:
        Float64, in units of `gradient` times those of `pos`; 0 without holes, up to rounding.

    Raises:
        MeshError: the mesh has no periodic pairs, or `gradient` has another shape or is not finite.

    Source: the scalar cell problem, e.g. Bensoussan, Lions and Papanicolaou 1978.
    """
    if mesh.periodic_pairs is None:
        raise MeshError("the mesh has no periodic pairs; assign `mesh.periodic_pairs = find_periodic_pairs(mesh)`")
    mean = _checked_gradient(mesh, gradient)
    system = PoissonSystem(mesh, device)
    pull = -system.apply(mesh.pos - mesh.pos.mean(0)) @ mean.T
    nobody = torch.zeros(0, dtype=torch.long)
    return system.solve(pull, nobody, torch.zeros(0, len(mean), dtype=torch.float64), solver)


def _checked_gradient(mesh: Mesh, gradient: Tensor | None) -> Float[Tensor, "K dim"]:
    """Mean gradients in float64 on the mesh's device; the unit vectors for None.

    Raises:
        MeshError: another shape than `[K, dim]`, or a value that is not finite.
    """
    if gradient is None:
        return torch.eye(mesh.dim).to(mesh.pos)
    if gradient.ndim != 2 or gradient.shape[1] != mesh.dim or not len(gradient):
        raise MeshError(f"`gradient` must have the shape [K, {mesh.dim}], got {list(gradient.shape)}")
    if not torch.isfinite(gradient).all():
        raise MeshError(f"`gradient` must be finite, got {gradient.tolist()}")
    return gradient.to(mesh.pos)


def _checked_source(mesh: Mesh, source: Tensor | None) -> Tensor:
    if source is None:
        return torch.zeros(mesh.num_nodes, 1, dtype=torch.float64, device=mesh.pos.device)
    density = as_tensor("`source`", source).to(mesh.pos)
    if density.ndim not in (1, 2) or len(density) != mesh.num_nodes or not density.numel():
        raise MeshError(f"`source` must have one value a node, [{mesh.num_nodes}, K], got {list(density.shape)}")
    density = density.reshape(mesh.num_nodes, -1)
    wrong = ~torch.isfinite(density).all(1)
    if wrong.any():
        raise MeshError(f"`source` is not finite at node {int(wrong.nonzero()[0, 0])}; give finite values")
    return density
