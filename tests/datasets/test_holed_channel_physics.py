"""The flow solver: analytic flows, rates in space and time, what is conserved, and mirrors."""

import numpy as np
import pytest
import skfem

from flare_connect.errors import ConfigError, MeshError
from flare_datasets.holed_channels import FlowSolver, Hole, mesh_channel
from flare_datasets.holed_channels.operators import Operators

VISCOSITY = 0.02


def rectangle(n, width=1.0):
    mesh = skfem.MeshTri.init_tensor(np.linspace(0, width, round(n * width) + 1), np.linspace(0, 1, n + 1))
    return mesh.p.T.copy(), mesh.t.T.copy()


def norm(operators, values):
    """L2 over the domain of `[n, 2]`."""
    return np.sqrt(sum(part @ operators.mass @ part for part in values.T))


def taylor_green(n, step, time):
    """A vortex between walls without friction, which fades at a known rate: solver, start, last flow, exact share."""
    pos, triangles = rectangle(n)
    sets = {axis: np.flatnonzero((pos[:, i] == 0) | (pos[:, i] == 1)) for i, axis in enumerate("xy")}
    operators = Operators.of(pos, triangles, sets, None)
    held = np.zeros((len(operators.places), 2), dtype=bool)
    for i, axis in enumerate("xy"):
        held[operators.edges[axis], i] = True
    x, y = np.pi * operators.places.T
    start = np.stack([np.sin(x) * np.cos(y), -np.cos(x) * np.sin(y)], axis=1)
    solver = FlowSolver(
        operators, viscosity=VISCOSITY, diffusivity=VISCOSITY, time_step=step, held=held,
        held_temperature=np.zeros(len(x), dtype=bool),
    )  # fmt: skip
    flow = solver.steps(start, np.cos(x) + 0.3 * np.sin(y))
    for _ in range(round(time / step)):
        last = next(flow)
    return solver, start, last, np.exp(-2 * np.pi**2 * VISCOSITY * time)


def test_a_vortex_fades_as_it_must_at_third_order_in_space():
    errors, pressures = [], []
    for n in (4, 8, 16):
        solver, start, last, share = taylor_green(n, 0.004, 0.1)
        errors.append(norm(solver.operators, last.velocity - share * start))
        x, y = 2 * np.pi * solver.operators.places[solver.operators.vertices].T
        off = last.pressure - 0.25 * share**2 * (np.cos(x) + np.cos(y))
        pressures.append(np.abs(off - off.mean()).max())
    assert errors[-1] < 2e-4
    assert np.log2(np.divide(errors[:-1], errors[1:])).min() > 2.8
    assert np.log2(np.divide(pressures[:-1], pressures[1:])).min() > 1.7


def test_steps_are_of_second_order():
    """Of third after two steps of lower order, whose error stays."""
    steps, reference = (0.016, 0.008, 0.004), 0.0005
    found = {step: taylor_green(5, step, 0.16)[2] for step in (*steps, reference)}
    solver = taylor_green(5, 0.016, 0.016)[0]
    errors = [norm(solver.operators, found[step].velocity - found[reference].velocity) for step in steps]
    assert np.log2(np.divide(errors[:-1], errors[1:])) == pytest.approx([2.0, 2.0], abs=0.2)


def channel(pos, triangles, *, viscosity=0.01, step=0.002, around=(), width=2.0, hot=()):
    """Solver of a channel, and the velocity and temperature that are held; vertices `around` stick, `hot` are at 1."""
    sets = {
        "inlet": np.flatnonzero(pos[:, 0] == 0),
        "walls": np.flatnonzero((pos[:, 1] == 0) | (pos[:, 1] == 1)),
        **({"hole": around} if len(around) else {}),
    }
    operators = Operators.of(pos, triangles, sets, np.flatnonzero(pos[:, 0] == width))
    held, cold = np.zeros((2, len(operators.places)), dtype=bool)
    for nodes in operators.edges.values():
        held[nodes] = True
    cold[operators.edges["inlet"]] = True
    velocity, temperature = np.zeros((len(held), 2)), np.zeros(len(held))
    y = operators.places[operators.edges["inlet"], 1]
    velocity[operators.edges["inlet"], 0] = 6 * y * (1 - y)
    if len(hot):
        cold[operators.edges["hole"]] = True
        temperature[operators.edges["hole"]] = 1.0
    solver = FlowSolver(
        operators, viscosity=viscosity, diffusivity=viscosity, time_step=step, held=np.stack([held, held], axis=1),
        held_temperature=cold,
    )  # fmt: skip
    return solver, velocity, temperature


def test_steady_flow_between_walls_is_a_parabola():
    solver, held, warm = channel(*rectangle(6, 2.0))
    y = solver.operators.places[:, 1]
    exact = np.stack([6 * y * (1 - y), 0 * y], axis=1)
    start = solver.stokes(held)
    assert np.allclose(start, exact, atol=1e-10)
    flow = solver.steps(start, warm)
    for _ in range(20):
        last = next(flow)
    assert np.allclose(last.velocity, exact, atol=1e-9)
    x = solver.operators.places[solver.operators.vertices, 0]
    assert np.allclose(last.pressure, 12 * solver.viscosity * (2 - x), atol=1e-9)


def test_a_hot_spot_in_uniform_flow_is_carried_and_spreads():
    """A Gaussian stays one: its middle moves with the flow, its variance grows by 2κ a time."""
    errors, variance, time = [], 0.008, 0.5
    for n in (5, 10):
        pos, triangles = rectangle(n, 2.0)
        around = np.flatnonzero(np.isin(pos[:, 0], (0, 2)) | np.isin(pos[:, 1], (0, 1)))
        operators = Operators.of(pos, triangles, {"around": around}, None)
        held = np.zeros((len(operators.places), 2), dtype=bool)
        held[operators.edges["around"]] = True
        solver = FlowSolver(
            operators, viscosity=1.0, diffusivity=0.01, time_step=0.005, held=held,
            held_temperature=np.zeros(len(operators.places), dtype=bool),
        )  # fmt: skip

        def bell(at, spread, places=operators.places):
            return variance / spread * np.exp(-((places - at) ** 2).sum(axis=1) / (2 * spread))

        along = np.tile([1.0, 0.0], (len(operators.places), 1))
        flow = solver.steps(along, bell([0.6, 0.5], variance))
        for _ in range(round(time / 0.005)):
            last = next(flow)
        exact = bell([0.6 + time, 0.5], variance + 2 * 0.01 * time)
        errors.append(norm(operators, (last.temperature - exact)[:, None]) / norm(operators, exact[:, None]))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] > 4


def test_heat_stays_in_a_closed_box():
    solver, _, last, _ = taylor_green(8, 0.01, 0.3)
    x, y = np.pi * solver.operators.places.T
    ones = np.ones(len(x))
    before, after = (
        ones @ solver.operators.mass @ values for values in (np.cos(x) + 0.3 * np.sin(y), last.temperature)
    )
    assert after == pytest.approx(before, rel=1e-3)
    assert abs(last.temperature).max() < 1.3


@pytest.fixture(scope="module")
def around_holes():
    """A channel with a circle and a slit, twenty steps after slow flow."""
    mesh = mesh_channel([Hole(0.6, 0.45, 0.12), Hole(1.2, 0.6, 0.02, 0.15, 0.7)], 500)
    solver, held, temperature = channel(
        mesh.pos, mesh.triangles, step=0.002, around=mesh.holes, hot=mesh.holes
    )  # fmt: skip
    start = solver.stokes(held)
    flow = solver.steps(start, temperature)
    for _ in range(20):
        last = next(flow)
    return mesh, solver, start, last


def test_what_flows_in_flows_out(around_holes):
    _, solver, _, last = around_holes
    of = solver.operators
    outward = of.outlet_weights @ ((of.outlet_values @ last.velocity) * of.outlet_normals).sum(axis=1)
    assert outward == pytest.approx(1.0, abs=1e-9)
    # And nothing comes from nowhere: against every element of the pressure.
    gone = of.divergence[0] @ last.velocity[:, 0] + of.divergence[1] @ last.velocity[:, 1]
    assert abs(gone).max() < 1e-10
    assert (last.velocity[of.edges["hole"]] == 0).all()
    assert (last.temperature[of.edges["hole"]] == 1).all()


def test_the_flow_separates_behind_a_hole(around_holes):
    """As slow flow does not: behind the circle fluid comes to turn back."""
    mesh, solver, start, last = around_holes
    x, y = solver.operators.places.T
    behind = (x > 0.73) & (x < 0.8) & (abs(y - 0.45) < 0.05)
    assert start[behind, 0].min() > last.velocity[behind, 0].min()
    assert last.pressure[np.argmin(mesh.pos[:, 0])] > 0


def test_a_mirrored_channel_has_a_mirrored_flow():
    mesh = mesh_channel([Hole(0.6, 0.4, 0.12)], 400)
    found = []
    for flip in (False, True):
        pos, triangles = mesh.pos.copy(), mesh.triangles
        if flip:
            pos[:, 1], triangles = 1 - pos[:, 1], triangles[:, ::-1]
        solver, held, temperature = channel(pos, triangles, step=0.002, around=mesh.holes, hot=mesh.holes)
        flow = solver.steps(solver.stokes(held), temperature)
        for _ in range(10):
            last = next(flow)
        vertices = solver.operators.vertices
        found.append((last.velocity[vertices], last.temperature[vertices], last.pressure))
    (u, t, p), (v, s, q) = found
    assert np.allclose(u * [1, -1], v, atol=1e-9)
    assert np.allclose(t, s, atol=1e-9)
    assert np.allclose(p, q, atol=1e-8)


def test_fluid_that_comes_back_brings_no_heat():
    """A flow inwards through the outlet: temperature falls there, and does not without the term."""
    pos, triangles = rectangle(8, 1.0)
    rest = np.flatnonzero((pos[:, 0] == 0) | np.isin(pos[:, 1], (0, 1)))
    operators = Operators.of(pos, triangles, {"rest": rest}, np.flatnonzero(pos[:, 0] == 1.0))
    count = len(operators.places)
    held = np.zeros((count, 2), dtype=bool)
    held[operators.edges["rest"]] = True
    solver = FlowSolver(
        operators, viscosity=1.0, diffusivity=0.01, time_step=0.01, held=held,
        held_temperature=np.zeros(count, dtype=bool),
    )  # fmt: skip
    flow = solver.steps(np.tile([-1.0, 0.0], (count, 1)), np.ones(count))
    for _ in range(30):
        last = next(flow)
    x = operators.places[:, 0]
    assert last.temperature[x == 1.0].max() < 0.5
    assert last.temperature[x < 0.4].min() > 0.9


def test_wrong_settings_are_refused():
    solver, held, warm = channel(*rectangle(4, 2.0), step=1.0)
    with pytest.raises(
        MeshError, match=r"fluid passes .* triangles in a step of 1 and temperatures of .*: shorten the step"
    ):
        next(solver.steps(solver.stokes(held), warm))
    with pytest.raises(ConfigError, match="`viscosity` must be positive, got 0"):
        channel(*rectangle(4, 2.0), viscosity=0)
