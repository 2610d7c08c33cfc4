"""Holes in a periodic cell [0, 1]^2: their shapes, the solid between them, and random layouts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flare_datasets.unit_cells.config import UnitCellConfig

Array = NDArray[np.float64]

# A hole that is nearly tangent to a side, or that passes close by a corner, would leave a sliver of solid along the
# side, which is thin in the picture only (the cell goes on beyond it) and spoils the mesh.
SIDE_CLEARANCE = 0.02
# A longer hole would nearly meet its own image.
_MAX_LENGTH = 0.85
_NUM_LAYOUTS = 20
_NUM_TRIES = 60


@dataclass(frozen=True)
class Hole:
    """A convex hole: centre `x`, `y`, half-length `a`, half-width `b` (<= a), `angle` of its length in radians."""

    shape: str
    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    @property
    def area(self) -> float:
        """Area, in cell areas."""
        if self.shape == "slot":
            return math.pi * self.b**2 + 4.0 * (self.a - self.b) * self.b
        return math.pi * self.a * self.b

    @property
    def min_radius(self) -> float:
        """Least radius of curvature: where stress concentrates."""
        return self.b**2 / self.a if self.shape == "ellipse" else self.b

    def outline(self, spacing: float) -> Array:
        """Points `[n, 2]` on the boundary, `spacing` or less apart."""
        straight = self.a - self.b if self.shape == "slot" else 0.0
        num_arc = 2 * max(16, math.ceil(math.pi * self.a / spacing / 2))
        angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, num_arc + 1)
        if self.shape == "slot":
            arc = np.stack([straight + self.b * np.cos(angle), self.b * np.sin(angle)], axis=1)
            along = np.linspace(straight, -straight, max(2, math.ceil(2 * straight / spacing)) + 1)[1:-1]
            half = np.concatenate([arc, np.stack([along, np.full_like(along, self.b)], axis=1)])
        else:
            half = np.stack([self.a * np.cos(angle), self.b * np.sin(angle)], axis=1)[:-1]
        return self.to_cell(np.concatenate([half, -half]))  # every shape is symmetric about its centre

    def to_cell(self, local: Array) -> Array:
        """Points `[n, 2]` given along length and width, in the cell's axes."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return local @ np.array([[c, s], [-s, c]]) + np.array([self.x, self.y])

    def distance(self, points: Array) -> Array:
        """Signed distance `[n]` of `points [n, 2]` to this hole alone, without its images; negative inside."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        local = np.abs((points - np.array([self.x, self.y])) @ np.array([[c, -s], [s, c]]))
        if self.shape == "ellipse":
            return _ellipse_distance(local[:, 0], local[:, 1], self.a, self.b)
        return np.hypot(np.maximum(local[:, 0] - (self.a - self.b), 0.0), local[:, 1]) - self.b

    def periodic_distance(self, points: Array) -> Array:
        """Signed distance `[n]` of `points [n, 2]` to the nearest image of this hole."""
        centre = np.array([self.x, self.y])
        near = points - centre
        near = near - np.round(near)
        # The image nearest to the centre is not always the nearest of a long hole: try the next one on each axis too.
        other = near - np.where(near > 0.0, 1.0, -1.0)
        nearest = np.full(len(points), np.inf)
        for x, y in itertools.product((near[:, 0], other[:, 0]), (near[:, 1], other[:, 1])):
            nearest = np.minimum(nearest, self.distance(np.stack([x, y], axis=1) + centre))
        return nearest


def gap(first: Hole, second: Hole, spacing: float, *, periodic: bool = True) -> float:
    """Least solid between two holes (over all periodic images), in cell sides; negative where they overlap."""
    measure = second.periodic_distance if periodic else second.distance
    back = first.periodic_distance if periodic else first.distance
    outside = float(measure(first.outline(spacing)).min())
    return min(outside, float(back(np.array([[second.x, second.y]]))[0]))


def self_gap(hole: Hole, spacing: float) -> float:
    """Least solid between a hole and its own periodic images, in cell sides."""
    outline = hole.outline(spacing)
    shifts = [np.array(s, dtype=float) for s in ((1, 0), (0, 1), (1, 1), (1, -1))]
    return min(float(hole.distance(outline + shift).min()) for shift in shifts)


def crosses(hole: Hole) -> bool:
    """Whether the hole, its centre in the cell, reaches over a side."""
    outline = hole.outline(0.01)
    return bool((outline.min() < 0.0) or (outline.max() > 1.0))


def draw_holes(config: UnitCellConfig, rng: np.random.Generator, num_holes: tuple[int, int]) -> list[Hole]:
    """A random layout of disjoint holes, `config.min_gap` or more apart on the torus, with centres in the cell.

    Their areas add up to a void fraction drawn from `config.porosity`. Disjoint convex holes leave one connected solid
    on the torus. A layout that cannot be completed in a bounded number of tries is drawn anew; after 20 of those, equal
    circles on a lattice are returned, of the least porosity, which fit because the configuration was checked for it.
    """
    count = int(rng.integers(num_holes[0], num_holes[1] + 1))
    crossing = bool(rng.random() < config.crossing_probability)
    close = bool(rng.random() < config.close_pair_probability) and count > 1
    for _ in range(_NUM_LAYOUTS):
        shapes = draw_shapes(config, rng, count)
        holes = place(
            rng,
            shapes,
            crossing=crossing,
            min_gap=config.min_gap,
            paired={1} if close else set(),
            draw_gap=lambda: float(rng.uniform(*config.close_gap)),
        )
        if holes is not None:
            return holes
    return _lattice(config, count, crossing)


def draw_shapes(config: UnitCellConfig, rng: np.random.Generator, count: int) -> list[Hole]:
    """Holes at the origin whose areas add up to the porosity drawn, largest first: the small ones fit in between."""
    share = np.sort(rng.uniform(0.5, 1.5, count))[::-1]
    areas = share / share.sum() * rng.uniform(*config.porosity)
    holes = []
    for area in areas:
        shape = str(rng.choice(config.shapes))
        aspect = 1.0 if shape == "circle" else float(rng.uniform(1.2, config.max_aspect))
        angle = 0.0 if shape == "circle" else float(rng.uniform(0.0, np.pi))
        if shape == "slot":
            b = math.sqrt(area / (math.pi + 4.0 * (aspect - 1.0)))
        else:
            b = math.sqrt(area / (math.pi * aspect))
        holes.append(Hole(shape, 0.0, 0.0, aspect * b, b, angle))
    return holes


def place(
    rng: np.random.Generator,
    shapes: Sequence[Hole],
    *,
    crossing: bool,
    min_gap: float,
    paired: Set[int],
    draw_gap: Callable[[], float],
) -> list[Hole] | None:
    """`shapes`, largest first, in random places, `min_gap` or more apart; None where one found no place in 60 tries.

    Args:
        rng: source of the places.
        shapes: holes to move.
        crossing: whether the first hole crosses a side; else every hole lies inside.
        min_gap: least solid between two holes, in cell sides.
        paired: numbers of the holes that are put beside the hole before them.
        draw_gap: solid left to that hole, in cell sides.
    """
    if any(2.0 * hole.a > _MAX_LENGTH for hole in shapes):
        return None
    spacing = 0.25 * min_gap
    placed: list[Hole] = []
    for number, shape in enumerate(shapes):
        for _ in range(_NUM_TRIES):
            hole = replace(shape, x=float(rng.random()), y=float(rng.random()))
            if crossing and number == 0:  # centred near a side, so that it crosses
                hole = replace(hole, x=float(rng.uniform(-0.5, 0.5) * hole.b) % 1.0)
                hole = replace(hole, x=hole.y, y=hole.x) if rng.random() < 0.5 else hole
            if number in paired:
                hole = _beside(placed[number - 1], hole, draw_gap(), spacing, rng)
            if clears_sides(hole, crossing, spacing) and keeps_gap(hole, placed, min_gap, spacing):
                placed.append(hole)
                break
        else:
            return None
    return placed


def _beside(first: Hole, hole: Hole, target: float, spacing: float, rng: np.random.Generator) -> Hole:
    """`hole` moved to leave `target` solid beside `first`, in a random direction."""
    angle = float(rng.uniform(0.0, 2.0 * np.pi))
    direction = (math.cos(angle), math.sin(angle))
    near, far = 0.0, first.a + hole.a + target
    for _ in range(30):  # the distance of convex bodies that move apart in a line only grows
        middle = 0.5 * (near + far)
        moved = replace(hole, x=first.x + middle * direction[0], y=first.y + middle * direction[1])
        near, far = (middle, far) if gap(first, moved, spacing, periodic=False) < target else (near, middle)
    return replace(hole, x=(first.x + far * direction[0]) % 1.0, y=(first.y + far * direction[1]) % 1.0)


def clears_sides(hole: Hole, crossing: bool, spacing: float) -> bool:
    """Whether the sides of the cell leave no sliver beside the hole; it lies inside them unless `crossing`."""
    outline = hole.outline(spacing)
    low, high = outline.min(axis=0), outline.max(axis=0)
    if not crossing and (low.min() < SIDE_CLEARANCE or high.max() > 1.0 - SIDE_CLEARANCE):
        return False
    # Neither tangent to a side nor with the joint of two boundary curves next to one.
    marks = np.concatenate([low, high, joints(hole).ravel()])
    if np.abs(marks - np.round(marks)).min() < SIDE_CLEARANCE:
        return False
    return abs(float(hole.periodic_distance(np.zeros((1, 2)))[0])) >= SIDE_CLEARANCE


def keeps_gap(hole: Hole, placed: Sequence[Hole], min_gap: float, spacing: float) -> bool:
    """Whether `hole` leaves `min_gap` of solid to each of `placed`, none of which lies inside it, and to its images."""
    near = []
    for other in placed:  # inscribed and circumscribed circles decide most cases, cheaply
        apart = np.array([hole.x - other.x, hole.y - other.y])
        centres = float(np.hypot(*(apart - np.round(apart))))
        if centres < hole.b + other.b + min_gap:
            return False
        # Beyond 0.4 a second image may be as near.
        if hole.a + other.a > 0.4 or centres < hole.a + other.a + min_gap:
            near.append(other)
    if 2.0 * hole.a + min_gap > 1.0 and self_gap(hole, spacing) < min_gap:
        return False
    outline = hole.outline(spacing)
    return all(float(other.periodic_distance(outline).min()) >= min_gap for other in near)


def joints(hole: Hole) -> Array:
    """Points `[n, 2]` where the curves that bound the hole begin: always vertices of the mesh."""
    if hole.shape == "slot":
        s, b = hole.a - hole.b, hole.b
        return hole.to_cell(np.array([[s, -b], [s + b, 0.0], [s, b], [-s, b], [-s - b, 0.0], [-s, -b]]))
    return hole.to_cell(np.array([[hole.a, 0.0]]))


def _lattice(config: UnitCellConfig, count: int, crossing: bool) -> list[Hole]:
    per_side = math.ceil(math.sqrt(count))
    radius = math.sqrt(config.porosity[0] / (count * math.pi))
    offset = 0.0 if crossing else 0.5 / per_side
    sites = [(offset + i / per_side, offset + j / per_side) for j in range(per_side) for i in range(per_side)]
    return [Hole("circle", x, y, radius, radius) for x, y in sites[:count]]


def _ellipse_distance(x: Array, y: Array, a: float, b: float) -> Array:
    """Signed distance to an axis-parallel ellipse at the origin from points of the first quadrant.

    The nearest point is found by intersecting with the circle of curvature at the last guess; six rounds are
    exact to rounding near the boundary.
    """
    tx = np.full_like(x, math.sqrt(0.5))
    ty = np.full_like(x, math.sqrt(0.5))
    for _ in range(6):
        ex, ey = (a * a - b * b) / a * tx**3, (b * b - a * a) / b * ty**3
        radius = np.hypot(a * tx - ex, b * ty - ey)
        reach = np.maximum(np.hypot(x - ex, y - ey), 1e-300)
        tx = np.clip(((x - ex) * radius / reach + ex) / a, 0.0, 1.0)
        ty = np.clip(((y - ey) * radius / reach + ey) / b, 0.0, 1.0)
        norm = np.maximum(np.hypot(tx, ty), 1e-300)
        tx, ty = tx / norm, ty / norm
    sign = np.where((x / a) ** 2 + (y / b) ** 2 < 1.0, -1.0, 1.0)
    return sign * np.hypot(x - a * tx, y - b * ty)


@dataclass(frozen=True)
class FineSpot:
    """A place in the cell around which edges are shorter, whether a hole is near or not.

    Attributes:
        x, y: its centre, in the cell.
        least: edge length there over that away from it.
        reach: distance over which edges grow, in cell sides.
    """

    x: float
    y: float
    least: float
    reach: float

    def shape(self, points: Array) -> Array:
        """Edge length at `points [P, 2]` over that away from it `[P]`; the cell repeats, so the spot does."""
        away = points - (self.x, self.y)
        squared = ((away - np.round(away)) ** 2).sum(axis=1)
        return 1.0 - (1.0 - self.least) * np.exp(-squared / self.reach**2)
