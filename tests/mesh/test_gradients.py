"""Gradients at nodes: exact for linear fields, a plain loop, convergence, periodic sides, flat cells."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid, points_of, single

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, find_periodic_pairs
from flare_connect.mesh.connectivity import kind_of
from flare_connect.mesh.gradients import nodal_gradient


def moved(mesh, size=0.1):
    """Every node pushed about, so that no cell has any symmetry left."""
    shift = torch.from_numpy(np.random.default_rng(0).uniform(-size, size, tuple(mesh.pos.shape)))
    return Mesh.from_arrays(mesh.pos + shift, mesh.cells)


def test_linear_fields_are_exact_on_every_kind(kind):
    dim = kind_of(kind).dim
    if dim == 0:
        assert not nodal_gradient(single(kind), torch.ones(1, 2).double()).any()
        return
    if dim == 1:  # the slope along the line is all that there is
        mesh = single(kind, 2, [[0, 0], [2, 0]])
        slopes = torch.tensor([[3.0, 0.0], [-1.0, 0.0]]).double()
    else:
        mesh = moved(single(kind) if kind.startswith("pyramid") else grid(kind, (2, 2, 2)[:dim]))
        slopes = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]).double()[:, : mesh.dim]
    found = nodal_gradient(mesh, mesh.pos @ slopes.T + 7)
    torch.testing.assert_close(found, slopes.expand(mesh.num_nodes, 2, mesh.dim), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["triangle", "quad8", "line3"])
def test_on_surfaces_and_lines_in_space_it_is_tangential(kind):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    flat = points_of(kind) if kind == "line3" else np.pad(grid(kind, (3, 3)).pos.numpy(), ((0, 0), (0, 1)))
    cells = {kind: [[0, 1, 2]]} if kind == "line3" else grid(kind, (3, 3)).cells
    mesh = Mesh.from_arrays(flat @ turn, cells)
    slope = np.array([1.0, -2.0, 0.5])
    within = turn[: kind_of(kind).dim]
    expected = torch.from_numpy(within.T @ within @ slope)
    found = nodal_gradient(mesh, mesh.pos @ torch.from_numpy(slope)[:, None])[:, 0]
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-11, atol=1e-11)


def test_any_field_against_a_plain_loop_over_triangles():
    mesh = plate(6)
    values = torch.randn(mesh.num_nodes, 2, dtype=torch.float64)
    total, weight = np.zeros((mesh.num_nodes, 2, 2)), np.zeros(mesh.num_nodes)
    for cell in mesh.cells["triangle"].tolist():
        points = np.c_[np.ones(3), mesh.pos[cell].numpy()]
        area = abs(np.linalg.det(points)) / 2
        slope = np.linalg.solve(points, values[cell].numpy())[1:].T
        for node in cell:
            total[node] += area * slope
            weight[node] += area
    expected = torch.from_numpy(total / weight[:, None, None])
    torch.testing.assert_close(nodal_gradient(mesh, values), expected, rtol=1e-10, atol=1e-10)


def test_it_converges():
    def error(n):
        mesh = plate(n, hole=False)
        x, y = mesh.pos.T
        exact = torch.stack([3 * (3 * x).cos() * y.exp(), (3 * x).sin() * y.exp()], 1)
        found = nodal_gradient(mesh, ((3 * x).sin() * y.exp())[:, None])[:, 0]
        return float((mesh.node_volume * (found - exact).square().sum(1)).sum().sqrt())

    errors = np.array([error(n) for n in (8, 16, 32)])
    assert (np.log2(errors[:-1] / errors[1:]) > 1.2).all()


def test_fields_may_jump_by_a_constant_across_periodic_sides():
    square = grid("triangle", (5, 4))
    mesh = Mesh.from_arrays(square.pos, square.cells, periodic_pairs=find_periodic_pairs(square))
    low, high = mesh.periodic_pairs
    wave = torch.sin(2 * torch.pi * mesh.pos[:, :1] / 5) * torch.cos(2 * torch.pi * mesh.pos[:, 1:] / 4)
    found = nodal_gradient(mesh, torch.cat([mesh.pos, wave, wave + 2 * mesh.pos[:, 1:]], 1))
    torch.testing.assert_close(found[:, :2], torch.eye(2).double().expand(mesh.num_nodes, 2, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[low], found[high], rtol=0, atol=1e-12)
    assert (found[:, 3] - found[:, 2] - torch.tensor([0.0, 2.0]).double()).abs().max() < 1e-12
    corner = (mesh.pos == 0).all(1).nonzero()[0, 0]
    open_corner = nodal_gradient(square, wave)[corner, 0]
    assert (found[corner, 2] - open_corner).abs().max() > 1e-2  # the cells beyond the side count


def test_flat_cells_and_nodes_without_cells_are_left_out():
    """Flat up to rounding, in all directions: nodes that are in no other cell have no gradient."""
    for angle in np.linspace(0, 2, 9):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        pos = np.array([[0, 0], [0.7, 0], [0, 1], [1.9, 0], [3, 3]]) @ turn
        mesh = Mesh.from_arrays(pos, {"triangle": [[0, 1, 2], [0, 1, 3]]})
        found = nodal_gradient(mesh, torch.tensor([[0.0], [1.4], [5.0], [9.0], [1.0]]))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found[:3, 0], torch.from_numpy([2.0, 5.0] @ turn).expand(3, 2), rtol=0, atol=1e-6)
        assert not found[3:].any()


@pytest.mark.parametrize("thin", [1e-4, 1e-8])
def test_thin_cells_have_their_gradient(thin):
    """Needles a long way along x; one field for each direction, which grows by as much along every edge."""
    box = grid("tetra", (2, 2, 2))
    stretch = torch.tensor([1.0, thin, thin], dtype=torch.float64)
    found = nodal_gradient(Mesh.from_arrays(box.pos * stretch, box.cells), box.pos)
    expected = torch.diag(1 / stretch).expand_as(found)
    assert ((found - expected).norm(dim=2) < 1e-6 * expected.norm(dim=2)).all()


def test_it_runs_where_the_mesh_is(device):
    here = grid("hexahedron20", (3, 2, 2))
    values = torch.randn(here.num_nodes, 2, dtype=torch.float64)
    there = Mesh.from_arrays(here.pos, here.cells).to(device)
    found = nodal_gradient(there, values.to(device))
    assert found.device == there.pos.device
    torch.testing.assert_close(found.cpu(), nodal_gradient(here, values))


def test_wrong_shapes_are_named():
    with pytest.raises(MeshError, match=r"shape \[16, K\], one row a node, got \[3, 2\]"):
        nodal_gradient(grid("quad", (3, 3)), torch.zeros(3, 2))
