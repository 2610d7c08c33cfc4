"""Boundary conditions of a mesh in the words of a model: nodes, values, harmonic inputs, and another mesh's sets."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flare_connect.errors import InputError, MeshError
from flare_connect.mesh import Mesh, NamedSet
from flare_connect.mesh.harmonic_features import cell_features, exit_features, harmonic_features

from .config import FlareConnectConfig
from .roles import ESSENTIAL, HARMONIC_OF_BOUNDARY, NATURAL, REST, Role


@dataclass(frozen=True, kw_only=True)
class BoundaryCondition:
    """A condition on a set of a new mesh, for `FlareConnect.predict(mesh, boundary=…)`.

    Attributes:
        role: the set of the model's configuration that this one plays; needed where the model knows several of a kind.
        kind: of role that it may play.
    """

    kind: ClassVar[str]
    role: str | None = None


class Free(BoundaryCondition):
    """Nothing is prescribed: a surface without traction, an insulated side."""

    kind = "free"


class Fixed(BoundaryCondition):
    """Held at zero."""

    kind = "fixed"


@dataclass(frozen=True)
class Given(BoundaryCondition):
    """A condition with numbers, in the unit of the training data.

    Attributes:
        values: a number, or one for each component.
    """

    values: Any


class Value(Given):
    """Held at values: `Value(20.0)`."""

    kind = "value"


class Flux(Given):
    """What passes: `Flux(1.5)`."""

    kind = "flux"


class Traction(Given):
    """What pulls, force by area: `Traction([0.0, -2.0])`."""

    kind = "traction"


Boundary = Mapping[str, "str | BoundaryCondition"]
_BY_NAME = {"free": Free(), "fixed": Fixed()}


def role_nodes(mesh: Mesh, roles: tuple[Role, ...]) -> list[Int[Tensor, " n"]]:
    """The nodes of each role; all boundary nodes if there are no roles.

    Where a mesh repeats it has no boundary: the nodes of its periodic sides are in no role but by a set that has them.

    Raises:
        InputError: the mesh lacks a set.
    """
    boundary = mesh.boundary_nodes
    pairs = getattr(mesh, "periodic_pairs", None)
    if pairs is not None:
        boundary = boundary[~torch.isin(boundary, pairs.flatten())]
    if not roles:
        return [boundary]
    for role in roles:
        if role.name != REST and role.name not in mesh.sets:
            listed = ", ".join(map(repr, mesh.sets)) or "none"
            raise InputError(
                f"the model distinguishes the boundary set {role.name!r}, which the mesh lacks; sets of the mesh: "
                f"{listed}"
            )
    named = {role.name: mesh.set_nodes(role.name) for role in roles if role.name != REST}
    taken = torch.cat([*named.values(), boundary[:0]])
    rest = boundary[~torch.isin(boundary, taken)]
    return [named.get(role.name, rest) for role in roles]


def num_boundary_values(config: FlareConnectConfig) -> int:
    """Columns of `boundary_values`."""
    return sum(_widths(config))


def boundary_values(mesh: Mesh, config: FlareConnectConfig, nodes: list[Tensor]) -> Float[Tensor, "N W"]:
    """What is held, and what passes or pulls, at the nodes where it is; 0 elsewhere. Not standardised.

    Args:
        mesh: with the conditions.
        config: of the model.
        nodes: of `role_nodes`.
    """
    essential, natural = _widths(config)
    columns = torch.zeros(mesh.num_nodes, essential + natural, dtype=torch.float64)
    # Without roles the whole boundary is one group, of which nothing is known.
    for role, at in zip(config.roles, nodes, strict=bool(config.roles)):
        if role.condition is not None:
            first, width = (0, essential) if role.kind in ESSENTIAL else (essential, natural)
            columns[at, first : first + width] = _given(mesh, role).expand(width)
    return columns


def num_potentials(config: FlareConnectConfig) -> int:
    """K, fields that the harmonic inputs are of."""
    if not config.harmonic:
        return 0
    if config.harmonic == HARMONIC_OF_BOUNDARY:
        return max(role.width(config.conditions) for role in config.roles)
    return 1 if config.conditions[config.harmonic] == config.dim else config.dim


def num_harmonic_features(config: FlareConnectConfig) -> int:
    """Columns of `harmonic_inputs`: K (2 + dim) for K potentials, and 2 for the way to what is held."""
    return num_potentials(config) * (2 + config.dim) + (2 if config.harmonic == HARMONIC_OF_BOUNDARY else 0)


def harmonic_inputs(mesh: Mesh, config: FlareConnectConfig) -> Float[Tensor, "N F"]:
    """Conditions and loads spread along the mesh by one Laplace solve; see `mesh.harmonic_features`.

    Where there is a boundary that is held, also how far from it each point is, which no load changes.

    Raises:
        InputError: the conditions do not determine the solution, or the mesh is not periodic where it must be.
    """
    try:
        if config.harmonic != HARMONIC_OF_BOUNDARY:
            return cell_features(mesh, tensor_of(mesh.global_data[config.harmonic].reshape(-1).double(), config.dim))
        held: dict[str | Tensor, Any] = {
            role.name: 0.0 if role.condition is None else _given(mesh, role)
            for role in config.roles
            if role.kind in ESSENTIAL
        }
        passing: dict[str | Tensor, Any] = {
            role.name: _given(mesh, role) for role in config.roles if role.kind in NATURAL
        }
        return torch.cat([harmonic_features(mesh, held, passing), exit_features(mesh, list(held))], dim=1)
    except MeshError as error:
        raise InputError(f"harmonic inputs: {error}") from error


def with_boundary(mesh: Mesh, config: FlareConnectConfig, boundary: Boundary) -> Mesh:
    """The mesh with its sets named as the model names them, and the values as its conditions.

    Args:
        mesh: any mesh with the sets that `boundary` names.
        config: of the model.
        boundary: set of the mesh → "free", "fixed", or a `BoundaryCondition`. Several sets may play one role if they
            agree.

    Returns:
        A copy that shares all else with `mesh`.

    Raises:
        InputError: a set or role is unknown, a role is not played, or values do not fit.
    """
    roles = {role.name: role for role in config.roles}
    nodes: dict[str, list[Tensor]] = {}
    numbers = {name: values.clone().double() for name, values in mesh.global_data.items()}
    said: dict[tuple[str, int | None], tuple[str, Tensor]] = {}
    for name, condition in boundary.items():
        if name not in mesh.sets:
            listed = ", ".join(map(repr, mesh.sets)) or "none"
            raise InputError(f"`boundary` names the set {name!r}, which the mesh lacks; it has: {listed}")
        condition = _BY_NAME.get(condition, condition) if isinstance(condition, str) else condition
        role = _cast(name, condition, roles)
        nodes.setdefault(role.name, []).append(mesh.set_nodes(name))
        if role.condition is None or not isinstance(condition, Given):
            continue
        width = role.width(config.conditions)
        given = torch.as_tensor(condition.values, dtype=torch.float64).reshape(-1)
        if given.numel() != width or not given.isfinite().all():
            raise InputError(f"`boundary`: {name!r} needs {width} finite numbers, got {condition.values!r}")
        before, other = said.setdefault((role.condition, role.component), (name, given))
        if not torch.equal(other, given):
            raise InputError(
                f"`boundary`: {before!r} and {name!r} both stand for {role.name!r} and must have the same values, got "
                f"{other.tolist()} and {given.tolist()}"
            )
        whole = numbers.setdefault(role.condition, torch.zeros(config.conditions[role.condition], dtype=torch.float64))
        whole[_component(role)] = given
    _check_cast(roles, nodes, mesh)
    out = copy.copy(mesh)
    out.sets = mesh.sets | {
        name: NamedSet("node", torch.unique(torch.cat(parts))) for name, parts in nodes.items() if name != REST
    }
    out.global_data = numbers
    return out


def _cast(name: str, condition: Any, roles: Mapping[str, Role]) -> Role:
    """Which role a set plays."""
    if not isinstance(condition, BoundaryCondition):
        raise InputError(
            f"`boundary`: {name!r} is {condition!r}; it must be 'free', 'fixed', Value(…), Flux(…) or Traction(…)"
        )
    kind = condition.kind
    fitting = [role for role in roles.values() if role.kind == kind]
    listed = ", ".join(f"{role.name!r} ({role.kind})" for role in roles.values()) or "none"
    if condition.role is not None:
        fitting = [role for role in fitting if role.name == condition.role]
    elif len(fitting) > 1:
        # The set may be called as in training; what is free may be the rest.
        fitting = [r for r in fitting if r.name == name] or [r for r in fitting if r.name == REST] or fitting
    if not fitting:
        raise InputError(f"`boundary`: {name!r} is {kind}, and the model knows no such role; its roles: {listed}")
    if len(fitting) > 1:
        raise InputError(
            f"`boundary`: the model knows several roles that are {kind}; say which {name!r} plays with `role=`; its "
            f"roles: {listed}"
        )
    return fitting[0]


def _check_cast(roles: Mapping[str, Role], nodes: Mapping[str, Any], mesh: Mesh) -> None:
    missing = [name for name in roles if name not in nodes and name != REST and name not in mesh.sets]
    if missing:
        raise InputError(
            f"no set of `boundary` plays {missing[0]!r} ({roles[missing[0]].kind}), which the model was trained with: "
            f"add one, or a set of that name"
        )


def _widths(config: FlareConnectConfig) -> tuple[int, int]:
    return tuple(  # type: ignore[return-value]
        max((role.width(config.conditions) for role in config.roles if role.kind in kinds), default=0)
        for kinds in (ESSENTIAL, NATURAL)
    )


def _given(mesh: Mesh, role: Role) -> Float[Tensor, " W"]:
    return mesh.global_data[role.condition].reshape(-1).double()[_component(role)]  # type: ignore[index]


def _component(role: Role) -> slice:
    return slice(None) if role.component is None else slice(role.component, role.component + 1)


def tensor_of(values: Float[Tensor, " W"], dim: int) -> Float[Tensor, "K dim"]:
    """Rows of a directed condition: one of a vector; those of a symmetric tensor given as xx, yy(, zz, yz, xz), xy."""
    if values.numel() == dim:
        return values[None]
    voigt = torch.tensor([[0, 2], [2, 1]] if dim == 2 else [[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    return values[voigt]
