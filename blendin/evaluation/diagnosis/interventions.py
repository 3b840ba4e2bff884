"""Where in the answers the guide intervenes, in what streaks, and how often the base agrees."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from ..records import Record
from ..statistics import Interval, pooled_rate, wilson
from .verdict import LEAST_ITEMS

LONG_STREAK = 3  # interventions in a row


class Position(NamedTuple):
    """The rate over the steps `first` to `last` (from 1) of the answers that are that long."""

    first: int
    last: int
    items: int
    steps: int
    rate: Interval


class Agreement(NamedTuple):
    """What the guide's choice is to the base, as shares of the interventions that asked both.

    Attributes:
        steps: how many interventions that is.
        items: how many answers have one.
        own: it is the base's own choice.
        in_top_k: it is among the base's top k, its own choice included; with k None, anywhere in
            its vocabulary.
        outside: the base's vocabulary has it, the top k do not.
        unknown: the base's vocabulary lacks it.
    """

    steps: int
    items: int
    own: Interval
    in_top_k: Interval
    outside: Interval
    unknown: Interval


class Streaks(NamedTuple):
    """Interventions without a confident step between them.

    Attributes:
        lengths: how many runs there are of each length.
        mean: of the lengths.
        independent_mean: what interventions at the same rate, independent of each other, would
            give: 1 / (1 - r); None where every step intervenes.
        shuffled_mean: what they would give if each answer had its own in a random order. It is
            below `independent_mean` where answers are short, above it where rates differ.
        longest: the longest.
        in_long: the share of interventions in runs of `LONG_STREAK` or more.
        independent_in_long: as `independent_mean`.
    """

    lengths: dict[int, int]
    mean: float
    independent_mean: float | None
    shuffled_mean: float
    longest: int
    in_long: Interval
    independent_in_long: float


def by_position(kept: list[Record]) -> Iterator[Position]:
    lengths = [len(each.steps) for each in kept]
    for first, last in _spans(lengths):
        flags = [e.steps.intervened[first - 1 : last] for e in kept if len(e.steps) >= first]
        made, totals = [sum(each) for each in flags], [len(each) for each in flags]
        # Within one position the items are independent; over several the steps of one are not.
        rate = wilson(sum(made), len(made)) if first == last else pooled_rate(made, totals)
        yield Position(first, last, len(flags), sum(totals), rate)


def _spans(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """First and last positions, from 1: 1, 2, 3, 4, 5-6, 7-8, 9-12, 13-16, 17-24, 25-32, ...

    The last span includes the rest where fewer than `LEAST_ITEMS` answers go on.
    """
    longest, first, width = max(lengths), 1, 1
    while first <= longest:
        last = min(longest, first + width - 1)
        if width > 1 and sum(length > last for length in lengths) < LEAST_ITEMS:
            last = longest
        yield first, last
        first = last + 1
        width *= 2 if first > 4 * width else 1


def agreements(kept: list[Record], top_k: int | None) -> Agreement | None:
    ranks = [
        [
            rank
            for rank, agreed, p_g in zip(
                each.steps.agreement_rank,
                each.steps.agreement,
                each.steps.guide_top_prob,
                strict=True,
            )
            if agreed is not None and p_g is not None
        ]
        for each in kept
    ]
    totals = [len(item) for item in ranks]
    if not any(totals):
        return None
    k = math.inf if top_k is None else top_k

    def share(low: float, high: float) -> Interval:
        """Of choices with a rank above `low` and up to `high`."""
        made = [sum(rank is not None and low < rank <= high for rank in item) for item in ranks]
        return pooled_rate(made, totals)

    unknown = pooled_rate([item.count(None) for item in ranks], totals)
    items = sum(map(bool, totals))
    return Agreement(sum(totals), items, share(0, 1), share(0, k), share(k, math.inf), unknown)


def streaks_of(kept: list[Record]) -> Streaks:
    runs = [
        [len(list(run)) for intervened, run in groupby(each.steps.intervened) if intervened]
        for each in kept
    ]
    made = [sum(item) for item in runs]
    lengths = Counter(length for item in runs for length in item)
    rate = sum(made) / sum(each.tokens for each in kept)
    # Of n steps in random order, m of them interventions, m·(n - m + 1)/n begin a run.
    shuffled = sum(m * (e.tokens - m + 1) / e.tokens for e, m in zip(kept, made, strict=True))
    long = [sum(length for length in item if length >= LONG_STREAK) for item in runs]
    return Streaks(
        lengths=dict(sorted(lengths.items())),
        mean=sum(made) / lengths.total(),
        independent_mean=1 / (1 - rate) if rate < 1 else None,
        shuffled_mean=sum(made) / shuffled,
        longest=max(lengths),
        in_long=pooled_rate(long, made),
        independent_in_long=1 - (1 - rate) ** 2 * (1 + 2 * rate),
    )


def steps_withheld(kept: list[Record]) -> int:
    steps = [
        (p, intervened)
        for each in kept
        for p, intervened in zip(each.steps.base_top_prob, each.steps.intervened, strict=True)
        if p is not None
    ]
    unsure = max((p for p, intervened in steps if intervened), default=0.0)
    return sum(p < unsure for p, intervened in steps if not intervened)
