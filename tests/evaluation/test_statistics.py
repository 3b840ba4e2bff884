"""Intervals against published numbers, brute force, other formulas and simulation."""

from __future__ import annotations

import importlib.util
import sys
from math import inf, nan, sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from blendin.evaluation.comparison import paired_difference
from blendin.evaluation.statistics import (
    Interval,
    _freedom,
    mean,
    mean_of_rates,
    pearson,
    pooled_mean,
    pooled_rate,
    wilson,
)

COVERAGE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The simulation whose tables docs/statistics.md shows."""
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", COVERAGE)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17: 857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert found == pytest.approx((successes / n, low, high), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 2000), st.data())
def test_wilsons_bounds_solve_the_score_equation_within_the_unit_interval(
    n: int, data: st.DataObject
) -> None:
    rate, low, high = wilson(data.draw(st.integers(0, n)), n)
    assert 0 <= low <= rate <= high <= 1
    for bound in (low, high):  # |rate − p| = z · sqrt(p (1 − p) / n)
        assert (rate - bound) ** 2 == pytest.approx(
            1.959963985**2 * bound * (1 - bound) / n, abs=1e-9
        )


def test_pearson_gives_fishers_interval() -> None:
    # Anscombe's first quartet: r = 0.816; bounds tanh(atanh(r) ± 1.96 / sqrt(11 − 3)).
    x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    bounds = np.tanh(np.arctanh(0.81642) + np.array([-1, 1]) * 1.959964 / sqrt(8))
    assert pearson(x, y) == pytest.approx((0.81642, *bounds), abs=1e-4)
    assert pearson(x, np.negative(y)).estimate == pytest.approx(-0.81642, abs=1e-4)


def test_a_confidence_widens_every_interval() -> None:
    a, b = np.random.default_rng(0).random((2, 30))
    for narrow, wide in (
        (wilson(3, 9, 0.8), wilson(3, 9, 0.99)),
        (paired_difference(a, b, 0.8), paired_difference(a, b, 0.99)),
        (pearson(a, b, 0.8), pearson(a, b, 0.99)),
    ):
        assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_intervals_print_compactly() -> None:
    assert str(Interval(0.314, 0.2263, 0.4149)) == "0.31 [0.23, 0.41]"
    assert f"{Interval(0.05, -0.0001, 0.1):+z.3f}" == "+0.050 [+0.000, +0.100]"
    assert f"{Interval(0.05, -0.0001, 0.1)}" == "0.05 [0.00, 0.10]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(0, 0), "n from 1 up"),
        (lambda: wilson(3, 2), r"3 successes of 2: use .* successes in 0\.\.n"),
        (lambda: wilson(-1, 2), "-1 successes of 2"),
        (lambda: pearson([1, 2, 3], [3, 1, 2]), "over 3 points .* use 4 or more"),
        (lambda: pearson([1, 2, 3, 4], [2, 2, 2, 2]), "second variable is 2 at every point"),
        (lambda: pearson([1, 1, 1, 1], [1, 2, 3, 4]), "first variable is 1 at every point"),
        (lambda: pearson([1, 2, 3, 4], [1, 2, 3]), "one number an item"),
        (lambda: pearson([1, 2, 3, 4], [0.3, 0.1 + 0.2, 0.3, 0.3]), "second variable is 0.3 at"),
        (lambda: pearson([1e9 + 1e-7 * i for i in range(4)], [1, 2, 4, 3]), "first variable is 1e"),
        (lambda: pearson([0.1, 0.2, 0.3, 0.4], [0.3, 0.6, 0.9, 1.2]), r"4 points lie on one line"),
        (lambda: pearson([0, 0, 0, 1], [5, 5, 5, 3]), r"on one line \(r = -1\)"),
        (lambda: pooled_rate([2], [1]), r"counts must lie in 0\.\.total"),
        (lambda: pooled_rate([-1], [1]), r"counts must lie in 0\.\.total"),
        (lambda: pooled_rate([0, 0], [0, 0]), "a total must be above 0"),
        (lambda: pooled_rate([], []), "no item"),
        (lambda: pooled_rate([1, nan], [2, 2]), "not finite"),
        (lambda: pooled_rate([1, 1], [2, inf]), "not finite"),
        (lambda: pooled_rate([1, 1], [2, 3], 95), "confidence is 95: use a number between 0 and 1"),
        (lambda: mean([0.5, 1.5]), r"counts must lie in 0\.\.total"),
    ],
)
def test_bad_input_is_refused_with_what_to_change(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mean_of_rates_is_as_sure_as_its_parts() -> None:
    found = mean_of_rates(Interval(0.8, 0.7, 0.9), Interval(0.4, 0.1, 0.5))
    assert found.estimate == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - (0.1**2 + 0.3**2) ** 0.5 / 2)
    assert found.high == pytest.approx(0.6 + (0.1**2 + 0.1**2) ** 0.5 / 2)
    assert mean_of_rates(Interval(0.5, 0.4, 0.7)) == (0.5, pytest.approx(0.4), pytest.approx(0.7))


def test_items_of_one_length_give_the_logit_interval_with_students_t() -> None:
    rates = np.array([0.1, 0.35, 0.2, 0.5, 0.15, 0.3])
    reach = stats.t.ppf(0.975, 5) * stats.sem(rates) / (rates.mean() * (1 - rates.mean()))
    expected = expit(logit(rates.mean()) + np.array([-reach, reach]))
    for found in (
        mean(rates),
        pooled_mean(7 * rates, [7] * 6),
        pooled_rate(100 * rates, [100] * 6),
    ):
        assert found == pytest.approx((rates.mean(), *expected))


@pytest.mark.parametrize("totals", [[1, 1, 1, 1], [1, 2, 3, 4, 50], [9, 1], [3, 1, 1, 400, 7, 60]])
def test_the_degrees_of_freedom_are_those_of_the_quadratic_form(totals: list[int]) -> None:
    weights = np.array(totals) / np.sum(totals)
    deviations = np.diag(weights) - np.outer(weights, weights)  # rates to w · (rate − estimate)
    expected = 1 - 2 * weights + weights @ weights
    form = deviations.T @ np.diag(1 / expected) @ deviations
    # Unbiased where items' rates vary alike: tr(form) is the variance of Σ w · rate.
    assert np.trace(form) == pytest.approx(weights @ weights)
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    assert _freedom(weights, expected) == pytest.approx(freedom)
    assert 1 - 1e-9 <= freedom <= len(totals) - 1 + 1e-9


def test_steps_of_an_item_resemble_each_other_but_are_not_more_alike_than_trials() -> None:
    trials = wilson(200, 400)
    for counts in ([5] * 40, [4, 6] * 20):
        alike = pooled_rate(counts, [10] * 40)
        assert alike.high - alike.low == pytest.approx(trials.high - trials.low, rel=0.05)
    apart = pooled_rate([10, 0] * 20, [10] * 40)
    assert apart.high - apart.low > 2 * (trials.high - trials.low)


@pytest.mark.parametrize(
    ("counts", "totals", "expected"),
    [
        ([1], [4], (0.25, 0, 1)),
        ([1, 0], [4, 0], (0.25, 0, 1)),
        ([1, 5e5], [2, 1e6], (0.5, 0, 1)),
        ([5e-324, 0], [5e-324, 1e300], (0, 0, 1)),
        ([0] * 10, [60] * 10, wilson(0, 10)),
        ([7] * 10, [7] * 10, wilson(10, 10)),
        ([0] * 10, [9] * 5 + [0] * 5, wilson(0, 5)),
    ],
)
def test_what_shows_no_spread_is_not_sure(
    counts: list[float], totals: list[float], expected: tuple[float, float, float]
) -> None:
    assert pooled_rate(counts, totals) == pytest.approx(expected)


def test_scores_that_are_all_the_same_leave_room_for_items_unseen() -> None:
    found = mean([0.3, 0.1 + 0.2] * 10)
    unseen = 1 - 0.025 ** (1 / 20)  # that share is missed by 20 items with probability 0.025
    assert found == pytest.approx((0.3, 0.3 * (1 - unseen), 0.3 + 0.7 * unseen))
    assert mean([0.3]) == (pytest.approx(0.3), 0, 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1), st.data())
def test_an_interval_holds_its_estimate_whatever_the_items(
    items: list[tuple[int, int]], data: st.DataObject
) -> None:
    scale = data.draw(st.lists(st.sampled_from([1, 1e-9, 1e9]), min_size=1))
    pairs = [(min(i), max(i), scale[n % len(scale)]) for n, i in enumerate(items) if max(i)]
    if not pairs:
        return
    counts, totals = ([each[k] * each[2] for each in pairs] for k in (0, 1))
    for pooled in (pooled_rate, pooled_mean):
        found = pooled(counts, totals)
        assert found.estimate == pytest.approx(sum(counts) / sum(totals))
        assert 0 <= found.low <= found.estimate <= found.high <= 1
        nothing = pooled([*counts, 0, 0], [*totals, 0, 0])  # such items count for nothing
        assert nothing == pytest.approx(found)


@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize(
    "name",
    [
        "pooled rate",
        "mean of scores in 0..1",
        "difference of outcomes 0 or 1",
        "difference of scores in 0..1",
    ],
)
def test_intervals_hold_the_truth_where_the_bootstraps_do_not(
    coverage: ModuleType, name: str, n: int
) -> None:
    statistic, draws = coverage.STATISTICS[name], 200
    found = coverage.coverage(statistic, n, draws)
    noise = 3 * sqrt(0.95 * 0.05 / draws)
    enough = 0.94 - noise / sqrt(len(found.ours))
    assert found.ours.mean() > enough
    assert found.ours.min() > 0.87 - noise  # rates of 5 % in answers that are very unlike
    assert n > 10 or found.bootstrap.mean() < enough
