"""The holes of a cell of each split: at random, in pairs that nearly touch, or with thin bridges between them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from flare_connect.errors import MeshError
from flare_datasets.unit_cells.config import UnitCellConfig
from flare_datasets.unit_cells.geometry import FineSpot, Hole, clears_sides, draw_holes, draw_shapes, keeps_gap, place

_NUM_LAYOUTS = 40
_NUM_NUDGES = 4
_GROWTH = 1.02
_MAX_ASPECT = 1.6  # longer holes leave thick triangles of solid between them


def draw_layout(config: UnitCellConfig, rng: np.random.Generator, split: str) -> list[Hole]:
    """The holes of a cell of `split`, see `UnitCellConfig`.

    Raises:
        MeshError: no layout of pairs was found.
    """
    if split == "contact":
        return _contact(config, rng)
    if split == "thin":
        return _thin(config, rng)
    return draw_holes(config, rng, config.holes_of(split))


def _contact(config: UnitCellConfig, rng: np.random.Generator) -> list[Hole]:
    """The second, fourth, … hole is beside the one before it; with an odd count the last one stands alone."""
    least, most = config.holes_of("contact")
    count = int(rng.integers(least, most + 1))
    crossing = bool(rng.random() < config.crossing_probability)
    nearest, farthest = np.log(config.contact_gap)
    for _ in range(_NUM_LAYOUTS):
        holes = place(
            rng,
            draw_shapes(config, rng, count),
            crossing=crossing,
            min_gap=config.contact_gap[0],
            paired=set(range(1, count, 2)),
            draw_gap=lambda: float(np.exp(rng.uniform(nearest, farthest))),
        )
        if holes is not None:
            return holes
    raise MeshError(f"{count} holes in pairs found no place in {_NUM_LAYOUTS} layouts: lower `porosity` or `num_holes`")


def _thin(config: UnitCellConfig, rng: np.random.Generator) -> list[Hole]:
    """Holes in uneven rows grow, one after the other, until the solid between is thin."""
    least, most = config.holes_of("thin")
    count = int(rng.integers(least, most + 1))
    for _ in range(_NUM_LAYOUTS):
        seeds = _seeds(config, rng, count)
        holes: list[Hole] = []
        for number, seed in enumerate(seeds):
            target = float(rng.uniform(*config.close_gap))
            others = [*holes, *seeds[number + 1 :]]
            # Moved a little each time: most places near a side leave a sliver there.
            tries = (_grow(_nudged(seed, rng), others, target, 0.25 * config.min_gap) for _ in range(_NUM_NUDGES))
            largest = max((hole for hole in tries if hole is not None), key=lambda hole: hole.area, default=None)
            if largest is None:
                break
            holes.append(largest)
        else:
            return holes
    raise MeshError(f"{count} holes with thin bridges were not found in {_NUM_LAYOUTS} layouts: lower `thin_holes`")


def _seeds(config: UnitCellConfig, rng: np.random.Generator, count: int) -> list[Hole]:
    """Small holes, `count` of them in rows of nearly equal number."""
    num_rows = round(math.sqrt(count))
    height = rng.random()
    seeds = []
    for row in range(num_rows):
        number = (count + row) // num_rows
        radius = 0.3 / max(number, num_rows)
        phase = rng.random()
        for i in range(number):
            x, y = (i + phase) / number, row / num_rows + height
            shape = str(rng.choice(config.shapes))
            aspect = 1.0 if shape == "circle" else float(rng.uniform(1.2, min(config.max_aspect, _MAX_ASPECT)))
            seeds.append(Hole(shape, x % 1.0, y % 1.0, radius * math.sqrt(aspect), radius / math.sqrt(aspect)))
    return [seeds[i] for i in rng.permutation(count)]


def _nudged(hole: Hole, rng: np.random.Generator) -> Hole:
    dx, dy = rng.uniform(-0.3, 0.3, 2) * hole.b
    angle = 0.0 if hole.shape == "circle" else float(rng.uniform(0.0, np.pi))
    return replace(hole, x=(hole.x + dx) % 1.0, y=(hole.y + dy) % 1.0, angle=angle)


def _grow(hole: Hole, others: list[Hole], target: float, spacing: float) -> Hole | None:
    """The largest hole that leaves `target` of solid to the others and no sliver at a side."""
    largest = None
    while keeps_gap(hole, others, target, spacing) and hole.a < 0.4:
        if clears_sides(hole, True, spacing):
            largest = hole
        hole = replace(hole, a=_GROWTH * hole.a, b=_GROWTH * hole.b)
    return largest


def draw_spots(config: UnitCellConfig, rng: np.random.Generator) -> list[FineSpot]:
    """Where edges of a mesh are shorter, whatever the holes; nothing is drawn where there is to be no such place."""
    least, most = config.fine_spots
    count = int(rng.integers(least, most + 1)) if most else 0
    return [FineSpot(float(rng.random()), float(rng.random()), *config.draw_grading(rng)) for _ in range(count)]
