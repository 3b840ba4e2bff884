"""Intervals and tests against published numbers, brute force and other formulas."""

from __future__ import annotations

from itertools import product
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin.evaluation import comparison
from blendin.evaluation.statistics import (
    Interval,
    conclusion,
    detectable_difference,
    mcnemar,
    mean,
    mean_of_rates,
    paired_difference,
    pearson,
    pooled_rate,
    wilson,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def of_discordant(n: int, a_only: int, b_only: int) -> tuple[list[int], list[int]]:
    """Two arms on n items, both right on the rest."""
    both = [1] * (n - a_only - b_only)
    return both + [1] * a_only + [0] * b_only, both + [0] * a_only + [1] * b_only


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


@settings(deadline=None)
@given(outcomes)
def test_mcnemar_is_the_binomial_tail_of_the_discordant_items(items: list[Any]) -> None:
    a, b = zip(*items, strict=True)
    a_only, b_only = items.count((True, False)), items.count((False, True))
    d = a_only + b_only
    tail = sum(comb(d, k) for k in range(min(a_only, b_only) + 1)) / 2**d
    assert mcnemar(a, b) == pytest.approx((min(1, 2 * tail), a_only, b_only))
    assert mcnemar(b, a) == pytest.approx((min(1, 2 * tail), b_only, a_only))


def test_the_bootstrap_interval_has_the_quantiles_of_every_resample() -> None:
    """n = 5: all 5⁵ resamples can be enumerated."""
    a, b = [0.9, 0.1, 0.5, 0.7, 0.3], [0.2, 0.3, 0.1, 0.1, 0.4]
    difference = np.subtract(a, b)
    means = [np.mean(difference[list(resample)]) for resample in product(range(5), repeat=5)]
    found = paired_difference(a, b, confidence=0.8)
    assert found == pytest.approx((np.mean(difference), *np.quantile(means, [0.1, 0.9])), abs=0.02)


def test_the_bootstrap_is_paired() -> None:
    """Items that vary far more than the arms do: only pairing sees the difference."""
    items = np.random.default_rng(0).normal(0, 10, 400)
    noise = np.random.default_rng(1).normal(0.1, 0.1, 400)
    _, low, high = paired_difference(items + noise, items)
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.005, 0.1 + 1.96 * 0.005), abs=0.01)


def test_the_bootstrap_is_reproducible_and_its_seed_counts() -> None:
    a, b = np.random.default_rng(0).random((2, 50))
    assert paired_difference(a, b) == paired_difference(a, b)
    assert paired_difference(a, b) != paired_difference(a, b, seed=1)


@pytest.mark.parametrize(
    ("n", "discordant"), [(100, 0.3), (100, 0.1), (1319, 0.3), (1319, 0.05), (1319, 0.001)]
)
def test_the_detectable_difference_is_seen_four_times_in_five(n: int, discordant: float) -> None:
    """Power of the exact test, by simulating its counts at that difference."""
    half = round(n * discordant / 2)
    delta = detectable_difference(*of_discordant(n, half, half))
    share = max(2 * half / n, delta)
    wins = (share + delta) / 2
    counts = np.random.default_rng(0).multinomial(n, [wins, share - wins, 1 - share], size=1000)
    seen = np.mean([mcnemar(*of_discordant(n, c[0], c[1])).p < 0.05 for c in counts])
    assert 0.7 < seen < 0.88


def test_the_detectable_difference_of_real_scores_is_the_z_tests() -> None:
    difference = np.tile([0.03, -0.03], 200)
    z = 1.959964 + 0.841621
    assert detectable_difference(difference, 0 * difference) == pytest.approx(z * 0.03 / sqrt(400))


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


def test_a_clear_difference_is_told_in_favour_of_the_better_arm_whichever_comes_first() -> None:
    a, b = of_discordant(500, 90, 30)
    for told in (conclusion("A", a, "B", b), conclusion("B", b, "A", a)):
        assert told.startswith("A (0.940) scores higher than B (0.820) on items such as these 500")
        assert "difference +0.120 [+0.0" in told
        assert "p < 0.001" in told
        assert "may be as small as 0.0" in told


def test_a_headline_from_100_items_is_not_told_as_one() -> None:
    """Nine points apart on 100 items, as many a paper's table: 24 against 15 discordant."""
    a, b = of_discordant(100, 24, 15)
    told = conclusion("A", a, "B", b)
    assert told.startswith("These 100 items do not tell A (0.850) and B (0.760) apart")
    assert "That does not make them equal" in told
    assert "about 0.175 or more would be seen 80 % of the time" in told  # 2.8016 · sqrt(0.39 / 100)


@pytest.mark.parametrize("scale", [1, 0.7])
def test_few_items_prove_nothing_though_the_bootstrap_has_no_width(scale: float) -> None:
    """Five of five: p = 2 / 2⁵, for outcomes 0 or 1 and for real scores alike."""
    told = conclusion("A", [scale] * 5, "B", [0.0] * 5)
    assert "do not tell" in told
    assert "p = 0.062" in told
    assert "too close to call" in told
    assert "scores higher" in conclusion("A", [scale] * 6, "B", [0.0] * 6)


def test_no_arm_is_higher_while_the_interval_holds_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare with real numbers: so the permutation test is made to say yes."""
    monkeypatch.setattr(statistics, "_sign_flip_p", lambda a, b: 0.04)
    told = conclusion("A", [0.1, 0.3, 0.2, 0.6], "B", [0.2, 0.1, 0.3, 0.4])
    assert "do not tell" in told
    assert "too close to call" in told


def test_arms_that_agree_throughout_are_not_called_equal() -> None:
    told = conclusion("A", [1, 0] * 50, "B", [1, 0] * 50)
    assert "scored alike on each of these 100 items" in told
    assert "may still differ on up to 3 % of such items" in told  # the rule of three


def test_equal_arms_are_told_apart_about_once_in_twenty() -> None:
    rng = np.random.default_rng(0)
    told = [conclusion("A", rng.random(20), "B", rng.random(20)) for _ in range(100)]
    assert sum("scores higher" in text for text in told) <= 11  # Binomial(100, 0.05): p = 0.996


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
        (lambda: mcnemar([1, 0], [1]), r"\(2,\) and \(1,\): .* the same items in the same order"),
        (lambda: mcnemar([], []), "no item"),
        (lambda: mcnemar([0.5, 1], [0, 1]), "outcomes 0 or 1; use paired_difference"),
        (lambda: paired_difference([[1]], [[1]]), "one number an item"),
        (lambda: paired_difference([1], [0]), "2 items or more"),
        (lambda: paired_difference([1, float("nan")], [0, 1]), "not finite"),
        (lambda: conclusion("A", [1, 0], "B", [1, 0, 1]), "the same items in the same order"),
        (lambda: conclusion("A", [], "B", []), "no item"),
        (lambda: pearson([1, 2, 3], [3, 1, 2]), "over 3 points .* use 4 or more"),
        (lambda: pearson([1, 2, 3, 4], [2, 2, 2, 2]), "second variable is 2 at every point"),
        (lambda: pearson([1, 1, 1, 1], [1, 2, 3, 4]), "first variable is 1 at every point"),
        (lambda: pearson([1, 2, 3, 4], [1, 2, 3]), "one number an item"),
    ],
)
def test_bad_input_is_refused_with_what_to_change(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_pooled_rate_knows_that_steps_of_an_item_resemble_each_other() -> None:
    alike = pooled_rate([5] * 40, [10] * 40)
    apart = pooled_rate([10, 0] * 20, [10] * 40)
    assert alike == (0.5, 0.5, 0.5)
    assert apart.estimate == 0.5
    assert apart.high - apart.low > 2 * (wilson(200, 400).high - wilson(200, 400).low)
    assert pooled_rate([1], [4]) == (0.25, 0.0, 1.0)
    assert pooled_rate([1, 2], [2, 6]).estimate == 3 / 8


def test_the_pooled_interval_covers_the_rate_that_items_are_drawn_from() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        own = rng.beta(2, 6, size=60)
        totals = rng.integers(10, 60, size=60)
        found = pooled_rate(rng.binomial(totals, own), totals)
        covered += found.low <= 0.25 <= found.high
    assert 86 <= covered <= 100


@pytest.mark.parametrize("counts, totals", [([2], [1]), ([-1], [1]), ([0, 0], [0, 0]), ([], [])])
def test_counts_that_are_no_shares_are_refused(counts: list[int], totals: list[int]) -> None:
    with pytest.raises(ValueError):
        pooled_rate(counts, totals)


def test_a_mean_of_rates_is_as_sure_as_its_parts() -> None:
    found = mean_of_rates(Interval(0.8, 0.7, 0.9), Interval(0.4, 0.1, 0.5))
    assert found.estimate == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - (0.1**2 + 0.3**2) ** 0.5 / 2)
    assert found.high == pytest.approx(0.6 + (0.1**2 + 0.1**2) ** 0.5 / 2)
    assert mean_of_rates(Interval(0.5, 0.4, 0.7)) == (0.5, pytest.approx(0.4), pytest.approx(0.7))


def test_the_mean_of_unlike_numbers_has_an_interval_about_it() -> None:
    found = mean([0.0, 0.25, 0.5, 1.0])
    assert found.estimate == 0.4375
    assert 0 <= found.low < found.estimate < found.high <= 1
