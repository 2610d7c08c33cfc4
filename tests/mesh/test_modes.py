"""Laplacian modes against the analytic ones of boxes, their fixed basis, and the invariances that it promises."""

import numpy as np
import pytest
import torch
from fixtures_meshes import plate
from mesh.meshes import grid

from flare_connect.errors import MeshError
from flare_connect.mesh import Mesh
from flare_connect.mesh.diffusion import DiffusionSystem
from flare_connect.mesh.modes import laplacian_modes
from flare_connect.mesh.periodic import find_periodic_pairs


def test_modes_of_a_rectangle_are_cosines_and_converge():
    exact = np.sort([(np.pi * i / 2) ** 2 + (np.pi * j) ** 2 for i in range(6) for j in range(6)])[:6] * 5

    def error(n):
        mesh = grid("triangle", (2 * n, n))
        values = laplacian_modes(Mesh.from_arrays(mesh.pos / n, mesh.cells), 6)[0].numpy()
        return np.abs(values[1:] - exact[1:]).max() / exact[-1]

    errors = [error(n) for n in (6, 12, 24)]  # the last one takes the sparse solver
    assert errors[2] < 0.01
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rates > 1.7).all()


@pytest.mark.parametrize("n", [6, 24])
def test_modes_solve_their_equation_and_are_orthonormal(n):
    mesh = plate(n)
    values, modes = laplacian_modes(mesh, 5)
    system = DiffusionSystem(mesh, "cpu")
    matrix, volume = system.matrix(), system.volume.numpy()
    phi = modes.numpy()
    residual = matrix @ phi - volume[:, None] * phi * values.numpy() / mesh.length_scale**2
    assert np.abs(residual).max() < 1e-9
    np.testing.assert_allclose(phi.T @ (volume[:, None] * phi), np.eye(5) * volume.sum(), atol=1e-9)
    torch.testing.assert_close(modes[:, 0], torch.ones(mesh.num_nodes).double())


def test_the_basis_does_not_depend_on_numbering_place_or_size():
    mesh = grid("triangle", (9, 9))  # a square: pairs of equal eigenvalues
    values, modes = laplacian_modes(mesh, 9)
    order = torch.randperm(mesh.num_nodes, generator=torch.Generator().manual_seed(1))
    inverse = torch.argsort(order)
    other = Mesh.from_arrays(4 * mesh.pos[order] - 7, {"triangle": inverse[mesh.cells["triangle"]]})
    other_values, other_modes = laplacian_modes(other, 9)
    torch.testing.assert_close(other_values, values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(other_modes, modes[order], rtol=1e-6, atol=1e-6)


def test_equal_eigenvalues_of_a_torus_are_turned_into_one_basis():
    square = grid("quad", (8, 8))
    torus = Mesh.from_arrays(square.pos, square.cells, periodic_pairs=find_periodic_pairs(square))
    values, modes = laplacian_modes(torus, 5)
    assert float(values[0]) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(values[1:], values[1].expand(4), rtol=1e-9, atol=1e-9)  # a space of four
    low, high = torus.periodic_pairs
    torch.testing.assert_close(modes[low], modes[high])
    order = torch.randperm(torus.num_nodes, generator=torch.Generator().manual_seed(2))
    inverse = torch.argsort(order)
    other = Mesh.from_arrays(
        torus.pos[order], {"quad": inverse[torus.cells["quad"]]}, periodic_pairs=inverse[torus.periodic_pairs]
    )
    torch.testing.assert_close(laplacian_modes(other, 5)[1], modes[order], rtol=1e-6, atol=1e-6)


def test_each_part_has_its_zero_and_orphans_have_nothing():
    two = Mesh.from_arrays(
        [[0, 0], [1, 0], [0, 1], [3, 3], [4, 3], [3, 5], [9, 9]], {"triangle": [[0, 1, 2], [3, 4, 5]]}
    )
    values, modes = laplacian_modes(two, 3)
    assert values[:2].abs().max() < 1e-9 < values[2]
    for mode in modes[:, :2].T:
        assert float(mode[:3].std()) == pytest.approx(0, abs=1e-9)
        assert float(mode[3:6].std()) == pytest.approx(0, abs=1e-9)
    assert not modes[6].any()
    with pytest.raises(MeshError, match="between 1 and 5 on this mesh, got 6"):
        laplacian_modes(two, 6)
