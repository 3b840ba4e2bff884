"""What is computed of scores: intervals, decomposition, mitigations, and what moves α."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from test_chains import chain, with_wrong_step

from blendin.evaluation.stress import bootstrap
from blendin.evaluation.stress.decomposition import Row, decompose
from blendin.evaluation.stress.mitigations import expected_minimum, judged
from blendin.evaluation.stress.readers import Source, Sources
from blendin.evaluation.stress.scorers import Scored, TokenTrace, places_of
from blendin.evaluation.stress.suite import Suite, build
from blendin.evaluation.stress.transformations import MARKERS
from blendin.evaluation.stress.trust import measure

ONCE = np.ones((1, 40))
GENERATOR = np.random.default_rng(0)
SCORES, RIGHT = GENERATOR.normal(size=40).round(1), GENERATOR.random(40) < 0.5


class Made:
    """Scores that a rule makes of the texts, in the place of `run.Scores`."""

    name = "made"

    def __init__(self, rule) -> None:  # type: ignore[no-untyped-def]
        self.rule = rule

    def of(self, question: str, steps: list[str]) -> list[float]:
        return [self.rule(text) for text in steps]

    def scored(self, question: str, steps: list[str]) -> Scored:
        """One token a character, which p_b tells; α is the rule's of the whole text so far."""
        trace, text = [], ""
        for place, step in enumerate(steps):
            for offset in range(len(step)):
                alpha = self.rule(text + step[:offset])
                p_b = ord(step[offset]) / 1000
                trace.append(TokenTrace(place, offset, 1, p_b, 0.6, alpha))
            text += step + "\n"
        return Scored({"made": self.of(question, steps)}, trace)


def suite(count: int = 6) -> Suite:
    sources = []
    for number in range(count):
        right = chain()
        right = type(right)(**{**vars(right), "id": str(number)})
        wrong = with_wrong_step(right, number)
        sources += [Source(right, right), Source(wrong, right)]  # type: ignore[arg-type]
    return build(Sources("made", "gsm8k", count, sources, {}), seed=1)


def test_auroc_and_r_are_scipys() -> None:
    u = stats.mannwhitneyu(SCORES[RIGHT], SCORES[~RIGHT]).statistic
    expected = u / (RIGHT.sum() * (~RIGHT).sum())
    assert bootstrap.auroc(ONCE, SCORES, RIGHT)[0] == pytest.approx(expected)
    assert bootstrap.pearson(ONCE, SCORES, RIGHT)[0] == pytest.approx(
        stats.pearsonr(SCORES, RIGHT).statistic
    )


def test_a_weight_counts_as_so_many_rows() -> None:
    often = GENERATOR.integers(0, 4, 40)
    weights = often[None, :].astype(float)
    repeated, labels = np.repeat(SCORES, often), np.repeat(RIGHT, often)
    once = np.ones((1, len(repeated)))
    for statistic in (bootstrap.auroc, bootstrap.pearson, bootstrap.gap):
        assert statistic(weights, SCORES, RIGHT)[0] == pytest.approx(
            statistic(once, repeated, labels)[0]
        )


def test_a_constant_correlates_with_nothing() -> None:
    assert math.isnan(bootstrap.pearson(ONCE, np.full(40, 0.3), RIGHT)[0])


def test_the_interval_of_a_mean_is_over_items_and_not_over_rows() -> None:
    values = np.repeat(GENERATOR.normal(size=30), 20)
    items = [str(place // 20) for place in range(600)]
    found = bootstrap.over_items(items, lambda w: bootstrap.mean(w, values))
    reach = 1.96 * np.std(values[::20]) / math.sqrt(30)
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=0.15)
    few = bootstrap.over_items(["a", "b"], lambda w: bootstrap.mean(w, [1, 2]))
    assert few.estimate == 1.5 and math.isnan(few.low)


def test_scores_that_rise_alike_are_inflated_and_as_sensitive() -> None:
    before = np.where(RIGHT, 0.6, 0.4) + 0.05 * SCORES
    rows = [
        Row(str(n), b, b + 0.1, bool(r)) for n, (b, r) in enumerate(zip(before, RIGHT, strict=True))
    ]
    found = decompose(rows)
    assert found is not None
    assert found.inflation_rate.estimate == 1 and found.change.estimate == pytest.approx(0.1)
    assert found.sensitivity_loss.estimate == pytest.approx(0, abs=1e-9)
    assert found.correlation_change.estimate == pytest.approx(0, abs=1e-9)


def test_scores_that_lose_their_sense_lose_sensitivity_and_correlation() -> None:
    before = np.where(RIGHT, 0.6, 0.4) + 0.02 * SCORES
    rows = [Row(str(n), b, 0.5 + 0.02 * s, bool(r)) for n, (b, s, r) in
            enumerate(zip(before, SCORES, RIGHT, strict=True))]  # fmt: skip
    found = decompose(rows)
    assert found is not None
    assert found.sensitivity_loss.low > 0.1 and found.correlation_change.high < -0.3


def test_the_length_controlled_minimum_is_that_of_all_draws() -> None:
    values = [0.9, 0.2, 0.5, 0.7, 0.5]
    pairs = [min(pair) for pair in itertools.combinations(values, 2)]
    assert expected_minimum(values, 2) == pytest.approx(sum(pairs) / len(pairs))
    assert expected_minimum([0.4], 2) == 0.4
    assert expected_minimum(values * 6, 2) > min(values)


def test_stripping_helps_a_scorer_that_falls_for_markers_and_orders_do_not() -> None:
    slips = {"8 * 25 = 200", "16 - 3 - 4 = 9", "9 + 200 = 209", "209 * 6 = $1254"}

    def rule(text: str) -> float:
        right = any(slip in text.replace("$1,254", "$1254") for slip in slips)
        return 0.3 + 0.2 * right + 0.5 * text.startswith(MARKERS)

    made, scores = suite(), Made(rule)
    marked = made.variants["markers", 1.0]
    plain = judged("none", made.originals, marked, scores)
    stripped = judged("stripped", made.originals, marked, scores)
    assert plain is not None and stripped is not None
    assert plain.false_positives.estimate == 1  # every wrong chain is let through
    assert stripped.false_positives.estimate <= 0.2 and stripped.true_positives.estimate == 1
    assert stripped.auroc.estimate == 1


def test_an_alpha_that_a_marker_moves_is_found_with_its_size_and_sign() -> None:
    moved = Made(lambda text: 0.5 + 0.2 * ("learly" in text or "bviously" in text))
    still = Made(lambda text: 0.5)
    variants = suite().variants["markers", 1.0]
    found, nothing = measure("markers", variants, moved), measure("markers", variants, still)
    assert found is not None and nothing is not None
    assert 0 < found.same["alpha"].change.low and found.same["alpha"].change.high < 0.2
    assert "α rises: +" in found.sentence
    assert nothing.same["alpha"].change.estimate == 0
    assert "α does not move" in nothing.sentence
    assert nothing.same["alpha"].tokens > 0


def test_the_same_tokens_are_the_sources_own_without_first_ones() -> None:
    made = suite(1)
    for variant in made.all:
        found = measure("markers", [variant], Made(lambda text: 0.5))
        assert found is not None
        own = sum(len(step.visible) - 1 for step in variant.source.steps)
        assert found.same["p_b"].tokens == own
        assert found.same["p_b"].change.estimate == 0  # so the characters are the same


def test_tokens_belong_to_the_step_of_their_first_byte() -> None:
    tokens = [b" Sh", b"e \xc3", b"\xa9at", b"s.\nSo", b" 9", b".", b"\n", b"End"]
    places = places_of(tokens, ["She éats.", "So 9.", "End"], 1)
    assert [step for step, _ in places] == [0, 0, 0, 0, 1, 1, 1, 2]
    assert places[0] == (0, -1) and places[4] == (1, 2) and places[7] == (2, 0)
    with pytest.raises(ValueError, match="changes texts"):
        places_of(tokens, ["She eats.", "So 9.", "End"], 1)
