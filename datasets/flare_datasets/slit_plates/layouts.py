"""Where the slits of a plate are: at random, or in a pattern that makes the way through long."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from flare_datasets.slit_plates.config import JITTER, SPIRAL, SlitPlateConfig
from flare_datasets.slit_plates.geometry import Array, Slit, gap, side_gap

_NUM_LAYOUTS = 50
_NUM_TRIES = 60


def draw_slits(config: SlitPlateConfig, rng: np.random.Generator, split: str, opening: float) -> list[Slit]:
    """The slits of a plate of `split`, `config.min_gap` or more apart from each other and from the sides.

    Only slits of "serpentine" and "comb" begin at a side. Random slits that cannot be placed in a bounded number of
    tries are drawn anew; after 50 of those, parallel slits of the least length on a lattice are returned, which fit
    because the configuration was checked for it.

    Args:
        config: what to draw.
        rng: source of every choice.
        split: a name of `SPLITS`.
        opening: distance of the lips, in plate sides.
    """
    least, most = config.slits_of(split)
    count = int(rng.integers(least, most + 1))
    pattern: dict[str, Callable[[], list[Slit]]] = {
        "serpentine": lambda: _serpentine(config, rng, count, opening),
        "comb": lambda: _comb(config, rng, count, opening),
        "spiral": lambda: [_spiral(config, rng, opening)],
    }
    return pattern[split]() if split in pattern else _random(config, rng, count, opening)


def _random(config: SlitPlateConfig, rng: np.random.Generator, count: int, opening: float) -> list[Slit]:
    for _ in range(_NUM_LAYOUTS):
        # Longest first: the short ones fit in between.
        lengths = np.sort(rng.uniform(*config.slit_length, count))[::-1]
        slits: list[Slit] = []
        for length in lengths:
            slit = _place(config, rng, float(length), opening, slits)
            if slit is None:
                break
            slits.append(slit)
        else:
            return slits
    return _lattice(config, count, opening)


def _place(
    config: SlitPlateConfig, rng: np.random.Generator, length: float, opening: float, placed: list[Slit]
) -> Slit | None:
    for _ in range(_NUM_TRIES):
        angle = float(rng.uniform(0.0, np.pi))
        half = 0.5 * length * np.array([math.cos(angle), math.sin(angle)])
        middle = rng.random(2)
        slit = _slit(np.stack([middle - half, middle + half]), opening)
        if side_gap(slit) >= config.min_gap and all(gap(slit, other) >= config.min_gap for other in placed):
            return slit
    return None


def _lattice(config: SlitPlateConfig, count: int, opening: float) -> list[Slit]:
    per_side = math.ceil(math.sqrt(count))
    half = 0.5 * config.slit_length[0]
    sites = [((i + 0.5) / per_side, (j + 0.5) / per_side) for j in range(per_side) for i in range(per_side)]
    return [Slit(((x, y - half), (x, y + half)), opening) for x, y in sites[:count]]


def _walls(config: SlitPlateConfig, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Places `[count]` and lengths `[count]` of parallel slits: one common length, a little different each."""
    place = (np.arange(count) + 1.0 + rng.uniform(-JITTER, JITTER, count)) / (count + 1)
    least, most = config.long_slit
    common = rng.uniform(least, most)
    spread = 0.1 * (most - least)
    return place, np.clip(common + rng.uniform(-spread, spread, count), least, most)


def _serpentine(config: SlitPlateConfig, rng: np.random.Generator, count: int, opening: float) -> list[Slit]:
    place, length = _walls(config, rng, count)
    from_top = (np.arange(count) + rng.integers(2)) % 2 == 1
    start = np.where(from_top, 1.0, 0.0)
    end = np.where(from_top, 1.0 - length, length)
    return [_slit(np.array([[x, a], [x, b]]), opening) for x, a, b in zip(place, start, end, strict=True)]


def _comb(config: SlitPlateConfig, rng: np.random.Generator, count: int, opening: float) -> list[Slit]:
    place, length = _walls(config, rng, count)
    side = int(rng.integers(4))  # bottom, top, left, right
    slits = []
    for x, reach in zip(place, length, strict=True):
        ends = np.array([[x, 0.0], [x, reach]]) if side % 2 == 0 else np.array([[x, 1.0], [x, 1.0 - reach]])
        slits.append(_slit(ends if side < 2 else ends[:, ::-1], opening))
    return slits


def _spiral(config: SlitPlateConfig, rng: np.random.Generator, opening: float) -> Slit:
    """Piece j lies at a distance from the centre that shrinks by a quarter of the pitch from piece to piece."""
    (least, most), inner = SPIRAL
    quarters = int(rng.integers(math.ceil(4 * config.spiral_turns[0]), math.floor(4 * config.spiral_turns[1]) + 1))
    outer = rng.uniform(least, most)
    first = int(rng.integers(4))
    away = outer - (outer - inner) / quarters * np.arange(quarters + 1)
    away = np.concatenate([away[:1], away])  # a piece before the first one, and one after the last: its ends
    turn = 0.5 * np.pi * (first - 1 + np.arange(quarters + 2))
    normal = np.round(np.stack([np.cos(turn), np.sin(turn)], axis=1))
    corners = away[:-1, None] * normal[:-1] + away[1:, None] * normal[1:]
    if rng.random() < 0.5:
        corners = corners * [-1.0, 1.0]
    return _slit(0.5 + corners, opening)


def _slit(line: Array, opening: float) -> Slit:
    return Slit(tuple((float(x), float(y)) for x, y in line), opening)
