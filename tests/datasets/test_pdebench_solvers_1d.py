"""One-dimensional solvers against exact solutions, with measured orders; and the files that they fill."""

import math

import h5py
import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.pdebench import open_pdebench
from flare_datasets.pdebench.solvers import compressible_1d
from flare_datasets.pdebench.solvers.advection import AdvectionConfig, solve_advection
from flare_datasets.pdebench.solvers.burgers import BurgersConfig, solve_burgers
from flare_datasets.pdebench.solvers.compressible_1d import CompressibleConfig, solve_compressible
from flare_datasets.pdebench.solvers.diffusion_sorption import (
    DiffusionSorptionConfig,
    Sorption,
    solve_diffusion_sorption,
)
from flare_datasets.pdebench.solvers.exact import centres as cells
from flare_datasets.pdebench.solvers.exact import cole_hopf, logistic, sorption_series, stoker
from flare_datasets.pdebench.solvers.one_d_exponential import phi_functions
from flare_datasets.pdebench.solvers.one_d_generation import generate
from flare_datasets.pdebench.solvers.one_d_riemann import solve_riemann, star_state
from flare_datasets.pdebench.solvers.one_d_tridiagonal import solve_tridiagonal
from flare_datasets.pdebench.solvers.one_d_waves import draw_waves
from flare_datasets.pdebench.solvers.one_d_weno import weno_left, weno_right, with_ghosts
from flare_datasets.pdebench.solvers.reaction_diffusion import ReactionDiffusionConfig, solve_reaction_diffusion

TAU = 2 * math.pi
CPU = torch.device("cpu")


def rates(errors):
    """Orders from errors on grids of which each is twice as fine as the one before."""
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def drift(values):
    """Largest change of the mean over space `[N, X, T]`."""
    mean = values.mean(dim=1)
    return float((mean - mean[:, :1]).abs().max())


# Advection


def test_advection_moves_the_initial_state():
    waves = draw_waves([(0, i) for i in range(40)], CPU, fold_probability=0.5, window_probability=0.5)
    x, times = cells(64), torch.tensor([0.0, 0.25, 1.0, 10.0])
    u = solve_advection(waves, 1.0, x, times)
    assert u.shape == (40, 64, 4)
    torch.testing.assert_close(u[..., 0], waves(x))
    torch.testing.assert_close(u[..., 1], waves(x).roll(16, 1), rtol=0, atol=1e-13)  # a quarter of the circle
    torch.testing.assert_close(u[..., 3], u[..., 0], rtol=0, atol=1e-11)  # ten times around


def test_waves_are_what_they_say():
    waves = draw_waves([(3, i) for i in range(400)], CPU)
    u = waves(cells(256))
    assert ((waves.number >= 1) & (waves.number <= 8) & (waves.number == waves.number.round())).all()
    folded = waves.folded
    assert 20 < int(folded.sum()) < 70
    assert (u[folded] * waves.sign[folded, None] >= 0).all()
    assert (waves.sign[~folded] == 1).all()
    cut = waves.window[:, 0] > 0
    assert 20 < int(cut.sum()) < 70
    assert (u[cut][:, :25] == 0).all()
    plain = ~folded & ~cut
    torch.testing.assert_close(u[plain].mean(dim=1), torch.zeros(int(plain.sum()), dtype=torch.float64))
    again = draw_waves([(3, 7)], CPU, window_probability=1.0)  # another share leaves the waves as they are
    torch.testing.assert_close(again.phase[0], waves.phase[7])


# Burgers


def test_burgers_against_cole_hopf():
    viscosity, errors = 0.02, []
    for n in (64, 128, 256):
        u = solve_burgers(cole_hopf(cells(n), 0.0, viscosity)[None], math.pi * viscosity, [0.0, 0.25, 0.5])
        errors.append(float((u[0, :, -1] - cole_hopf(cells(n), 0.5, viscosity)).abs().mean()))
    assert errors[-1] < 1e-8
    assert all(3.8 < rate < 5.5 for rate in rates(errors)), rates(errors)


def test_burgers_with_shocks():
    x = cells(256)
    waves = draw_waves([(0, i) for i in range(4)], CPU)(x)
    u = solve_burgers(torch.cat([torch.sin(TAU * x)[None], waves]), 0.001, np.linspace(0, 1, 11))
    assert drift(u) < 1e-14
    largest = u.abs().amax(dim=1)
    assert (largest.diff(dim=1) < 0.02).all()
    variation = (u - u.roll(1, 1)).abs().sum(dim=1)
    assert (variation.diff(dim=1) < 0.02 * variation[:, :1]).all()
    # Where characteristics come from, away from the standing shock at 1/2: x = y + sin(2 pi y) t.
    for frame in (5, 10):
        for i in range(0, 124, 10):
            place, time = float(x[i]), frame / 10
            y = brentq(lambda y, p=place, t=time: y + math.sin(TAU * y) * t - p, 0.0, min(place, 0.25))
            assert float(u[0, i, frame]) == pytest.approx(math.sin(TAU * y), abs=5e-3)


def test_burgers_without_speed_is_diffusion():
    x, small = cells(64), 1e-7
    u = solve_burgers(small * torch.sin(TAU * x)[None], 4.0, [0.0, 0.01, 0.02])
    expected = small * math.exp(-4 / math.pi * TAU**2 * 0.02) * torch.sin(TAU * x)
    torch.testing.assert_close(u[0, :, -1], expected, rtol=1e-4, atol=1e-12)


# Reaction and diffusion


def test_logistic_growth_of_even_states():
    start = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64)[:, None].expand(-1, 16)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected, errors = logistic(start, 5.0, times), []
    for max_growth in (1.25 / 16, 1.25 / 32, 1.25 / 64):  # frames of 16, 32, 64 steps
        u = solve_reaction_diffusion(start, 0.5, 5.0, times, max_growth=max_growth)
        errors.append(float((u - expected).abs().max()))
    assert errors[-1] < 2e-8
    assert all(3.7 < rate < 4.5 for rate in rates(errors)), rates(errors)


def test_decay_of_heat_is_exact():
    x = cells(32)
    start = (0.5 + 0.3 * torch.sin(TAU * 3 * x))[None]
    u = solve_reaction_diffusion(start, 0.02, 0.0, [0.0, 0.3, 0.7])
    expected = 0.5 + 0.3 * math.exp(-0.02 * (3 * TAU) ** 2 * 0.7) * torch.sin(TAU * 3 * x)
    torch.testing.assert_close(u[0, :, -1], expected, rtol=0, atol=1e-13)
    assert drift(u) < 1e-14


def test_reaction_diffusion_of_rough_states():
    x, times = cells(128), np.linspace(0, 0.5, 6)
    start = (0.6 * torch.sin(TAU * 3 * x) + 0.8 * torch.sin(TAU * 8 * x + 1)).abs()[None]
    start = start / start.max()
    start[0, :30] = 0
    found, fine = (solve_reaction_diffusion(start, 0.5, 10.0, times, max_growth=g) for g in (0.05, 0.0125))
    assert float((found - fine).abs().max()) < 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


# Diffusion and sorption


def test_linear_sorption_against_the_series():
    medium = Sorption(diffusivity=0.1, exponent=1.0)
    errors = []
    for n, steps in ((16, 2), (32, 4), (64, 8)):
        start = torch.full((1, n), 0.1, dtype=torch.float64)
        u = solve_diffusion_sorption(start, medium, [0.0, 2.0, 4.0, 6.0], steps_per_frame=steps).u
        errors.append(float((u[0, :, -1] - sorption_series(cells(n), 6.0, 0.1, medium)).abs().mean()))
    assert errors[-1] < 1e-4
    assert all(1.8 < rate < 2.3 for rate in rates(errors)), rates(errors)


def test_sorption_of_the_benchmark():
    medium, coarse, starts = Sorption(), [], torch.tensor([0.0, 0.1], dtype=torch.float64)
    assert medium.capacity == pytest.approx(0.71 / 0.29 * 2880 * 3.5e-4)
    for n, steps in ((32, 1), (64, 2), (128, 4)):
        found = solve_diffusion_sorption(
            starts[:, None].expand(-1, n), medium, np.linspace(0, 500, 11), steps_per_frame=steps
        )
        held = medium.held(found.u).mean(dim=1)
        assert float((held - held[:, :1] - found.inflow + found.outflow).abs().max()) < 1e-13
        assert float(found.u.min()) >= 0
        assert float(found.u.max()) < 1
        coarse.append(found.u[..., -1].reshape(2, 32, -1).mean(dim=-1))
    (rate,) = rates([float((a - b).abs().mean()) for a, b in zip(coarse, coarse[1:], strict=False)])
    assert 1.7 < rate < 2.4, rate


# Compressible flow


@pytest.mark.parametrize(
    ("left", "right", "pressure", "velocity"),
    [
        ((1.0, 0.0, 1.0), (0.125, 0.0, 0.1), 0.30313, 0.92745),
        ((1.0, -2.0, 0.4), (1.0, 2.0, 0.4), 0.00189, 0.0),
        ((1.0, 0.0, 1000.0), (1.0, 0.0, 0.01), 460.894, 19.5975),
        ((1.0, 0.0, 0.01), (1.0, 0.0, 100.0), 46.0950, -6.19633),
        ((5.99924, 19.5975, 460.894), (5.99242, -6.19633, 46.0950), 1691.64, 8.68975),
    ],
)
def test_star_states_of_toros_table(left, right, pressure, velocity):
    found = star_state(left, right, 1.4)
    assert found == pytest.approx((pressure, velocity), rel=3e-3 if pressure < 0.01 else 1e-5, abs=1e-5)
    far = solve_riemann(left, right, np.array([-1e3, 1e3]))
    np.testing.assert_array_equal(far, np.array([left, right]).T)


def test_exact_riemann_solution_keeps_mass_momentum_and_energy():
    """Over an interval that the waves do not leave; and mirrored states give the mirrored solution."""
    left, right, time = (1.0, 0.3, 1.0), (0.125, 0.0, 0.1), 0.2
    x = (np.arange(200_000) + 0.5) / 200_000 - 0.5
    density, velocity, pressure = solve_riemann(left, right, x / time)
    for power in (0, 1, 2):
        state = (density, density * velocity, pressure / 0.4 + density * velocity**2 / 2)[power]
        flux = []
        before = 0.0
        for d, v, p in (left, right):
            energy = p / 0.4 + d * v**2 / 2
            before += 0.5 * (d, d * v, energy)[power]
            flux.append((d * v, d * v**2 + p, (energy + p) * v)[power])
        assert state.mean() == pytest.approx(before + time * (flux[0] - flux[1]), abs=2e-5)
    mirror = solve_riemann((0.125, 0.0, 0.1), (1.0, -0.3, 1.0), -x / time)
    np.testing.assert_allclose(mirror, [density, -velocity, pressure])


def test_vacuum_is_refused():
    with pytest.raises(ConfigError, match="leave a vacuum"):
        star_state((1.0, -20.0, 0.4), (1.0, 20.0, 0.4), 1.4)


def test_sods_tube():
    left, right, errors = (1.0, 0.0, 1.0), (0.125, 0.0, 0.1), []
    for n in (50, 100, 200):
        x = cells(n)
        start = [torch.where(x < 0.5, a, b).to(torch.float64)[None] for a, b in zip(left, right, strict=True)]
        found = solve_compressible(*start, [0.0, 0.2], gamma=1.4, boundary="trans")[0, :, -1]
        exact = solve_riemann(left, right, (x.numpy() - 0.5) / 0.2)
        errors.append(np.abs(found[:, [0, 2, 1]].numpy().T - exact).mean(axis=1))
        assert float(found[:, 0].max()) < 1.0 + 1e-6
        assert float(found[:, 0].min()) > 0.125 - 1e-6
    assert (errors[-1] < [0.0025, 0.005, 0.002]).all(), errors
    # A contact limits the order to less than 1, shocks to 1.
    for channel in range(3):
        assert all(0.75 < rate < 1.3 for rate in rates([e[channel] for e in errors])), errors


def test_smooth_density_wave():
    errors = []
    for n in (16, 32, 64):

        def average(moved, n=n):  # over cells
            return 1 + 0.3 * torch.sin(TAU * (cells(n) - moved)) * math.sin(math.pi / n) / (math.pi / n)

        even = torch.ones(1, n, dtype=torch.float64)
        found = solve_compressible(average(0.0)[None], 0.7 * even, even, [0.0, 1.0])[0, :, -1]
        torch.testing.assert_close(found[:, 1:], torch.stack([even[0], 0.7 * even[0]], dim=1), rtol=0, atol=1e-12)
        errors.append(float((found[:, 0] - average(0.7)).abs().mean()))
    assert errors[-1] < 1e-6
    assert all(3.8 < rate < 5.5 for rate in rates(errors)), rates(errors)


def test_viscous_flow_converges_and_conserves():
    coarse = []
    for n in (32, 64, 128):
        x = cells(n)[None]
        found = solve_compressible(
            1 + 0.2 * torch.sin(TAU * x),
            0.3 * torch.sin(2 * TAU * x + 0.5),
            1 + 0.1 * torch.cos(TAU * x),
            [0.0, 0.1, 0.2],
            eta=0.05,
            zeta=0.05,
        )
        density, pressure, velocity = found.unbind(-1)
        assert drift(density) < 1e-13
        assert drift(density * velocity) < 1e-13
        assert drift(1.5 * pressure + density * velocity**2 / 2) < 1e-13
        coarse.append(found[0, :, -1].reshape(32, -1, 3).mean(dim=1))
    (rate,) = rates([float((a - b).abs().mean()) for a, b in zip(coarse, coarse[1:], strict=False)])
    assert 1.8 < rate < 2.3, rate


def test_sound_is_damped_as_viscosity_says():
    """A standing wave of wave number k decays with (4/3 eta + zeta) k^2 / (2 rho) where no heat is conducted."""
    x, eta, zeta = cells(64)[None], 0.03, 0.01
    small, even = 1e-5, torch.ones(1, 64, dtype=torch.float64)
    damping = (4 / 3 * eta + zeta) * TAU**2 / 2
    period = TAU / math.sqrt(5 / 3 * TAU**2 - damping**2)
    found = solve_compressible(even, small * torch.sin(TAU * x), even, [0.0, period], eta=eta, zeta=zeta)
    amplitude = 2 * float((found[0, :, -1, 2] * torch.sin(TAU * x[0])).mean()) / small
    assert amplitude == pytest.approx(math.exp(-damping * period), rel=5e-3)


def test_near_vacuum_is_positive_and_conserved(monkeypatch):
    orders, step = [], compressible_1d._Gas._step

    def counted(self, state, size, *, high):
        orders.append(high)
        return step(self, state, size, high=high)

    monkeypatch.setattr(compressible_1d._Gas, "_step", counted)
    x = cells(64)[None]
    density = torch.where(x < 0.5, 1.0, 0.01).to(x)
    found = solve_compressible(density, torch.where(x < 0.5, -5.0, 5.0).to(x), 0.01 + 0 * x, [0.0, 0.004, 0.05])
    assert 0 < orders.count(False) < 0.3 * len(orders)
    assert float(found[..., :2].min()) > 0
    assert drift(found[..., 0]) < 1e-14
    energy = 1.5 * found[..., 1] + found[..., 0] * found[..., 2] ** 2 / 2
    assert drift(energy) < 1e-12 * float(energy.mean())


# Pieces


def test_tridiagonal_systems_against_dense_ones():
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 7, 8, 33):
        lower, upper, right = (torch.randn(4, n, dtype=torch.float64, generator=generator) for _ in range(3))
        diagonal = lower.abs() + upper.abs() + 0.5
        for periodic in (False, True) if n > 2 else (False,):
            dense = torch.diag_embed(diagonal)
            for i in range(n):
                if i > 0 or periodic:
                    dense[:, i, i - 1] += lower[:, i]
                if i < n - 1 or periodic:
                    dense[:, i, (i + 1) % n] += upper[:, i]
            found = solve_tridiagonal(lower, diagonal, upper, right, periodic=periodic)
            torch.testing.assert_close(found, torch.linalg.solve(dense, right), rtol=1e-11, atol=1e-11)


def test_faces_are_of_fifth_order_and_copies_beyond_ends():
    errors = {weno_left: [], weno_right: []}
    for n in (32, 64, 128):
        edges = torch.arange(n + 1, dtype=torch.float64) / n
        average = -torch.cos(TAU * edges).diff() * n / TAU
        for side, found in errors.items():
            faces = side(with_ghosts(average[None], periodic=True))[0]
            found.append(float((faces - torch.sin(TAU * edges)).abs().mean()))
    for found in errors.values():
        assert all(4.5 < rate < 5.5 for rate in rates(found)), found
    line = with_ghosts(torch.arange(4.0)[None], periodic=False)
    assert line.tolist() == [[0, 0, 0, 0, 1, 2, 3, 3, 3, 3]]


def test_phi_functions():
    z = -torch.logspace(-12, 4, 200, dtype=torch.float64)
    node, weight = np.polynomial.legendre.leggauss(200)
    share, weight = torch.as_tensor(node + 1) / 2, torch.as_tensor(weight) / 2
    at = z.abs() < 300  # the quadrature's reach
    for j, found in enumerate(phi_functions(z)):
        integrand = torch.exp(z[at, None] * (1 - share)) * share**j / math.factorial(j)
        torch.testing.assert_close(found[at], (integrand * weight).sum(dim=1), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(found[~at], -1 / (z[~at] * math.factorial(j)), rtol=0.02, atol=0)


# Files

SMALL = {"num_samples": 5, "num_points": 32, "num_frames": 4, "seed": 3}
CONFIGS = [
    AdvectionConfig(beta=0.4, **SMALL),
    BurgersConfig(nu=0.01, **SMALL),
    ReactionDiffusionConfig(nu=0.5, rho=2.0, **SMALL),
    DiffusionSorptionConfig(**SMALL, end_time=20.0),
    CompressibleConfig(eta=0.01, zeta=0.01, **SMALL, end_time=0.1),
    CompressibleConfig(eta=0.0, zeta=0.0, initial="shock", boundary="trans", **SMALL, end_time=0.1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.pde + getattr(config, "boundary", ""))
def test_files_are_read_as_any_other_and_batches_do_not_matter(config, tmp_path):
    path = generate(tmp_path / "a.h5", config, batch_size=5, progress=False)
    other = generate(tmp_path / "b.h5", config, batch_size=2, progress=False)
    with open_pdebench(path) as file, open_pdebench(other) as again:
        assert file.family.name == config.pde
        assert len(file) == 5
        assert file.shape == (32,)
        assert file.num_frames == 4
        assert file.parameters == pytest.approx(config.attributes)
        np.testing.assert_allclose(file.times(), config.times, rtol=1e-6)
        values = np.stack(list(file))
        assert np.isfinite(values).all()
        assert len(np.unique(values[:, 3, 0, 0])) > 1
        np.testing.assert_allclose(values, np.stack(list(again)), rtol=1e-5, atol=1e-6)
    direct = config.solve([2], CPU)[0]
    np.testing.assert_allclose(values[2], direct, rtol=1e-5, atol=1e-6)


def test_generation_goes_on_after_an_interruption(tmp_path, monkeypatch):
    config, path, asked = CONFIGS[1], tmp_path / "a.h5", []
    solve = BurgersConfig.solve

    def failing(self, indices, device):
        asked.append(list(indices))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return solve(self, indices, device)

    monkeypatch.setattr(BurgersConfig, "solve", failing)
    with pytest.raises(KeyboardInterrupt):
        generate(path, config, batch_size=2, progress=False)
    assert not path.exists()
    generate(path, config, batch_size=2, progress=False)
    assert asked == [[0, 1], [2, 3], [2, 3], [4]]
    generate(path, config, progress=False)  # it is there
    assert len(asked) == 4
    with h5py.File(path) as raw:
        assert raw["tensor"].shape == (5, 4, 32)
        assert raw["tensor"].dtype == np.dtype("<f4")
        assert raw["t-coordinate"].shape == (5,)
        assert dict(raw.attrs) == {"Nu": 0.01}
    with pytest.raises(StoreError, match=r"made_with .*overwrite=True"):
        generate(path, BurgersConfig(nu=0.01, **{**SMALL, "seed": 4}), progress=False)


def test_defaults_are_those_of_the_published_files():
    for config, shape, end in (
        (AdvectionConfig(beta=1.0), (201, 1024), 2.0),
        (BurgersConfig(nu=0.1), (201, 1024), 2.0),
        (ReactionDiffusionConfig(nu=0.5, rho=1.0), (101, 1024), 1.0),
        (DiffusionSorptionConfig(), (101, 1024), 500.0),
        (CompressibleConfig(eta=0.1, zeta=0.1), (101, 1024), 1.0),
    ):
        assert (len(config.times), len(config.points)) == shape
        assert config.times[-1] == end
        assert config.points[0] == pytest.approx(0.5 / 1024)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AdvectionConfig(beta=math.nan), r"`beta` must be a number in \[-1000, 1000\], got nan"),
        (lambda: AdvectionConfig(beta=1.0, num_frames=1), "`num_frames` must be a whole number in 2"),
        (lambda: BurgersConfig(nu=-1.0), "`nu` must be a number"),
        (lambda: BurgersConfig(nu=1.0, num_points=16), "`max_number` must be a whole number in 1..4, got 8"),
        (lambda: ReactionDiffusionConfig(nu=0.0, rho=1.0), "`nu` must be a number"),
        (lambda: ReactionDiffusionConfig(nu=1.0, rho=1.0, fold_probability=0.5), "`fold_probability` must be"),
        (lambda: DiffusionSorptionConfig(initial=(0.2, 0.1)), "`initial` must be"),
        (lambda: DiffusionSorptionConfig(medium={}), "`medium` must be a `Sorption`"),
        (lambda: Sorption(porosity=0.0), "`porosity` must be a number"),
        (lambda: CompressibleConfig(eta=0.1, zeta=0.1, initial="sod"), "`initial` must be one of"),
        (lambda: CompressibleConfig(eta=0.1, zeta=0.1, boundary="open"), "`boundary` must be one of"),
        (lambda: CompressibleConfig(eta=0.1, zeta=0.1, initial="shock"), "`boundary` must be 'trans'"),
        (
            lambda: CompressibleConfig(eta=0.1, zeta=0.1, initial="shock", boundary="trans", mach=1.0),
            "`mach` must be left out",
        ),
        (lambda: CompressibleConfig(eta=0.1, zeta=0.1, domain_ends=(1.0, 1.0)), "`domain_ends` must be 0.001 apart"),
        (lambda: cole_hopf(cells(8), 0.0, 0.1, a=1.0), "`a` must be above 1, got 1"),
        (lambda: sorption_series(cells(8), 1.0, 0.1, Sorption()), "`medium` must have exponent 1"),
        (lambda: stoker(cells(8), 1.0, left=1.0, right=2.0), "`right` < `left`, got t=1.0, right=2.0, left=1.0"),
        (lambda: solve_burgers(torch.zeros(2, 32), 0.1, [0, 1]), "`initial` must be finite float64 values"),
        (lambda: solve_burgers(torch.zeros(2, 32).double(), 0.1, [0, 0]), "`times` must be finite and increase"),
        (
            lambda: solve_diffusion_sorption(-torch.ones(1, 8).double(), Sorption(), [0, 1]),
            "`initial` must not be negative, got -1",
        ),
        (
            lambda: solve_compressible(*torch.zeros(3, 1, 8).double(), [0, 1]),
            "`density` must be positive, got 0",
        ),
    ],
)
def test_wrong_settings(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
