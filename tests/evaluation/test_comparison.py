"""Two arms compared: tests against brute force, intervals, and the sentences made of them."""

from __future__ import annotations

from math import comb, inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from blendin.evaluation import comparison
from blendin.evaluation.comparison import (
    Comparison,
    conclusions,
    detectable_difference,
    holm,
    mcnemar,
    paired_difference,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def of_discordant(n: int, a_only: int, b_only: int) -> tuple[list[int], list[int]]:
    """Two arms on n items, both right on the rest."""
    both = [1] * (n - a_only - b_only)
    return both + [1] * a_only + [0] * b_only, both + [0] * a_only + [1] * b_only


def conclusion(name_a: str, a: Any, name_b: str, b: Any) -> str:
    return conclusions([Comparison(name_a, a, name_b, b)])[0]


@settings(deadline=None)
@given(outcomes)
def test_mcnemar_is_the_binomial_tail_of_the_discordant_items(items: list[Any]) -> None:
    a, b = zip(*items, strict=True)
    a_only, b_only = items.count((True, False)), items.count((False, True))
    d = a_only + b_only
    tail = sum(comb(d, k) for k in range(min(a_only, b_only) + 1)) / 2**d
    assert mcnemar(a, b) == pytest.approx((min(1, 2 * tail), a_only, b_only))
    assert mcnemar(b, a) == pytest.approx((min(1, 2 * tail), b_only, a_only))


def test_outcomes_give_bonett_and_prices_interval() -> None:
    # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33: 2850-2875, the airway data.
    a, b = of_discordant(21, 1, 7)
    assert paired_difference(a, b) == pytest.approx((-6 / 21, -0.508, -0.013), abs=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ([1] * 5, [0] * 5, 0.15, 1),
        ([1, 0] * 5, [1, 0] * 5, -0.3, 0.3),
        ([0.7] * 5, [0.1 + 0.2] * 5, -0.5, 0.9),  # all differ alike: others may not
        ([7] * 5, [3] * 5, -inf, inf),  # nor are these bounded
        ([1, 0.9], [0, 0.2], -1, 1),
    ],
)
def test_a_difference_is_never_without_width_or_outside_its_range(
    a: list[float], b: list[float], low: float, high: float
) -> None:
    found = paired_difference(a, b)
    assert low <= found.low < found.high <= high
    assert found.estimate == pytest.approx(np.mean(np.subtract(a, b)))
    assert found.low <= found.estimate <= found.high


def test_numbers_that_are_no_shares_give_students_interval() -> None:
    a, b = np.random.default_rng(0).normal(3, 1, (2, 12))
    student = stats.ttest_rel(a, b).confidence_interval()
    assert paired_difference(a, b) == pytest.approx((np.mean(a - b), *student))


def test_a_difference_is_paired() -> None:
    """Items that vary far more than the arms do: only pairing sees the difference."""
    items = np.random.default_rng(0).normal(0, 10, 400)
    noise = np.random.default_rng(1).normal(0.1, 0.1, 400)
    _, low, high = paired_difference(items + noise, items)
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.005, 0.1 + 1.96 * 0.005), abs=0.01)


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


@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_the_detectable_difference_of_real_scores_is_seen_four_times_in_five(level: float) -> None:
    rng, n = np.random.default_rng(0), 16
    delta = detectable_difference(*np.array([[0.03, -0.03] * 8, [0.0] * n]), level)
    differences = rng.normal(delta, 0.03, (4000, n))
    seen = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < level)
    assert 0.75 < seen < 0.9
    assert detectable_difference([0.5] * 5, [0.1] * 5, level) == inf  # 2 / 2⁵ is never below 0.05


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
def test_few_items_prove_nothing_however_alike(scale: float) -> None:
    """Five of five: p = 2 / 2⁵, for outcomes 0 or 1 and for real scores alike."""
    told = conclusion("A", [scale] * 5, "B", [0.0] * 5)
    assert "do not tell" in told
    assert "p = 0.062" in told
    assert ("too close to call" in told) == (scale == 1)  # 0.7 throughout leaves out no 0
    assert "scores higher" in conclusion("A", [scale] * 7, "B", [0.0] * 7)


def test_no_arm_is_higher_while_the_interval_holds_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare with real numbers: so the permutation test is made to say yes."""
    monkeypatch.setattr(comparison, "sign_flip_p", lambda a, b: 0.04)
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


def test_holms_p_is_the_textbooks() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.04]) == pytest.approx([0.04]) and len(holm([])) == 0


def test_what_stands_alone_need_not_stand_among_several() -> None:
    found, *others = (
        Comparison("A", *_swap(of_discordant(100, 24, 10))),
        *(Comparison("A", *_swap(of_discordant(100, k, k))) for k in range(5, 8)),
    )
    assert "scores higher" in conclusions([found])[0]
    told = conclusions([found, *others])
    assert told[0].startswith("These 100 items do not tell A")
    assert "p = 0.024 (p = 0.097 corrected for 4 comparisons)" in told[0]
    assert "disagree" not in told[0]
    assert "at this n and with 4 comparisons only a difference of about" in told[0]
    assert conclusions([]) == []


def _swap(arms: tuple[list[int], list[int]]) -> tuple[list[int], str, list[int]]:
    return arms[0], "B", arms[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([1, 0], [1]), r"\(2,\) and \(1,\): .* the same items in the same order"),
        (lambda: mcnemar([], []), "no item"),
        (lambda: mcnemar([0.5, 1], [0, 1]), "outcomes 0 or 1; use paired_difference"),
        (lambda: paired_difference([[1]], [[1]]), "one number an item"),
        (lambda: paired_difference([1], [0]), "2 items or more"),
        (lambda: paired_difference([1, float("nan")], [0, 1]), "not finite"),
        (lambda: conclusion("A", [1, 0], "B", [1, 0, 1]), "the same items in the same order"),
        (lambda: conclusion("A", [], "B", []), "no item"),
    ],
)
def test_bad_input_is_refused_with_what_to_change(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
