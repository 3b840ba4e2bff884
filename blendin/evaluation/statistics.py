"""What a sample can support: rates, means and correlations with intervals over the items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

ROUNDING = 1e-12
"""Numbers that differ by no more, of the greatest among them, differ by rounding alone."""
OUTWEIGHS = 0.999
"""An item with a greater share of the total leaves nothing to see how items differ by."""


class Interval(NamedTuple):
    """An estimate and its confidence bounds; a format such as `+.3f` goes to all three."""

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        estimate, low, high = (format(value, spec or "z.2f") for value in self)
        return f"{estimate} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """A rate and its Wilson score interval (Wilson 1927), which stays within 0..1 for any n.

    Raises:
        ValueError: n is below 1, or successes not in 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: use n from 1 up and successes in 0..n")
    bounds = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, bounds.low, bounds.high)


def mean(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of one number in 0..1 an item; as `pooled_mean`."""
    values = np.asarray(values, dtype=np.float64)
    return pooled_mean(values, np.ones_like(values), confidence)


def pooled_mean(sums: ArrayLike, totals: ArrayLike, confidence: float = 0.95) -> Interval:
    """Σ sums / Σ totals of numbers in 0..1, with an interval over the items.

    The logit interval with Student's t, as surveys have it for clusters of unequal size. The
    variance is a sum over items, not over their numbers, which resemble each other: each item's
    share is divided by what it would be on average if all items varied alike, and the degrees of
    freedom are Satterthwaite's for that sum (Bell and McCaffrey 2002). So a few long answers among
    short ones widen it. docs/statistics.md has its coverage.

    Where all items are alike they show no spread: the bounds then are those that a share of unlike
    items may lead to that so many would miss with probability (1 − confidence) / 2. Where they are
    all at 0 or 1 the interval is Wilson's, as if each item were one trial. Of one item, or one
    that outweighs all others, it is 0..1.

    Args:
        sums, totals: [n], of each item the sum and the number of its numbers. Items with a total
            of 0 are left out.

    Raises:
        ValueError: other lengths, no item, a sum below 0 or above its total, a number that is not
            finite, no total above 0, or a confidence outside 0..1.
    """
    return _over_items(sums, totals, confidence, trials=False)


def pooled_rate(counts: ArrayLike, totals: ArrayLike, confidence: float = 0.95) -> Interval:
    """Σ counts / Σ totals, with an interval over the items: interventions and steps, for example.

    As `pooled_mean`, but where items are more alike than independent trials would leave them, or
    all the same, the variance is that of independent trials.

    Args, Raises: as `pooled_mean`.
    """
    return _over_items(counts, totals, confidence, trials=True)


def _over_items(sums: ArrayLike, totals: ArrayLike, confidence: float, *, trials: bool) -> Interval:
    sums, totals = paired(sums, totals)
    if (sums < 0).any() or (sums > totals).any() or not totals.any():
        raise ValueError("counts must lie in 0..total, and a total must be above 0")
    sums, totals = sums[totals > 0], totals[totals > 0]
    most = float(totals.max())
    rates, weights = sums / totals, totals / most
    size = float(weights.sum())
    estimate = float((sums / most).sum() / size)
    weights /= size
    z, alike = quantile(confidence), float(weights @ weights)  # 1 / n for totals that are the same
    if weights.max() > OUTWEIGHS:
        return _unless(1, estimate)
    if estimate in (0, 1):
        return _unless(z**2 / (1 / alike + z**2), estimate)
    if not trials and is_constant(rates):
        return _unless(1 - ((1 - confidence) / 2) ** alike, estimate)
    spread = estimate * (1 - estimate)
    expected = 1 - 2 * weights + alike  # of (rate − estimate)², where each item's variance is 1
    variance = float(np.sum((weights * (rates - estimate)) ** 2 / expected))
    if trials:
        variance = max(variance, spread / max(1.0, size * most))
    reach = quantile(confidence, _freedom(weights, expected)) * np.sqrt(variance) / spread
    low, high = special.expit(special.logit(estimate) + np.array([-reach, reach]))
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def _unless(share: float, estimate: float) -> Interval:
    """What the estimate may be where a share of the items, unseen, are all 0 or all 1."""
    return Interval(estimate, estimate * (1 - share), estimate + (1 - estimate) * share)


def _freedom(weights: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """tr(G)² / tr(G²) of the variance as a quadratic form G of the items' rates; n − 1 for equals.

    G = Σ uᵢ gᵢ gᵢᵀ / wᵢ², gᵢ = wᵢ (δᵢ − w), u = w² / expected: tr(G) = Σ w², and the sum over all
    pairs of items in tr(G²) is multiplied out.
    """
    alike, u = weights @ weights, weights**2 / expected
    u0, u1, u2 = u.sum(), u @ weights, u @ weights**2
    pairs = (alike * u0) ** 2 - 4 * alike * u0 * u1 + 2 * u0 * u2 + 2 * u1**2
    return float(alike**2 / (pairs + np.sum(u**2 * (1 + 2 * alike - 4 * weights))))


def quantile(confidence: float, freedom: float = np.inf) -> float:
    """Student's t, or the normal z, that a two-sided interval reaches to.

    Raises:
        ValueError: a confidence outside 0..1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence is {confidence:g}: use a number between 0 and 1")
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def mean_of_rates(*rates: Interval) -> Interval:
    """The unweighted mean of independent rates, its interval by MOVER (Zou and Donner 2008).

    Each bound lies as far from the estimate as the root of the sum of the rates' squared distances
    from theirs.
    """
    estimate = sum(rate.estimate for rate in rates) / len(rates)
    down = np.sqrt(sum((rate.estimate - rate.low) ** 2 for rate in rates)) / len(rates)
    up = np.sqrt(sum((rate.high - rate.estimate) ** 2 for rate in rates)) / len(rates)
    return Interval(estimate, float(estimate - down), float(estimate + up))


def pearson(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval:
    """Pearson's r and its interval by Fisher's z, over n ≥ 4 pairs of numbers.

    Raises:
        ValueError: other lengths, n below 4, an input that is not finite or, up to rounding,
            constant, or points on one line: Fisher's interval of r = ±1 has no width for any n.
    """
    x, y = paired(x, y)
    if len(x) < 4:
        raise ValueError(f"a correlation over {len(x)} points has no interval: use 4 or more")
    for name, values in (("first", x), ("second", y)):
        if is_constant(values):
            raise ValueError(
                f"the {name} variable is {values[0]:g} at every point, which correlates with "
                "nothing: use points that vary"
            )
    result = stats.pearsonr(x, y)
    r = float(result.statistic)
    if 1 - abs(r) < 4 * np.finfo(float).eps:
        raise ValueError(
            f"the {len(x)} points lie on one line (r = {r:.0f}), of which no interval can be told: "
            "use measured numbers, and more points"
        )
    low, high = result.confidence_interval(confidence)
    return Interval(r, float(low), float(high))


def is_constant(values: NDArray[np.float64]) -> bool:
    """Whether numbers are the same, up to rounding."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as [n] numbers.

    Raises:
        ValueError: other lengths or dimensions, no item, or a number that is not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or b.ndim != 1 or len(a) != len(b):
        raise ValueError(
            f"shapes {a.shape} and {b.shape}: give one number an item on both sides, for the same "
            "items in the same order"
        )
    if not len(a):
        raise ValueError("there is no item: give at least one")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a value is not finite: leave its item out on both sides, or score it")
    return a, b
