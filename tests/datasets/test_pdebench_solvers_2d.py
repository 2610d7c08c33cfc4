"""Solvers of the two-dimensional families: exact solutions, conserved quantities, measured rates; and their files."""

import math

import numpy as np
import pytest
import torch

from flare_connect.errors import ConfigError, StoreError
from flare_datasets.pdebench import open_pdebench
from flare_datasets.pdebench.solvers import shallow_water
from flare_datasets.pdebench.solvers.shallow_water import ShallowWaterConfig, solve_shallow_water


def rates(errors):
    """Orders of convergence between errors of steps that halve."""
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def centres(n, low=0.0, high=1.0):
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


def still(h):
    return torch.stack([h, torch.zeros_like(h), torch.zeros_like(h)], dim=-1)


def column(n, radius, inner=2.0, outer=1.0):
    x = centres(n, -2.5, 2.5)
    return still(torch.where(torch.hypot(x[:, None], x) < radius, inner, outer)[None])


# Shallow water


def stoker(x, t, left=2.0, right=1.0, gravity=1.0):
    """Depth of a dam break at x = 0 over a wet bed: a rarefaction, a level of depth m, a shock."""

    def mismatch(m):
        behind = 2 * (math.sqrt(gravity * left) - math.sqrt(gravity * m))
        return behind - (m - right) * math.sqrt(0.5 * gravity * (m + right) / (m * right))

    low, high = right, left
    for _ in range(200):
        m = 0.5 * (low + high)
        low, high = (m, high) if mismatch(m) > 0 else (low, m)
    speed = 2 * (math.sqrt(gravity * left) - math.sqrt(gravity * m))
    shock = m * speed / (m - right)
    fan = (2 * math.sqrt(gravity * left) - x / t) ** 2 / (9 * gravity)
    h = torch.where(x < -math.sqrt(gravity * left) * t, left, fan)
    h = torch.where(x > (speed - math.sqrt(gravity * m)) * t, m, h)
    return torch.where(x > shock * t, right, h)


@pytest.mark.parametrize("transposed", [False, True])
def test_shallow_water_converges_to_the_dam_break_of_stoker(transposed):
    errors = []
    for n in (100, 200, 400):
        x = centres(n, -2.5, 2.5)
        state = still(torch.where(x < 0, 2.0, 1.0).to(torch.float64)[None, :, None].expand(1, n, 3))
        state = state.transpose(1, 2) if transposed else state
        frames = solve_shallow_water(state, [0.0, 1.0], cell_size=5 / n)[..., -1, 0]
        h = frames[0, 1] if transposed else frames[0, :, 1]
        errors.append(float((h - stoker(x, 1.0)).abs().mean()))
    assert errors[-1] < 2e-3
    assert min(rates(errors)) > 0.8, errors  # a shock allows first order in the mean


def test_shallow_water_is_of_second_order_where_it_is_smooth():
    """A sound wave of finite height, against a finer grid."""

    def solve(n):
        x = centres(n)
        state = still((1 + 0.05 * torch.cos(2 * math.pi * x))[None, :, None].expand(1, n, 2))
        return solve_shallow_water(state, [0.0, 0.3], cell_size=1 / n, boundary="walls")[0, :, 0, -1, 0]

    finest = solve(1024)
    errors = [float((solve(n) - finest.reshape(n, -1).mean(1)).abs().mean()) for n in (32, 64, 128)]
    assert min(rates(errors)) > 1.7, errors


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
