"""The reference's reading of `Defer`, on distributions small enough to work out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import END, Prediction, Reference

RULES = ("token", "budget", "bet")


@dataclass
class Letters:
    """A vocabulary of letters and then END; "?" stands for special tokens."""

    letters: str
    end_ids: list[int] = field(init=False)
    canonical: dict[bytes, int] = field(init=False)

    def __post_init__(self) -> None:
        self.end_ids = [len(self.letters)]
        self.canonical = {c.encode(): i for i, c in enumerate(self.letters) if c != "?"}

    def bytes_at(self, id: int) -> bytes:
        return b"" if self.letters[id] == "?" else self.letters[id].encode()


def pair(base: str = "abc", guide: str = "abc") -> Reference:
    reference = object.__new__(Reference)
    reference.base, reference.guide = Letters(base), Letters(guide)  # type: ignore[assignment]
    reference.allowed = {END, *reference.base.canonical, *reference.guide.canonical}
    reference.guide_only_rank = 100
    return reference


def says(vocabulary: Letters, *probs: float) -> Prediction:
    """A model that gives its letters and END these probabilities."""
    return Prediction(vocabulary, torch.tensor(probs, dtype=torch.float64).log())  # type: ignore[arg-type]


def defer(
    base: list[float],
    guide: list[float],
    threshold: float,
    rule: str,
    letters: tuple[str, str] = ("abc", "abc"),
) -> tuple[dict[str, float], float]:
    both = pair(*letters)
    scores, m, _ = both.defer(
        says(both.base, *base),
        says(both.guide, *guide),
        threshold,
        rule,  # type: ignore[arg-type]
    )
    named = {s if isinstance(s, str) else s.decode(): p for s, p in scores.items()}
    return {s: pytest.approx(p, abs=1e-6) for s, p in named.items()}, pytest.approx(m, abs=1e-6)


def consults(
    base: list[float], threshold: float, rule: str, letters: tuple[str, str] = ("abc", "abc")
) -> bool:
    both = pair(*letters)
    return both.defer_consults(says(both.base, *base), threshold, rule)[0]  # type: ignore[arg-type]


BASE, GUIDE = [0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.6, 0.1]


def test_tokens_below_the_threshold_hand_their_mass_to_the_guide() -> None:
    scores, m = defer(BASE, GUIDE, 0.2, "token")
    assert m == 0.15 + 0.05
    assert scores == {"a": 0.5 + 0.02, "b": 0.3 + 0.04, "c": 0.12, "END": 0.02}
    assert defer(BASE, GUIDE, 0.6, "token") == ({"a": 0.1, "b": 0.2, "c": 0.6, "END": 0.1}, 1.0)


def test_a_budget_is_filled_from_the_least_likely_up() -> None:
    scores, m = defer(BASE, GUIDE, 0.49, "budget")  # c and END; b would make it 0.5
    assert m == 0.2
    assert scores == {"a": 0.52, "b": 0.34, "c": 0.12, "END": 0.02}
    assert defer(BASE, GUIDE, 0.51, "budget")[1] == 0.5
    assert defer(BASE, GUIDE, 0.04, "budget")[1] == 0


def test_a_bet_masks_what_the_guide_is_surer_of() -> None:
    scores, m = defer(BASE, GUIDE, 0.4, "bet")  # below 0.6 - 0.4 = 0.2
    assert m == 0.2
    assert scores["b"] == 0.34
    assert defer(BASE, GUIDE, 0.0, "bet")[1] == 1.0
    assert defer(BASE, GUIDE, 0.6, "bet")[1] == 0


def test_each_side_may_name_what_the_other_lacks() -> None:
    scores, m = defer([0.5, 0.4, 0.1], [0.2, 0.7, 0.1], 0.2, "token", ("ab", "bx"))
    assert m == 0.1
    assert scores == {"a": 0.5, "b": 0.42, "x": 0.07, "END": 0.01}


def test_a_special_token_counts_in_the_softmax_and_nowhere_else() -> None:
    scores, m = defer([0.1, 0.3, 0.3, 0.3], [0.5, 0.5, 0, 0], 0.2, "token", ("a?b", "ab?"))
    assert m == 0.1
    assert scores == {"a": 0.05, "b": 0.3 + 0.05, "END": 0.3}


@pytest.mark.parametrize(
    ("base", "threshold", "rule", "expected"),
    [
        # m + P(b) = 0.2 + 0.3 makes b no likelier than a; with 0.31 it is.
        ([0.51, 0.29, 0.15, 0.05], 0.2, "token", False),
        ([0.49, 0.31, 0.15, 0.05], 0.2, "token", True),
        ([0.45, 0.25, 0.2, 0.1], 0.4, "token", True),  # b to END masked: m = 0.55
        ([0.55, 0.25, 0.15, 0.05], 0.4, "token", False),  # m = 0.45
        ([0.3, 0.3, 0.2, 0.2], 0.4, "token", True),  # everything masked
        ([0.3, 0.3, 0.2, 0.2], 0.0, "token", False),
        ([0.6, 0.2, 0.1, 0.1], 0.4, "budget", False),  # 0.2 masked, b has 0.2 + 0.2 at most
        ([0.39, 0.37, 0.12, 0.12], 0.25, "budget", True),  # 0.24 masked, b can get 0.61
        ([0.39, 0.37, 0.12, 0.12], 0.0, "budget", False),
        ([0.4, 0.3, 0.2, 0.1], 1.5, "budget", True),
        ([0.59, 0.2, 0.2, 0.01], 0.4, "bet", True),  # a guide surer than 0.99 masks a itself
        ([0.61, 0.2, 0.18, 0.01], 0.4, "bet", False),
        ([0.4, 0.2, 0.2, 0.2], 0.7, "bet", True),  # a is kept, but m = 0.6 at p_g = 1
        ([0.55, 0.15, 0.15, 0.15], 0.7, "bet", False),  # m = 0.45 at most
        ([0.3, 0.3, 0.3, 0.1], 1.0, "bet", False),
        # At p_g = 1 b is masked: m = 0.485 against 0.515 for a, then 0.515 against 0.485.
        ([0.515, 0.43, 0.05, 0.005], 0.5, "bet", False),
        ([0.485, 0.43, 0.08, 0.005], 0.52, "bet", True),
    ],
)
def test_the_guide_is_consulted_where_it_can_change_the_choice(
    base: list[float], threshold: float, rule: str, expected: bool
) -> None:
    assert consults(base, threshold, rule) is expected


def test_what_the_guide_cannot_name_cannot_win() -> None:
    """b could overtake a, but only with a guide that has b."""
    base = [0.49, 0.31, 0.15, 0.05]
    assert consults(base, 0.2, "token")
    assert not consults(base, 0.2, "token", ("abc", "ac"))


def test_a_special_token_on_top_is_kept_until_a_symbol_can_overtake_it() -> None:
    assert not consults([0.05, 0.7, 0.2, 0.05], 0.4, "token", ("a?b", "ab"))  # m = 0.3
    assert consults([0.2, 0.42, 0.18, 0.2], 0.4, "token", ("a?b", "ab"))  # m = 0.58
    assert not consults([0.2, 0.42, 0.18, 0.2], 0.0, "token", ("a?b", "ab"))


parts = st.integers(1, 60)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    weights=st.lists(parts, min_size=5, max_size=5),
    threshold=st.sampled_from([i / 20 + 0.003 for i in range(22)]),
    rule=st.sampled_from(RULES),
    letters=st.sampled_from([("abcd", "abcd"), ("abcd", "acx"), ("a?cd", "acd"), ("abcd", "a")]),
)
def test_consulting_is_what_a_search_over_guides_finds(
    weights: list[int], threshold: float, rule: str, letters: tuple[str, str]
) -> None:
    """Guides that put q on one symbol and the rest on a special token, by a fine grid of q."""
    both = pair(letters[0], letters[1] + "?")
    base = says(both.base, *(w / sum(weights) for w in weights))  # type: ignore[arg-type]
    expected, margin = both.defer_consults(base, threshold, rule)
    choice = base.choice
    if isinstance(choice, int):
        choice = letters[0][choice]
    found = False
    size = len(letters[1]) + 2
    exact = [p + threshold - 1e-7 for p in base.by_symbol.values()]  # just before v is masked
    for q in [*(i / 50 for i in range(1, 51)), *(q for q in exact if 0 < q <= 1)]:
        for t in [*range(len(letters[1])), size - 1]:
            probs = [1e-12] * size
            probs[size - 2] = 1 - q
            probs[t] = q
            scores, m, _ = both.defer(base, says(both.guide, *probs), threshold, rule)  # type: ignore[arg-type]
            best = max(scores, key=lambda s: scores[s])
            winner = best if isinstance(best, str) else best.decode()
            beaten = scores[best] > base.top_prob if choice == "?" else winner != choice
            found |= beaten and m > 0
    if margin > 1e-4 and not math.isinf(margin):
        assert expected == found


def test_the_search_finds_both_answers() -> None:
    """Or the test above would hold for a reference that always consults."""
    answers = {consults([0.5, 0.3, 0.15, 0.05], t, "budget") for t in (0.0, 0.2, 0.5)}
    assert answers == {True, False}
