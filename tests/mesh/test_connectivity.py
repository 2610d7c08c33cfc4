from collections import Counter

import numpy as np
import pytest
import torch
from mesh.meshes import grid, single

from flare_connect.errors import MeshError
from flare_connect.mesh import CELL_KINDS, Mesh
from flare_connect.mesh.connectivity import _alone, distinct_rows


def slow_edges(mesh):
    pairs = set()
    for kind, nodes in mesh.cells.items():
        for cell in nodes.tolist():
            for a, b in CELL_KINDS[kind].edges.tolist():
                if cell[a] != cell[b]:
                    pairs |= {(cell[a], cell[b]), (cell[b], cell[a])}
    return sorted(pairs)


def slow_boundary(mesh):
    """Corner sets of the facets that occur once."""
    count = Counter()
    for kind, nodes in mesh.cells.items():
        for cell in nodes.tolist():
            for facet_kind, local in CELL_KINDS[kind].facets:
                corners = local[: CELL_KINDS[facet_kind].num_corners]
                count[frozenset(cell[i] for i in corners)] += 1
    return {facet for facet, times in count.items() if times == 1}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("triangle", (3, 4)),
        ("quad9", (2, 3)),
        ("tetra10", (2, 2, 1)),
        ("hexahedron27", (2, 1, 2)),
        ("wedge15", (1, 2, 2)),
    ],
)
def test_edges_and_boundary_of_grids(kind, shape):
    mesh = grid(kind, shape)
    assert mesh.edge_index.t().tolist() == [list(pair) for pair in slow_edges(mesh)]
    assert mesh.num_edges == mesh.edge_index.shape[1]
    found = {
        frozenset(facet[: CELL_KINDS[k].num_corners]) for k, f in mesh.boundary_facets.items() for facet in f.tolist()
    }
    assert found == slow_boundary(mesh)
    size = torch.tensor(shape, dtype=torch.float64)
    outside = ((mesh.pos == 0) | (mesh.pos == size)).any(1)
    assert torch.equal(mesh.boundary_nodes, torch.nonzero(outside).flatten())
    assert mesh.num_components == 1
    assert len(mesh.orphan_nodes) == 0


def test_square_with_a_hole():
    full = grid("quad", (3, 3))
    keep = torch.arange(9) != 4
    mesh = Mesh.from_arrays(full.pos, {"quad": full.cells["quad"][keep]})
    assert len(mesh.boundary_facets["line"]) == 12 + 4
    assert len(mesh.boundary_nodes) == 16
    hole = torch.tensor([5, 6, 9, 10])
    normal = mesh.boundary_normals[torch.searchsorted(mesh.boundary_nodes, hole)]
    inward = mesh.pos.new_tensor([1.5, 1.5]) - mesh.pos[hole]  # out of the material is into the hole
    assert ((normal * inward).sum(1) > 0.7).all()


def test_components_orphans_and_order():
    """Two triangles that share an edge, one alone with smaller node numbers, two orphan nodes."""
    pos = np.random.default_rng(0).uniform(size=(9, 2))
    mesh = Mesh.from_arrays(pos, {"triangle": [[1, 2, 3], [4, 5, 6], [5, 6, 8]]})
    assert mesh.component.tolist() == [-1, 1, 1, 1, 0, 0, 0, -1, 0]
    assert mesh.num_components == 2
    assert mesh.orphan_nodes.tolist() == [0, 7]
    assert mesh.node_volume[[0, 7]].tolist() == [0, 0]


def test_equal_components_are_ordered_by_their_first_node():
    mesh = Mesh.from_arrays(np.zeros((4, 2)), {"line": [[2, 3], [1, 0]]})
    assert mesh.component.tolist() == [0, 0, 1, 1]


def test_cells_that_touch_in_a_node_are_one_component():
    mesh = Mesh.from_arrays([[0, 0], [1, 0], [0, 1], [2, 0], [2, 1]], {"triangle": [[0, 1, 2], [1, 3, 4]]})
    assert mesh.num_components == 1


def test_mixed_solids_meet():
    """A hexahedron with a pyramid on top and a wedge beside it share faces of one kind."""
    cube = single("hexahedron").pos.tolist()
    pos = [*cube, [0.5, 0.5, 2.0], [2, 0, 0], [2, 1, 0]]
    mesh = Mesh.from_arrays(
        pos,
        {
            "hexahedron": [list(range(8))],
            "pyramid": [[4, 5, 6, 7, 8]],
            "wedge": [[1, 5, 9, 2, 6, 10]],
            "line": [[0, 1]],
        },
    )
    assert {k: len(f) for k, f in mesh.boundary_facets.items()} == {"quad": 4 + 2, "triangle": 4 + 2}
    assert mesh.total_measure == pytest.approx(1 + 1 / 3 + 0.5)
    assert mesh.topological_dim == 3


def test_quadratic_facet_meets_linear_one():
    quadratic = single("tetra10")
    pos = [*quadratic.pos.tolist(), [0, 0, -1]]
    mesh = Mesh.from_arrays(pos, {"tetra10": quadratic.cells["tetra10"], "tetra": [[0, 2, 1, 10]]})
    assert {k: len(f) for k, f in mesh.boundary_facets.items()} == {"triangle6": 3, "triangle": 3}


def test_collapsed_cells():
    """A hexahedron with one edge collapsed is a wedge: two of its quadrilaterals are triangles, one is gone."""
    pos = single("wedge").pos.tolist()
    mesh = Mesh.from_arrays(pos, {"hexahedron": [[0, 1, 2, 2, 3, 4, 5, 5]], "wedge": [[3, 4, 5, 3, 4, 5]]})
    edges = mesh.edge_index
    assert (edges[0] != edges[1]).all()
    alone = Mesh.from_arrays(pos, {"hexahedron": [[0, 1, 2, 2, 3, 4, 5, 5]]})
    assert len(alone.boundary_facets["quad"]) == 5
    assert alone.total_measure == pytest.approx(0.5)


def test_matching_works_beyond_64_bit_keys():
    key = np.array([[0, 1, 2, 3], [10**6, 2 * 10**6, 3 * 10**6, 3 * 10**6 + 1], [0, 1, 2, 3], [0, 1, 2, 4]])
    assert _alone(key, 4 * 10**6, 3).tolist() == [False, True, False, True]


def test_unknown_kind_is_kept_and_named():
    mesh = Mesh.from_arrays(np.zeros((7, 3)), {"triangle7": [list(range(7))]})
    assert mesh.cells["triangle7"].shape == (1, 7)
    with pytest.raises(MeshError, match=r"'triangle7' can be kept but not computed with"):
        _ = mesh.edge_index


@pytest.mark.parametrize("base", [7, 3_000_000, 10**12])
@pytest.mark.parametrize("empty", [False, True])
def test_distinct_rows_are_what_numpy_finds(base, empty):
    rows = np.random.default_rng(0).integers(0, 3, (200, 4)) * (base // 3)
    if empty:
        rows[:, 3] = base
    found, times = distinct_rows(rows, base)
    expected, counts = np.unique(rows, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(times, counts)
    assert len(distinct_rows(rows[:0], base)[0]) == 0
