"""Compact letters say exactly what was told apart."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendin.evaluation.letters import compact_letters

ARMS = list("pqrstuvw")
PAIRS = [frozenset(pair) for pair in combinations(ARMS, 2)]


@given(st.integers(1, len(ARMS)), st.sets(st.sampled_from(PAIRS)))
def test_two_arms_share_a_letter_exactly_where_they_are_not_told_apart(
    count: int, told: set[frozenset[str]]
) -> None:
    arms = ARMS[:count]
    apart = {pair for pair in told if pair <= set(arms)}
    letters = dict(zip(arms, compact_letters(arms, apart), strict=True))
    for pair in combinations(arms, 2):
        shared = set(letters[pair[0]]) & set(letters[pair[1]])
        assert bool(shared) == (frozenset(pair) not in apart)
    assert letters[arms[0]].startswith("a")
    assert all(own and own == "".join(sorted(own)) for own in letters.values())
    used = {
        letter: {arm for arm in arms if letter in letters[arm]}
        for letter in "".join(letters.values())
    }
    assert not any(used[x] <= used[y] for x in used for y in used if x != y), "a letter too many"


def test_letters_are_those_of_the_books() -> None:
    """The best arm is told apart from the worst alone: a, ab, b."""
    assert compact_letters(["x", "y", "z"], {frozenset("xz")}) == ["a", "ab", "b"]
    assert compact_letters(["x", "y"], set()) == ["a", "a"]
    assert compact_letters([], set()) == []


def test_what_letters_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        compact_letters(["x", "x"], set())
    arms = [f"{n}" for n in range(12)]  # four groups of three: 3⁴ letters
    told = {frozenset(arms[3 * n + i] for i in pair) for n in range(4)
            for pair in combinations(range(3), 2)}  # fmt: skip
    with pytest.raises(ValueError, match="12 arms take 81 letters"):
        compact_letters(arms, told)
