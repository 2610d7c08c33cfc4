import numpy as np
import pytest
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from flare_connect.errors import ConfigError, MeshError
from flare_datasets.elements import average_at_vertices
from flare_datasets.slit_plates import PlateMesh, Slit, mesh_plate, solve_elasticity, solve_heat

E, NU = 2.5, 0.3
MODULUS = E / (1 - NU**2)  # plane strain
ALONG = Slit(((0.3, 0.55), (0.8, 0.55)))


def node_at(plate: PlateMesh, x: float, y: float) -> np.ndarray:
    return np.flatnonzero((plate.pos == [x, y]).all(axis=1))


def lips_at(plate: PlateMesh, x: float, y: float) -> tuple[int, int]:
    """The two nodes of a crack that are nearest to a place."""
    nearest = plate.slits[np.argmin(np.linalg.norm(plate.pos[plate.slits] - [x, y], axis=1))]
    first, second = node_at(plate, *plate.pos[nearest])
    return int(first), int(second)


@pytest.mark.parametrize("slits", [[], [ALONG]])
def test_heat_flows_evenly_through_a_plate_and_along_a_crack(slits):
    plate = mesh_plate(slits, 500)
    out = solve_heat(plate.pos, plate.triangles, [(plate.left, 0.7), (plate.right, -0.4)])
    assert np.abs(out.temperature - (0.7 - 1.1 * plate.pos[:, 0])).max() < 1e-10
    assert np.abs(out.flux - [1.1, 0.0]).max() < 1e-9
    assert np.abs(out.flux_magnitude - 1.1).max() < 1e-9
    assert out.dissipation == pytest.approx(1.1**2)


def test_heat_converges_at_the_rates_of_quadratic_elements():
    # T = sin πx cos 2πy is cold left and right, and no heat crosses the sides or x = 1/2, where a crack is.
    def source(x):
        return 5 * np.pi**2 * np.sin(np.pi * x[0]) * np.cos(2 * np.pi * x[1])

    size, temperature, flux = [], [], []
    for count in (500, 2_000, 8_000):
        plate = mesh_plate([Slit(((0.5, 0.2), (0.5, 0.7)))], count)
        out = solve_heat(plate.pos, plate.triangles, [(plate.left, 0.0), (plate.right, 0.0)], source)
        x, y = plate.pos.T
        exact = np.sin(np.pi * x) * np.cos(2 * np.pi * y)
        gradient = np.pi * np.stack(
            [np.cos(np.pi * x) * np.cos(2 * np.pi * y), -2 * np.sin(np.pi * x) * np.sin(2 * np.pi * y)], axis=1
        )
        size.append(len(plate.pos) ** -0.5)
        temperature.append(np.sqrt(((out.temperature - exact) ** 2).mean()))
        flux.append(np.sqrt(((out.flux + gradient) ** 2).mean()))
    steps = np.diff(np.log(size))
    assert (np.diff(np.log(temperature)) / steps)[-1] > 2.7, temperature
    assert (np.diff(np.log(flux)) / steps)[-1] > 1.6, flux
    assert temperature[-1] < 1e-4


def test_temperature_jumps_over_a_crack_as_in_an_endless_plate():
    # Jump 2 g sqrt(a² - s²) at a distance s from the middle of an insulated crack of length 2 a across a gradient g.
    a = 0.06
    plate = mesh_plate([Slit(((0.5, 0.5 - a), (0.5, 0.5 + a)))], 4_000)
    out = solve_heat(plate.pos, plate.triangles, [(plate.left, 1.0), (plate.right, 0.0)])
    for s in (0.0, 0.5 * a):
        first, second = lips_at(plate, 0.5, 0.5 + s)
        found = abs(out.temperature[first] - out.temperature[second])
        assert found == pytest.approx(2 * np.sqrt(a**2 - (plate.pos[first, 1] - 0.5) ** 2), rel=0.02)


def test_heat_winds_through_a_serpentine_as_on_a_grid():
    plate = mesh_plate([Slit(((0.3, 0.0), (0.3, 0.8))), Slit(((0.6, 1.0), (0.6, 0.2)))], 2_000)
    out = solve_heat(plate.pos, plate.triangles, [(plate.left, 0.0), (plate.right, 1.0)])
    assert out.temperature.min() >= -1e-4
    assert out.temperature.max() <= 1 + 1e-4
    flow = on_grid(100)
    assert flow < 0.25  # 1 without slits
    assert out.dissipation == pytest.approx(flow, rel=0.02)


def on_grid(n: int) -> float:
    """Heat through the same plate by finite volumes on n × n squares; no heat crosses the faces on a slit."""
    number = np.arange(n * n).reshape(n, n)  # x first
    middle = (np.arange(n) + 0.5) / n
    pairs = [np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()])]
    for i in range(n - 1):
        closed = (
            (middle < 0.8) if i + 1 == round(0.3 * n) else (middle > 0.2) if i + 1 == round(0.6 * n) else middle < 0
        )
        pairs.append(np.stack([number[i], number[i + 1]])[:, ~closed])
    a, b = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(n * n,) * 2)
    matrix = diags(np.asarray((graph + graph.T).sum(axis=1)).ravel()) - graph - graph.T
    held = np.zeros(n * n)
    held[number[[0, -1]]] = 2.0  # half a square from the middle to the side
    right = np.zeros(n * n)
    right[number[-1]] = 2.0
    temperature = spsolve((matrix + diags(held)).tocsc(), right)
    return float((2.0 * temperature[number[0]]).sum())


@pytest.mark.parametrize("slits", [[], [ALONG]])
def test_patch_in_tension_is_uniform(slits):
    plate = mesh_plate(slits, 500)
    held = [(plate.left, "x"), (node_at(plate, 0, 0), "y")]
    out = solve_elasticity(plate.pos, plate.triangles, held, [(plate.right, [0.2, 0.0])], E, NU)
    x, y = plate.pos.T
    exact = 0.2 / E * (1 + NU) * np.stack([(1 - NU) * x, -NU * y], axis=1)
    assert np.abs(out.displacement - exact).max() < 1e-10
    assert np.abs(out.stress - [0.2, 0.0, 0.0]).max() < 1e-9
    assert np.abs(out.von_mises - 0.2 * np.sqrt(1 - NU + NU**2)).max() < 1e-9
    assert out.energy == pytest.approx(0.5 * 0.2**2 / MODULUS)


def test_patch_in_shear_is_uniform():
    plate = mesh_plate([], 400)
    sides = [(plate.right, [0, 1.0]), (plate.left, [0, -1.0]), (plate.top, [1.0, 0]), (plate.bottom, [-1.0, 0])]
    held = [(node_at(plate, 0, 0), "xy"), (node_at(plate, 1, 0), "y")]
    out = solve_elasticity(plate.pos, plate.triangles, held, sides, E, NU)
    assert np.abs(out.stress - [0, 0, 1.0]).max() < 1e-9
    assert np.abs(out.displacement[:, 0] - 2 * (1 + NU) / E * plate.pos[:, 1]).max() < 1e-9


def pulled(half: float, num_nodes: int):
    """A plate of 1 × 2 with a crack of 2 `half` in the middle, pulled up and down by a stress of 1."""
    plate = mesh_plate([Slit(((0.5 - half, 0.5), (0.5 + half, 0.5)))], num_nodes)
    held = [(node_at(plate, 0, 0), "xy"), (node_at(plate, 1, 0), "y")]
    loads = [(plate.top, [0.0, 1.0]), (plate.bottom, [0.0, -1.0])]
    return plate, solve_elasticity(plate.pos * [1.0, 2.0], plate.triangles, held, loads, E, NU)


def test_stress_intensity_of_a_centre_crack_from_energies():
    # Feddersen: K = σ sqrt(π a sec(π a / W)); both tips release G = K² / E'.
    a, step = 0.15, 0.03
    (_, short), (_, long) = pulled(a - step / 2, 3_000), pulled(a + step / 2, 3_000)
    released = (long.energy - short.energy) / (2 * step)
    assert np.sqrt(MODULUS * released) == pytest.approx(np.sqrt(np.pi * a / np.cos(np.pi * a)), rel=0.02)


def test_crack_opens_as_known():
    # Tada: opening of the middle of a centre crack in a strip, 4 σ a / E' V(2 a / W).
    a = 0.1
    plate, out = pulled(a, 3_000)
    first, second = lips_at(plate, 0.5, 0.5)
    opening = abs(out.displacement[first, 1] - out.displacement[second, 1])
    alpha = 2 * a
    v = -0.071 - 0.535 * alpha + 0.169 * alpha**2 + 0.02 * alpha**3 - 1.071 / alpha * np.log(1 - alpha)
    assert opening == pytest.approx(4 * a / MODULUS * v, rel=0.02)


def test_lips_are_free_of_traction_and_freer_on_finer_meshes():
    found = []
    for count in (1_000, 4_000):
        plate = mesh_plate([Slit(((0.3, 0.5), (0.7, 0.5)), 0.03)], count)
        out = solve_elasticity(plate.pos, plate.triangles, [(plate.left, "xy")], [(plate.right, [0.3, 1.0])], E, NU)
        lip = plate.slits[np.abs(plate.pos[plate.slits, 0] - 0.5) < 0.1]
        found.append(np.sqrt((out.stress[lip, 1:] ** 2).sum(axis=1).mean()) / out.von_mises[lip].max())
    assert found[1] < 0.6 * found[0], found
    assert found[1] < 0.02, found


def test_wrong_input_is_named():
    plate = mesh_plate([], 200)
    arrays, right = (plate.pos, plate.triangles), [(plate.right, [1.0, 0.0])]
    with pytest.raises(ConfigError, match="finite temperatures"):
        solve_heat(*arrays, [])
    with pytest.raises(ConfigError, match="finite temperatures"):
        solve_heat(*arrays, [(plate.left, np.nan)])
    with pytest.raises(MeshError, match="no edge of the boundary"):
        solve_heat(*arrays, [(plate.left[:1], 0.0)])
    with pytest.raises(ConfigError, match="'x', 'y' or 'xy'"):
        solve_elasticity(*arrays, [(plate.left, "z")], right)
    with pytest.raises(ConfigError, match="would float"):
        solve_elasticity(*arrays, [(plate.left, "x")], right)
    with pytest.raises(ConfigError, match="two finite numbers"):
        solve_elasticity(*arrays, [(plate.left, "xy")], [(plate.right, [1.0])])
    with pytest.raises(ConfigError, match="poisson_ratio"):
        solve_elasticity(*arrays, [(plate.left, "xy")], right, 1.0, 0.5)
    copy = np.concatenate([plate.pos, plate.pos + np.array([3.0, 0.0])])
    both = np.concatenate([plate.triangles, plate.triangles + len(plate.pos)])
    with pytest.raises(MeshError, match="1 of 2 pieces of the plate are held nowhere"):
        solve_heat(copy, both, [(plate.left, 0.0)])
    with pytest.raises(MeshError, match="held nowhere"):
        solve_elasticity(copy, both, [(plate.left, "xy")], right)


def test_values_at_a_vertex_weigh_triangles_by_area():
    # Vertex 1 has triangles of areas 1 and 3, each with its own value; vertex 0 and 3 have one.
    values = np.array([[[4.0, 4.0, 4.0], [8.0, 8.0, 8.0]]])
    found = average_at_vertices(values, np.array([1.0, 3.0]), np.array([[0, 1, 2], [1, 2, 3]]), 4)
    assert found[:, 0] == pytest.approx([4.0, 7.0, 7.0, 8.0])
