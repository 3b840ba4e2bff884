"""The bootstrap over items: what is drawn are problems, for the rows of one resemble each other.

Percentile intervals are too narrow for few items (docs/statistics.md). They are expanded here as
Hesterberg has it (arXiv 1411.5279, section 5.3): the tail is that of Student's t over the items,
√(n / (n − 1)) wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..statistics import Interval, quantile

DRAWS = 2000
LEAST_ITEMS = 5
"""With fewer there is no interval to speak of: an estimate stands alone, its bounds are NaN."""

Numbers = NDArray[np.float64]


def over_items(
    items: Sequence[str],
    statistic: Callable[[Numbers], Numbers],
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """A statistic of rows, with an interval over the items that the rows belong to.

    Args:
        items: of each of n rows, its item.
        statistic: of weights, `[draws, n]` to `[draws]`; the weight of a row says how often it
            counts. NaN where it has no value: such draws are left out.
        seed: of the draws.
        confidence: of the interval.

    Raises:
        ValueError: there is no row.
    """
    if not len(items):
        raise ValueError("there is no row to draw from")
    names, place = np.unique(np.asarray(items), return_inverse=True)
    estimate = float(statistic(np.ones((1, len(place))))[0])
    if len(names) < LEAST_ITEMS or not np.isfinite(estimate):
        return Interval(estimate, float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    often = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = statistic(often[:, place].astype(np.float64))
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(estimate, float("nan"), float("nan"))
    reach = quantile(confidence, len(names) - 1) * np.sqrt(len(names) / (len(names) - 1))
    tail = float(stats.norm.cdf(-reach))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


def mean(weights: Numbers, values: ArrayLike) -> Numbers:
    """The weighted mean of `[n]` values, `[draws]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.asarray(values, dtype=np.float64) / weights.sum(axis=1)


def ratio(weights: Numbers, above: ArrayLike, below: ArrayLike) -> Numbers:
    """Weighted Σ above / Σ below, `[draws]`."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ above) / (weights @ below)


def pearson(weights: Numbers, x: ArrayLike, y: ArrayLike) -> Numbers:
    """Weighted Pearson's r of `[n]` values, `[draws]`; NaN where either is constant."""
    one, other = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    one, other = one - one.mean(), other - other.mean()  # or the sums of squares would cancel
    mx, my = mean(weights, one), mean(weights, other)
    covariance = mean(weights, one * other) - mx * my
    spread = (mean(weights, one * one) - mx * mx) * (mean(weights, other * other) - my * my)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-18, covariance / np.sqrt(np.maximum(spread, 1e-300)), np.nan)


def gap(weights: Numbers, values: ArrayLike, is_right: ArrayLike) -> Numbers:
    """The weighted mean of the right ones less that of the wrong ones, `[draws]`."""
    right = np.asarray(is_right, dtype=bool)
    return mean(weights * right, values) - mean(weights * ~right, values)


def auroc(weights: Numbers, scores: ArrayLike, is_right: ArrayLike) -> Numbers:
    """How often a right one scores above a wrong one, ties half, `[draws]`."""
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(is_right, dtype=bool)
    one, other = scores[right][:, None], scores[~right][None, :]
    wins = (one > other) + 0.5 * (one == other)
    of_right, of_wrong = weights[:, right], weights[:, ~right]
    with np.errstate(invalid="ignore", divide="ignore"):
        total = of_right.sum(axis=1) * of_wrong.sum(axis=1)
        return ((of_right @ wins) * of_wrong).sum(axis=1) / total
