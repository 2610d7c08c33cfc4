"""What follows from two states of an ideal gas that meet: the exact solution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flare_connect.errors import ConfigError
from flare_datasets.config import check_number

State = tuple[float, float, float]
"""Density, velocity, pressure."""


def star_state(left: State, right: State, gamma: float) -> tuple[float, float]:
    """Pressure and velocity between both waves.

    Args:
        left: density, velocity, pressure on the left.
        right: on the right.
        gamma: ratio of specific heats.

    Raises:
        ConfigError: a state has no positive density or pressure, or both fly apart and leave a vacuum.

    Source: Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics, chapter 4.
    """
    check_number("gamma", gamma, 1.000001, 100.0)
    for name, (density, velocity, pressure) in (("left", left), ("right", right)):
        if not (density > 0 and pressure > 0 and math.isfinite(velocity)):
            raise ConfigError(f"`{name}` must be (density, velocity, pressure), the first and last positive")
    sounds = [math.sqrt(gamma * state[2] / state[0]) for state in (left, right)]
    apart = right[1] - left[1]
    if apart >= 2 / (gamma - 1) * sum(sounds):
        raise ConfigError(f"`left` and `right` part at {apart:g} and leave a vacuum, which is not solved for")

    def gap(pressure: float) -> float:
        return sum(_change(pressure, s, gamma) for s in (left, right)) + apart

    # The gap grows with the pressure and is negative at 0: bracket its root, then halve in logarithms.
    low, high = 0.0, max(left[2], right[2])
    while gap(high) < 0:
        low, high = high, 2 * high
    for _ in range(2_000):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if gap(middle) < 0 else (low, middle)
    velocity = 0.5 * (left[1] + right[1]) + 0.5 * (_change(high, right, gamma) - _change(high, left, gamma))
    return high, velocity


def solve_riemann(left: State, right: State, speeds: Any, gamma: float = 1.4) -> np.ndarray:
    """Density, velocity and pressure `[3, ...]` where `x / t` is `speeds [...]`; arguments and errors as above.

    Good values: Sod's tube is `(1, 0, 1), (0.125, 0, 0.1)` with gamma 1.4.
    """
    pressure, velocity = star_state(left, right, gamma)
    speeds = np.asarray(speeds, dtype=np.float64)
    mirrored = (right[0], -right[1], right[2])
    from_left = _side(left, pressure, velocity, speeds, gamma)
    from_right = _side(mirrored, pressure, -velocity, -speeds, gamma) * np.array([1, -1, 1]).reshape(
        3, *[1] * speeds.ndim
    )
    return np.where(speeds < velocity, from_left, from_right)


def _change(pressure: float, state: State, gamma: float) -> float:
    """Change of velocity through the wave from a state to this pressure."""
    density, _, before = state
    sound = math.sqrt(gamma * before / density)
    if pressure <= before:
        return 2 * sound / (gamma - 1) * ((pressure / before) ** ((gamma - 1) / (2 * gamma)) - 1)
    a, b = 2 / ((gamma + 1) * density), (gamma - 1) / (gamma + 1) * before
    return (pressure - before) * math.sqrt(a / (pressure + b))


def _side(state: State, pressure: float, velocity: float, speeds: np.ndarray, gamma: float) -> np.ndarray:
    """Left of the contact."""
    density, before, low = state
    sound = math.sqrt(gamma * low / density)
    ratio, g = pressure / low, (gamma - 1) / (gamma + 1)
    wide = (3, *[1] * speeds.ndim)
    outer = np.array(state).reshape(wide)
    if pressure > low:
        front = before - sound * math.sqrt((gamma + 1) / (2 * gamma) * ratio + (gamma - 1) / (2 * gamma))
        star = np.array([density * (ratio + g) / (g * ratio + 1), velocity, pressure]).reshape(wide)
        return np.where(speeds < front, outer, star)
    star = np.array([density * ratio ** (1 / gamma), velocity, pressure]).reshape(wide)
    tail = velocity - sound * ratio ** ((gamma - 1) / (2 * gamma))
    local = np.maximum(2 / (gamma + 1) + g / sound * (before - speeds), 0.0)
    fan = np.stack(
        [
            density * local ** (2 / (gamma - 1)),
            2 / (gamma + 1) * (sound + (gamma - 1) / 2 * before + speeds),
            low * local ** (2 * gamma / (gamma - 1)),
        ]
    )
    return np.where(speeds < before - sound, outer, np.where(speeds < tail, fan, star))
