"""The shape of a mesh up to stretching: which cells touch, which boundary is which, how many holes there are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from flare_connect.mesh.cells import CELL_KINDS
from flare_connect.mesh.connectivity import Boundary, distinct_rows, kind_of, sorted_corners, topological_dim


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Numbers that no stretching changes.

    Attributes:
        betti: β0 (parts), β1 (independent loops: holes of a plate, handles of a solid), β2 (closed cavities).
        euler: Euler characteristic, corners − edges + faces − solids = β0 − β1 + β2.
        genus: handles of the surface, or of a solid's skin; 0 for curves. Of a surface that touches itself at a single
            node it says nothing.
        num_boundary_components: connected parts of the boundary.
    """

    betti: tuple[int, int, int]
    euler: int
    genus: int
    num_boundary_components: int


def dual_edges(cells: Mapping[str, np.ndarray], num_nodes: int) -> np.ndarray:
    """Returns pairs of the highest-dimensional cells that share a facet `[2, D]`, each once, smaller number first.

    Cells are numbered over all kinds in dict order. Where more than two meet at a facet each is paired with the next.
    """
    key, cell = facet_keys(cells, num_nodes)
    order = np.lexsort((cell, *key.T))
    key, cell = key[order], cell[order]
    same = (key[1:] == key[:-1]).all(1) & (cell[1:] != cell[:-1])
    pairs = np.stack([cell[:-1][same], cell[1:][same]])
    return np.unique(pairs, axis=1)


def boundary_component(boundary: Boundary, pos: np.ndarray, pairs: np.ndarray | None = None) -> np.ndarray:
    """Returns each node's boundary component `[N]`: -1 inside, 0 the one of largest extent (the outer skin), then down.

    Args:
        boundary: facets of one cell.
        pos: node positions `[N, dim]`.
        pairs: periodic pairs `[2, P]`; the components at both ends are one, and the sides that the pairs glue
            together are no boundary.
    """
    label = np.full(len(pos), -1, dtype=np.int64)
    tables = _outer_facets(boundary, len(pos), pairs)
    if not tables:
        return label
    nodes = np.unique(np.concatenate([table.reshape(-1) for table in tables]))
    links = [np.stack([table[:, :-1].reshape(-1), table[:, 1:].reshape(-1)]) for table in tables]
    if pairs is not None:
        on = np.zeros(len(pos), dtype=bool)
        on[nodes] = True
        links.append(pairs[:, on[pairs].all(0)])
    found = _components(np.concatenate(links, axis=1), len(pos))[nodes]
    names, first, index = np.unique(found, return_index=True, return_inverse=True)
    low, high = np.full((len(names), pos.shape[1]), np.inf), np.full((len(names), pos.shape[1]), -np.inf)
    np.minimum.at(low, index, pos[nodes])
    np.maximum.at(high, index, pos[nodes])
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.lexsort((first, -np.linalg.norm(high - low, axis=1)))] = np.arange(len(names))
    label[nodes] = rank[index]
    return label


def _outer_facets(boundary: Boundary, num_nodes: int, pairs: np.ndarray | None) -> list[np.ndarray]:
    """Facet tables `[F, k]` of the boundary, those left out that coincide with another once the pairs are glued."""
    tables = [table for table in boundary.nodes.values() if len(table)]
    if pairs is None or not tables:
        return tables
    glue = glued(pairs, num_nodes)
    corners = [CELL_KINDS[kind].num_corners for kind, table in boundary.nodes.items() if len(table)]
    keys = np.concatenate(
        [sorted_corners(glue[table[:, :count]], num_nodes) for table, count in zip(tables, corners, strict=True)]
    )
    _, index, times = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    alone = np.split(times[index.reshape(-1)] == 1, np.cumsum([len(table) for table in tables])[:-1])
    return [table[keep] for table, keep in zip(tables, alone, strict=True) if keep.any()]


def topology(cells: Mapping[str, np.ndarray], num_nodes: int, pairs: np.ndarray | None = None) -> Topology:
    """Counts parts, loops and cavities of the highest-dimensional cells.

    Right for curves, surfaces (loops counted modulo 2, so that a Möbius band has one) and solids in space whose skin
    does not touch itself along an edge.

    Args:
        cells: cell kind → nodes `[n, k]`.
        num_nodes: N.
        pairs: periodic pairs `[2, P]` to be glued: facets that coincide then are no boundary. Solids are counted as
            they are, without gluing: the count of cavities by skins holds in space and not on a 3-torus.
    """
    top = topological_dim(cells)
    glue = np.arange(num_nodes) if pairs is None or top == 3 else glued(pairs, num_nodes)
    corners: dict[str, np.ndarray] = {}
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim == top and len(nodes):
            block = glue[nodes[:, : kind.num_corners]]
            corners[kind.corners] = np.concatenate([corners[kind.corners], block]) if kind.corners in corners else block
    edges = np.concatenate([nodes[:, CELL_KINDS[kind].edges].reshape(-1, 2) for kind, nodes in corners.items()])
    edges = distinct_rows(np.sort(edges, axis=1), num_nodes)[0]
    mark = np.zeros(num_nodes, dtype=bool)
    for nodes in corners.values():
        mark[nodes.reshape(-1)] = True
    used = np.flatnonzero(mark)
    facets, count = distinct_rows(facet_keys(corners, num_nodes)[0], num_nodes)
    num_cells = sum(len(nodes) for nodes in corners.values())
    euler = {
        0: len(used),
        1: len(used) - num_cells,
        2: len(used) - len(edges) + num_cells,
        3: len(used) - len(edges) + len(facets) - num_cells,
    }[top]
    parts = int((np.bincount(_components(edges.T, num_nodes)[used]) > 0).sum())
    skin = facets[count == 1]
    num_skins = _num_skins(skin, num_nodes, top)
    if top == 3:
        cavities, genus = num_skins - parts, num_skins - euler
    elif top == 2:
        open_parts = len(np.unique(_components(edges.T, num_nodes)[skin[:, 0]])) if len(skin) else 0
        cavities, genus = parts - open_parts, (2 * parts - num_skins - euler) // 2
    else:
        cavities, genus = 0, 0
    loops = parts + cavities - euler
    return Topology(betti=(parts, loops, cavities), euler=euler, genus=max(genus, 0), num_boundary_components=num_skins)


def _num_skins(skin: np.ndarray, num_nodes: int, top: int) -> int:
    """Connected parts of the boundary; of a solid's skin, facets that share an edge, not merely a corner."""
    if not len(skin):
        return 0
    if top < 3:
        nodes = np.unique(skin[skin < num_nodes])
        links = skin[:, :2].T if top == 2 else np.zeros((2, 0), dtype=np.int64)
        return len(np.unique(_components(links, num_nodes)[nodes]))
    edges, owner = [], []
    for facet in range(4):
        # A facet's corners are sorted, so neighbours in the list need not be edges; all pairs of a triangle are, and of
        # a quadrilateral the two diagonals belong to no other facet's boundary in a sound mesh.
        for other in range(facet):
            both = skin[:, [other, facet]]
            there = (both < num_nodes).all(1)
            edges.append(both[there])
            owner.append(np.flatnonzero(there))
    edge, facet_of = np.concatenate(edges), np.concatenate(owner)
    order = np.lexsort(edge.T)
    edge, facet_of = edge[order], facet_of[order]
    same = (edge[1:] == edge[:-1]).all(1)
    return len(np.unique(_components(np.stack([facet_of[:-1][same], facet_of[1:][same]]), len(skin))))


def facet_keys(cells: Mapping[str, np.ndarray], num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted corners `[F, 4]` of every facet of every highest-dimensional cell, and the cell's number `[F]`."""
    top = topological_dim(cells)
    keys, owners, start = [], [], 0
    for name, nodes in cells.items():
        kind = kind_of(name)
        if kind.dim == top:
            for facet_kind, local in kind.facets:
                corners = local[: CELL_KINDS[facet_kind].num_corners]
                keys.append(sorted_corners(nodes[:, list(corners)], num_nodes))
                owners.append(np.arange(start, start + len(nodes)))
        start += len(nodes)
    if not keys:
        return np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64)
    key, owner = np.concatenate(keys), np.concatenate(owners)
    # A facet collapsed to less than its dimension is no facet.
    sound = (key < num_nodes).sum(1) >= max(top, 1)
    return key[sound], owner[sound]


def glued(pairs: np.ndarray, num_nodes: int) -> np.ndarray:
    """The smallest node that each node is glued to, over chains of pairs (corners of a periodic cell)."""
    label = _components(pairs, num_nodes)
    first = np.full(label.max() + 1, num_nodes)
    np.minimum.at(first, label, np.arange(num_nodes))
    return first[label]


def _components(links: np.ndarray, count: int) -> np.ndarray:
    graph = coo_matrix((np.ones(links.shape[1], dtype=np.int8), (links[0], links[1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)
