"""Where the holes of a channel are: at random, apart from each other, with room to pass everywhere."""

from __future__ import annotations

import numpy as np

from flare_connect.errors import MeshError
from flare_datasets.holed_channels.config import HoledChannelConfig
from flare_datasets.holed_channels.geometry import Array, Hole, gap

LENGTH = 2.0
"""Of the channel, in channel heights."""
SIZE = (LENGTH, 1.0)
BEFORE, BEHIND = 0.2, 0.35
"""Least way from the inlet to the first hole, and from the last one to the outlet, in channel heights."""

_NUM_LAYOUTS = 50
_NUM_TRIES = 60


def draw_holes(config: HoledChannelConfig, rng: np.random.Generator, split: str) -> list[Hole]:
    """The holes of a channel of `split`, `config.min_gap` or more apart from each other and from the walls.

    Args:
        config: what to draw.
        rng: source of every choice.
        split: a name of `HoledChannelConfig.splits`.

    Raises:
        MeshError: no layout was found in a bounded number of tries.
    """
    least, most = config.holes_of(split)
    count = int(rng.integers(least, most + 1))
    for _ in range(_NUM_LAYOUTS):
        holes: list[Hole] = []
        # Longest first: the small ones fit in between.
        for shape in sorted((_shape(config, rng) for _ in range(count)), key=lambda hole: -hole.perimeter):
            hole = _placed(config, rng, shape, holes)
            if hole is None:
                break
            holes.append(hole)
        else:
            return holes
    raise MeshError(
        f"{count} holes found no place in {_NUM_LAYOUTS} layouts: lower their number, `hole_radius`, `slit_length` or "
        "`min_gap`, or raise `max_blocked`"
    )


def blocked(holes: list[Hole]) -> Array:
    """Share of the height that is solid `[n]`, at places evenly along the channel."""
    x, y = np.linspace(0.0, LENGTH, 201), (np.arange(100) + 0.5) / 100
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.zeros(len(points), dtype=bool)
    for hole in holes:
        inside |= hole.distance(points) < 0.0
    return inside.reshape(len(x), len(y)).mean(axis=1)


def _shape(config: HoledChannelConfig, rng: np.random.Generator) -> Hole:
    if rng.random() < config.slit_probability:
        half = 0.5 * float(rng.uniform(*config.slit_length)) - config.slit_radius
        return Hole(0.0, 0.0, config.slit_radius, half, float(rng.uniform(0.0, np.pi)))
    return Hole(0.0, 0.0, float(rng.uniform(*config.hole_radius)))


def _placed(config: HoledChannelConfig, rng: np.random.Generator, shape: Hole, placed: list[Hole]) -> Hole | None:
    reach = np.abs(shape.half_length * shape.direction) + shape.radius
    low = np.array([BEFORE, config.min_gap]) + reach
    high = np.array([LENGTH - BEHIND, 1.0 - config.min_gap]) - reach
    if (low > high).any():
        return None
    for _ in range(_NUM_TRIES):
        x, y = rng.uniform(low, high)
        hole = Hole(float(x), float(y), shape.radius, shape.half_length, shape.angle)
        apart = all(gap(hole, other) >= config.min_gap for other in placed)
        if apart and blocked([*placed, hole]).max() <= config.max_blocked:
            return hole
    return None
