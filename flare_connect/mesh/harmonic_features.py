"""Harmonic fields as inputs of a model: without dimension, the same wherever the mesh lies and however fine it is."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flare_connect.mesh.arrays import as_tensor
from flare_connect.mesh.conditions import Conditions
from flare_connect.mesh.gradients import nodal_gradient
from flare_connect.mesh.harmonic import cell_potentials, harmonic_extension
from flare_connect.mesh.mesh import Mesh
from flare_connect.mesh.poisson import Solver

_FLOOR = 1e-4  # of the root mean square: a gradient smaller than this counts as none
_ROUNDING = 1e-8  # of the largest potential: gradients whose root mean square is smaller are noise


def harmonic_features(
    mesh: Mesh,
    fixed: Conditions | None = None,
    flux: Conditions | None = None,
    *,
    source: Float[Tensor, "N ..."] | None = None,
    solver: Solver = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N F"]:
    r"""Inputs of a model from the boundary conditions: potential, gradient, log of its size; F = K (2 + dim).

    The problem of `harmonic_extension` in units of the domain's diagonal ℓ: `flux` is $\ell\, n \cdot \nabla u$ and
    `source` is $\ell^2 f$. So all features are in units of the values given, do not depend on place, size or numbering
    of the mesh, and are linear in the load but for the logarithm. With a finer mesh they converge.

    ```python
    harmonic_features(mesh, {"left": 0.0, "right": 1.0})
    harmonic_features(mesh, {"clamp": 0.0}, {"load": traction / reference_stress})  # traction [dim]
    ```

    Args:
        mesh: as for `harmonic_extension`.
        fixed: likewise.
        flux: likewise, in units of the values.
        source: likewise, in units of the values.
        solver: likewise.
        device: likewise.

    Returns:
        See `potential_features`.

    Raises:
        MeshError: as `harmonic_extension`.

    Good values: loads divided by one reference of the whole data set, so that features of all meshes are about one.
    """
    size = mesh.length_scale
    scaled = {place: as_tensor("`flux`", values).double() / size for place, values in (flux or {}).items()}
    inner = None if source is None else as_tensor("`source`", source).double() / size**2
    return potential_features(mesh, harmonic_extension(mesh, fixed, scaled, source=inner, solver=solver, device=device))


def cell_features(
    mesh: Mesh,
    gradient: Float[Tensor, "K dim"] | None = None,
    *,
    solver: Solver = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N F"]:
    """As `harmonic_features`, of the cell problems: χ over the diagonal, and the gradient of the whole, G + ∇χ.

    Args:
        mesh: a mesh with periodic pairs.
        gradient: see `cell_potentials`.
        solver: see `harmonic_extension`.
        device: where to compute; None is where the mesh is.

    Raises:
        MeshError: as `cell_potentials`.
    """
    potential = cell_potentials(mesh, gradient, solver=solver, device=device) / mesh.length_scale
    return potential_features(mesh, potential, torch.eye(mesh.dim) if gradient is None else gradient)


def exit_features(
    mesh: Mesh,
    held: Sequence[str | Tensor],
    *,
    solver: Solver = "auto",
    device: torch.device | str | None = None,
) -> Float[Tensor, "N 2"]:
    r"""How far from what is held each point is for something that diffuses: the mean time to get there, and its log.

    The solution of $-\ell^2 \Delta w = 1$ with w = 0 at places that are held, ℓ the domain's diagonal: the mean time in
    which a random walk from a point arrives there. It tells how strongly a load at a point is answered, before any
    load is known: a point at the end of a long channel has a large w, however near to a held side it lies in space.

    Args:
        mesh: as for `harmonic_extension`.
        held: sets or nodes.
        solver: see `harmonic_extension`.
        device: where to compute; None is where the mesh is.

    Returns:
        w, and the logarithm of $\max(10^{-4}, w)$. On a part of the mesh of which nothing is held w is 0.

    Raises:
        MeshError: as `harmonic_extension`.

    Source: the torsion function, or mean first-passage time.
    """
    one = torch.ones(mesh.num_nodes, dtype=torch.float64, device=mesh.pos.device)
    fixed: dict[str | Tensor, float] = dict.fromkeys(held, 0.0)
    w = harmonic_extension(mesh, fixed, source=one / mesh.length_scale**2, solver=solver, device=device)
    return torch.cat([w, w.clamp_min(_FLOOR).log()], dim=1)


def potential_features(
    mesh: Mesh, potential: Float[Tensor, "N K"], mean: Float[Tensor, "K dim"] | None = None
) -> Float[Tensor, "N F"]:
    r"""Side by side: potentials `[N, K]`, their gradients `[N, K dim]`, logarithms of the gradients' sizes `[N, K]`.

    Gradients are in units of the potential over the domain's diagonal. The logarithm is that of
    $\max(10^{-4}, |\nabla u| / g)$, g the root mean square of all K gradients over the mesh: it tells where a load
    passes whatever its size, and is the floor where there is none.

    Args:
        mesh: any mesh.
        potential: K fields.
        mean: added to the gradients, in their units; for potentials of which only the periodic part is given.

    Raises:
        MeshError: as `nodal_gradient`.
    """
    slopes = nodal_gradient(mesh, potential) * mesh.length_scale
    volume = mesh.node_volume
    if mean is not None:
        slopes = torch.where((volume > 0)[:, None, None], slopes + mean.to(slopes), slopes)
    size = slopes.norm(dim=2)
    square = (volume[:, None] * size**2).sum() / (volume.sum() * size.shape[1])
    # A constant potential has the gradient of its rounding, which looks like a field but is none.
    least = _ROUNDING * potential.abs().amax().to(size)
    relative = size / torch.maximum(square.sqrt(), least).clamp_min(torch.finfo(torch.float64).tiny)
    features = torch.cat([potential.to(slopes), slopes.flatten(1), relative.clamp_min(_FLOOR).log()], dim=1)
    return features.to(potential.device)
