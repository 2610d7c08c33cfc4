"""Means and intervals against theory: what is known of means of normal numbers, and what pairing is for."""

import math

import numpy as np
import pytest

from flare_connect.errors import InputError
from flare_connect.metrics import Ratio, compare_models, paired_ratio, summarise, summarise_splits


def cases(values, name="rel_l2"):
    return [{name: float(value)} for value in values]


def test_mean_median_and_what_is_missing():
    found = summarise([{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 3.0}, {"a": 6.0}])
    assert (found["a"].mean, found["a"].median, found["a"].num_cases, found["a"].num_missing) == (3.0, 2.0, 3, 0)
    assert 1.0 <= found["a"].low < 3.0 < found["a"].high <= 6.0
    assert (found["b"].mean, found["b"].median, found["b"].num_cases, found["b"].num_missing) == (3.0, 3.0, 1, 2)
    assert math.isnan(found["b"].low)
    assert math.isnan(found["b"].high)
    nothing = summarise([{"a": math.nan}] * 3)["a"]
    assert math.isnan(nothing.mean)
    assert (nothing.num_cases, nothing.num_missing) == (0, 3)


def test_two_cases_by_hand():
    # Of two cases drawn with replacement the mean is 0, 1/2 or 1, with chances 1/4, 1/2 and 1/4.
    wide, narrow = (summarise(cases([0, 1]), level=level)["rel_l2"] for level in (0.95, 0.4))
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_the_interval_is_that_of_theory():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = summarise(cases(values))["rel_l2"]
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    narrow = summarise(cases(values), level=0.5)["rel_l2"]
    assert narrow.high - narrow.low == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.08)


def test_it_holds_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        found = summarise(cases(random.exponential(1.0, 60)), num_resamples=400, seed=seed)["rel_l2"]
        hits += found.low <= 1.0 <= found.high
    assert 0.89 < hits / 300 < 0.98


def test_the_seed_fixes_the_interval_and_order_of_errors_does_not_matter():
    values = np.random.default_rng(0).random(30)
    first, again, other = (summarise(cases(values), seed=seed)["rel_l2"] for seed in (0, 0, 1))
    assert first == again
    assert first.low != other.low
    both = [{"zero": 0.0, "rel_l2": float(value)} for value in values]
    assert summarise(both)["rel_l2"] == first


def test_infinite_errors_stay_infinite():
    found = summarise(cases([1.0, 2.0, math.inf]))["rel_l2"]
    assert found.mean == found.high == math.inf
    assert found.median == 2.0
    assert found.low == 1.0 or math.isinf(found.low)


def test_many_cases_are_drawn_in_pieces(monkeypatch):
    values = np.random.default_rng(0).random(100)
    whole = summarise(cases(values))["rel_l2"]
    monkeypatch.setattr("flare_connect.metrics.summary._TOGETHER", 5_000)
    assert summarise(cases(values))["rel_l2"] == whole


def test_splits_are_apart():
    found = summarise_splits({"id": cases([1, 2, 3]), "shift": cases([10, 20])})
    assert found["id"] == summarise(cases([1, 2, 3]))
    assert found["shift"]["rel_l2"].mean == 15
    with pytest.raises(InputError, match="the split 'more' has no cases"):
        summarise_splits({"id": cases([1]), "more": []})


def test_pairing_takes_out_what_both_find_hard():
    random = np.random.default_rng(0)
    hard = random.lognormal(0, 1, 80)
    first, second = 2 * hard * random.uniform(0.9, 1.1, 80), hard * random.uniform(0.9, 1.1, 80)
    found = paired_ratio(first, second)
    assert found.ratio == pytest.approx(first.mean() / second.mean())
    assert found.low < found.ratio < found.high
    assert found.high - found.low < 0.15
    apart = paired_ratio(first, random.permutation(second))
    assert apart.high - apart.low > 5 * (found.high - found.low)
    back = paired_ratio(second, first)
    assert (back.low, back.high) == (pytest.approx(1 / found.high, rel=1e-3), pytest.approx(1 / found.low, rel=1e-3))


def test_an_exact_ratio_has_no_spread():
    values = np.random.default_rng(0).random(20)
    found = paired_ratio(3 * values, values)
    assert found.ratio == pytest.approx(3)
    assert found.low == pytest.approx(3)
    assert found.high == pytest.approx(3)


def test_cases_that_one_lacks_are_left_out_of_the_ratio():
    found = paired_ratio([2.0, math.nan, 4.0, 9.0], [1.0, 5.0, 2.0, math.nan])
    assert (found.ratio, found.num_cases) == (2.0, 2)
    none = paired_ratio([math.nan], [1.0])
    assert none.num_cases == 0
    assert math.isnan(none.ratio)
    one = paired_ratio([3.0], [2.0])
    assert one.ratio == 1.5
    assert math.isnan(one.low)
    assert paired_ratio([1.0, 2.0], [0.0, 0.0]).ratio == math.inf
    assert paired_ratio([0.0, 0.0], [0.0, 0.0]) == Ratio(ratio=1.0, low=1.0, high=1.0, num_cases=2)


def test_models_are_compared_by_every_error_that_both_have():
    first = [{"a": 2.0, "b": 1.0}, {"a": 4.0, "b": 1.0}]
    second = [{"a": 1.0, "c": 1.0}, {"a": 2.0}]
    assert compare_models(first, second) == {"a": paired_ratio([2.0, 4.0], [1.0, 2.0])}


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="there are no cases to summarise"):
        summarise([])
    with pytest.raises(InputError, match=r"`level` must be between 0 and 1, got 95"):
        summarise(cases([1, 2]), level=95.0)
    with pytest.raises(InputError, match="`num_resamples` must be at least 100, got 10"):
        summarise(cases([1, 2]), num_resamples=10)
    with pytest.raises(InputError, match="both models need the same cases in the same order, got 1 and 2"):
        paired_ratio([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="both models need the same cases in the same order, got 2 and 1"):
        compare_models(cases([1, 2]), cases([1]))
