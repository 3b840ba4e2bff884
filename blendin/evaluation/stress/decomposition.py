"""What a transformation does to a scorer: does it raise scores, and does it blur right and wrong?

Both may happen alone: a marker that lifts all scores alike inflates and costs no sensitivity. Over
chains (a chain's score is the mean of its steps') and over steps (the source's own, before and
after). Source: EST-PRM (arXiv 2606.00437).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..statistics import Interval, pooled_mean
from . import bootstrap
from .run import Scores
from .suite import Variant

ROUNDING = 1e-6
"""Scores are kept to six places: a smaller rise is none."""


class Row(NamedTuple):
    """One chain or step, before and after."""

    item: str
    before: float
    after: float
    is_right: bool


@dataclass(frozen=True)
class Decomposition:
    """One scorer under one transformation, over chains or over steps.

    Attributes:
        count: of rows, and `right` of those that are right.
        inflation_rate: the share whose score rises.
        change: the mean change of the score.
        change_of_wrong: the same over the wrong ones alone: what an error gains.
        correlation: Pearson's r of score and correctness before.
        correlation_after: the same after.
        correlation_change: after less before.
        sensitivity: the mean score of the right ones less that of the wrong ones, before.
        sensitivity_loss: how much of it is lost; below zero where it grows.
    """

    count: int
    right: int
    inflation_rate: Interval
    change: Interval
    change_of_wrong: Interval
    correlation: Interval
    correlation_after: Interval
    correlation_change: Interval
    sensitivity: Interval
    sensitivity_loss: Interval


def decompose(rows: Sequence[Row], seed: int = 0) -> Decomposition | None:
    """Of pairs of scores; None where there is none.

    Intervals are over items. What needs right and wrong rows is NaN without them.
    """
    if not rows:
        return None
    items = [row.item for row in rows]
    before, after = (np.array([row[column] for row in rows]) for column in (1, 2))
    right = np.array([row.is_right for row in rows])
    rise = after - before > ROUNDING

    def drawn(statistic: bootstrap.Callable[[bootstrap.Numbers], bootstrap.Numbers]) -> Interval:
        return bootstrap.over_items(items, statistic, seed)

    return Decomposition(
        len(rows),
        int(right.sum()),
        _share(items, rise),
        drawn(lambda w: bootstrap.mean(w, after - before)),
        drawn(lambda w: bootstrap.mean(w * ~right, after - before)),
        drawn(lambda w: bootstrap.pearson(w, before, right)),
        drawn(lambda w: bootstrap.pearson(w, after, right)),
        drawn(lambda w: bootstrap.pearson(w, after, right) - bootstrap.pearson(w, before, right)),
        drawn(lambda w: bootstrap.gap(w, before, right)),
        drawn(lambda w: bootstrap.gap(w, before, right) - bootstrap.gap(w, after, right)),
    )


def _share(items: Sequence[str], holds: NDArray[np.bool_]) -> Interval:
    """Of the rows; the logit interval over items, for a bootstrap of no spread has no width."""
    names, place = np.unique(np.asarray(items), return_inverse=True)
    totals = np.bincount(place, minlength=len(names))
    return pooled_mean(np.bincount(place, holds, minlength=len(names)), totals)


def chain_rows(variants: Sequence[Variant], scores: Scores) -> list[Row]:
    """Each transformed chain beside its source; the score is the mean of the steps' scores."""
    return [
        Row(
            variant.chain.id,
            float(np.mean(scores.of(variant.source.question, variant.source.texts))),
            float(np.mean(scores.of(variant.chain.question, variant.chain.texts))),
            variant.chain.is_right,
        )
        for variant in variants
    ]


def step_rows(variants: Sequence[Variant], scores: Scores) -> list[Row]:
    """Each of the source's own steps whose label is known, before and after."""
    rows = []
    for variant in variants:
        source, chain = variant.source, variant.chain
        before = scores.of(source.question, source.texts)
        after = scores.of(chain.question, chain.texts)
        by_origin = {step.origin: each for step, each in zip(source.steps, before, strict=True)}
        rows += [
            Row(chain.id, by_origin[step.origin], each, step.correct)
            for step, each in zip(chain.steps, after, strict=True)
            if step.role == "own" and step.correct is not None
        ]
    return rows
