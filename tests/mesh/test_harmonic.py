"""Harmonic extension: rings, cracks, manufactured solutions, fluxes, loose parts, periodic cells, solvers."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid
from mesh.rings import perforated_cell, ring

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh, find_periodic_pairs
from flare_connect.mesh.connectivity import kind_of
from flare_connect.mesh.gradients import nodal_gradient
from flare_connect.mesh.harmonic import cell_potentials, harmonic_extension, load_potential
from flare_connect.mesh.operators import laplacian

KINDS = ["triangle", "triangle6", "quad", "quad8", "quad9", "tetra", "tetra10"]
KINDS += ["hexahedron", "hexahedron20", "hexahedron27", "wedge", "wedge15"]


def norm(mesh, error):
    """Root mean square over the mesh."""
    return float((mesh.node_volume[:, None] * error**2).sum().div(mesh.total_measure).sqrt())


def rates(errors):
    return np.log2(np.array(errors[:-1]) / errors[1:])


def side(mesh, axis, end):
    """Nodes of a side of a box; end 0 is low, 1 is high."""
    along = mesh.pos[:, axis]
    return (along == (along.amax() if end else along.amin())).nonzero()[:, 0]


def outward(mesh, axis, end, slopes):
    """A side, and the fluxes `[n, K]` through it of fields with gradients `[N, K, dim]`."""
    nodes = side(mesh, axis, end)
    return nodes, (1 if end else -1) * slopes[nodes, :, axis]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_fields_come_out_of_their_fluxes_on_every_kind(kind):
    """One node is held; every side passes its flux. Inner nodes are pushed about where cells stay flat-sided."""
    mesh = grid(kind, (3, 2, 2)[: kind_of(kind).dim])
    if kind in ("triangle", "quad", "tetra"):
        inner = torch.ones(mesh.num_nodes, dtype=torch.bool)
        inner[mesh.boundary_nodes] = False
        mesh = Mesh.from_arrays(mesh.pos + 0.2 * inner[:, None] * torch.rand(mesh.pos.shape).double(), mesh.cells)
    slopes = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]).double()[:, : mesh.dim]
    exact = mesh.pos @ slopes.T
    sides = [
        outward(mesh, axis, end, slopes.expand(mesh.num_nodes, 2, -1)) for axis in range(mesh.dim) for end in (0, 1)
    ]
    found = harmonic_extension(mesh, {torch.tensor([0]): exact[:1]}, dict(sides))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["triangle", "quad"])
def test_a_ring_has_the_logarithm(kind):
    """Held at both sides, then held inside with the flux of the same field outside."""

    def error(n):
        mesh = ring(n, kind)
        exact = mesh.pos.norm(dim=1, keepdim=True).log() / np.log(2)
        held = harmonic_extension(mesh, {"inner": 0.0, "outer": 1.0})
        pulled = harmonic_extension(mesh, {"inner": 0.0}, {"outer": 1 / (2 * np.log(2))})
        return norm(mesh, held - exact), norm(mesh, pulled - exact)

    errors = np.array([error(n) for n in (4, 8, 16)])
    assert (errors[-1] < 1e-3).all()
    assert (rates(errors) > 1.9).all()


@pytest.mark.parametrize(("kind", "sizes"), [("triangle", (6, 12, 24)), ("quad", (6, 12, 24)), ("tetra", (3, 6, 12))])
def test_manufactured_solutions_converge_at_second_order(kind, sizes):
    """u = sin(2x) exp(y) and a second column, sources inside, held on one side, fluxes one a node on all others."""

    def error(n):
        box = grid(kind, (n,) * kind_of(kind).dim)
        mesh = Mesh.from_arrays(box.pos / n, box.cells)
        x, y = mesh.pos[:, 0], mesh.pos[:, 1]
        wave = torch.sin(2 * x) * y.exp()
        exact = torch.stack([wave, x**2 + y], 1)
        slopes = torch.zeros(mesh.num_nodes, 2, mesh.dim, dtype=torch.float64)
        slopes[:, 0, 0], slopes[:, 0, 1] = 2 * torch.cos(2 * x) * y.exp(), wave
        slopes[:, 1, 0], slopes[:, 1, 1] = 2 * x, 1.0
        source = torch.stack([3 * wave, -2 * torch.ones_like(x)], 1)
        held, *sides = [outward(mesh, axis, end, slopes) for axis in range(mesh.dim) for end in (0, 1)]
        found = harmonic_extension(mesh, {held[0]: exact[held[0]]}, dict(sides), source=source)
        return norm(mesh, found - exact)

    errors = [error(n) for n in sizes]
    assert errors[-1] < 0.01
    assert (rates(errors) > 1.8).all()


def test_a_crack_of_no_width_lets_the_potential_jump():
    """u = √r sin(θ/2) about the tip of a crack along the negative x axis, whose lips have the same positions."""

    def lips(n):
        square = grid("quad", (2 * n, 2 * n))
        pos, cells = square.pos / n - 1, square.cells["quad"].clone()
        cut = ((pos[:, 0] < -1e-9) & (pos[:, 1] == 0)).nonzero()[:, 0]
        twin = torch.arange(len(pos))
        twin[cut] = len(pos) + torch.arange(len(cut))
        below = pos[cells].mean(1)[:, 1] < 0
        cells[below] = twin[cells[below]]
        mesh = Mesh.from_arrays(torch.cat([pos, pos[cut]]), {"quad": cells})
        angle = torch.atan2(mesh.pos[:, 1], mesh.pos[:, 0])
        angle[twin[cut]] = -torch.pi
        exact = (mesh.pos.norm(dim=1).sqrt() * torch.sin(angle / 2))[:, None]
        rim = (mesh.pos.abs().amax(1) == 1).nonzero()[:, 0]
        found = harmonic_extension(mesh, {rim: exact[rim]})
        jump = found[cut] - found[twin[cut]]
        expected = 2 * mesh.pos[cut, :1].abs().sqrt()
        return float((jump - expected).norm() / expected.norm())

    errors = [lips(n) for n in (6, 12, 24)]
    assert errors[-1] < 0.02
    assert (rates(errors) > 0.6).all()  # the tip allows first order at best


def test_what_a_flux_brings_in_goes_out_where_the_mesh_is_held():
    """On facets, and to rounding: the length of the side times the flux is what holds the other one."""
    mesh = plate(7)
    loaded = side(mesh, 1, 1)
    found = harmonic_extension(mesh, {"left": 0.0}, {loaded: [2.0, -1.0]}, source=torch.ones(mesh.num_nodes).double())
    left = mesh.set_nodes("left").numpy()
    matrix = laplacian(mesh.pos.numpy(), {"triangle": mesh.cells["triangle"].numpy()})
    load = mesh.node_volume[:, None].expand(-1, 2).clone()
    at = mesh.pos[loaded, 0]
    order = loaded[at.argsort()]
    lengths = mesh.pos[order, 0].diff()
    for a, b, length in zip(order[:-1], order[1:], lengths, strict=True):
        load[a] += length / 2 * torch.tensor([2.0, -1.0])
        load[b] += length / 2 * torch.tensor([2.0, -1.0])
    left_over = matrix @ found.numpy() - load.numpy()
    free = np.setdiff1d(np.arange(mesh.num_nodes), left)
    np.testing.assert_allclose(left_over[free], 0, atol=1e-12)
    expected = -(mesh.total_measure + np.array([2.0, -1.0]))
    np.testing.assert_allclose((matrix @ found.numpy())[left].sum(0) - load.numpy()[left].sum(0), expected, rtol=1e-10)


def test_facets_of_a_set_pass_the_flux_and_not_those_between_them():
    """Two facets of a side with one between them: all their nodes would take in three."""
    square = grid("quad", (4, 3))
    right = side(square, 0, 1)  # in the order of y
    facets = torch.stack([right[[0, 1]], right[[3, 2]]])
    cells = {"quad": square.cells["quad"], "line": facets}
    named = {"facets": ("facet", facets), "cells": ("cell", torch.tensor([12, 13])), "nodes": ("node", right)}
    mesh = Mesh.from_arrays(square.pos, cells, sets={"left": side(square, 0, 0)})
    mesh.sets = mesh.sets | {name: type(mesh.sets["left"])(*value) for name, value in named.items()}
    brought = {
        name: float(
            (laplacian(mesh.pos.numpy(), {"quad": cells["quad"].numpy()}) @ found)[:, 0][side(mesh, 0, 0)].sum()
        )
        for name in named
        for found in [harmonic_extension(mesh, {"left": 0.0}, {name: 1.0}).numpy()]
    }
    assert brought == pytest.approx({"facets": -2.0, "cells": -2.0, "nodes": -3.0})


def test_without_fixed_nodes_the_mean_is_zero_and_sources_are_balanced():
    """−u″ = cos(πx) on the unit square: u = cos(πx)/π²; a constant on top of the source changes nothing."""

    def error(n, shift):
        box = grid("triangle", (n, n))
        mesh = Mesh.from_arrays(box.pos / n, box.cells)
        wave = torch.cos(torch.pi * mesh.pos[:, :1])
        found = harmonic_extension(mesh, source=wave + shift)
        assert float((mesh.node_volume @ found).abs()) < 1e-12
        return norm(mesh, found - wave / torch.pi**2)

    errors = [error(n, shift) for n, shift in ((8, 0.0), (16, 3.0), (32, -7.0))]
    assert errors[-1] < 1e-3
    assert (rates(errors) > 1.9).all()


def test_lines_and_surfaces_in_space():
    line = Mesh.from_arrays([[0, 0, 0], [1, 2, 2], [2, 4, 4]], {"line": [[0, 1], [1, 2]]})
    found = harmonic_extension(line, {torch.tensor([0]): 1.0}, {torch.tensor([2]): 0.5})
    torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 2.5, 4.0]).double())
    flat = ring(6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    tilted = Mesh.from_arrays(np.pad(flat.pos.numpy(), ((0, 0), (0, 1))) @ turn, flat.cells, sets=flat.sets)
    expected = harmonic_extension(flat, {"inner": 0.0}, {"outer": 1.0})
    found = harmonic_extension(tilted, {"inner": 0.0}, {"outer": 1.0})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_load_potential_spans_from_clamp_to_load():
    mesh = plate(8)
    mesh.sets = mesh.sets | {"right": type(mesh.sets["left"])("node", side(mesh, 0, 1))}
    found = load_potential(mesh)
    torch.testing.assert_close(found, harmonic_extension(mesh, {"left": 0.0, "right": 1.0}))
    assert float(found.min()) == 0
    assert float(found.max()) == 1
    top = load_potential(mesh, loaded=side(mesh, 1, 1))  # shares a corner with the clamp, which holds it
    corner = ((mesh.pos[:, 0] == 0) & (mesh.pos[:, 1] == 1)).nonzero()[0, 0]
    assert float(top[corner]) == 0
    assert (top[side(mesh, 1, 1)] == 1).sum() == len(side(mesh, 1, 1)) - 1
    with pytest.raises(MeshError, match=r"every node of `loaded` \(9\) is clamped too"):
        load_potential(mesh, loaded="left")


def test_a_periodic_cell_with_one_small_hole_has_the_dipole():
    """χ ≈ R² x / r² is the flow round a cylinder; far neighbours make it R² x (1 / r² − π) / (1 + π R²)."""
    radius = 0.05
    mesh = perforated_cell(16, radius)
    found = cell_potentials(mesh)
    r = mesh.pos.norm(dim=1, keepdim=True)
    alone = radius**2 * mesh.pos / r**2
    among = radius**2 * mesh.pos * (1 / r**2 - torch.pi) / (1 + torch.pi * radius**2)
    for reach, expected, limit in ((2, alone, 0.03), (5, among, 0.01)):
        near = r[:, 0] < reach * radius
        assert (found - expected)[near].norm() < limit * expected[near].norm()
    low, high = mesh.periodic_pairs
    assert torch.equal(found[low], found[high])
    torch.testing.assert_close(mesh.node_volume @ found, torch.zeros(2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["triangle", "quad"])
def test_the_conductivity_of_a_square_array_of_holes_is_rayleighs(kind):
    """A fifth of the cell is void: 1 − 2f / (1 + f − 0.305827 f⁴ / (1 − 1.402958 f⁸) − 0.013362 f⁸), Rayleigh 1892."""
    fraction = 0.2
    f4, f8 = fraction**4, fraction**8
    expected = 1 - 2 * fraction / (1 + fraction - 0.305827 * f4 / (1 - 1.402958 * f8) - 0.013362 * f8)

    def conductivity(n):
        mesh = perforated_cell(n, (fraction / np.pi) ** 0.5, kind)
        slopes = nodal_gradient(mesh, cell_potentials(mesh))
        return mesh.total_measure * torch.eye(2) + torch.einsum("n,nkd->kd", mesh.node_volume, slopes)

    found = [conductivity(n) for n in (4, 8, 16)]
    errors = [float((k - expected * torch.eye(2)).abs().max()) for k in found]
    assert errors[-1] < 2e-3
    assert (rates(errors) > 1.8).all()


def test_cells_that_hold_a_gradient_undisturbed():
    """No hole: nothing. A layer along x: nothing for a gradient along it, all of one across taken back."""
    square = grid("quad", (5, 4))
    whole = Mesh.from_arrays(square.pos, square.cells, periodic_pairs=find_periodic_pairs(square))
    assert cell_potentials(whole, torch.randn(3, 2).double()).abs().max() < 1e-13
    layer = Mesh.from_arrays(square.pos, square.cells, periodic_pairs=find_periodic_pairs(square, axes=[0]))
    along, across = cell_potentials(layer).T
    assert along.abs().max() < 1e-13
    torch.testing.assert_close(across, 2 - layer.pos[:, 1], rtol=0, atol=1e-12)


def test_cell_potentials_are_linear_and_turn_with_the_cell():
    mesh = perforated_cell(4, 0.3)
    both = cell_potentials(mesh)
    strain = torch.tensor([[1.0, 0.3], [0.3, -2.0], [0.5, 0.5]]).double()
    torch.testing.assert_close(cell_potentials(mesh, strain), both @ strain.T, rtol=0, atol=1e-12)
    turn = torch.linalg.qr(torch.randn(2, 2).double())[0]
    turned = Mesh.from_arrays(3 * mesh.pos @ turn - 5, mesh.cells, periodic_pairs=mesh.periodic_pairs)
    torch.testing.assert_close(cell_potentials(turned, strain @ turn), 3 * both @ strain.T, rtol=0, atol=1e-11)
    with pytest.raises(MeshError, match=r"assign `mesh.periodic_pairs = find_periodic_pairs\(mesh\)`"):
        cell_potentials(ring(2))
    with pytest.raises(MeshError, match=r"`gradient` must have the shape \[K, 2\], got \[1, 3\]"):
        cell_potentials(mesh, torch.ones(1, 3))
    with pytest.raises(MeshError, match="`gradient` must be finite"):
        cell_potentials(mesh, torch.tensor([[np.nan, 0.0]]))
