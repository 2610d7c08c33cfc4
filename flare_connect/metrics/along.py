"""How far nodes are apart along the mesh, for many pairs of them, asked only as far as it matters."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from flare_connect.mesh import Mesh
from flare_connect.mesh.arrays import host

_TOGETHER = 1 << 22  # distances at a time: 32 megabytes
_PAIRS = 1 << 16  # walks at a time
_ROUNDING = 1e-9  # relative


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """Straight lines between the nodes of one cell, both ways, by their first node.

    On triangles and tetrahedra they are the mesh's edges. Across quadrilaterals they shorten the way, and without them
    the middle of a quadratic edge has no neighbours but its ends. All nodes of one place are the smallest of them.

    Attributes:
        start: lines from a node begin here `[N + 1]`.
        end: the other node `[E]`.
        vector: from the first to the other, not across the mesh where sides are glued `[E, dim]`.
        length: its length, above 0 `[E]`.
    """

    start: np.ndarray
    end: np.ndarray
    vector: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, mesh: Mesh, glue: np.ndarray) -> "Lines":
        """The lines of a mesh, nodes numbered by `glue [N]`."""
        pos = host(mesh.pos).astype(np.float64)
        first, second = np.divmod(_neighbours(mesh), mesh.num_nodes)
        vector = pos[second] - pos[first]
        length = np.linalg.norm(vector, axis=1)
        begin, end = glue[first], glue[second]
        order = np.lexsort((length, end, begin))
        begin, end = begin[order], end[order]
        # A line on both of two glued sides is one, and sparse graphs sum what is given twice and drop zeros.
        once = begin != end
        once[1:] &= (begin[1:] != begin[:-1]) | (end[1:] != end[:-1])
        start = np.searchsorted(begin[once], np.arange(mesh.num_nodes + 1))
        order = order[once]
        return cls(
            start=start, end=end[once], vector=vector[order], length=np.maximum(length[order], np.finfo(float).tiny)
        )

    def graph(self) -> csr_matrix:
        """The same as a matrix of lengths `[N, N]`."""
        count = len(self.start) - 1
        return csr_matrix((self.length, self.end, self.start), shape=(count, count))


def _neighbours(mesh: Mesh) -> np.ndarray:
    """Every two nodes of one cell, both ways, as one number, first times N plus second `[E]`."""
    found = []
    for nodes in mesh.cells.values():
        table = host(nodes)
        first, second = np.nonzero(~np.eye(table.shape[1], dtype=bool))
        found.append(np.unique(table[:, first] * mesh.num_nodes + table[:, second]))
    return np.unique(np.concatenate(found))


def straight_way(lines: Lines, pairs: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walks from the first to the second node of each pair, always along the line that ends nearest to the goal.

    Args:
        lines: where to walk.
        pairs: nodes `[2, P]`.
        vector: straight from the first to the second `[P, dim]`.

    Returns:
        Length of each walk `[P]` and its number of lines `[P]`, both infinite where the goal was not reached: what is
        found is a way, though perhaps not the shortest.
    """
    found = [
        _walk(lines, pairs[:, start : start + _PAIRS], vector[start : start + _PAIRS])
        for start in range(0, pairs.shape[1], _PAIRS)
    ]
    length, count = (np.concatenate([np.zeros(0), *(part[i] for part in found)]) for i in (0, 1))
    return length, count


def _walk(lines: Lines, pairs: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    num_pairs = pairs.shape[1]
    length, count = np.full(num_pairs, np.inf), np.full(num_pairs, np.inf)
    walker, at, left = np.arange(num_pairs), pairs[0], vector
    gone, steps = np.zeros(num_pairs), 0
    while len(walker):
        number = lines.start[at + 1] - lines.start[at]
        some = number > 0
        walker, at, left, gone, number = walker[some], at[some], left[some], gone[some], number[some]
        if not len(walker):
            break
        ends = np.cumsum(number)
        begins = ends - number
        edge = np.repeat(lines.start[at] - begins, number) + np.arange(ends[-1])
        rest = np.repeat(left, number, axis=0) - lines.vector[edge]
        square = np.einsum("ed,ed->e", rest, rest)
        best = np.minimum.reduceat(square, begins)
        # of equally good lines the first
        hits = np.flatnonzero(square == np.repeat(best, number))
        chosen = hits[np.searchsorted(hits, begins)]
        nearer = best < np.einsum("nd,nd->n", left, left)
        at, left, gone, steps = lines.end[edge[chosen]], rest[chosen], gone + lines.length[edge[chosen]], steps + 1
        arrived = nearer & (at == pairs[1, walker])
        length[walker[arrived]], count[walker[arrived]] = gone[arrived], steps
        on = nearer & ~arrived
        walker, at, left, gone = walker[on], at[on], left[on], gone[on]
    return length, count


def shortest_way(graph: csr_matrix, pairs: np.ndarray, reach: np.ndarray, *, in_cells: bool = False) -> np.ndarray:
    """Shortest ways from the first to the second node of each pair `[P]`, infinite where there is none within reach.

    Args:
        graph: lines by their length.
        pairs: nodes `[2, P]`.
        reach: how far to search from each node, `[N]`.
        in_cells: count lines instead of adding up their lengths, in `reach` too.
    """
    way = np.full(pairs.shape[1], np.inf)
    sources = np.unique(pairs[0])
    sources = sources[np.argsort(reach[sources], kind="stable")]  # like with like: all go as far as the last of them
    row = np.empty(graph.shape[0], dtype=np.int64)
    row[sources] = np.arange(len(sources))
    by_row = np.argsort(row[pairs[0]], kind="stable")
    ends = np.searchsorted(row[pairs[0]][by_row], np.arange(len(sources) + 1))
    together = max(1, _TOGETHER // graph.shape[0])
    for start in range(0, len(sources), together):
        stop = min(start + together, len(sources))
        found = dijkstra(
            graph, indices=sources[start:stop], limit=reach[sources[stop - 1]] * (1 + _ROUNDING), unweighted=in_cells
        )
        mine = by_row[ends[start] : ends[stop]]
        way[mine] = found[row[pairs[0, mine]] - start, pairs[1, mine]]
    return way
