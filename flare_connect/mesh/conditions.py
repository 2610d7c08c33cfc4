"""Boundary conditions on a mesh: values on named sets or listed nodes, read and checked before anything is solved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flare_connect.errors import MeshError
from flare_connect.mesh.arrays import as_indices, as_tensor, host
from flare_connect.mesh.cells import CELL_KINDS, CellKind
from flare_connect.mesh.connectivity import kind_of, sorted_corners
from flare_connect.mesh.mesh import Mesh

Place = str | Tensor
"""A part of a mesh: the name of one of its sets, or node ids `[n]`."""

Values = float | int | Sequence[float | int] | np.ndarray | Tensor
"""A number; `[K]`, one a column; `[n, 1]` or `[n, K]`, one a node of the place, in the order of its nodes."""

Conditions = Mapping[Place, Values]
"""Where → what. The nodes of a set are in the order of `Mesh.set_nodes`."""

_SAME = 1e-9  # values that differ by less, relative to the largest, do not contradict each other


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """One condition, checked.

    Attributes:
        label: what messages call it.
        place: name of a set, or node ids.
        nodes: its nodes `[n]`, on the mesh's device.
        values: float64, `[1 or n, 1 or K]`.
    """

    label: str
    place: Place
    nodes: Int[Tensor, " n"]
    values: Float[Tensor, "_ _"]


def read_conditions(mesh: Mesh, what: str, given: Conditions) -> list[Condition]:
    """Conditions with their nodes and values.

    Args:
        mesh: a mesh.
        what: the argument that they were given as, for messages.
        given: place → values.

    Raises:
        MeshError: a set is not there or empty, an id is no node, a shape does not fit, or a value is not finite.
    """
    out = []
    for place, numbers in given.items():
        label = f"`{what}` on {f'set {place!r}' if isinstance(place, str) else f'{place.numel()} listed nodes'}"
        nodes = nodes_of(mesh, what, place)
        values = as_tensor(label, numbers).to(mesh.pos.device, torch.float64)
        shape = tuple(values.shape)
        values = values.reshape(1, -1) if values.ndim < 2 else values
        if values.ndim > 2 or not values.numel() or len(values) not in (1, len(nodes)):
            raise MeshError(
                f"{label} has values of shape {shape} for {len(nodes)} nodes; give a number, [K] (one a column), or"
                f" [{len(nodes)}, 1] or [{len(nodes)}, K] (one a node)"
            )
        wrong = ~torch.isfinite(values).all(1)
        if wrong.any():
            first = int(nodes[wrong.nonzero()[0, 0]]) if len(values) > 1 else int(nodes[0])
            raise MeshError(f"{label} has values that are not finite, the first at node {first}; give finite ones")
        out.append(Condition(label=label, place=place, nodes=nodes, values=values))
    return out


def nodes_of(mesh: Mesh, what: str, place: Place) -> Int[Tensor, " n"]:
    """The nodes of a place: a set's sorted, listed ones as they are.

    Raises:
        MeshError: there is no such set or node, there are none in it, or one is listed twice.
    """
    if isinstance(place, str):
        nodes = mesh.set_nodes(place)
        if not len(nodes):
            raise MeshError(f"`{what}` names set {place!r}, which is empty; leave it out or fill it")
        return nodes
    nodes = as_indices(f"`{what}`", place).reshape(-1).to(mesh.pos.device)
    if not len(nodes):
        raise MeshError(f"`{what}` lists no nodes; leave the entry out or give node ids")
    if int(nodes.min()) < 0 or int(nodes.max()) >= mesh.num_nodes:
        raise MeshError(
            f"`{what}` must list nodes between 0 and {mesh.num_nodes - 1}, got {int(nodes.min())} … {int(nodes.max())}"
        )
    ids, times = torch.unique(nodes, return_counts=True)
    if len(ids) < len(nodes):
        raise MeshError(f"`{what}` lists node {int(ids[times > 1][0])} more than once; list each once")
    return nodes


def num_columns(tables: Mapping[str, Tensor]) -> int:
    """K, the columns that all tables `[_, 1 or K]` agree on.

    Args:
        tables: label → values.

    Raises:
        MeshError: two of them have different numbers of columns, neither being 1.
    """
    count, first = 1, ""
    for label, values in tables.items():
        columns = int(values.shape[1])
        if columns == 1 or columns == count:
            continue
        if count > 1:
            raise MeshError(
                f"{label} has {columns} columns and {first} has {count}; give each 1 or {count} (values one a node"
                " have the shape [n, 1])"
            )
        count, first = columns, label
    return count


def held_values(
    conditions: Sequence[Condition], glue: Int[Tensor, " N"], columns: int
) -> tuple[Int[Tensor, " F"], Float[Tensor, "F K"]]:
    """Nodes with given values, each once, periodic partners as the node that stands for both.

    Raises:
        MeshError: a node, or it and its periodic partner, are given two different values.
    """
    if not conditions:
        return glue.new_zeros(0), torch.zeros(0, columns, dtype=torch.float64, device=glue.device)
    nodes = torch.cat([c.nodes for c in conditions])
    values = torch.cat([c.values.expand(len(c.nodes), columns) for c in conditions])
    rows = torch.arange(len(nodes), device=nodes.device)
    held, index = torch.unique(glue[nodes], return_inverse=True)
    first = rows.new_full((len(held),), len(rows)).scatter_reduce_(0, index, rows, "amin")
    apart = (values - values[first][index]).abs().amax(1) > _SAME * values.abs().max()
    if apart.any():
        row = int(apart.nonzero()[0, 0])
        other = int(first[index[row]])
        owner = [c.label for c in conditions for _ in range(len(c.nodes))]
        same = "" if nodes[row] == nodes[other] else f" and its periodic partner {int(nodes[other])}"
        raise MeshError(
            f"node {int(nodes[row])}{same} must have two values at once: {values[other].tolist()} by {owner[other]}"
            f" and {values[row].tolist()} by {owner[row]}; give it to one of them"
        )
    return held, values[first]


def boundary_measure(mesh: Mesh, what: str, place: Place) -> Float[Tensor, " N"]:
    r"""$\int \varphi_i$ over the boundary facets of a place; the sum is their length or area.

    Of a set of facets, or of cells that are facets, those count; of other places the facets between its nodes.

    Raises:
        MeshError: the place has no such facet, or one inside the mesh.
    """
    name = f"set {place!r}" if isinstance(place, str) else f"the {place.numel()} listed nodes"
    boundary = {kind: host(table) for kind, table in mesh.boundary_facets.items()}
    listed = _listed(mesh, place) if isinstance(place, str) else []
    if listed:
        key = np.concatenate([_corners(kind, table, mesh.num_nodes) for kind, table in listed])
        there = [_corners(kind, table, mesh.num_nodes) for kind, table in boundary.items()]
        _, index = np.unique(np.concatenate([key, *there]), axis=0, return_inverse=True)
        wanted, *found = np.split(index.reshape(-1), np.cumsum([len(key), *map(len, there)])[:-1])
        inner = ~np.isin(wanted, np.concatenate([wanted[:0], *found]))
        if inner.any():
            nodes = [int(node) for node in key[inner][0] if node < mesh.num_nodes]
            raise MeshError(
                f"`{what}` on {name}: {int(inner.sum())} of its {len(wanted)} facets are not on the boundary, the first"
                f" has nodes {nodes}; a flux passes the boundary, inside use a source"
            )
        tables = {kind: boundary[kind][np.isin(at, wanted)] for kind, at in zip(boundary, found, strict=True)}
    else:
        on = np.zeros(mesh.num_nodes, dtype=bool)
        on[host(nodes_of(mesh, what, place))] = True
        tables = {kind: table[on[table].all(1)] for kind, table in boundary.items()}
    if not any(len(table) for table in tables.values()):
        raise MeshError(f"`{what}` on {name}: no facet of the boundary has all its nodes there; a flux needs facets")
    total = mesh.pos.new_zeros(mesh.num_nodes, dtype=torch.float64)
    for kind, table in tables.items():
        facets = torch.from_numpy(table).to(mesh.pos.device)
        total.index_add_(0, facets.reshape(-1), _lumped(mesh.pos.double(), facets, CELL_KINDS[kind]).reshape(-1))
    return total


def _listed(mesh: Mesh, name: str) -> list[tuple[str, np.ndarray]]:
    """Kind and nodes of the facets that a set consists of; none if it consists of nodes or of other cells."""
    named = mesh.sets[name]
    if not hasattr(named, "entity"):
        raise MeshError(f"set {name!r} is one of a batch; take fluxes of one mesh at a time (`batch.get_example(i)`)")
    dim = mesh.topological_dim - 1
    if named.entity == "facet":
        size = named.ids.shape[1]
        kind = next((k for k in CELL_KINDS.values() if k.dim == dim and k.num_nodes == size), None)
        return [] if kind is None else [(kind.name, host(named.ids))]
    out, start = [], 0
    if named.entity == "cell":
        for kind_name, block in mesh.cells.items():
            own = named.ids[(named.ids >= start) & (named.ids < start + len(block))] - start
            start += len(block)
            if len(own) and kind_of(kind_name).dim != dim:
                return []
            out += [(kind_name, host(block[own]))] if len(own) else []
    return out


def _corners(kind: str, table: np.ndarray, num_nodes: int) -> np.ndarray:
    return sorted_corners(table[:, : CELL_KINDS[kind].num_corners], num_nodes)


def _lumped(pos: Tensor, nodes: Tensor, kind: CellKind) -> Tensor:
    """Integrals `[n, k]` of the shape functions that the mesh Laplacian uses over each facet.

    `CellKind.shares` would not do: it hands the measure at a helper point to neighbours so that no share is negative,
    and then a linear field would not have its own fluxes on curved-sided facets of eight nodes.
    """
    extend = np.concatenate([np.eye(kind.num_nodes), kind.virtual])
    share = torch.from_numpy(extend[kind.simplices].mean(1) * kind.weights[:, None]).to(pos)
    points = torch.einsum("vk,nkd->nvd", torch.from_numpy(extend).to(pos), pos[nodes])
    corners = points[:, torch.from_numpy(kind.simplices).to(nodes.device)]
    sides = corners[..., 1:, :] - corners[..., :1, :]
    measure = torch.linalg.det(sides @ sides.mT).clamp_min(0).sqrt() / math.factorial(kind.dim)
    return measure @ share
