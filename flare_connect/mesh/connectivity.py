"""What is connected to what: edges, boundary facets, components. Arrays in, arrays out, no loop over cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from flare_connect.errors import MeshError
from flare_connect.mesh.cells import CELL_KINDS, FACET_FLIP, CellKind


@dataclass(frozen=True, eq=False)
class Boundary:
    """The facets that belong to exactly one cell.

    Args:
        nodes: facet kind → nodes `[F, k]`, oriented outward.
        owner_kind: facet kind → index of the owner's cell kind in dict order `[F]`.
        owner: facet kind → number of the owner among the cells of its kind `[F]`.
    """

    nodes: dict[str, np.ndarray]
    owner_kind: dict[str, np.ndarray]
    owner: dict[str, np.ndarray]

    def node_ids(self) -> np.ndarray:
        """Returns the sorted ids of all nodes on these facets `[Nb]`."""
        if not self.nodes:
            return np.zeros(0, dtype=np.int64)
        return np.unique(np.concatenate([nodes.reshape(-1) for nodes in self.nodes.values()]))


def kind_of(name: str) -> CellKind:
    """Returns what is known about a kind of cell.

    Raises:
        MeshError: nothing is known about this kind.
    """
    if name not in CELL_KINDS:
        known = ", ".join(CELL_KINDS)
        raise MeshError(
            f"cells of kind {name!r} can be kept but not computed with; remove them (`del mesh.cells[...]`) or convert"
            f" them to one of: {known}"
        )
    return CELL_KINDS[name]


def topological_dim(cells: Mapping[str, Any]) -> int:
    """Returns the dimension of the highest-dimensional cells.

    Raises:
        MeshError: a kind is not known.
    """
    return max(kind_of(name).dim for name in cells)


def edge_index(cells: Mapping[str, np.ndarray], num_nodes: int) -> np.ndarray:
    """Returns the edges of all cells `[2, E]`: both directions, unique, no loops, sorted by (source, target)."""
    keys = []
    for name, nodes in cells.items():
        edges = kind_of(name).edges
        a, b = nodes[:, edges[:, 0]].reshape(-1), nodes[:, edges[:, 1]].reshape(-1)
        low, high = np.minimum(a, b), np.maximum(a, b)
        keys.append((low * num_nodes + high)[low != high])
    once = _unique(np.concatenate(keys))
    low, high = np.divmod(once, num_nodes)
    both = np.concatenate([once, high * num_nodes + low])
    both.sort()
    return np.stack(np.divmod(both, num_nodes))


def components(edges: np.ndarray, cells: Mapping[str, np.ndarray], num_nodes: int) -> np.ndarray:
    """Returns each node's connected component `[N]`: 0 is the largest, -1 a node that no cell uses.

    Components of one size are ordered by their smallest node.
    """
    graph = coo_matrix((np.ones(edges.shape[1], dtype=np.int8), (edges[0], edges[1])), shape=(num_nodes, num_nodes))
    label = connected_components(graph, directed=False)[1].astype(np.int64)
    used = np.zeros(num_nodes, dtype=bool)
    for nodes in cells.values():
        used[nodes.reshape(-1)] = True
    names, first, label_of, size = np.unique(label[used], return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(len(names))
    component = np.full(num_nodes, -1, dtype=np.int64)
    component[used] = rank[label_of]
    return component


def boundary(cells: Mapping[str, np.ndarray], num_nodes: int, orientation: Mapping[str, np.ndarray]) -> Boundary:
    """Finds the facets of the highest-dimensional cells that belong to exactly one cell.

    Facets are matched by their corner nodes, so that a quadratic facet meets a linear one and a quadrilateral with
    two corners in one place meets a triangle. Facets collapsed to less than their dimension are left out.

    Args:
        cells: cell kind → nodes `[n, k]`.
        num_nodes: N.
        orientation: cell kind → -1 for cells whose facets must be turned round to point outward `[n]`.

    Raises:
        MeshError: a kind is not known.
    """
    top = topological_dim(cells)
    kinds: list[str] = []
    tables: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    corners = []
    for index, (name, nodes) in enumerate(cells.items()):
        kind = kind_of(name)
        if kind.dim != top:
            continue
        by_facet_kind: dict[str, list[tuple[int, ...]]] = {}
        for facet_kind, local in kind.facets:
            by_facet_kind.setdefault(facet_kind, []).append(local)
        for facet_kind, locals_ in by_facet_kind.items():
            table = nodes[:, locals_]  # [n, f, k]
            flipped = orientation[name] < 0
            if flipped.any():
                table[flipped] = table[flipped][:, :, list(FACET_FLIP[facet_kind])]
            count = table.shape[0] * table.shape[1]
            table = table.reshape(count, -1)
            owner = np.repeat(np.arange(len(nodes)), len(locals_))
            kinds.append(facet_kind)
            tables.append((table, np.full(count, index), owner))
            corners.append(sorted_corners(table[:, : CELL_KINDS[facet_kind].num_corners], num_nodes))
    alone = _alone(np.concatenate(corners) if corners else np.zeros((0, 4), dtype=np.int64), num_nodes, top)
    merged: dict[str, list[tuple[np.ndarray, ...]]] = {}
    start = 0
    for facet_kind, table_and_owner in zip(kinds, tables, strict=True):
        keep = alone[start : start + len(table_and_owner[0])]
        start += len(keep)
        if keep.any():
            merged.setdefault(facet_kind, []).append(tuple(part[keep] for part in table_and_owner))
    joined = {kind: [np.concatenate(part) for part in zip(*parts, strict=True)] for kind, parts in merged.items()}
    return Boundary(
        nodes={kind: part[0] for kind, part in joined.items()},
        owner_kind={kind: part[1] for kind, part in joined.items()},
        owner={kind: part[2] for kind, part in joined.items()},
    )


def sorted_corners(corners: np.ndarray, num_nodes: int) -> np.ndarray:
    """Sorts the distinct corners of each facet, repeats and missing ones given as `num_nodes` at the end `[F, 4]`."""
    key = np.full((len(corners), 4), num_nodes, dtype=np.int64)
    key[:, : corners.shape[1]] = np.sort(corners, axis=1)
    repeated = key[:, 1:] == key[:, :-1]
    repeated &= key[:, 1:] < num_nodes
    rows = repeated.any(1)
    if rows.any():
        key[:, 1:][repeated] = num_nodes
        key[rows] = np.sort(key[rows], axis=1)
    return key


def distinct_rows(rows: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row once, in order, and how often it is there; what `np.unique` gives, in a tenth of the time.

    Args:
        rows: integers from 0 to `base` `[F, k]`.
        base: the largest of them, at most.
    """
    if not len(rows):
        return rows, np.zeros(0, dtype=np.int64)
    used = (rows != base).any(0)  # where all facets have three corners the fourth column is empty
    if (base + 1) ** int(used.sum()) >= 2**63:
        rows = rows[np.lexsort(rows.T[::-1])]
        starts = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]).any(1)]))
        return rows[starts], np.diff(starts, append=len(rows))
    code = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T[used]:
        code = code * (base + 1) + column
    code.sort()
    starts = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    out = np.full((len(starts), rows.shape[1]), base, dtype=np.int64)
    left = code[starts]
    for column in np.flatnonzero(used)[::-1]:
        out[:, column] = left % (base + 1)
        left //= base + 1
    return out, np.diff(starts, append=len(rows))


def _alone(key: np.ndarray, num_nodes: int, top: int) -> np.ndarray:
    """Marks the facets `[F]` whose corners occur once and span the facet's dimension."""
    alone = np.zeros(len(key), dtype=bool)
    distinct = (key < num_nodes).sum(1)
    for count in range(max(top, 1), 5):
        rows = np.flatnonzero(distinct == count)
        if not len(rows):
            continue
        columns = key[rows, :count]
        if num_nodes**count < 2**63:
            code = columns[:, 0]
            for column in columns.T[1:]:
                code = code * num_nodes + column
            order = np.argsort(code, kind="stable")
            new = code[order][1:] != code[order][:-1]
        else:
            order = np.lexsort(columns.T)
            new = (columns[order][1:] != columns[order][:-1]).any(1)
        starts = np.concatenate([[True], new])
        ends = np.concatenate([new, [True]])
        alone[rows[order[starts & ends]]] = True
    return alone


def _unique(keys: np.ndarray) -> np.ndarray:
    # np.unique without its second pass over an index array
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
