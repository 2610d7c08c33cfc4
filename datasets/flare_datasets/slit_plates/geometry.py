"""Thin slits: a line with an opening, its outline, and the plate between two of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ON_SIDE = 1e-9
_REACH = 0.05  # how far the outline of a slit that begins at a side is drawn beyond it


@dataclass(frozen=True)
class Slit:
    """A slit along straight pieces from point to point, as wide as `opening`; 0 makes it a crack.

    Both ends are pointed over a length of `opening`, so that a slit has two tips and no other narrow curve. An end on a
    side of the plate is a mouth instead.

    Args:
        points: (x, y) of the ends and of the corners between, in plate sides.
        opening: distance of the lips, in plate sides.
    """

    points: tuple[tuple[float, float], ...]
    opening: float = 0.0

    @property
    def line(self) -> Array:
        """Its points `[k, 2]`."""
        return np.array(self.points)

    @property
    def length(self) -> float:
        """Length along the pieces, in plate sides."""
        return float(np.linalg.norm(np.diff(self.line, axis=0), axis=1).sum())

    @property
    def mouths(self) -> tuple[bool, bool]:
        """Whether the first and the last point are on a side of the plate."""
        first, last = (bool(np.abs(end - np.round(end)).min() < _ON_SIDE) for end in self.line[[0, -1]])
        return first, last

    @property
    def tips(self) -> Array:
        """Ends inside the plate `[0..2, 2]`: where the fields are singular."""
        return self.line[[0, -1]][[not mouth for mouth in self.mouths]]

    def distance(self, points: Array) -> Array:
        """Distance `[n]` of `points [n, 2]` to its lips, as if its ends were round; negative inside."""
        a, b = self.line[:-1, None], self.line[1:, None]
        along = ((points - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)
        foot = a + np.clip(along, 0.0, 1.0)[..., None] * (b - a)
        return np.linalg.norm(points - foot, axis=-1).min(axis=0) - 0.5 * self.opening

    def outline(self, *, beyond: bool = False) -> Array:
        """Corners `[n, 2]` of an open slit, counter-clockwise; `beyond` draws mouths out of the plate."""
        line = self.line
        tangent = np.diff(line, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        before, after = normal[:-1], normal[1:]
        mitre = (before + after) / (1.0 + (before * after).sum(axis=1, keepdims=True))
        offset = 0.5 * self.opening * np.concatenate([normal[:1], mitre, normal[-1:]])
        ends = line.copy()
        points = []
        for end, inward, mouth in ((0, tangent[0], self.mouths[0]), (-1, -tangent[-1], self.mouths[1])):
            if mouth:
                ends[end] -= (_REACH if beyond else 0.0) * inward
                points.append(np.empty((0, 2)))
            else:
                ends[end] += self.opening * inward
                points.append(line[[end]])
        return np.concatenate([points[0], ends - offset, points[1], (ends + offset)[::-1]])

    @property
    def area(self) -> float:
        """What an open slit takes of the plate, in plate areas."""
        x, y = self.outline().T
        return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def gap(first: Slit, second: Slit) -> float:
    """Least width of the plate between two slits, their ends taken as round; negative where they meet."""
    nearest = min(
        _segment_distance(a, b, c, d)
        for (a, b), (c, d) in itertools.product(itertools.pairwise(first.line), itertools.pairwise(second.line))
    )
    return nearest - 0.5 * (first.opening + second.opening)


def side_gap(slit: Slit) -> float:
    """Least width of the plate between a slit and a side, mouths left out; negative where it leaves the plate."""
    points = slit.line[[i for i, at_side in enumerate(_at_side(slit)) if not at_side]]
    return float(np.minimum(points, 1.0 - points).min()) - 0.5 * slit.opening


def self_gap(slit: Slit) -> float:
    """Least width of the plate between pieces of a slit that do not follow each other; infinite for three or less."""
    pieces = list(itertools.pairwise(slit.line))
    apart = [_segment_distance(*pieces[i], *pieces[j]) for i in range(len(pieces)) for j in range(i + 3, len(pieces))]
    return min(apart, default=math.inf) - slit.opening


def _at_side(slit: Slit) -> list[bool]:
    first, last = slit.mouths
    return [first, *[False] * (len(slit.points) - 2), last]


def _segment_distance(a: Array, b: Array, c: Array, d: Array) -> float:
    def side(p: Array, q: Array, r: Array) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    if side(a, b, c) * side(a, b, d) < 0.0 and side(c, d, a) * side(c, d, b) < 0.0:
        return 0.0
    lines = (Slit((tuple(a), tuple(b))), Slit((tuple(c), tuple(d))))
    return min(float(lines[0].distance(np.stack([c, d])).min()), float(lines[1].distance(np.stack([a, b])).min()))
