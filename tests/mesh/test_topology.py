"""Holes, handles, cavities, neighbours: against shapes whose numbers are known and against plain loops."""

import itertools

import numpy as np
import pytest
import torch
from mesh.meshes import grid

from flare_connect.mesh import Mesh
from flare_connect.mesh.connectivity import kind_of
from flare_connect.mesh.topology import boundary_component, dual_edges, topology


def numpy_cells(mesh):
    return {kind: nodes.numpy() for kind, nodes in mesh.cells.items()}


def without(mesh, drop):
    """A structured mesh of one kind with some cells taken out."""
    ((kind, nodes),) = mesh.cells.items()
    keep = [i for i in range(len(nodes)) if i not in drop]
    return Mesh.from_arrays(mesh.pos, {kind: nodes[keep]})


def of(mesh, pairs=None):
    return topology(numpy_cells(mesh), mesh.num_nodes, pairs)


@pytest.mark.parametrize("kind", ["triangle", "quad", "triangle6", "quad8", "quad9"])
def test_a_square_has_one_part_and_nothing_else(kind):
    found = of(grid(kind, (3, 4)))
    assert (found.betti, found.euler, found.genus, found.num_boundary_components) == ((1, 0, 0), 1, 0, 1)


@pytest.mark.parametrize("kind", ["tetra", "hexahedron", "wedge", "tetra10", "hexahedron20", "hexahedron27", "wedge15"])
def test_a_box_has_one_part_and_nothing_else(kind):
    found = of(grid(kind, (2, 3, 2)))
    assert (found.betti, found.euler, found.genus, found.num_boundary_components) == ((1, 0, 0), 1, 0, 1)


def test_holes_of_a_plate():
    plate = without(grid("quad", (7, 5)), {8, 18, 26})
    assert of(plate).betti == (1, 3, 0)
    assert of(plate).num_boundary_components == 4
    assert of(plate).genus == 0


def test_cavities_and_handles_of_a_solid():
    block = grid("hexahedron", (3, 3, 3))
    assert of(without(block, {13})).betti == (1, 0, 1)  # the middle cell: a cavity
    drilled = of(without(block, {4, 13, 22}))  # through and through: a handle
    assert (drilled.betti, drilled.genus) == ((1, 1, 0), 1)
    crossed = of(without(block, {4, 13, 22, 10, 16}))  # two channels that cross in the middle
    assert (crossed.betti, crossed.genus) == ((1, 3, 0), 3)


def test_a_sphere_a_torus_and_a_moebius_band():
    block = grid("hexahedron", (2, 2, 2))
    skin = Mesh.from_arrays(block.pos, {"quad": block.boundary_facets["quad"]})
    assert (of(skin).betti, of(skin).genus) == ((1, 0, 1), 0)
    ring = without(grid("hexahedron", (3, 3, 1)), {4})
    torus = Mesh.from_arrays(ring.pos, {"quad": ring.boundary_facets["quad"]})
    assert (of(torus).betti, of(torus).genus) == ((1, 2, 1), 1)
    n = 7
    band = [[i, (i + 1) % n, n + (i + 1) % n, n + i] for i in range(n - 1)] + [[n - 1, n, 0, 2 * n - 1]]
    moebius = Mesh.from_arrays(torch.randn(2 * n, 3), {"quad": band})
    assert of(moebius).betti == (1, 1, 0)
    assert of(moebius).num_boundary_components == 1


def test_gluing_the_sides_of_a_perforated_cell_makes_a_torus_with_holes():
    cell = without(grid("quad", (6, 6)), {14, 22})
    at = {tuple(p): i for i, p in enumerate(cell.pos.round().int().tolist())}
    pairs = [(at[0, j], at[6, j]) for j in range(7)] + [(at[i, 0], at[i, 6]) for i in range(7)]
    found = of(cell, np.array(pairs).T)
    assert found.euler == -2
    assert (found.betti, found.genus, found.num_boundary_components) == ((1, 3, 0), 1, 2)


def test_periodic_solids_are_counted_as_they_are():
    block = without(grid("hexahedron", (3, 3, 3)), {13})
    at = {tuple(p): i for i, p in enumerate(block.pos.round().int().tolist())}
    pairs = np.array([(at[0, j, k], at[3, j, k]) for j in range(4) for k in range(4)]).T
    assert of(block, pairs) == of(block)
    assert of(block, pairs).betti == (1, 0, 1)


def test_two_parts_and_lines():
    two = Mesh.from_arrays([[0, 0], [1, 0], [0, 1], [5, 5], [6, 5], [5, 6]], {"triangle": [[0, 1, 2], [3, 4, 5]]})
    assert of(two).betti == (2, 0, 0)
    loop = Mesh.from_arrays([[0, 0], [1, 0], [0, 1]], {"line": [[0, 1], [1, 2], [2, 0]]})
    assert (of(loop).betti, of(loop).euler) == ((1, 1, 0), 0)


def test_mixed_kinds_count_as_one_mesh():
    square = Mesh.from_arrays(
        [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]],
        {"quad": [[0, 1, 4, 3]], "triangle": [[1, 2, 5], [1, 5, 4]], "line": [[0, 1]]},
    )
    assert of(square).betti == (1, 0, 0)
    assert dual_edges(numpy_cells(square), 6).T.tolist() == [[0, 2], [1, 2]]


@pytest.mark.parametrize("kind", ["triangle", "quad9", "tetra10", "hexahedron", "wedge"])
def test_dual_edges_against_a_plain_loop(kind):
    mesh = grid(kind, (3, 2, 2) if kind_of(kind).dim == 3 else (4, 3))
    ((_, nodes),) = mesh.cells.items()
    facets = [{frozenset(int(cell[i]) for i in local) for _, local in kind_of(kind).facets} for cell in nodes]
    expected = [[a, b] for a, b in itertools.combinations(range(len(nodes)), 2) if facets[a] & facets[b]]
    assert dual_edges(numpy_cells(mesh), mesh.num_nodes).T.tolist() == expected


def test_each_hole_is_a_boundary_component_and_the_skin_comes_first():
    plate = without(grid("triangle6", (7, 5)), {16, 17, 36, 37})
    label = torch.from_numpy(boundary_component(plate._arrays().boundary, plate.pos.numpy()))
    assert label.max() == 2
    assert torch.equal((label >= 0).nonzero().squeeze(1), plate.boundary_nodes)
    outer = ((plate.pos == 0) | (plate.pos == plate.pos.amax(0))).any(1)
    assert torch.equal(label == 0, outer)
    order = torch.randperm(plate.num_nodes)
    inverse = torch.argsort(order)
    shuffled = Mesh.from_arrays(plate.pos[order], {kind: inverse[nodes] for kind, nodes in plate.cells.items()})
    found = torch.from_numpy(boundary_component(shuffled._arrays().boundary, shuffled.pos.numpy()))
    assert torch.equal(found == 0, (label == 0)[order])
    assert torch.equal(found >= 0, (label >= 0)[order])
