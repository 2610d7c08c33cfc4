"""Defects put into sound meshes are found where they were put; mends keep all that hangs on nodes and cells."""

import json

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid

from flare_connect.mesh import Mesh, NamedSet, find_defects, merge_duplicate_nodes, remove_orphans


@pytest.mark.parametrize("kind", ["triangle", "quad8", "tetra", "tetra10", "hexahedron", "wedge", "hexahedron27"])
def test_a_sound_mesh_has_none(kind):
    mesh = grid(kind, (3, 2) if kind in ("triangle", "quad8") else (2, 2, 2))
    assert not find_defects(mesh)


def test_each_defect_is_found_where_it_is():
    mesh = grid("tetra", (2, 2, 2))
    cells = mesh.cells["tetra"].clone()
    cells[5] = cells[5][[1, 0, 2, 3]]
    flat = torch.tensor([[0, 1, 2, 2]])
    count = mesh.num_nodes
    pos = torch.cat([mesh.pos, mesh.pos[:1] + 1e-12, torch.tensor([[9.0, 9.0, 9.0]])])
    cells[0][cells[0] == 0] = count  # a node of its own, in the place of node 0
    cells = torch.cat([cells, cells[3:4].roll(1, dims=1), flat])
    broken = Mesh.from_arrays(pos, {"triangle": [[0, 1, 4]], "tetra": cells})
    found = find_defects(broken)
    offset = 1  # the triangle comes first
    # rolling the four nodes of a tetrahedron by one is an odd permutation: it is inverted, too
    assert found.inverted_cells.tolist() == [offset + 5, offset + len(cells) - 2]
    assert found.flat_cells.tolist() == [offset + len(cells) - 1]
    assert found.repeating_cells.tolist() == [offset + len(cells) - 1]
    assert found.duplicate_cells.tolist() == [offset + len(cells) - 2]
    assert found.orphan_nodes.tolist() == [count + 1]
    assert found.duplicate_nodes.tolist() == [[0], [count]]
    assert found.crowded_facets > 0
    assert found
    told = broken.summary()["defects"]
    assert told["inverted cells"] == {"count": 2, "first": [offset + 5, offset + len(cells) - 2]}
    assert told["duplicate nodes"] == {"count": 1, "first": [[0, count]]}
    assert told["crowded facets"] == found.crowded_facets
    assert json.dumps(told)


def test_surfaces_in_space_are_not_inverted_but_may_be_flat():
    mesh = Mesh.from_arrays(
        [[0, 0, 0], [1, 0, 0], [0, 1, 1], [2, 0, 0]], {"triangle": [[0, 2, 1], [0, 1, 3]], "line": [[1, 1]]}
    )
    found = find_defects(mesh)
    assert found.inverted_cells.tolist() == []
    assert found.flat_cells.tolist() == [1, 2]


def separate(mesh):
    """Every cell with nodes of its own, as STL has it."""
    ((kind, cells),) = mesh.cells.items()
    flat = cells.reshape(-1)
    own = torch.arange(len(flat)).reshape(cells.shape)
    return Mesh.from_arrays(
        mesh.pos[flat],
        {kind: own},
        point_data={name: values[flat] for name, values in mesh.point_data.items()},
        cell_data={"number": {kind: torch.arange(len(cells))}},
        sets={
            "low": torch.nonzero(mesh.pos[flat, 0] == 0).flatten(),
            "some": NamedSet("cell", torch.tensor([1, 4])),
            "sides": NamedSet("facet", own[:2, :2]),
        },
    )


def test_merging_joins_what_stl_takes_apart():
    mesh = plate(6, hole=True)
    apart = separate(mesh)
    assert apart.num_components == mesh.num_cells
    merged, number = merge_duplicate_nodes(apart)
    assert merged.num_nodes == int((mesh.component >= 0).sum())
    assert merged.topology == mesh.topology
    assert torch.equal(merged.pos[number], apart.pos)
    assert torch.equal(merged.cells["triangle"], number[apart.cells["triangle"]])
    for name, values in apart.point_data.items():
        assert torch.equal(merged.point_data[name][number], values)
    assert torch.equal(merged.cell_data["number"]["triangle"], torch.arange(mesh.num_cells))
    assert (merged.pos[merged.set_nodes("low"), 0] == 0).all()
    assert len(merged.set_nodes("low")) == 7
    assert merged.sets["some"].ids.tolist() == [1, 4]
    assert torch.equal(merged.sets["sides"].ids, number[apart.sets["sides"].ids])


def test_merging_drops_cells_that_collapse_and_warns_of_fields_that_differ():
    mesh = Mesh.from_arrays(
        [[0, 0], [1, 0], [0, 1], [1, 1e-12], [2, 0]],
        {"line": [[1, 3]], "triangle": [[0, 1, 2], [1, 4, 3], [1, 4, 2]]},
        point_data={"u": [0.0, 1.0, 2.0, 5.0, 4.0]},
        cell_data={"c": {"triangle": [1.0, 2.0, 3.0]}},
        sets={"cells": NamedSet("cell", torch.tensor([0, 2, 3]))},
        periodic_pairs=[[0, 1], [4, 3]],
    )
    with pytest.warns(UserWarning, match="fields 'u' differ between nodes in one place; the first node's are kept"):
        merged, number = merge_duplicate_nodes(mesh)
    assert number.tolist() == [0, 1, 2, 1, 3]
    assert merged.point_data["u"].tolist() == [0, 1, 2, 4]
    assert {kind: nodes.tolist() for kind, nodes in merged.cells.items()} == {"triangle": [[0, 1, 2], [1, 3, 2]]}
    assert merged.cell_data["c"]["triangle"].tolist() == [1, 3]
    assert merged.sets["cells"].ids.tolist() == [1]
    assert merged.periodic_pairs.tolist() == [[0], [3]]


def test_a_hexahedron_that_is_a_wedge_stays():
    hexahedron = grid("hexahedron", (1, 1, 1))
    pos = hexahedron.pos.clone()
    a, b = hexahedron.cells["hexahedron"][0, [3, 7]]
    pos[a], pos[b] = pos[hexahedron.cells["hexahedron"][0, 2]], pos[hexahedron.cells["hexahedron"][0, 6]]
    merged, _ = merge_duplicate_nodes(Mesh.from_arrays(pos, hexahedron.cells))
    assert merged.num_nodes == 6
    assert merged.total_measure == pytest.approx(0.5)


def test_tolerance_is_relative_to_the_mesh():
    near = Mesh.from_arrays(np.array([[0, 0], [1, 0], [0, 1], [1e-7, 0]]) * 1e6, {"triangle": [[0, 1, 2], [3, 1, 2]]})
    assert merge_duplicate_nodes(near)[0].num_nodes == 4
    assert merge_duplicate_nodes(near, tolerance=1e-6)[0].num_nodes == 3


def test_orphans_are_no_part_of_the_graph_and_can_be_removed():
    mesh = Mesh.from_arrays(
        [[9, 9], [0, 0], [1, 0], [5, 5], [0, 1]],
        {"triangle": [[1, 2, 4]]},
        point_data={"u": torch.arange(5.0)},
        sets={"all": torch.arange(5)},
        periodic_pairs=[[1, 0], [2, 3]],
    )
    assert not torch.isin(mesh.edge_index, torch.tensor([0, 3])).any()
    small, number = remove_orphans(mesh)
    assert number.tolist() == [-1, 0, 1, -1, 2]
    assert small.point_data["u"].tolist() == [1, 2, 4]
    assert small.cells["triangle"].tolist() == [[0, 1, 2]]
    assert small.set_nodes("all").tolist() == [0, 1, 2]
    assert small.periodic_pairs.tolist() == [[0], [1]]
    assert len(small.orphan_nodes) == 0
