"""Compact letter displays: which of several arms are told apart, at a glance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from string import ascii_lowercase


def compact_letters(ordered: Sequence[str], told_apart: Collection[frozenset[str]]) -> list[str]:
    """Letters for each of some arms: two that share one are not told apart, two others are.

    By insertion and absorption (Piepho 2004, "An algorithm for a letter-based representation of
    all-pairwise comparisons"). The first arm's letters begin with "a".

    Args:
        ordered: the arms, the best first.
        told_apart: those two and two that are; all others are not.

    Raises:
        ValueError: an arm stands there twice, or more than 26 letters would be needed, which takes
            ten arms at least.
    """
    if len(set(ordered)) < len(ordered):
        raise ValueError(f"an arm stands twice among {', '.join(ordered)}: name each of them once")
    alike = [frozenset(ordered)] if ordered else []
    for pair in told_apart:
        split = [group - {arm} for group in alike if pair <= group for arm in pair]
        kept = [group for group in alike if not pair <= group]
        alike = _without_parts([*kept, *split])
    place = {arm: rank for rank, arm in enumerate(ordered)}
    alike.sort(key=lambda group: sorted(place[arm] for arm in group))
    if len(alike) > len(ascii_lowercase):
        raise ValueError(f"{len(ordered)} arms take {len(alike)} letters: compare fewer of them")
    return [
        "".join(
            letter for letter, group in zip(ascii_lowercase, alike, strict=False) if arm in group
        )
        for arm in ordered
    ]


def _without_parts(groups: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """The groups without those that are a part of another."""
    found = list(dict.fromkeys(groups))
    return [group for group in found if not any(group < other for other in found)]
