"""Ligaments, strips, periodic partners and clusters: known widths, plain loops, and what does not match."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh
from flare_connect.mesh.distances import anchors, clusters, geodesic_distance
from flare_connect.mesh.periodic import find_periodic_pairs
from flare_connect.mesh.thinness import component_distances, local_thickness


def two_holes():
    """A plate of 12 × 5 unit squares with holes of 2 × 1 at the left and right of a ligament of 2."""
    mesh = grid("quad", (12, 5))
    centres = mesh.pos[mesh.cells["quad"]].mean(1)
    in_hole = (centres[:, 1].sub(2.5).abs() < 0.6) & ((centres[:, 0] - 6).abs() > 1) & ((centres[:, 0] - 6).abs() < 3)
    return Mesh.from_arrays(mesh.pos, {"quad": mesh.cells["quad"][~in_hole]})


def test_distances_to_the_two_nearest_boundaries():
    mesh = two_holes()
    assert int(mesh.boundary_component.max()) == 2
    distance, which = component_distances(mesh, 4)
    label = mesh.boundary_component
    for part in range(3):
        every = geodesic_distance(mesh, (label == part).nonzero().squeeze(1)).amin(0)
        found = torch.where(which == part, distance, 0.0).sum(1)
        # The shortest of all straight rays from the part's nodes. Before a straight side both are exact; round the
        # corner of a hole a plane front is late, and where two fronts meet early, by a share of an element of size 1.
        assert (found - every)[(which == part).any(1)].abs().max() < 0.5
    assert (distance[:, 0] <= distance[:, 1]).all()
    assert torch.isinf(distance[:, 3]).all()
    assert (which[:, 3] == -1).all()
    middle = int((mesh.pos - torch.tensor([6.0, 2.0])).norm(dim=1).argmin())
    assert distance[middle, :2].tolist() == [1.0, 1.0]
    assert set(which[middle, :2].tolist()) == {1, 2}


def plain_thickness(mesh):
    """Largest diameter of all balls that reach a node, by all pairs of nodes."""
    boundary = (mesh.boundary_component >= 0).nonzero().squeeze(1)
    between = geodesic_distance(mesh, torch.arange(mesh.num_nodes))
    depth = between[boundary].amin(0)
    source, target = mesh.edge_index
    length = (mesh.pos[source] - mesh.pos[target]).norm(dim=1)
    longest = torch.zeros(mesh.num_nodes).double().scatter_reduce(0, source, length, "amax")
    reached = between <= (depth + longest)[:, None]
    return torch.where(reached, 2 * depth[:, None], 0.0).amax(0)


def test_thickness_of_a_strip_is_its_width_everywhere():
    strip = grid("quad", (20, 4))
    assert (local_thickness(strip)[strip.pos[:, 0].sub(10).abs() < 7] == 4).all()
    bar = Mesh.from_arrays(0.5 * strip.pos, strip.cells)
    torch.testing.assert_close(local_thickness(bar), 0.5 * local_thickness(strip))


def test_thickness_is_at_most_that_of_all_balls_and_finds_the_thin_places():
    mesh = plate(18)
    found, every = local_thickness(mesh), plain_thickness(mesh)
    assert (found <= every.clamp_min(1e-9) + 0.1).all()
    assert float((found - every).abs().median()) < 0.06  # an edge of this mesh
    ligament = two_holes()
    middle = int((ligament.pos - torch.tensor([6.0, 2.0])).norm(dim=1).argmin())
    corner = int((ligament.pos - torch.tensor([1.0, 1.0])).norm(dim=1).argmin())
    assert local_thickness(ligament)[middle] <= local_thickness(ligament)[corner] + 2
    one_element = grid("quad", (8, 1))
    assert (local_thickness(one_element) == 1).all()


def test_glued_sides_are_no_boundary():
    square = grid("quad", (9, 9))
    hole = (square.pos[square.cells["quad"]].mean(1) - 4.5).abs().amax(1) < 1
    cell = Mesh.from_arrays(square.pos, {"quad": square.cells["quad"][~hole]})
    torus = Mesh.from_arrays(cell.pos, cell.cells, periodic_pairs=find_periodic_pairs(cell))
    assert int(cell.boundary_component.max()) == 1
    assert int(torus.boundary_component.max()) == 0
    assert torus.topology.num_boundary_components == 1
    at_hole = (torus.pos - 4.5).abs().amax(1) == 0.5
    assert torch.equal(torus.boundary_component == 0, at_hole)
    assert local_thickness(torus).max() > local_thickness(cell).max()


def test_a_closed_surface_has_no_thickness():
    block = grid("hexahedron", (2, 2, 2))
    skin = Mesh.from_arrays(block.pos, {"quad": block.boundary_facets["quad"]})
    assert torch.isinf(local_thickness(skin)).all()
    assert torch.isinf(component_distances(skin, 1)[0]).all()


@pytest.mark.parametrize("kind", ["triangle6", "quad"])
def test_periodic_pairs_of_a_square(kind):
    mesh = grid(kind, (3, 4))
    order = torch.randperm(mesh.num_nodes)
    inverse = torch.argsort(order)
    mesh = Mesh.from_arrays(mesh.pos[order], {kind: inverse[mesh.cells[kind]]})
    low, high = find_periodic_pairs(mesh)
    jump = mesh.pos[high] - mesh.pos[low]
    across = jump[:, 0] > 0
    size = mesh.pos.amax(0)
    assert torch.equal(jump[across], torch.stack([size[0], size[1] * 0]).expand(int(across.sum()), 2))
    assert torch.equal(jump[~across], torch.stack([size[0] * 0, size[1]]).expand(int((~across).sum()), 2))
    assert int(across.sum()) == int((mesh.pos[:, 0] == 0).sum())
    assert int((~across).sum()) == int((mesh.pos[:, 1] == 0).sum())


def test_sides_that_do_not_match_are_left_out_or_named():
    mesh = grid("quad", (3, 4))
    pos = mesh.pos.clone()
    moved = int(((pos - torch.tensor([3.0, 2.0])).norm(dim=1)).argmin())
    pos[moved, 1] += 0.1
    bent = Mesh.from_arrays(pos, mesh.cells)
    found = find_periodic_pairs(bent)
    assert (bent.pos[found[1]] - bent.pos[found[0]])[:, 0].abs().max() == 0
    with pytest.raises(MeshError, match=r"the sides along axis 0 do not match: node .* has no partner within"):
        find_periodic_pairs(bent, axes=[0])
    with pytest.raises(MeshError, match="`axes` must be between 0 and 1, got 2"):
        find_periodic_pairs(bent, axes=[2])
    assert find_periodic_pairs(plate(5), tolerance=1e-9).shape[0] == 2


def test_clusters_are_connected_and_nearest():
    mesh = plate(15)
    found, _ = anchors(mesh, 7)
    label = clusters(mesh, found)
    distance = geodesic_distance(mesh, found, through="edges")
    torch.testing.assert_close(distance[label, torch.arange(mesh.num_nodes)], distance.amin(0))
    assert torch.equal(label[found], torch.arange(7))
    source, target = mesh.edge_index
    inside = label[source] == label[target]
    for number in range(7):  # walk from the anchor inside the cluster: all of it must be reached
        reached = torch.zeros(mesh.num_nodes, dtype=torch.bool)
        reached[found[number]] = True
        for _ in range(mesh.num_nodes):
            grown = reached.clone()
            grown[target[inside & reached[source]]] = True
            if torch.equal(grown, reached):
                break
            reached = grown
        assert torch.equal(reached, label == number)


def test_clusters_stop_where_the_mesh_does():
    two = Mesh.from_arrays([[0, 0], [1, 0], [0, 1], [3, 3], [4, 3], [3, 5]], {"triangle": [[0, 1, 2], [3, 4, 5]]})
    assert clusters(two, torch.tensor([1])).tolist() == [0, 0, 0, -1, -1, -1]
    np.testing.assert_array_equal(clusters(two, torch.tensor([1, 4])).numpy(), [0, 0, 0, 1, 1, 1])
