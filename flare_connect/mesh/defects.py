"""What is wrong with a mesh, place by place, and the mends that can be made without asking what was meant."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from flare_connect.mesh.arrays import numpy_of
from flare_connect.mesh.connectivity import distinct_rows, kind_of, topological_dim
from flare_connect.mesh.geometry import signed_measure
from flare_connect.mesh.mesh import Mesh, NamedSet
from flare_connect.mesh.topology import facet_keys

_FLAT = 1e-12  # of a cell's bounding box: less is no measure


@dataclass(frozen=True, kw_only=True, eq=False)
class Defects:
    """Where a mesh is not what a solver would want. Cells are numbered over all kinds in dict order.

    Attributes:
        inverted_cells: cells of negative measure, where cell and space have one dimension `[K]`.
        flat_cells: cells without measure beside their size `[K]`.
        repeating_cells: cells that name a node twice `[K]`; some writers put wedges into hexahedra so, on purpose.
        duplicate_cells: cells with the corners of an earlier cell of their dimension `[K]`.
        orphan_nodes: nodes that no cell uses `[K]`; no part of the graph.
        duplicate_nodes: pairs of nodes in one place, each with the first that is there `[2, K]`; a slit has them on
            purpose.
        crowded_facets: how many facets belong to more than two cells.
    """

    inverted_cells: Int[Tensor, " A"]
    flat_cells: Int[Tensor, " C"]
    repeating_cells: Int[Tensor, " E"]
    duplicate_cells: Int[Tensor, " F"]
    orphan_nodes: Int[Tensor, " K"]
    duplicate_nodes: Int[Tensor, "2 G"]
    crowded_facets: int

    def __bool__(self) -> bool:
        return bool(self.crowded_facets) or any(
            isinstance(value, Tensor) and value.numel() for value in vars(self).values()
        )


def find_defects(mesh: Mesh, *, tolerance: float = 1e-9) -> Defects:
    """Looks for all of them.

    Args:
        mesh: any mesh.
        tolerance: how far apart nodes in one place may be, in units of the mesh's diagonal.
    """
    pos, cells = mesh.pos.detach().cpu().numpy(), numpy_of(mesh.cells)
    measure = signed_measure(pos, cells)
    inverted, flat, repeating, keys, start = [], [], [], {}, 0  # type: ignore[var-annotated]
    for name, nodes in cells.items():
        kind = kind_of(name)
        corners = nodes[:, : kind.num_corners]
        if kind.dim:
            size = np.linalg.norm(np.ptp(pos[corners], axis=1), axis=1) ** kind.dim
            none = np.abs(measure[name]) <= _FLAT * size
            flat.append(start + np.flatnonzero(none))
            inverted.append(start + np.flatnonzero((measure[name] < 0) & ~none))
        sorted_nodes = np.sort(nodes, axis=1)
        repeating.append(start + np.flatnonzero((sorted_nodes[:, 1:] == sorted_nodes[:, :-1]).any(1)))
        key = np.full((len(nodes), 8), len(pos))
        key[:, : kind.num_corners] = np.sort(corners, axis=1)
        keys.setdefault(kind.dim, []).append(np.insert(key, 8, np.arange(start, start + len(nodes)), axis=1))
        start += len(nodes)
    duplicate = []
    for tables in keys.values():
        table = np.concatenate(tables)
        _, first, index = np.unique(table[:, :8], axis=0, return_index=True, return_inverse=True)
        duplicate.append(np.sort(table[first[index.reshape(-1)] != np.arange(len(table)), 8]))
    facets = facet_keys(cells, len(pos))[0]
    crowded = distinct_rows(facets, len(pos))[1] > 2 if topological_dim(cells) else np.zeros(0, dtype=bool)
    leader = _leaders(mesh, tolerance)
    twins = np.flatnonzero(leader != np.arange(len(pos)))
    return Defects(
        inverted_cells=_ids(inverted),
        flat_cells=_ids(flat),
        repeating_cells=_ids(repeating),
        duplicate_cells=_ids(duplicate),
        orphan_nodes=mesh.orphan_nodes.cpu(),
        duplicate_nodes=torch.from_numpy(np.stack([leader[twins], twins])),
        crowded_facets=int(crowded.sum()) if topological_dim(cells) else 0,
    )


def merge_duplicate_nodes(mesh: Mesh, *, tolerance: float = 1e-9) -> tuple[Mesh, Int[Tensor, " N"]]:
    """Makes one node of all that are in one place.

    This joins parts that only touch, and so closes slits and contacts: do it to meshes whose writer gave every cell
    nodes of its own (STL, some exports), and not to those that have such nodes on purpose.

    Fields are those of the first node of each place; where others differ from it a warning names the field. Cells that
    have no measure left are dropped, with their fields and from their sets.

    Args:
        mesh: any mesh.
        tolerance: how far apart nodes in one place may be, in units of the mesh's diagonal. Chains of near nodes are
            one place.

    Returns:
        The mesh, and each old node's number in it.
    """
    leader = _leaders(mesh, tolerance)
    differing = [
        name
        for name, values in mesh.point_data.items()
        if not torch.allclose(values.double(), values[torch.from_numpy(leader)].double(), equal_nan=True)
    ]
    if differing:
        warnings.warn(
            f"fields {', '.join(map(repr, differing))} differ between nodes in one place; the first node's are kept",
            stacklevel=2,
        )
    kept = np.flatnonzero(leader == np.arange(len(leader)))
    number = np.empty(len(leader), dtype=np.int64)
    number[kept] = np.arange(len(kept))
    return _renumbered(mesh, number[leader], kept), torch.from_numpy(number[leader])


def remove_orphans(mesh: Mesh) -> tuple[Mesh, Int[Tensor, " N"]]:
    """Leaves out the nodes that no cell uses.

    Returns:
        The mesh, and each old node's number in it, -1 for those left out.
    """
    used = mesh.component.cpu().numpy() >= 0
    number = np.where(used, np.cumsum(used) - 1, -1)
    return _renumbered(mesh, number, np.flatnonzero(used)), torch.from_numpy(number)


def _leaders(mesh: Mesh, tolerance: float) -> np.ndarray:
    """The first node in each node's place `[N]`."""
    pos = mesh.pos.detach().cpu().numpy()
    pairs = cKDTree(pos).query_pairs(tolerance * mesh.length_scale, output_type="ndarray").T
    graph = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), tuple(pairs)), shape=(len(pos), len(pos)))
    label = connected_components(graph, directed=False)[1]
    first = np.full(label.max(initial=-1) + 1, len(pos))
    np.minimum.at(first, label, np.arange(len(pos)))
    return first[label].astype(np.int64)


def _renumbered(mesh: Mesh, number: np.ndarray, kept: np.ndarray) -> Mesh:
    """The mesh of the nodes kept, `number` being the new number of each old node; cells that collapse are left out."""
    cells, rows, cell_number, start, before = {}, {}, [], 0, 0
    for name, nodes in numpy_of(mesh.cells).items():
        kind = kind_of(name)
        new = number[nodes]
        corners = np.sort(new[:, : kind.num_corners], axis=1)
        distinct = 1 + (corners[:, 1:] != corners[:, :-1]).sum(1)
        sound = distinct > kind.dim
        cells[name], rows[name] = new[sound], torch.from_numpy(np.flatnonzero(sound))
        cell_number.append(np.where(sound, start + np.cumsum(sound) - 1, -1))
        start, before = start + int(sound.sum()), before + len(nodes)
    of_cell = np.concatenate([np.zeros(0, dtype=np.int64), *cell_number])
    ids = torch.from_numpy(kept)
    pairs = None
    if mesh.periodic_pairs is not None:
        pairs = number[mesh.periodic_pairs.cpu().numpy()]
        pairs = np.unique(pairs[:, (pairs[0] != pairs[1]) & (pairs >= 0).all(0)], axis=1)
    return Mesh.from_arrays(
        mesh.pos.cpu()[ids],
        cells,
        point_data={name: values.cpu()[ids] for name, values in mesh.point_data.items()},
        cell_data={
            name: {kind: values.cpu()[rows[kind]] for kind, values in blocks.items()}
            for name, blocks in mesh.cell_data.items()
        },
        global_data=mesh.global_data,
        sets={name: _moved(named, number, of_cell) for name, named in mesh.sets.items()},
        units=mesh.units,
        periodic_pairs=pairs,
        allow_nonfinite=True,
    )


def _moved(named: NamedSet, number: np.ndarray, of_cell: np.ndarray) -> NamedSet:
    ids = named.ids.cpu().numpy()
    if named.entity == "facet":
        table = number[ids]
        ordered = np.sort(table, axis=1)
        sound = (table >= 0).all(1) & (ordered[:, 1:] != ordered[:, :-1]).all(1)
        return NamedSet("facet", torch.from_numpy(table[sound]))
    new = np.unique((of_cell if named.entity == "cell" else number)[ids])
    return NamedSet(named.entity, torch.from_numpy(new[new >= 0]))


def _ids(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64))
