"""Pairs across slits and cracks, node by node; none where there is no void; and errors of jumps that are known."""

import math

import numpy as np
import pytest
import torch
from fixtures_meshes import plate as jittered
from mesh.meshes import grid
from metrics.plates import cracked, moved, plate, renumbered, ring, slit
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from flare_connect.errors import InputError
from flare_connect.mesh import Mesh, find_periodic_pairs
from flare_connect.mesh.topology import glued
from flare_connect.metrics import element_size, jump_error, jump_pairs
from flare_connect.metrics.across import candidates
from flare_connect.metrics.along import Lines, straight_way


def as_set(pairs):
    return {frozenset(pair) for pair in pairs.T.tolist()}


def by_all_pairs(mesh, radius, ratio=5.0, min_cells=6):
    """Every pair of boundary nodes by full searches along all edges; for triangles, none of them periodic."""
    first, second = mesh.edge_index.numpy()
    pos = mesh.pos.numpy()
    length = np.linalg.norm(pos[second] - pos[first], axis=1)
    graph = coo_matrix((length, (first, second)), shape=(len(pos), len(pos))).tocsr()
    way, steps = dijkstra(graph), dijkstra(graph, unweighted=True)
    straight = np.linalg.norm(pos[:, None] - pos[None], axis=2)
    boundary = mesh.boundary_component.numpy() >= 0
    good = (way >= ratio * straight) & (steps >= min_cells) & (straight <= radius) & boundary & boundary[:, None]
    straight = np.where(good, straight, np.inf)
    least = straight.min(1)
    mutual = good & (straight <= least * (1 + 1e-9)) & (straight <= least[:, None] * (1 + 1e-9))
    return {frozenset(pair) for pair in np.argwhere(mutual).tolist()}


def test_on_a_crack_the_pairs_are_its_doubled_nodes():
    mesh, lips = cracked(24, 16, 8, 4, 20)
    pairs = jump_pairs(mesh)
    # Six cells around a tip are three nodes from it; `lips` begin one node from it.
    assert as_set(pairs.nodes) == as_set(lips[:, 2:-2])
    assert len(pairs) == 11
    assert pairs.distance.eq(0).all()
    assert as_set(jump_pairs(mesh, min_cells=2).nodes) == as_set(lips)


def test_a_crack_with_a_mouth_has_pairs_up_to_it():
    mesh, lips = cracked(24, 16, 8, -1, 20)
    assert as_set(jump_pairs(mesh).nodes) == as_set(lips[:, :-2])


def test_on_a_slit_the_pairs_are_the_lips_that_face_each_other():
    mesh, lips = slit(24, 17, 8, 4, 20)
    pairs = jump_pairs(mesh)
    # The way round the end from its k-th node is 2 k + 1, at least 5 from the second and 6 cells from the third.
    assert as_set(pairs.nodes) == as_set(lips[:, 3:-3])
    assert pairs.distance.eq(1).all()
    assert as_set(jump_pairs(mesh, min_cells=5).nodes) == as_set(lips[:, 2:-2])
    assert as_set(jump_pairs(mesh, ratio=9.0).nodes) == as_set(lips[:, 4:-4])
    assert len(jump_pairs(mesh, radius=0.9)) == 0


def test_no_pairs_where_no_void_is_thin():
    convex, _ = plate(12, 2)
    hole = np.zeros((20, 20), dtype=bool)
    hole[8:12, 8:12] = True
    holed = plate(20, without=hole)[0]
    for mesh in (convex, holed, ring(0.6, 60, 8), ring(0.9, 80, 1), jittered(12), grid("quad", (9, 2))):
        assert len(jump_pairs(mesh)) == 0
        assert len(jump_pairs(mesh, radius=mesh.length_scale)) == 0  # across the hole the way is π/2 or 2 times as long
    for kind in ("tetra", "hexahedron"):
        assert len(jump_pairs(grid(kind, (5, 4, 2)))) == 0


def test_periodic_sides_are_no_void_and_a_void_that_they_cut_is_whole():
    mesh, node = plate(16)
    torus = Mesh.from_arrays(mesh.pos, mesh.cells, periodic_pairs=find_periodic_pairs(mesh))
    assert len(jump_pairs(torus)) == 0
    assert len(jump_pairs(torus, radius=7.0)) == 0
    # The top row is left out over columns 2 to 14: its void is at the bottom side's other face.
    without = np.zeros((16, 16), dtype=bool)
    without[2:14, 15] = True
    open_cell, _ = plate(16, without=without)
    lips = np.stack([node[2:15, 0], node[2:15, 15]])
    solid = [0, 1, 2, 14, 15, 16]
    below = np.stack([node[solid, 0], node[solid, 16]])
    beside = np.stack([node[0], node[16]])
    glued = Mesh.from_arrays(open_cell.pos, open_cell.cells, periodic_pairs=np.concatenate([below, beside], axis=1))
    pairs = jump_pairs(glued)
    assert as_set(pairs.nodes) == as_set(lips[:, 3:-3])
    assert pairs.distance.eq(1).all()
    assert len(jump_pairs(open_cell)) == 0
    # The same void around the corner of the cell, in x: its left half is at the right side.
    rolled = np.roll(without, 8, axis=0)
    shifted, _ = plate(16, without=rolled)
    solid = [6, 7, 8, 9, 10]
    below = np.stack([node[solid, 0], node[solid, 16]])
    beside = np.stack([node[0, :16], node[16, :16]])
    glued = Mesh.from_arrays(shifted.pos, shifted.cells, periodic_pairs=np.concatenate([below, beside], axis=1))
    place = [10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6]
    assert as_set(jump_pairs(glued).nodes) == as_set(np.stack([node[place, 0], node[place, 15]])[:, 3:-3])


def test_walks_go_across_periodic_sides():
    without = np.zeros((16, 16), dtype=bool)
    without[4:8, 0] = without[4:8, 15] = True  # one hole that the sides cut
    mesh, node = plate(16, without=without)
    pairs = find_periodic_pairs(mesh, axes=[0])
    solid = np.r_[0:5, 8:17]
    pairs = np.concatenate([pairs.numpy(), np.stack([node[solid, 0], node[solid, 16]])], axis=1)
    mesh = Mesh.from_arrays(mesh.pos, mesh.cells, periodic_pairs=pairs)
    glue = glued(pairs, mesh.num_nodes)
    found, vector = candidates(mesh, glue, 1.5)
    assert (np.abs(mesh.pos.numpy()[found[1]] - mesh.pos.numpy()[found[0]]) > 8).any()  # some by their images
    way, count = straight_way(Lines.of(mesh, glue), found, vector)
    straight = np.linalg.norm(vector, axis=1)
    assert straight.max() <= 1.5
    assert (way >= straight * (1 - 1e-12)).all()
    assert (way <= 2 * straight).all()
    assert (count <= 2).all()


def test_parts_that_are_not_connected():
    left, node = plate(6)
    gap = 2.5
    pos = torch.cat([left.pos, left.pos + torch.tensor([6 + gap, 0.0])])
    two = Mesh.from_arrays(pos, {"triangle": torch.cat([left.cells["triangle"], left.cells["triangle"] + 49])})
    pairs = jump_pairs(two)
    assert as_set(pairs.nodes) == as_set(np.stack([node[6], node[0] + 49]))
    assert pairs.distance.eq(gap).all()
    assert len(jump_pairs(two, radius=2.4)) == 0


def test_a_folded_sheet_has_pairs_between_its_sides_and_a_flat_one_in_space_is_a_plate():
    for flat, _ in (slit(24, 17, 8, 4, 20), cracked(24, 16, 8, 4, 20)):
        sheet = Mesh.from_arrays(torch.nn.functional.pad(flat.pos, (0, 1)), flat.cells)
        for min_cells in (6, 9):
            assert as_set(jump_pairs(sheet, min_cells=min_cells).nodes) == as_set(
                jump_pairs(flat, min_cells=min_cells).nodes
            )
    strip, node = plate(41, 3)
    x, y = strip.pos.T
    fold = torch.stack([torch.where(x <= 20, x, 41 - x), y, (x - 20).clamp(0, 1)], 1)  # one element high at x = 20
    pairs = jump_pairs(Mesh.from_arrays(fold, strip.cells))
    assert as_set(pairs.nodes) == as_set(np.stack([node[:18], node[41:23:-1]]).reshape(2, -1))


def test_a_cracked_solid_and_quadratic_cells():
    block = grid("hexahedron", (9, 3, 4))
    pos, cells = block.pos.numpy(), block.cells["hexahedron"].numpy().copy()
    old = np.flatnonzero((pos[:, 2] == 2) & (pos[:, 0] < 8))
    rename = np.arange(len(pos))
    rename[old] = len(pos) + np.arange(len(old))
    above = pos[cells].mean(1)[:, 2] > 2
    cells[above] = rename[cells[above]]
    mesh = Mesh.from_arrays(np.concatenate([pos, pos[old]]), {"hexahedron": cells})
    wanted = np.stack([old, rename[old]])[:, pos[old, 0] <= 5]
    assert as_set(jump_pairs(mesh).nodes) == as_set(wanted)
    for kind in ("triangle6", "quad9", "quad8"):
        plane = grid(kind, (12, 5))
        cells = plane.cells[kind]
        centre = plane.pos[cells].mean(1)
        kept = (centre[:, 1] < 2) | (centre[:, 1] > 3) | (centre[:, 0] > 9)
        pairs = jump_pairs(Mesh.from_arrays(plane.pos, {kind: cells[kept]}))
        first, second = plane.pos[pairs.nodes]
        assert pairs.distance.eq(1).all()
        assert torch.equal(first[:, 0], second[:, 0])
        assert torch.equal(first[:, 0].sort().values, torch.arange(0, 6.6, 0.5).double())


def comb(seed):
    """A plate with slits of zero and of other widths from three sides, nodes out of line."""
    random = np.random.default_rng(seed)
    mesh, lips = cracked(18, 18, 9, 5, 19)
    pos, cells = mesh.pos.numpy().copy(), mesh.cells["triangle"].numpy()
    centre = pos[cells].mean(1)
    x, y = centre.T
    slits = [(np.abs(y - 4) < 1) & (x < 13), (np.abs(x - 6.5) < 0.5) & (y > 11), (np.abs(x - 14) < 2) & (y > 14)]
    inner = np.ones(len(pos), dtype=bool)
    inner[lips] = False
    pos[inner] += random.uniform(-0.25, 0.25, pos.shape)[inner]
    return Mesh.from_arrays(pos, {"triangle": cells[~np.any(slits, axis=0)]})


@pytest.mark.parametrize("seed", range(6))
def test_the_same_pairs_as_by_searching_all(seed):
    mesh = comb(seed)
    radius = 4 * element_size(mesh)
    wanted = by_all_pairs(mesh, radius)
    assert len(wanted) > 15
    assert as_set(jump_pairs(mesh).nodes) == wanted
    for ratio, min_cells, times in ((2.0, 2, 1.0), (3.0, 10, 1.7), (1.2, 20, 1.5)):
        found = jump_pairs(mesh, radius=times * radius, ratio=ratio, min_cells=min_cells)
        assert as_set(found.nodes) == by_all_pairs(mesh, times * radius, ratio, min_cells)


def test_numbering_size_and_place_do_not_matter():
    mesh = comb(0)
    pairs = jump_pairs(mesh)
    other, number = renumbered(mesh)
    assert as_set(number[pairs.nodes]) == as_set(jump_pairs(other).nodes)
    large = jump_pairs(moved(mesh, 1e4, -7.0, 0.5))
    assert as_set(large.nodes) == as_set(pairs.nodes)
    torch.testing.assert_close(large.distance.sort().values, 1e4 * pairs.distance.sort().values, rtol=1e-9, atol=1e-7)


def test_the_truth_has_no_error_and_what_is_continuous_in_space_has_one():
    mesh, lips = cracked(24, 16, 8, 4, 20)
    pairs = jump_pairs(mesh)
    truth = torch.randn(mesh.num_nodes).double()
    smoothed = truth.clone()
    smoothed[lips] = truth[lips].mean(0)
    for trim in (0.0, 0.05):
        assert jump_error(pairs, truth, truth, trim) == 0.0
        assert jump_error(pairs, smoothed, truth, trim) == 1.0
        assert jump_error(pairs, mesh.pos.sin().sum(1), truth, trim) == 1.0  # whatever it is
        assert jump_error(pairs, 0.25 * truth, truth, trim) == pytest.approx(0.75)
        assert jump_error(pairs, -truth, truth, trim) == pytest.approx(2.0)
        assert jump_error(pairs, truth + 1e3, truth, trim) < 1e-12  # only differences count


def test_differences_by_hand_and_what_is_trimmed():
    mesh, lips = cracked(24, 16, 8, 4, 20)
    pairs = jump_pairs(mesh)
    low, high = lips[:, 2:-2]
    truth, prediction = torch.zeros(2, mesh.num_nodes).double()
    truth[high], prediction[high] = 3.0, 3.0
    truth[high[0]], prediction[high[0]] = 100.0, 0.0
    assert jump_error(pairs, prediction, truth, 0.0) == pytest.approx(100 / math.sqrt(100**2 + 10 * 9))
    # One node in a thousand is the largest, and its pair is left out.
    assert jump_error(pairs, prediction, truth, 0.001) == 0.0
    prediction[low[3:5]] = 2.0
    assert jump_error(pairs, prediction, truth, 0.001) == pytest.approx(math.sqrt(8 / 90))
    vector = torch.stack([truth, 0 * truth], 1)
    turned = torch.stack([0 * truth, truth], 1)
    assert jump_error(pairs, turned, vector, 0.0) == pytest.approx(math.sqrt(2))
    assert math.isnan(jump_error(pairs, prediction, truth, 0.99))


def test_the_error_converges_with_the_mesh():
    # The crack's own field, √r sin(θ/2), jumps by 2 √r; the model has (1 + r) / 2 of it.
    wanted = math.sqrt((1 / 2 - 2 / 3 + 1 / 4) / 4 / (1 / 2))  # √(∫ (1 − r)² / 4 · r dr / ∫ r dr)
    errors = []
    for n in (16, 32, 64):
        mesh, lips = cracked(2 * n, 2 * n, n, -1, n)
        mesh = moved(mesh, 1 / n, -1.0)
        x, y = mesh.pos.T
        angle = torch.atan2(y, x)
        angle[lips[0]], angle[lips[1]] = -math.pi, math.pi
        r = mesh.pos.norm(dim=1)
        truth = r.sqrt() * (angle / 2).sin()
        errors.append(abs(jump_error(jump_pairs(mesh), truth * (1 + r) / 2, truth, 0.0) - wanted))
    assert errors[2] < 0.01
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.7 * errors[1]


def test_no_pairs_no_error_and_no_jump():
    mesh, _ = plate(6)
    assert math.isnan(jump_error(jump_pairs(mesh), torch.ones(49), torch.ones(49)))
    mesh, _ = cracked(24, 16, 8, 4, 20)
    flat, pairs = torch.ones(mesh.num_nodes), jump_pairs(mesh)
    assert jump_error(pairs, flat, flat) == 0.0
    assert math.isinf(jump_error(pairs, torch.randn(mesh.num_nodes), flat))


def test_wrong_arguments_are_named():
    mesh, _ = plate(6)
    for settings, message in (
        ({"radius": 0.0}, "`radius` must be finite and above 0, got 0.0"),
        ({"radius": math.nan}, "`radius` must be finite and above 0, got nan"),
        ({"ratio": 1.0}, "`ratio` must be above 1, got 1.0"),
        ({"min_cells": 1}, "`min_cells` must be at least 2, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            jump_pairs(mesh, **settings)
    pairs = jump_pairs(mesh)
    with pytest.raises(InputError, match=r"`trim` must be at least 0 and below 1, got 1\.0"):
        jump_error(pairs, torch.ones(49), torch.ones(49), 1.0)
    with pytest.raises(InputError, match=r"truth has shape \[5\] but the mesh has 49 nodes"):
        jump_error(pairs, torch.ones(5), torch.ones(5))
