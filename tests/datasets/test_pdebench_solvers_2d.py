"""Solvers of the two-dimensional families: exact solutions, conserved quantities, measured rates."""

import math

import numpy as np
import pytest
import torch

from flare_connect.errors import ConfigError
from flare_datasets.pdebench.solvers.darcy import DarcyConfig, conductances, draw_coefficient, outflow, solve_darcy
from flare_datasets.pdebench.solvers.diffusion_reaction import solve_diffusion_reaction
from flare_datasets.pdebench.solvers.exact import (
    centres,
    drifting_vortex,
    forced_eddy,
    smooth_darcy,
    stoker,
    taylor_green,
)
from flare_datasets.pdebench.solvers.incompressible import (
    IncompressibleConfig,
    IncompressibleFlow,
    draw_start,
    solve_incompressible,
)
from flare_datasets.pdebench.solvers.shallow_water import solve_shallow_water


def rates(errors):
    """Orders of convergence between errors of steps that halve."""
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def still(h):
    return torch.stack([h, torch.zeros_like(h), torch.zeros_like(h)], dim=-1)


def column(n, radius, inner=2.0, outer=1.0):
    x = centres(n, -2.5, 2.5)
    depths = torch.tensor([outer, inner], dtype=torch.float64)
    return still(depths[(torch.hypot(x[:, None], x) < radius).long()][None])


# Shallow water


def dam(n, transposed=False):
    """Depth at time 1 after a dam at x = 0 broke, or at y = 0."""
    depth = torch.where(centres(n, -2.5, 2.5) < 0, 2.0, 1.0).to(torch.float64)[:, None].expand(n, 3)
    state = still((depth.T if transposed else depth)[None])
    h = solve_shallow_water(state, [0.0, 1.0], cell_size=5 / n)[0, ..., -1, 0]
    return h[1] if transposed else h[:, 1]


def test_shallow_water_converges_to_the_dam_break_of_stoker():
    errors = [float((dam(n) - stoker(centres(n, -2.5, 2.5), 1.0)).abs().mean()) for n in (50, 100, 200)]
    assert errors[-1] < 4e-3
    assert min(rates(errors)) > 0.8, errors  # a shock allows first order in the mean
    torch.testing.assert_close(dam(50), dam(50, transposed=True), rtol=0, atol=1e-14)


def test_shallow_water_is_of_second_order_where_it_is_smooth():
    """A sound wave of finite height, against a finer grid."""

    def solve(n):
        x = centres(n)
        state = still((1 + 0.05 * torch.cos(2 * math.pi * x))[None, :, None].expand(1, n, 2))
        return solve_shallow_water(state, [0.0, 0.3], cell_size=1 / n, boundary="walls")[0, :, 0, -1, 0]

    finest = solve(512)
    errors = [float((solve(n) - finest.reshape(n, -1).mean(1)).abs().mean()) for n in (32, 64, 128)]
    assert min(rates(errors)) > 1.7, errors


def test_a_drifting_vortex_is_carried_at_second_order():
    errors = []
    for n in (24, 48, 96):
        frame = solve_shallow_water(drifting_vortex(n, 0.0), [0.0, 0.5], cell_size=4 / n)[..., -1, :]
        errors.append([float(error) for error in (frame - drifting_vortex(n, 0.5)).abs().mean((0, 1, 2))])
    for of_channel in zip(*errors, strict=True):
        assert all(1.6 < rate < 2.5 for rate in rates(of_channel)), of_channel


def test_shallow_water_conserves_mass_within_walls():
    frames = solve_shallow_water(column(40, 1.5), torch.linspace(0, 6, 4), cell_size=0.125, boundary="walls")
    mass = frames[..., 0].sum((1, 2))
    assert (frames[0, 0, :, -1, 0] - 1).abs().max() > 0.05  # waves have reached the walls
    assert (mass / mass[:, :1] - 1).abs().max() < 1e-13


@pytest.mark.parametrize("boundary", ["walls", "outflow"])
def test_a_lake_at_rest_stays_at_rest(boundary):
    state = still(torch.full((1, 8, 6), 1.7, dtype=torch.float64))
    frames = solve_shallow_water(state, [0.0, 0.5], cell_size=0.1, boundary=boundary)
    torch.testing.assert_close(frames[..., -1, :], state, rtol=0, atol=1e-14)


def test_a_round_column_stays_symmetric_and_nearly_round():
    n = 64
    h = solve_shallow_water(column(n, 0.5), [0.0, 1.0], cell_size=5 / n)[0, :, :, -1, 0]
    for image in (h.flip(0), h.flip(1), h.T):
        torch.testing.assert_close(h, image, rtol=0, atol=1e-12)
    x = centres(n, -2.5, 2.5)
    distance = torch.hypot(x[:, None], x)
    rings = [h[(distance - r).abs() < 0.04] for r in (0.7, 1.0, 1.3)]
    assert max(float(ring.max() - ring.min()) for ring in rings) < 0.12


def test_waves_leave_through_an_open_boundary():
    frames = solve_shallow_water(column(32, 0.7), [0.0, 12.0], cell_size=5 / 32)
    assert (frames[..., -1, 0] - 1).abs().max() < 0.05


@pytest.mark.parametrize("outer", [1e-6, 0.0])
def test_depth_stays_positive_on_a_nearly_dry_bed(outer):
    frames = solve_shallow_water(column(32, 0.8, outer=outer), [0.0, 0.3, 0.6], cell_size=5 / 32, boundary="walls")
    h = frames[..., 0]
    assert (h >= 0).all()
    assert torch.isfinite(frames).all()
    mass = h.sum((1, 2))
    assert (mass / mass[:, :1] - 1).abs().max() < 1e-13


def test_shallow_water_samples_do_not_depend_on_their_batch():
    both = torch.cat([column(24, 0.4), column(24, 0.7, inner=3.0)])
    together = solve_shallow_water(both, [0.0, 0.4, 0.5], cell_size=5 / 24)
    alone = [solve_shallow_water(one[None], [0.0, 0.4, 0.5], cell_size=5 / 24) for one in both]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)


def test_shallow_water_refuses_what_it_cannot_solve():
    state = column(8, 1.0)
    for change, message in (
        ({"state": state[..., :2]}, "shape"),
        ({"state": -state}, "negative"),
        ({"state": state * math.nan}, "NaN"),
        ({"times": [1.0, 0.0]}, "increase"),
        ({"boundary": "periodic"}, "boundary"),
        ({"cfl": 0.7}, "cfl"),
    ):
        with pytest.raises(ConfigError, match=message):
            solve_shallow_water(**({"state": state, "times": [0.0, 1.0], "cell_size": 0.6} | change))


# Diffusion and reaction


def bumps(n):
    """Smooth, and without slope at the sides in any odd derivative."""
    x = math.pi / 2 * (centres(n, -1, 1) + 1)
    u = torch.exp(torch.cos(2 * x[:, None]) + torch.cos(x) - 2)
    return torch.stack([u, 0.5 - u], dim=-1)[None]


def test_a_cosine_decays_exactly_by_diffusion():
    x = centres(12, -1, 1)
    wave = torch.cos(math.pi * (x[:, None] + 1)) * torch.cos(1.5 * math.pi * (x + 1))
    state = torch.stack([wave, 2 * wave], dim=-1)[None]
    frames = solve_diffusion_reaction(state, [0, 1.0, 5.0], cell_size=1 / 6, k=None)
    for t, frame in ((1.0, frames[..., 1, :]), (5.0, frames[..., 2, :])):
        decay = math.pi**2 * (1 + 1.5**2) * t * torch.tensor([1e-3, 5e-3], dtype=torch.float64)
        torch.testing.assert_close(frame, state * torch.exp(-decay), rtol=0, atol=1e-13)


def test_diffusion_alone_conserves_both_species():
    state = torch.randn(2, 16, 20, 2, dtype=torch.float64)
    frames = solve_diffusion_reaction(state, [0, 5.0], cell_size=0.1, k=None)
    torch.testing.assert_close(frames[..., 1, :].mean((1, 2)), state.mean((1, 2)), rtol=0, atol=1e-14)


def test_even_data_follow_the_ordinary_differential_equation():
    from scipy.integrate import solve_ivp

    start, k = (0.8, -0.3), 5e-3
    state = torch.tensor(start, dtype=torch.float64).expand(1, 4, 6, 2)
    frames = solve_diffusion_reaction(state, [0.0, 2.0, 5.0], cell_size=0.5, longest_step=0.01)
    exact = solve_ivp(
        lambda _, s: [s[0] - s[0] ** 3 - k - s[1], s[0] - s[1]], (0, 5), start, t_eval=[0, 2, 5], rtol=1e-12, atol=1e-13
    )
    expected = torch.from_numpy(exact.y.T).expand(1, 4, 6, 3, 2)
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-9)


def test_diffusion_and_reaction_is_of_fourth_order_in_time():
    def solve(step):
        return solve_diffusion_reaction(bumps(16), [0, 0.8], cell_size=1 / 8, longest_step=step)[..., -1, :]

    exact = solve(0.8 / 512)
    errors = [float((solve(step) - exact).abs().max()) for step in (0.1, 0.05, 0.025)]
    assert all(3.6 < rate < 4.6 for rate in rates(errors)), errors


def at_centres(fine, n):
    """Values of a grid an odd number of times as fine at the centres of n × n cells."""
    ratio = len(fine) // n
    return fine[ratio // 2 :: ratio, ratio // 2 :: ratio]


def test_diffusion_and_reaction_converges_faster_than_any_power_in_space():
    """Cell centres of a grid three times as fine lie among those of the coarse one."""

    def solve(n):
        return solve_diffusion_reaction(bumps(n), [0, 0.5], cell_size=2 / n, longest_step=0.05)[0, :, :, -1]

    finest = solve(108)
    errors = [float((solve(n) - at_centres(finest, n)).abs().max()) for n in (4, 12, 36)]
    orders = [math.log(a / b, 3) for a, b in zip(errors, errors[1:], strict=False)]
    assert errors[-1] < 1e-11
    assert orders[1] > 2 * orders[0] > 6, errors


def test_diffusion_and_reaction_refuses_what_it_cannot_solve():
    state = torch.zeros(1, 8, 8, 2, dtype=torch.float64)
    for change, message in (
        ({"state": state[0]}, "shape"),
        ({"diffusion_u": 0.0}, "diffusion_u"),
        ({"longest_step": -1.0}, "longest_step"),
        ({"state": state + 30.0, "longest_step": 1.0}, "lower it"),
    ):
        with pytest.raises(ConfigError, match=message):
            solve_diffusion_reaction(**({"state": state, "times": [0.0, 5.0], "cell_size": 0.25} | change))


# Darcy flow


def test_darcy_is_of_second_order_for_a_smooth_coefficient():
    errors = []
    for n in (16, 32, 64, 128):
        a, source, exact = smooth_darcy(n)
        errors.append(float((solve_darcy(a, source) - exact).abs().max()))
    assert all(1.9 < rate < 2.1 for rate in rates(errors)), errors


def test_a_layered_coefficient_is_solved_as_layers():
    """Far from its ends a long strip of two layers is a problem in one direction. The harmonic mean adds no error at
    the face between them: what is left is h² f / 8a, of half a cell at the boundary."""
    n, f = 32, 1.0
    low, high = torch.tensor([0.1, 1.0], dtype=torch.float64)
    a = torch.where(centres(n) < 0.5, low, high)
    strip = solve_darcy(a.expand(1, 8 * n, n), f)[0, 4 * n]
    x = centres(n)
    # Flux is f (x - c) with c such that the pressure returns to 0.
    c = (0.125 / 0.1 + 0.375 / 1.0) / (0.5 / 0.1 + 0.5 / 1.0)
    middle = -(0.125 - 0.5 * c) / 0.1
    exact = torch.where(x < 0.5, -(x**2 / 2 - c * x) / 0.1, middle - ((x**2 - 0.25) / 2 - c * (x - 0.5)))
    assert (strip - exact).abs().max() == pytest.approx(1 / n**2 / 8 / 0.1, rel=1e-3)


def test_what_the_source_gives_flows_out():
    config = DarcyConfig(num_samples=3, resolution=32, beta=10.0)
    a = torch.stack([draw_coefficient(config, i) for i in range(3)])
    u = solve_darcy(a, 10.0, tolerance=1e-12)
    across_x, across_y = conductances(a)
    edges = sum(
        (side * value).sum(1)
        for side, value in (
            (across_x[:, 0], u[:, 0]), (across_x[:, -1], u[:, -1]),
            (across_y[:, :, 0], u[:, :, 0]), (across_y[:, :, -1], u[:, :, -1]),
        )
    )  # fmt: skip
    torch.testing.assert_close(edges, torch.full((3,), 10.0, dtype=torch.float64), rtol=1e-11, atol=0)
    torch.testing.assert_close(outflow(u, across_x, across_y) * 32**2, torch.full_like(u, 10.0), rtol=1e-9, atol=0)
    assert (u > 0).all()


def test_darcy_agrees_with_a_direct_solver():
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import spsolve

    n = 12
    a = draw_coefficient(DarcyConfig(num_samples=1, resolution=n, values=(1e-3, 1.0)), 0)[None]
    units = torch.eye(n * n, dtype=torch.float64).reshape(-1, n, n)
    matrix = (outflow(units, *conductances(a)) * n**2).reshape(n * n, n * n).numpy().T
    direct = spsolve(csc_matrix(matrix), np.ones(n * n)).reshape(n, n)
    np.testing.assert_allclose(solve_darcy(a, 1.0, tolerance=1e-12)[0], direct, rtol=1e-9)


def test_coefficients_have_two_values_and_the_same_patches_at_every_resolution():
    fine, coarse = (draw_coefficient(DarcyConfig(num_samples=1, resolution=n), 0) for n in (192, 64))
    assert set(fine.unique().tolist()) == {0.1, 1.0}
    assert (fine[1::3, 1::3] != coarse).double().mean() < 0.02
    assert (draw_coefficient(DarcyConfig(num_samples=1, resolution=64), 1) != coarse).any()


def test_darcy_refuses_what_it_cannot_solve():
    a = torch.ones(1, 8, 8)
    for arguments, message in (
        ((a[0], 1.0), "shape"), ((a - 1, 1.0), "above 0"), ((a, math.inf), "source"), ((a, a[:, 1:]), "source"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            solve_darcy(*arguments)
    assert (solve_darcy(a, 0.0) == 0).all()


# Incompressible flow


def test_the_vortex_of_taylor_and_green_decays_at_second_order():
    errors, carried = [], []
    for n in (16, 32, 64):
        velocity, stream = taylor_green(n)
        particles = 1 + stream**2  # constant along stream lines: nothing changes
        frame = solve_incompressible(
            velocity, particles, 0 * velocity, [0.0, 0.5], cell_size=1 / n, viscosity=0.05, walls="free-slip"
        )[..., -1, :]
        exact = velocity * math.exp(-2 * math.pi**2 * 0.05 * 0.5)
        errors.append(float((frame[..., :2] - exact).abs().max()))
        carried.append(float((frame[..., 2] - particles).abs().mean()))
    assert all(1.8 < rate < 2.2 for rate in rates(errors)), errors
    assert min(rates(carried)) > 1.7, carried


def test_a_forced_eddy_within_walls_is_kept_at_second_order():
    errors = []
    for n in (16, 32, 64):
        velocity, force = forced_eddy(n, 0.1)
        arguments = (velocity, torch.ones(1, n, n), force, [0.0, 0.2])
        frame = solve_incompressible(*arguments, cell_size=1 / n, viscosity=0.1, cfl=0.5)[..., -1, :2]
        errors.append(float((frame - velocity).abs().max()))
    assert all(1.8 < rate < 2.4 for rate in rates(errors)), errors


def test_incompressible_flow_is_of_second_order_in_time():
    velocity, stream = taylor_green(16)
    velocity = velocity * stream[..., None]  # at rest at walls
    force = 2 * velocity.flip(1)

    def solve(cfl):
        return solve_incompressible(velocity, stream, force, [0.0, 0.4], cell_size=1 / 16, viscosity=0.02, cfl=cfl)[
            ..., -1, :2
        ]

    exact = solve(0.01)
    errors = [float((solve(cfl) - exact).abs().max()) for cfl in (0.4, 0.2, 0.1)]
    assert all(1.7 < rate < 2.4 for rate in rates(errors)), errors


@pytest.mark.parametrize("walls", ["no-slip", "free-slip"])
def test_flow_is_free_of_divergence_and_keeps_its_particles(walls):
    config = IncompressibleConfig(num_samples=2, resolution=32, walls=walls)
    starts = [draw_start(config, i) for i in range(2)]
    velocity, particles, force = (torch.stack(part) for part in zip(*starts, strict=True))
    flow = IncompressibleFlow(velocity, particles, force, cell_size=1 / 32, viscosity=0.01, walls=walls)
    assert flow.divergence().abs().max() < 1e-12
    flow.advance(1.0)
    assert flow.divergence().abs().max() < 1e-11
    assert (flow.u[:, 0] == 0).all()
    assert (flow.v[:, :, -1] == 0).all()
    torch.testing.assert_close(flow.particles.sum((1, 2)), particles.sum((1, 2)), rtol=1e-13, atol=0)
    assert (flow.particles > 0).all()
    assert (flow.particles - particles).abs().max() > 0.1


def test_flow_without_a_force_loses_energy():
    velocity, _ = forced_eddy(24, 0.0)
    flow = IncompressibleFlow(velocity, torch.ones(1, 24, 24), 0 * velocity, cell_size=1 / 24, viscosity=0.02)
    energy = [float((flow.at_centres()[..., :2] ** 2).sum())]
    for _ in range(4):
        flow.advance(0.05)
        energy.append(float((flow.at_centres()[..., :2] ** 2).sum()))
    assert all(a > b for a, b in zip(energy, energy[1:], strict=False))


def test_flows_do_not_depend_on_their_batch():
    config = IncompressibleConfig(num_samples=2, resolution=16, force_scale=2.0)
    starts = [draw_start(config, i) for i in range(2)]

    def solve(drawn):
        velocity, particles, force = (torch.stack(part) for part in zip(*drawn, strict=True))
        return solve_incompressible(velocity, particles, force, [0, 0.5, 0.6], cell_size=1 / 16, viscosity=0.01)

    alone = torch.cat([solve([start]) for start in starts])
    torch.testing.assert_close(solve(starts), alone, rtol=0, atol=1e-11)


def test_incompressible_flow_refuses_what_it_cannot_solve():
    given = {
        "velocity": torch.zeros(1, 8, 8, 2), "particles": torch.ones(1, 8, 8), "force": torch.zeros(1, 8, 8, 2),
        "times": [0.0, 1.0], "cell_size": 0.1, "viscosity": 0.01,
    }  # fmt: skip
    assert (solve_incompressible(**given)[..., :2] == 0).all()
    for change, message in (
        ({"force": torch.zeros(1, 8, 9, 2)}, "force"), ({"particles": torch.ones(1, 8, 8, 1)}, "particles"),
        ({"viscosity": 0.0}, "viscosity"), ({"walls": "periodic"}, "walls"), ({"cfl": 0.6}, "cfl"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            solve_incompressible(**(given | change))
