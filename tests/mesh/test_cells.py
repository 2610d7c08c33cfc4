import numpy as np
from mesh.meshes import MIDS, corner_kind, points_of

from flare_connect.mesh import CELL_KINDS
from flare_connect.mesh.cells import FACET_FLIP, VTK_KINDS

NUM_EDGES = {  # of the corner cell; quadratic ones have twice as many, centres come on top
    "vertex": 0, "line": 1, "triangle": 3, "quad": 4, "tetra": 6, "hexahedron": 12, "wedge": 9, "pyramid": 8,
    "line3": 2, "triangle6": 6, "quad8": 8, "quad9": 12, "tetra10": 12, "hexahedron20": 24, "hexahedron27": 54,
    "wedge15": 18, "pyramid13": 16,
}  # fmt: skip


def test_names_and_node_counts_are_meshios(kind):
    from meshio._common import num_nodes_per_cell
    from meshio._vtk_common import meshio_to_vtk_type

    assert CELL_KINDS[kind].num_nodes == num_nodes_per_cell[kind]
    assert CELL_KINDS[kind].vtk_type == meshio_to_vtk_type[kind]
    assert VTK_KINDS[CELL_KINDS[kind].vtk_type] == kind


def test_edges(kind):
    edges = CELL_KINDS[kind].edges
    assert len(edges) == NUM_EDGES[kind]
    assert len({frozenset(edge) for edge in edges.tolist()}) == len(edges)
    if len(edges):
        assert np.unique(edges).tolist() == list(range(CELL_KINDS[kind].num_nodes))


def test_edges_join_neighbours(kind):
    """In a unit cell the edges are the shortest joins: from a corner to its midside node, never across the cell."""
    points = points_of(kind)
    edges = CELL_KINDS[kind].edges
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    if len(edges):
        longest = np.sqrt(2) if corner_kind(kind) in ("triangle", "tetra", "wedge") else 1.2248
        assert length.max() <= longest / (2 if kind in MIDS else 1) + 1e-9


def test_facet_flip_keeps_the_nodes():
    for kind, order in FACET_FLIP.items():
        assert sorted(order) == list(range(CELL_KINDS[kind].num_nodes))
        assert [order[i] for i in order] == list(range(len(order)))


def test_shares_are_positive_and_add_up(kind):
    shares, weights = CELL_KINDS[kind].shares, CELL_KINDS[kind].weights
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(1), weights)
    assert (shares.sum(0) > 0).all()  # no node is left without volume
