"""Laplacian, shortest paths, anchors and costs: analytic values, plain loops, invariances."""

import heapq

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from flare_connect.errors import MeshError
from flare_connect.mesh import (
    Mesh,
    clusters,
    component_distances,
    find_periodic_pairs,
    laplacian_modes,
    local_thickness,
    partition,
    solvers,
)
from flare_connect.mesh.connectivity import kind_of
from flare_connect.mesh.diffusion import diffusion_cost
from flare_connect.mesh.distances import _waves, anchors, geodesic_cost, geodesic_distance
from flare_connect.mesh.operators import laplacian
from flare_connect.mesh.solvers import solve_iterative

SOLIDS = ["tetra", "hexahedron", "wedge", "tetra10", "hexahedron20", "hexahedron27", "wedge15"]
PLANES = ["triangle", "quad", "triangle6", "quad8", "quad9"]


def matrix(mesh):
    return laplacian(mesh.pos.numpy(), {kind: nodes.numpy() for kind, nodes in mesh.cells.items()})


@pytest.mark.parametrize("kind", ["line", *PLANES, *SOLIDS])
def test_laplacian_of_linear_fields_is_exact_inside(kind):
    """Energy of a linear field is |slope|² times the measure, and it is harmonic at inner nodes."""
    dim = kind_of(kind).dim
    if dim == 1:
        mesh = Mesh.from_arrays([[0, 0], [1, 0], [3, 0]], {"line": [[0, 1], [1, 2]]})
    else:
        mesh = grid(kind, (3, 2, 2)[:dim])
    found = matrix(mesh)
    slope = np.array([1.0, -2.0, 0.5])[: mesh.dim] * (1 if dim > 1 else [1, 0])
    field = mesh.pos.numpy() @ slope + 3
    assert field @ found @ field == pytest.approx(slope @ slope * mesh.total_measure)
    inner = np.setdiff1d(np.arange(mesh.num_nodes), mesh.boundary_nodes.numpy())
    np.testing.assert_allclose((found @ field)[inner], 0, atol=1e-12)
    np.testing.assert_allclose(np.asarray(found.sum(1)), 0, atol=1e-12)
    assert abs(found - found.T).max() == 0
    assert np.linalg.eigvalsh(found.toarray()).min() > -1e-10


def test_laplacian_of_triangles_is_the_cotangent_formula():
    mesh = plate(5)
    expected = np.zeros((mesh.num_nodes, mesh.num_nodes))
    pos = mesh.pos.numpy()
    for cell in mesh.cells["triangle"].numpy():
        for i in range(3):
            a, b, c = cell[i], cell[(i + 1) % 3], cell[(i + 2) % 3]  # the angle at c is opposite to the edge ab
            u, v = pos[a] - pos[c], pos[b] - pos[c]
            weight = (u @ v) / abs(u[0] * v[1] - u[1] * v[0]) / 2
            expected[a, a] += weight
            expected[b, b] += weight
            expected[a, b] -= weight
            expected[b, a] -= weight
    np.testing.assert_allclose(matrix(mesh).toarray(), expected, atol=1e-12)


def test_laplacian_of_a_surface_in_space_does_not_depend_on_its_orientation():
    flat = plate(5)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    bent = Mesh.from_arrays(np.pad(flat.pos.numpy(), ((0, 0), (0, 1))) @ turn, flat.cells)
    np.testing.assert_allclose(matrix(bent).toarray(), matrix(flat).toarray(), atol=1e-12)


def plain_dijkstra(mesh, source):
    neighbours = {}
    pairs = [] if mesh.periodic_pairs is None else [*mesh.periodic_pairs.T.tolist()]
    for a, b in mesh.edge_index.T.tolist():
        neighbours.setdefault(a, []).append((b, float((mesh.pos[a] - mesh.pos[b]).norm())))
    for a, b in pairs:
        neighbours.setdefault(a, []).append((b, 0.0))
        neighbours.setdefault(b, []).append((a, 0.0))
    distance, heap = {}, [(0.0, source)]
    while heap:
        d, node = heapq.heappop(heap)
        if node not in distance:
            distance[node] = d
            for other, length in neighbours.get(node, []):
                heapq.heappush(heap, (d + length, other))
    return torch.tensor([distance.get(i, torch.inf) for i in range(mesh.num_nodes)]).double()


def periodic_square(n=6):
    mesh = grid("quad", (n, n))
    at = {tuple(p): i for i, p in enumerate(mesh.pos.int().tolist())}
    pairs = [(at[0, j], at[n, j]) for j in range(n + 1)] + [(at[i, 0], at[i, n]) for i in range(n + 1)]
    return Mesh.from_arrays(mesh.pos, mesh.cells, periodic_pairs=np.array(pairs).T), at


def test_geodesics_against_a_plain_loop_and_around_a_hole():
    mesh = plate(9)
    found = geodesic_distance(mesh, torch.tensor([0, 17]), through="edges")
    for row, source in zip(found, [0, 17], strict=True):
        torch.testing.assert_close(row, plain_dijkstra(mesh, source).double(), rtol=1e-6, atol=1e-6)
    straight = (mesh.pos - mesh.pos[17]).norm(dim=1)
    assert (found[1] >= straight - 1e-9).all()


def test_geodesics_cross_periodic_sides_and_no_void():
    mesh, at = periodic_square()
    cells = geodesic_distance(mesh, torch.tensor([at[1, 1]]))[0]
    assert float(cells[at[5, 1]]) == pytest.approx(2)  # through the side, not 4 across
    assert float(cells[at[5, 5]]) == pytest.approx(8**0.5)
    found = geodesic_distance(mesh, torch.tensor([at[1, 1]]), through="edges")[0]
    torch.testing.assert_close(found, plain_dijkstra(mesh, at[1, 1]).double(), rtol=1e-6, atol=1e-6)
    two = Mesh.from_arrays([[0, 0], [1, 0], [0, 1], [1.01, 0], [2, 0], [1.5, 1]], {"triangle": [[0, 1, 2], [3, 4, 5]]})
    assert torch.isinf(geodesic_distance(two, torch.tensor([0]))[0, 3:]).all()
    assert torch.isinf(diffusion_cost(two, torch.tensor([0, 4]))[3:, 0]).all()
    assert torch.isinf(geodesic_cost(two, torch.tensor([0]))[3:, 0]).all()


def test_anchors_are_nested_spread_and_reach_every_part():
    mesh = plate(12)
    eight, nearest = anchors(mesh, 8)
    three, _ = anchors(mesh, 3)
    assert torch.equal(eight[:3], three)
    assert len(set(eight.tolist())) == 8
    every = torch.stack([plain_dijkstra(mesh, int(a)).double() for a in eight])
    torch.testing.assert_close(nearest, every.amin(0), rtol=1e-6, atol=1e-6)
    for i in range(1, 8):  # each is the node farthest from those before it
        assert float(every[:i, eight[i]].amin()) == pytest.approx(float(every[:i].amin(0).max()), rel=1e-6)
    two = Mesh.from_arrays(
        [[0, 0], [9, 0], [0, 9], [20, 0], [20.1, 0], [20, 0.1], [5, 5]], {"triangle": [[0, 1, 2], [3, 4, 5]]}
    )
    found, nearest = anchors(two, 2)
    assert set(two.component[found].tolist()) == {0, 1}
    assert torch.isinf(nearest[6])  # an orphan is reached by nothing
    with pytest.raises(MeshError, match="between 1 and the mesh's 6 nodes in use, got 7"):
        anchors(two, 7)


def test_anchors_do_not_depend_on_numbering_place_or_orientation():
    mesh = plate(10, seed=3)
    found, _ = anchors(mesh, 6)
    order = torch.randperm(mesh.num_nodes)
    angle = torch.tensor(0.7).double()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    inverse = torch.argsort(order)
    other = Mesh.from_arrays(3 * mesh.pos[order] @ turn + 5, {"triangle": inverse[mesh.cells["triangle"]]})
    assert torch.equal(order[anchors(other, 6)[0]], found)


def test_diffusion_on_a_line_decays_as_the_exponential():
    """(−d²/dx² + κ) u = δ in the middle of a long line: c = √κ |x − a|, up to the grid's own dispersion."""
    n, kappa = 801, 900.0
    x = np.linspace(0, 1, n)
    line = Mesh.from_arrays(np.stack([x, 0 * x], 1), {"line": np.stack([np.arange(n - 1), np.arange(1, n)], 1)})
    found = diffusion_cost(line, torch.tensor([n // 2]), scales=(kappa,))[:, 0, 0]
    away = torch.from_numpy(np.abs(x - 0.5))
    near = away < 0.4  # the ends reflect
    spot = np.sqrt(kappa) * 0.03  # the mean of exp(−√κ |x|) over |x| < 0.03 is where costs begin
    expected = (np.sqrt(kappa) * away + np.log((1 - np.exp(-spot)) / spot)).clamp_min(0)
    torch.testing.assert_close(found[near], expected[near], rtol=2e-3, atol=1e-3)


def test_diffusion_goes_round_the_hole_and_through_periodic_sides():
    mesh = plate(12)
    left = int((mesh.pos - torch.tensor([0.3, 0.5])).norm(dim=1).argmin())
    across = int((mesh.pos - torch.tensor([0.7, 0.5])).norm(dim=1).argmin())
    beside = int((mesh.pos - torch.tensor([0.3, 0.9])).norm(dim=1).argmin())  # as far, with nothing between
    cost = diffusion_cost(mesh, torch.tensor([left]), scales=(1.0, 60.0))[:, 0]
    assert (cost[left] == 0).all()
    assert (cost >= 0).all()
    assert (cost[across] > cost[beside]).all()
    torus, at = periodic_square()
    cost = diffusion_cost(torus, torch.tensor([at[1, 1]]))[:, 0]
    assert float(cost[at[0, 3], 1]) == pytest.approx(float(cost[at[6, 3], 1]))
    torch.testing.assert_close(cost[at[5, 1]], cost[at[3, 1]])


def test_diffusion_solves_its_equation_and_scales_with_the_mesh():
    mesh = plate(24)
    nodes = torch.tensor([3, 20])
    found = diffusion_cost(mesh, nodes, scales=(5.0,))[:, :, 0].numpy()
    system = matrix(mesh).toarray() + np.diag(mesh.node_volume.numpy()) * 5.0 / mesh.length_scale**2
    for column, node in zip(found.T, nodes.tolist(), strict=True):
        exact = np.linalg.solve(system, np.eye(mesh.num_nodes)[node])
        left, total = np.pi * (0.03 * mesh.length_scale) ** 2, 0.0
        spot = left
        for i in np.argsort(-exact):  # the mean over the spot, node by node
            part = min(left, float(mesh.node_volume[i]))
            total, left = total + part * exact[i], left - part
        np.testing.assert_allclose(np.exp(-column), np.minimum(exact / (total / spot), 1), rtol=1e-9)
    larger = Mesh.from_arrays(7 * mesh.pos, mesh.cells)
    torch.testing.assert_close(diffusion_cost(larger, nodes, scales=(5.0,))[:, :, 0], torch.from_numpy(found))


@pytest.mark.parametrize("solver", ["polynomial", "multigrid"])
@pytest.mark.parametrize("case", ["solid", "torus", "parts"])
def test_the_iterative_solvers_agree_with_the_direct_one(case, solver, device):
    if solver == "multigrid":
        pytest.importorskip("pyamg")
    if case == "solid":
        mesh = grid("tetra", (12, 9, 8))
    elif case == "torus":
        mesh, _ = periodic_square(24)
    else:  # two parts, and a node that no cell uses
        left = plate(20)
        pos = torch.cat([left.pos, left.pos + 5, left.pos[:1] + 9])
        mesh = Mesh.from_arrays(pos, {"triangle": torch.cat([c := left.cells["triangle"], c + len(left.pos)])})
    nodes = anchors(mesh, 9)[0]
    direct = diffusion_cost(mesh, nodes, solver="direct")
    iterative = diffusion_cost(mesh, nodes, solver=solver, device=device).cpu()
    far = torch.isinf(direct)
    assert torch.equal(torch.isinf(iterative), far)
    assert far.any() == (case == "parts")
    near = direct < 15
    torch.testing.assert_close(iterative[near], direct[near], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(diffusion_cost(mesh, nodes), direct)


def test_anchors_are_the_same_on_a_gpu(device, monkeypatch):
    torus, _ = periodic_square(24)
    for mesh in (plate(20), grid("tetra", (6, 5, 4)), torus):
        pos = mesh.pos + 1e-3 * torch.from_numpy(np.random.default_rng(0).normal(size=mesh.pos.shape))
        mesh = Mesh.from_arrays(pos, mesh.cells, periodic_pairs=mesh.periodic_pairs)
        here, there = anchors(mesh, 9), anchors(mesh, 9, device=device)
        assert torch.equal(there[0].cpu(), here[0])
        torch.testing.assert_close(there[1].cpu(), here[1])
        monkeypatch.setattr("flare_connect.mesh.distances._visits", _waves)  # what a GPU does, where there is none
        assert torch.equal(anchors(mesh, 9)[0], here[0])
        monkeypatch.undo()


def test_all_that_a_mesh_tells_is_where_the_mesh_is(device):
    torus, _ = periodic_square(12)
    for here in (plate(12), torus):
        mesh = Mesh.from_arrays(here.pos, here.cells, periodic_pairs=here.periodic_pairs).to(device)
        at, _ = anchors(mesh, 5)
        found = {
            "anchors": (at, anchors(here, 5)[0]),
            "cells": (geodesic_distance(mesh, at), geodesic_distance(here, at.cpu())),
            "edges": (geodesic_distance(mesh, at, through="edges"), geodesic_distance(here, at.cpu(), through="edges")),
            "cost": (geodesic_cost(mesh, at), geodesic_cost(here, at.cpu())),
            "diffusion": (diffusion_cost(mesh, at), diffusion_cost(here, at.cpu())),
            "clusters": (clusters(mesh, at), clusters(here, at.cpu())),
            "parts": (component_distances(mesh)[0], component_distances(here)[0]),
            "thickness": (local_thickness(mesh), local_thickness(here)),
            "modes": (laplacian_modes(mesh, 5)[0], laplacian_modes(here, 5)[0]),
            "volume": (mesh.node_volume, here.node_volume),
            "boundary": (mesh.boundary_component, here.boundary_component),
            "clusters of a size": (partition(mesh, 4), partition(here, 4)),
            "pairs": (find_periodic_pairs(mesh), find_periodic_pairs(here)),
        }
        for name, (there, expected) in found.items():
            assert there.device == mesh.pos.device, name
            torch.testing.assert_close(there.cpu(), expected, rtol=1e-5, atol=1e-6)


def test_nested_dissection_solves_the_same_system(monkeypatch):
    pytest.importorskip("pymetis")
    mesh = grid("tetra", (9, 8, 7))
    nodes = anchors(mesh, 5)[0]
    monkeypatch.setattr(solvers, "_DISSECT", 10**9)
    plain = diffusion_cost(mesh, nodes, solver="direct")
    monkeypatch.setattr(solvers, "_DISSECT", 1)
    torch.testing.assert_close(diffusion_cost(mesh, nodes, solver="direct"), plain, rtol=1e-9, atol=1e-9)


def test_an_iteration_that_does_not_converge_says_so():
    matrix = csr_matrix(np.diag([1.0, 1e-8]) + 1e-9)
    with pytest.raises(MeshError, match="stopped within 1 iterations at a residual of"):
        solve_iterative(matrix, torch.ones(2, 1).double(), max_iterations=1)


def test_diffusion_costs_do_not_depend_on_resolution():
    """The same plate with a hole at 2,000, 8,000 and 32,000 nodes: costs at common points, against 130,000 nodes."""
    x = np.stack(np.meshgrid(np.arange(16) / 15, np.arange(16) / 15), -1).reshape(-1, 2)
    x = x[(np.abs(x - 0.5) > 0.17).any(1)]

    def cost(n):
        mesh = plate(n)
        tree = cKDTree(mesh.pos.numpy())
        at = torch.from_numpy(tree.query([[0, 0], [0.2, 0.4], [1, 0.6]])[1])
        return diffusion_cost(mesh, at)[tree.query(x)[1]]

    finest = cost(360)
    assert finest.max() > 8
    errors = torch.stack([(cost(n) - finest).abs().amax((0, 1)) for n in (45, 90, 180)])
    assert (errors[0] < torch.tensor([0.01, 0.05])).all()
    assert (errors[:-1] > 2 * errors[1:]).all()


def test_a_mesh_coarser_than_the_spot_begins_at_its_anchor():
    mesh = plate(6)
    cost = diffusion_cost(mesh, torch.tensor([0]))[:, 0]
    assert (cost[0] == 0).all()
    assert (cost[1:][mesh.component[1:] >= 0] > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: geodesic_distance(m, torch.tensor([99999])), "nodes must be between 0"),
        (lambda m: diffusion_cost(m, torch.tensor([0]), scales=(0.0,)), "must be positive numbers, got"),
        (lambda m: diffusion_cost(m, torch.tensor([-1])), "nodes must be between 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(MeshError, match=message):
        call(plate(4))
