"""From errors of single cases to one number a model, with the spread that the choice of cases leaves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flare_connect.errors import InputError

Case = Mapping[str, float]

_TOGETHER = 1 << 22  # drawn numbers at a time: 32 megabytes


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One error over the cases of a split.

    Attributes:
        mean: over the cases that have it.
        median: the same.
        low: lower end of the interval of the mean; NaN with fewer than two cases.
        high: upper end.
        num_cases: cases that have the error.
        num_missing: cases where it is NaN, as the jump error of a mesh without slits; left out of all the rest.
    """

    mean: float
    median: float
    low: float
    high: float
    num_cases: int
    num_missing: int


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times larger one model's mean error is than another's.

    Attributes:
        ratio: mean of the first over mean of the second.
        low: lower end of its interval; NaN with fewer than two cases.
        high: upper end.
        num_cases: cases for which both have the error.
    """

    ratio: float
    low: float
    high: float
    num_cases: int


def summarise(
    cases: Sequence[Case], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, Summary]:
    """Mean, median and bootstrap interval of every error over the cases.

    Cases are drawn with replacement, as many as there are, and the interval holds the middle `level` of the means. It
    tells how much another set of cases of the same kind would change the mean, not how much another training would.

    Args:
        cases: one dict a mesh, as from `evaluate_fields`; an error that a case lacks counts as NaN.
        level: share of the means within the interval, between 0 and 1.
        num_resamples: how often the cases are drawn.
        seed: same seed, same interval.

    Raises:
        InputError: there are no cases, or a setting is out of range.

    Good values: the defaults. Below about ten cases the interval is too narrow.

    Source: percentile bootstrap, Efron 1979.
    """
    _check(level, num_resamples)
    if not cases:
        raise InputError("there are no cases to summarise: give the errors of at least one mesh")
    names = list(dict.fromkeys(name for case in cases for name in case))
    found = {}
    for name in names:
        values = np.array([float(case.get(name, math.nan)) for case in cases])
        known = values[~np.isnan(values)]
        low, high = _ends(_means(known[None], num_resamples, seed)[0], level) if len(known) > 1 else (math.nan,) * 2
        found[name] = Summary(
            mean=float(known.mean()) if len(known) else math.nan,
            median=float(np.median(known)) if len(known) else math.nan,
            low=low,
            high=high,
            num_cases=len(known),
            num_missing=len(values) - len(known),
        )
    return found


def summarise_splits(
    cases: Mapping[str, Sequence[Case]], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, dict[str, Summary]]:
    """`summarise` for each split: split → error → `Summary`.

    Raises:
        InputError: a split has no cases, or a setting is out of range.
    """
    for split, found in cases.items():
        if not found:
            raise InputError(f"the split {split!r} has no cases: leave it out, or evaluate it")
    return {
        split: summarise(found, level=level, num_resamples=num_resamples, seed=seed) for split, found in cases.items()
    }


def paired_ratio(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Ratio:
    """Ratio of the mean errors of two models on the same cases, with its bootstrap interval.

    The same cases are drawn for both, so that what makes a case hard for both does not widen the interval.

    Args:
        first: one error a case; the model that the ratio is large for if it is bad.
        second: the errors of the other on the same cases, in the same order.
        level: as in `summarise`.
        num_resamples: as in `summarise`.
        seed: as in `summarise`.

    Returns:
        See `Ratio`. Cases where either is NaN are left out; NaN where none is left. Infinite where only the second is
        0.

    Raises:
        InputError: the numbers of cases differ, or a setting is out of range.
    """
    _check(level, num_resamples)
    if len(first) != len(second):
        raise InputError(f"both models need the same cases in the same order, got {len(first)} and {len(second)}")
    both = np.array([first, second], dtype=float).reshape(2, -1)
    both = both[:, ~np.isnan(both).any(0)]
    count = both.shape[1]
    if count == 0:
        return Ratio(ratio=math.nan, low=math.nan, high=math.nan, num_cases=0)
    low, high = _ends(_over(*_means(both, num_resamples, seed)), level) if count > 1 else (math.nan, math.nan)
    return Ratio(ratio=float(_over(*both.mean(1, keepdims=True))[0]), low=low, high=high, num_cases=count)


def compare_models(
    first: Sequence[Case], second: Sequence[Case], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, Ratio]:
    """`paired_ratio` for every error that both models have, over the same cases in the same order.

    Raises:
        InputError: the numbers of cases differ, or a setting is out of range.
    """
    mine, other = ({name for case in cases for name in case} for cases in (first, second))
    names = [name for name in dict.fromkeys(name for case in first for name in case) if name in mine & other]
    columns = {
        name: [[float(case.get(name, math.nan)) for case in cases] for cases in (first, second)] for name in names
    }
    return {
        name: paired_ratio(*column, level=level, num_resamples=num_resamples, seed=seed)
        for name, column in columns.items()
    }


def _check(level: float, num_resamples: int) -> None:
    if not 0 < level < 1:
        raise InputError(f"`level` must be between 0 and 1, got {level}")
    if num_resamples < 100:
        raise InputError(f"`num_resamples` must be at least 100, got {num_resamples}")


def _means(values: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Means of each row over cases drawn with replacement `[rows, num_resamples]`, the same cases for all rows."""
    count = values.shape[1]
    random = np.random.default_rng(seed)
    together = max(1, _TOGETHER // count)
    drawn = [
        values[:, random.integers(count, size=(min(together, num_resamples - start), count))].mean(2)
        for start in range(0, num_resamples, together)
    ]
    return np.concatenate(drawn, axis=1)


def _ends(found: np.ndarray, level: float) -> tuple[float, float]:
    # Values that occur, not weighted means of two: infinite ones stay what they are.
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2), method="inverted_cdf")
    return float(low), float(high)


def _over(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Elementwise ratio; infinite where only the second is 0, 1 where both are, NaN where both are infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.divide(first, second)
    return np.where((first == 0) & (second == 0), 1.0, found)
