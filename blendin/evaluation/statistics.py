"""What a sample can support: intervals, paired tests, and conclusions about two arms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 10_000
DRAWS_AT_ONCE = 2**21  # numbers, 16 MiB: whole benchmarks must not need n · RESAMPLES at once
SIGNIFICANCE = 0.05
POWER = 0.8


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


class McNemar(NamedTuple):
    """The two-sided p and the discordant counts: items that `a` alone, `b` alone got right."""

    p: float
    a_only: int
    b_only: int


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
    """The mean of n ≥ 2 numbers with a percentile bootstrap interval.

    Raises:
        ValueError: as `paired_difference`.
    """
    return paired_difference(values, np.zeros_like(values, dtype=np.float64), confidence)


def pooled_rate(
    counts: ArrayLike, totals: ArrayLike, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Σ counts / Σ totals with a percentile bootstrap interval over the items.

    Steps of one answer resemble each other: taken as independent, as Wilson's interval has it, they
    would give an interval that is too narrow. Of one item the interval is 0..1.

    Args:
        counts, totals: [n], of each item: interventions and steps, for example.

    Raises:
        ValueError: other lengths, no item, a count below 0 or above its total, or no total above 0.
    """
    counts, totals = _paired(counts, totals)
    if (counts < 0).any() or (counts > totals).any() or not totals.sum():
        raise ValueError("counts must lie in 0..total, and a total must be above 0")
    estimate = float(counts.sum() / totals.sum())
    if len(counts) < 2:
        return Interval(estimate, 0.0, 1.0)
    if estimate in (0, 1):
        items = int((totals > 0).sum())
        return wilson(items if estimate else 0, items)
    rng = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // len(counts))
    rates = []
    for begin in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - begin), len(counts)
        drawn = rng.integers(len(counts), size=size)
        rates.append(counts[drawn].sum(axis=1) / np.maximum(totals[drawn].sum(axis=1), 1e-300))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(rates), [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


def mean_of_rates(*rates: Interval) -> Interval:
    """The unweighted mean of independent rates, its interval by MOVER (Zou and Donner 2008).

    Each bound lies as far from the estimate as the root of the sum of the rates' squared distances
    from theirs.
    """
    estimate = sum(rate.estimate for rate in rates) / len(rates)
    down = np.sqrt(sum((rate.estimate - rate.low) ** 2 for rate in rates)) / len(rates)
    up = np.sqrt(sum((rate.high - rate.estimate) ** 2 for rate in rates)) / len(rates)
    return Interval(estimate, float(estimate - down), float(estimate + up))


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test: where only one arm got an item right, is it either one equally often?

    Args:
        a, b: [n] outcomes 0 or 1 of two arms on the same items, in the same order.

    Raises:
        ValueError: other values than 0 and 1, other lengths, or no item.
    """
    a, b = _paired(a, b)
    if not _is_binary(a, b):
        raise ValueError("McNemar's test is on outcomes 0 or 1; use paired_difference for others")
    a_only, b_only = int(np.sum(a > b)), int(np.sum(b > a))
    discordant = a_only + b_only
    p = stats.binomtest(a_only, discordant).pvalue if discordant else 1.0
    return McNemar(float(p), a_only, b_only)


def paired_difference(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """mean(a) − mean(b) with a percentile bootstrap interval over the items.

    Where all items differ alike the interval has no width, which says nothing about other items.

    Args:
        a, b: [n] scores (any real numbers) of two arms on the same items, in the same order.

    Raises:
        ValueError: other lengths, fewer than 2 items, or a score that is not finite.
    """
    a, b = _paired(a, b)
    if len(a) < 2:
        raise ValueError("1 item shows no spread: compare the arms on 2 items or more")
    difference = a - b
    result = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, DRAWS_AT_ONCE // len(a)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(difference.mean()), float(low), float(high))


def detectable_difference(a: ArrayLike, b: ArrayLike) -> float:
    """The difference of means that this many items show with 80 % power at the 5 % level.

    By the normal approximation δ = z · sqrt(mean((a − b)²) / n), z = z₀.₉₇₅ + z₀.₈ ≈ 2.8: the items
    spread about the null hypothesis' 0 as observed, which for outcomes 0 or 1 is the share of
    discordant items (Connor 1987, without its −δ²). A difference in outcomes 0 or 1 takes at least
    as many discordant items, hence there δ ≥ z² / n.
    """
    a, b = _paired(a, b)
    z = stats.norm.ppf(1 - SIGNIFICANCE / 2) + stats.norm.ppf(POWER)
    delta = float(z * np.sqrt(np.mean((a - b) ** 2) / len(a)))
    return max(delta, float(z**2) / len(a)) if _is_binary(a, b) else delta


def conclusion(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> str:
    """What can, and what cannot, be concluded about two arms on the same items, in plain English.

    An arm is called higher only where a paired test is significant at 5 % (McNemar's for outcomes
    0 or 1, else the sign-flip permutation test, which is the same idea for real numbers) and the
    bootstrap interval leaves out 0. Otherwise it reports `detectable_difference`. Equal arms are
    never claimed. One comparison is meant: the best of many needs a stricter level.

    Args:
        a, b: [n] scores of the two arms on the same items, in the same order.

    Raises:
        ValueError: as `paired_difference`.
    """
    a, b = _paired(a, b)
    n, difference = len(a), paired_difference(a, b)
    if np.array_equal(a, b):
        # Clopper-Pearson's one-sided bound at 0 of n: the "rule of three", about 3 / n.
        unseen = 1 - SIGNIFICANCE ** (1 / n)
        return (
            f"{name_a} and {name_b} scored alike on each of these {n} items ({a.mean():.3f}); "
            f"they may still differ on up to {100 * unseen:.2g} % of such items (95 % confidence)."
        )
    p = mcnemar(a, b).p if _is_binary(a, b) else _sign_flip_p(a, b)
    significant, excludes_0 = p < SIGNIFICANCE, difference.low > 0 or difference.high < 0
    scores = f"{name_a} ({a.mean():.3f})", f"{name_b} ({b.mean():.3f})"
    p_text = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    if significant and excludes_0:
        if difference.high < 0:
            scores = scores[::-1]
            difference = Interval(-difference.estimate, -difference.high, -difference.low)
        return (
            f"{scores[0]} scores higher than {scores[1]} on items such as these {n}: difference "
            f"{difference:+z.3f} (95 % interval), {p_text}; it may be as small as "
            f"{difference.low:.3f}."
        )
    caution = " (test and interval disagree: too close to call)" * (significant != excludes_0)
    seen = detectable_difference(a, b)
    bound = (
        "so few items would not show even the largest difference reliably."
        if seen >= 1 and _is_binary(a, b)
        else f"at this n only a difference of about {seen:.3f} or more would be seen "
        f"{100 * POWER:.0f} % of the time."
    )
    return (
        f"These {n} items do not tell {scores[0]} and {scores[1]} apart: difference "
        f"{difference:+z.3f} (95 % interval), {p_text}{caution}. That does not make them equal: "
        f"{bound}"
    )


def pearson(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval:
    """Pearson's r and its interval by Fisher's z (no width at r = ±1), over n ≥ 4 pairs of numbers.

    Raises:
        ValueError: other lengths, n below 4, or an input that is constant or not finite.
    """
    x, y = _paired(x, y)
    if len(x) < 4:
        raise ValueError(f"a correlation over {len(x)} points has no interval: use 4 or more")
    for name, values in (("first", x), ("second", y)):
        if np.ptp(values) == 0:
            raise ValueError(
                f"the {name} variable is {values[0]:g} at every point, which correlates with "
                "nothing: use points that vary"
            )
    result = stats.pearsonr(x, y)
    low, high = result.confidence_interval(confidence)
    return Interval(float(result.statistic), float(low), float(high))


def _sign_flip_p(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0) -> float:
    """The two-sided p of mean(a − b) if each item's two scores may be swapped; exact for n ≤ 13."""
    result = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=max(1, DRAWS_AT_ONCE // len(a)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def _is_binary(*arms: NDArray[np.float64]) -> bool:
    return all(np.isin(arm, (0, 1)).all() for arm in arms)
