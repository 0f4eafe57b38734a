"""Intervals over independent units: their coverage, several at once, and what is called unusual."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from napari_prosma.inspection.statistics import (
    FEWEST,
    by_unit,
    interval,
    simultaneous,
    units_in_words,
    unusual_from,
)


def test_one_mean_of_an_even_sample_has_students_interval():
    values = 0.1 + stats.norm.ppf((np.arange(15) + 0.5) / 15)
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=0.1)
    assert found.low <= low < high <= found.high
    assert found.units == 15


def test_the_interval_reaches_to_where_rare_large_values_may_be():
    values = np.array([0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 2.5])
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.high - found.mean > 1.5 * (high - found.mean)
    assert found.low == pytest.approx(low)


@pytest.mark.parametrize("number", [8, 16])
def test_skewed_nothings_are_rarely_claimed(number: int):
    """By Student's intervals, widened by the largest under random signs, it is one set of four."""
    rng, claimed = np.random.default_rng(1), 0
    for _ in range(100):
        values = np.exp(rng.standard_normal((4, number)) + rng.standard_normal(number)) - np.exp(1)
        claimed += any(e.is_above or e.is_below for e in simultaneous(dict(enumerate(values))).values())
    assert claimed < 10


def test_where_all_units_but_one_are_equal_nothing_is_known():
    found = simultaneous({"one": np.array([0.3, *[0.0] * 9]), "other": 0.5 + 0.01 * np.arange(10)})
    assert not found["one"].is_known
    assert np.isnan(found["one"].high)
    assert found["one"].in_words() == "+0.030, no interval, as nearly all of 10 independent cases are equal"
    assert found["other"].is_above


@pytest.mark.parametrize("number", [0, 1, FEWEST - 1])
def test_too_few_units_have_no_interval_and_claim_nothing(number: int):
    found = interval(np.full(number, 7.0))
    assert not found.is_known
    assert not found.is_above
    assert not found.is_below
    assert not found.is_within(100)
    assert found.in_words().endswith(f"no interval from {units_in_words(number)}")


def test_the_largest_of_several_nothings_is_rarely_claimed():
    """Of four skips that do nothing some one is claimed in one set of twenty, not in one of five."""
    rng = np.random.default_rng(0)
    claimed = single = 0
    for _ in range(300):
        samples = dict(enumerate(rng.standard_normal((4, 10))))
        claimed += any(e.is_above or e.is_below for e in simultaneous(samples).values())
        single += any(interval(v).is_above or interval(v).is_below for v in samples.values())
    assert claimed / 300 < 0.08
    assert single / 300 > 0.12


def test_values_without_any_spread_are_told_as_they_are():
    found = simultaneous({"none": np.zeros(10), "some": np.full(10, 0.2)})
    assert not found["none"].is_above
    assert found["some"].is_above
    assert not found["none"].is_within(0.01)  # nothing shows how far others may differ
    assert simultaneous({"": 0.001 * np.arange(-5, 5)})[""].is_within(0.01)
    assert found["some"].in_words() == "+0.200 in each of 10 independent cases"
    assert simultaneous({"seven": np.full(7, 0.2)})["seven"].in_words() == (
        "+0.200, no interval from 7 independent cases"
    )


def test_an_interval_does_not_reach_beyond_what_there_can_be():
    values = np.array([0.5, *[0.97, 1.0] * 5])
    assert interval(values).high > 1
    found = interval(values, (-1.0, 1.0))
    assert (found.low, found.high) == (interval(values).low, 1.0)
    assert np.isnan(interval(values[:3], (-1.0, 1.0)).high)


def test_a_value_that_rounds_to_nothing_has_no_sign_of_less():
    assert interval(np.full(9, -1e-5)).in_words() == "+0.000 in each of 9 independent cases"
    values = -1e-5 * np.linspace(0.9, 1.1, 9)
    assert interval(values).in_words() == "+0.000, 95 % interval +0.000 to +0.000"


def test_cases_of_one_unit_count_once():
    values = {"a": 1.0, "b": 3.0, "c": 10.0}
    assert by_unit(values, {"a": "a", "b": "a"}) == {"a": 2.0, "c": 10.0}
    assert by_unit(values) == values


@pytest.mark.parametrize("cases", [8, 30])
def test_ordinary_sets_have_an_unusual_case_one_time_in_twenty(cases: int):
    bound, rng, alarms = unusual_from(cases, 6), np.random.default_rng(5), 0
    for _ in range(600):
        values = rng.standard_normal((cases, 6))
        apart = np.abs(values - np.median(values, axis=0))
        alarms += (apart / (1.4826 * np.median(apart, axis=0))).max() > bound
    assert 0.02 < alarms / 600 < 0.09


def test_the_bound_for_many_cases_is_that_of_the_normal_distribution():
    assert unusual_from(200, 5) == pytest.approx(unusual_from(201, 5), rel=0.1)
