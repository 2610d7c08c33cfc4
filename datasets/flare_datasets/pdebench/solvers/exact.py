"""Exact solutions that the solvers are held against, in fp64."""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from flare_connect.errors import ConfigError

from .diffusion_sorption import Sorption

_TERMS = 40  # of a series; what is left out is far below any error of a grid


def centres(n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Middles [n] of n cells between two ends."""
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


def cole_hopf(x: Tensor, t: float, viscosity: float, a: float = 1.2) -> Tensor:
    """A wave of Burgers' equation on the unit circle that grows steep and fades.

    Args:
        x: places.
        t: time.
        viscosity: of `u_t + u u_x = viscosity u_xx`; PDEBench's ν is π times as much.
        a: above 1; the nearer to 1, the steeper.

    Raises:
        ConfigError: `a` is 1 or less.

    Source: Hopf, Communications on Pure and Applied Mathematics 3, 1950: `u = −2 viscosity (log φ)_x`, where φ obeys
    the heat equation.
    """
    if not a > 1:
        raise ConfigError(f"`a` must be above 1, got {a}")
    k = 2 * math.pi
    decay = math.exp(-viscosity * k**2 * t)
    return 2 * k * viscosity * decay * torch.sin(k * x) / (a + decay * torch.cos(k * x))


def logistic(start: Tensor, rate: float, t: Tensor) -> Tensor:
    """Growth [..., T] of `u' = rate u (1 − u)` from a state at times [T]."""
    growth = torch.exp(rate * t)
    return start[..., None] * growth / (1 - start[..., None] + start[..., None] * growth)


def sorption_series(x: Tensor, t: float, start: float, medium: Sorption) -> Tensor:
    """Diffusion with linear sorption, by its eigenfunctions.

    Args:
        x: places in (0, 1); at 0 the concentration is 1, at 1 it leaves as fast as it diffuses.
        t: time.
        start: concentration everywhere at first.
        medium: with exponent 1, so that the retardation is the same everywhere.

    Raises:
        ConfigError: it has another exponent.
    """
    if medium.exponent != 1:
        raise ConfigError(f"`medium` must have exponent 1, got {medium.exponent}")
    diffusivity, retardation = medium.diffusivity, 1 + medium.capacity
    slope = -1 / (1 + diffusivity)  # of the steady state
    u = 1 + slope * x
    for n in range(_TERMS):
        k = brentq(lambda k: math.sin(k) + diffusivity * k * math.cos(k), (n + 0.5) * math.pi + 1e-9, (n + 1) * math.pi)
        norm = 0.5 - math.sin(2 * k) / (4 * k)
        # Of start − 1 − slope x against sin(k x).
        share = (start - 1) * (1 - math.cos(k)) / k - slope * (math.sin(k) - k * math.cos(k)) / k**2
        u = u + share / norm * torch.sin(k * x) * math.exp(-diffusivity / retardation * k**2 * t)
    return u


def stoker(x: Tensor, t: float, left: float = 2.0, right: float = 1.0, gravity: float = 1.0) -> Tensor:
    """Depth after a dam at x = 0 broke over a wet bed: a rarefaction, a level, a shock.

    Args:
        x: places.
        t: time, above 0.
        left: depth behind the dam.
        right: depth before it, less and above 0.
        gravity: of fall.

    Raises:
        ConfigError: the time or the depths are not so.

    Source: Stoker, Water Waves, 1957.
    """
    if not (t > 0 and 0 < right < left):
        raise ConfigError(f"`t` must be above 0 and 0 < `right` < `left`, got t={t}, right={right}, left={left}")

    def mismatch(level: float) -> float:
        behind = 2 * (math.sqrt(gravity * left) - math.sqrt(gravity * level))
        return behind - (level - right) * math.sqrt(0.5 * gravity * (level + right) / (level * right))

    level = brentq(mismatch, right, left, xtol=1e-15)
    speed = 2 * (math.sqrt(gravity * left) - math.sqrt(gravity * level))
    shock = level * speed / (level - right)
    fan = (2 * math.sqrt(gravity * left) - x / t) ** 2 / (9 * gravity)
    h = torch.where(x < -math.sqrt(gravity * left) * t, left, fan)
    h = torch.where(x > (speed - math.sqrt(gravity * level)) * t, level, h)
    return torch.where(x > shock * t, right, h)


def drifting_vortex(n: int, t: float) -> Tensor:
    """Depth and momenta [1, n, n, 3] of shallow water, gravity 1, on [−2, 2]²: a vortex that keeps its shape.

    It turns in balance with its dip, `g h' = v²/r` with `v = 2 r exp(−4 r²)`, and drifts with the water around it.
    """
    drift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    x = centres(n, -2, 2)
    place = torch.stack(torch.meshgrid(x, x, indexing="ij"), dim=-1) - drift * t
    square = (place**2).sum(-1)
    h = 1.0 - 0.25 * torch.exp(-8 * square)
    turn = 2 * torch.exp(-4 * square)
    velocity = drift + torch.stack([-turn * place[..., 1], turn * place[..., 0]], dim=-1)
    return torch.cat([h[..., None], h[..., None] * velocity], dim=-1)[None]


def smooth_darcy(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficient, source and solution [1, n, n] of Darcy flow, the source made for the solution."""
    x, y, pi = centres(n)[:, None], centres(n)[None], math.pi
    a = 1 + 0.5 * torch.sin(2 * pi * x) * torch.cos(pi * y)
    u = torch.sin(pi * x) * torch.sin(2 * pi * y)
    slope_x = pi * torch.cos(2 * pi * x) * torch.cos(pi * y) * pi * torch.cos(pi * x) * torch.sin(2 * pi * y)
    slope_y = -0.5 * pi * torch.sin(2 * pi * x) * torch.sin(pi * y) * 2 * pi * torch.sin(pi * x) * torch.cos(2 * pi * y)
    return a[None], (5 * pi**2 * a * u - slope_x - slope_y)[None], u[None]


def taylor_green(n: int) -> tuple[Tensor, Tensor]:
    """Velocity [1, n, n, 2] that slides along the walls of the unit square, and its stream function [1, n, n].

    It decays by `exp(−2 π² ν t)`. Source: Taylor and Green, Proceedings of the Royal Society A 158, 1937.
    """
    x, y = math.pi * centres(n)[:, None], math.pi * centres(n)[None]
    velocity = torch.stack([torch.sin(x) * torch.cos(y), -torch.cos(x) * torch.sin(y)], dim=-1)
    return velocity[None], (torch.sin(x) * torch.sin(y))[None]


def forced_eddy(n: int, viscosity: float) -> tuple[Tensor, Tensor]:
    """A steady flow [1, n, n, 2] that rests at the walls of the unit square, and the force that keeps it."""
    x, y, pi = centres(n)[:, None], centres(n)[None], math.pi

    def parts(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        # Of sin²(πa) sin(2πb) π: value, slopes along a and b, Laplacian.
        s, c = torch.sin(pi * a) ** 2, torch.cos(2 * pi * a)
        value = pi * s * torch.sin(2 * pi * b)
        slope_a = pi**2 * torch.sin(2 * pi * a) * torch.sin(2 * pi * b)
        slope_b = 2 * pi**2 * s * torch.cos(2 * pi * b)
        return value, slope_a, slope_b, 2 * pi**3 * (c - 2 * s) * torch.sin(2 * pi * b)

    u, u_x, u_y, u_laplace = parts(x, y)
    v, v_y, v_x, v_laplace = (-part for part in parts(y, x))
    force = torch.stack([u * u_x + v * u_y - viscosity * u_laplace, u * v_x + v * v_y - viscosity * v_laplace], dim=-1)
    return torch.stack([u, v], dim=-1)[None], force[None]
