import numpy as np
import pytest

from flare_connect.errors import ConfigError, MeshError
from flare_datasets.plane_strain import plane_strain_stiffness, von_mises
from flare_datasets.unit_cells import CellMesh, Hole, PeriodicElasticity, mesh_cell, solve

E, NU = 2.5, 0.3
STRAIN = np.array([0.7, -0.4, 0.3])


def voigt(strain: np.ndarray) -> np.ndarray:
    return strain * [1.0, 1.0, 2.0]


def problem(mesh: CellMesh, **settings: float) -> PeriodicElasticity:
    return PeriodicElasticity(mesh.pos, mesh.triangles, mesh.periodic_pairs, **settings)


@pytest.fixture(scope="module")
def perforated() -> CellMesh:
    holes = [Hole("ellipse", 0.05, 0.3, 0.2, 0.1, 0.6), Hole("slot", 0.55, 0.6, 0.18, 0.1, 2.0)]
    return mesh_cell(holes, 1_500)


@pytest.fixture(scope="module")
def solution(perforated: CellMesh):
    return problem(perforated, youngs_modulus=E, poisson_ratio=NU).solve(STRAIN)


def void_fraction(mesh: CellMesh) -> float:
    a, b, c = (mesh.pos[mesh.triangles[:, i]] for i in range(3))
    u, v = b - a, c - a
    return 1.0 - 0.5 * float((u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum())


def test_patch_without_hole_is_uniform():
    mesh = mesh_cell([], 300)
    out = solve(mesh.pos, mesh.triangles, mesh.periodic_pairs, STRAIN, E, NU)
    # Hooke's law written out for plane strain, not through the library's matrix.
    trace = STRAIN[0] + STRAIN[1]
    lame, mu = E * NU / ((1 + NU) * (1 - 2 * NU)), E / (2 * (1 + NU))
    exact = np.array([lame * trace + 2 * mu * STRAIN[0], lame * trace + 2 * mu * STRAIN[1], 2 * mu * STRAIN[2]])
    assert np.abs(out.stress - exact).max() < 1e-10
    assert np.abs(out.fluctuation).max() < 1e-10
    macro = np.array([[STRAIN[0], STRAIN[2]], [STRAIN[2], STRAIN[1]]])
    assert np.abs(out.displacement - mesh.pos @ macro).max() < 1e-10
    assert np.abs(out.effective_stress - exact).max() < 1e-10
    assert np.abs(out.effective_stiffness - plane_strain_stiffness(E, NU)).max() < 1e-10


def test_converges_at_the_rates_of_quadratic_elements():
    # w = (sin 2πx cos 2πy, cos 2πx sin 4πy): smooth, periodic, not divergence-free; b = -div C:ε(w).
    lame, mu = E * NU / ((1 + NU) * (1 - 2 * NU)), E / (2 * (1 + NU))
    k, m = 2 * np.pi, 4 * np.pi

    def exact(x):
        return np.stack([np.sin(k * x[0]) * np.cos(k * x[1]), np.cos(k * x[0]) * np.sin(m * x[1])])

    def gradient(x):
        sx, cx, sy, cy = np.sin(k * x[0]), np.cos(k * x[0]), np.sin(k * x[1]), np.cos(k * x[1])
        s2, c2 = np.sin(m * x[1]), np.cos(m * x[1])
        return k * cx * cy, -k * sx * sy, -k * sx * s2, m * cx * c2  # u_x, u_y, v_x, v_y

    def body_force(x):
        sx, cx, sy, cy = np.sin(k * x[0]), np.cos(k * x[0]), np.sin(k * x[1]), np.cos(k * x[1])
        s2, c2 = np.sin(m * x[1]), np.cos(m * x[1])
        u, v = sx * cy, cx * s2
        div_x, div_y = -(k**2) * sx * cy - k * m * sx * c2, -(k**2) * cx * sy - m**2 * cx * s2
        laplace = np.stack([-2 * k**2 * u, -(k**2 + m**2) * v])
        return -(mu * laplace + (lame + mu) * np.stack([div_x, div_y]))

    sizes, displacement, stress = [], [], []
    for n in (8, 16, 32):
        pos, triangles, pairs = square(n)
        cell = PeriodicElasticity(pos, triangles, pairs, E, NU)
        out = cell.solve([0, 0, 0], body_force=body_force)
        full = cell.respond(cell.load(body_force))
        fine = type(cell.basis)(cell.basis.mesh, cell.basis.elem, intorder=8)
        error = np.asarray(fine.interpolate(full)) - exact(fine.mapping.F(fine.X))
        ux, uy, vx, vy = gradient(pos.T)
        truth = plane_strain_stiffness(E, NU) @ np.stack([ux, vy, uy + vx])
        sizes.append(1 / n)
        displacement.append(np.sqrt((error**2).sum(axis=0).ravel() @ fine.dx.ravel()))
        stress.append(np.sqrt(((out.stress.T - truth) ** 2).mean()))
    steps = np.diff(np.log(sizes))
    assert (np.diff(np.log(displacement)) / steps)[-1] > 2.7, displacement
    assert (np.diff(np.log(stress)) / steps)[-1] > 1.7, stress
    assert displacement[-1] < 1e-3


def square(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crooked n × n grid of triangles, with its periodic pairs."""
    i, j = (g.ravel() for g in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    pos = np.stack([i, j], axis=1) / n
    bend = 0.03 * np.sin(2 * np.pi * pos[:, 0]) * np.sin(2 * np.pi * pos[:, 1])
    pos = pos + np.stack([bend, -0.7 * bend], axis=1)
    number = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (g.ravel() for g in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    pairs = np.concatenate([np.stack([number[0], number[-1]]), np.stack([number[:, 0], number[:, -1]])], axis=1)
    return pos, triangles, pairs


def test_holes_are_free_of_traction_and_freer_on_finer_meshes():
    radius = 0.25
    mean = []
    for count in (400, 1_600, 6_400):
        mesh = mesh_cell([Hole("circle", 0.5, 0.5, radius, radius)], count)
        out = solve(mesh.pos, mesh.triangles, mesh.periodic_pairs, STRAIN, E, NU)
        normal = (mesh.pos[mesh.holes] - 0.5) / radius
        xx, yy, xy = out.stress[mesh.holes].T
        traction = np.stack([xx * normal[:, 0] + xy * normal[:, 1], xy * normal[:, 0] + yy * normal[:, 1]])
        mean.append(np.sqrt((traction**2).sum(axis=0).mean()) / out.von_mises[mesh.holes].max())
    assert mean[0] > 1.7 * mean[1] > 1.7**2 * mean[2], mean
    assert mean[-1] < 0.02, mean


def test_fluctuation_and_stress_are_periodic(perforated, solution):
    a, b = perforated.periodic_pairs
    assert np.abs(solution.fluctuation[a] - solution.fluctuation[b]).max() < 1e-12
    assert np.abs(solution.stress[a] - solution.stress[b]).max() < 1e-12
    macro = np.array([[STRAIN[0], STRAIN[2]], [STRAIN[2], STRAIN[1]]])
    jump = (perforated.pos[b] - perforated.pos[a]) @ macro
    assert np.abs(solution.displacement[b] - solution.displacement[a] - jump).max() < 1e-12
    assert np.abs(solution.fluctuation).max() > 0.01  # holes do disturb


def test_fluctuation_has_zero_mean_over_the_solid(perforated):
    cell = problem(perforated)
    full = cell.unit_fluctuations
    integral = np.einsum("cqeK,qe->cK", *_values(cell, full))
    assert np.abs(integral).max() < 1e-12


def _values(cell, full):
    per = [np.asarray(cell.basis.interpolate(full[:, i])) for i in range(full.shape[1])]  # [2, E, q]
    return np.stack(per, axis=-1).transpose(0, 2, 1, 3), cell.basis.dx.T


def test_energy_is_that_of_the_effective_medium(perforated, solution):
    macro = voigt(STRAIN)
    assert solution.energy == pytest.approx(0.5 * macro @ solution.effective_stiffness @ macro, rel=1e-10)
    assert solution.effective_stress == pytest.approx(solution.effective_stiffness @ macro, rel=1e-10)


def test_effective_stress_is_the_mean_of_the_element_stress(perforated, solution):
    # Averaged over elements with the lumped nodal stress: equal to the order of the recovery.
    t = perforated.triangles
    u, v = perforated.pos[t[:, 1]] - perforated.pos[t[:, 0]], perforated.pos[t[:, 2]] - perforated.pos[t[:, 0]]
    area = 0.5 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    mean = (area[:, None] * solution.stress[t].mean(axis=1)).sum(axis=0)
    assert np.abs(mean - solution.effective_stress).max() < 0.01 * np.abs(solution.effective_stress).max()


def test_stiffness_lies_within_the_bounds(perforated, solution):
    stiffness = solution.effective_stiffness
    assert np.array_equal(stiffness, stiffness.T)
    voigt_bound = (1 - void_fraction(perforated)) * plane_strain_stiffness(E, NU)
    assert np.linalg.eigvalsh(stiffness).min() > 0
    assert np.linalg.eigvalsh(voigt_bound - stiffness).min() > 0


def test_stress_at_a_small_hole_is_three_times_the_remote_one():
    radius = 0.03
    mesh = mesh_cell([Hole("circle", 0.5, 0.5, radius, radius)], 6_000)
    cell = problem(mesh, youngs_modulus=E, poisson_ratio=NU)
    gamma = np.linalg.solve(cell.effective_stiffness, [1.0, 0.0, 0.0])  # uniaxial mean stress
    out = cell.solve(gamma * [1, 1, 0.5])
    on_hole = mesh.pos[mesh.holes] - 0.5
    xx, yy = out.stress[mesh.holes, 0], out.stress[mesh.holes, 1]
    top = np.argmin(np.abs(on_hole[:, 0]) - 1e-3 * on_hole[:, 1])
    side = np.argmin(np.abs(on_hole[:, 1]) - 1e-3 * on_hole[:, 0])
    assert xx[top] == pytest.approx(3.0, rel=0.04)
    assert yy[side] == pytest.approx(-1.0, rel=0.06)


def test_translation_on_the_torus_changes_nothing_but_the_mesh():
    apart = [
        mesh_cell([Hole("ellipse", x, y, 0.22, 0.12, 0.4)], 2_000) for x, y in ((0.5, 0.5), (0.03, 0.5), (0.02, 0.98))
    ]
    stiffness = [problem(mesh).effective_stiffness for mesh in apart]
    for other in stiffness[1:]:
        assert np.abs(other - stiffness[0]).max() < 0.005 * stiffness[0].max()


def test_von_mises_of_known_states():
    stress = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
    assert von_mises(stress, 0.0) == pytest.approx([1.0, 2.0 * np.sqrt(3.0), 1.0])
    assert von_mises(np.array([[1.0, 1.0, 0.0]]), 0.4999999) == pytest.approx([0.0], abs=1e-5)


def test_wrong_input_is_named(perforated):
    arrays = (perforated.pos, perforated.triangles, perforated.periodic_pairs)
    with pytest.raises(ConfigError, match="poisson_ratio"):
        solve(*arrays, STRAIN, 1.0, 0.5)
    with pytest.raises(ConfigError, match="youngs_modulus"):
        solve(*arrays, STRAIN, 0.0, 0.3)
    with pytest.raises(ConfigError, match="strain"):
        solve(*arrays, [1.0, 2.0])
    pairs = perforated.periodic_pairs.copy()
    pairs[1, :2] = pairs[1, 1::-1]
    with pytest.raises(MeshError, match="must run from the left"):
        solve(perforated.pos, perforated.triangles, pairs, STRAIN)
    only_x = perforated.pos[pairs[1], 0] > perforated.pos[pairs[0], 0]
    with pytest.raises(MeshError, match="both directions"):
        solve(perforated.pos, perforated.triangles, perforated.periodic_pairs[:, only_x], STRAIN)


def test_solid_in_pieces_is_refused():
    pos, triangles, pairs = square(4)
    copy = np.concatenate([pos, pos + np.array([3.0, 0.0])])
    with pytest.raises(MeshError, match="pieces"):
        solve(copy, np.concatenate([triangles, triangles + len(pos)]), pairs, STRAIN)
