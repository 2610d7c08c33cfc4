"""Holes of a channel: everything within a radius of a straight piece; a circle where that has no length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hole:
    """A circle, or a slot with round ends.

    Args:
        x: of the centre, in channel heights.
        y: likewise.
        radius: of the circle, or half the width of the slot.
        half_length: from the centre to the middle of either round end; 0 for a circle.
        angle: of the slot against x.
    """

    x: float
    y: float
    radius: float
    half_length: float = 0.0
    angle: float = 0.0

    @property
    def direction(self) -> Array:
        """Along the slot `[2]`, of length 1."""
        return np.array([math.cos(self.angle), math.sin(self.angle)])

    @property
    def ends(self) -> Array:
        """Middles of the round ends `[2, 2]`."""
        middle, reach = np.array([self.x, self.y]), self.half_length * self.direction
        return np.stack([middle - reach, middle + reach])

    @property
    def area(self) -> float:
        """What it takes of the channel."""
        return math.pi * self.radius**2 + 4.0 * self.radius * self.half_length

    @property
    def perimeter(self) -> float:
        """Length of its outline."""
        return 2.0 * math.pi * self.radius + 4.0 * self.half_length

    def distance(self, points: Array) -> Array:
        """Distance `[n]` of `points [n, 2]` to its outline; negative inside."""
        offset = points - np.array([self.x, self.y])
        along = np.clip(offset @ self.direction, -self.half_length, self.half_length)
        return np.linalg.norm(offset - along[:, None] * self.direction, axis=1) - self.radius


def gap(first: Hole, second: Hole) -> float:
    """Least width between two holes; not positive where they meet."""
    (a, b), (c, d) = first.ends, second.ends
    if _crossing(a, b, c, d):
        return -first.radius - second.radius
    nearest = min(first.distance(second.ends).min() + first.radius, second.distance(first.ends).min() + second.radius)
    return float(nearest) - first.radius - second.radius


def _crossing(a: Array, b: Array, c: Array, d: Array) -> bool:
    def side(p: Array, q: Array, r: Array) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0.0 and side(c, d, a) * side(c, d, b) < 0.0
