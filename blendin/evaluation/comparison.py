"""Two arms on the same items: paired tests, intervals, and what may be concluded from several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .statistics import Interval, is_constant, mean, paired, quantile

RESAMPLES = 10_000
DRAWS_AT_ONCE = 2**21  # numbers, 16 MiB: whole benchmarks must not need n · RESAMPLES at once
SIGNIFICANCE = 0.05
POWER = 0.8


class McNemar(NamedTuple):
    """The two-sided p and the discordant counts: items that `a` alone, `b` alone got right."""

    p: float
    a_only: int
    b_only: int


class Comparison(NamedTuple):
    """Scores, [n] each, of two named arms on the same items, in the same order."""

    name_a: str
    a: ArrayLike
    name_b: str
    b: ArrayLike


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test: where only one arm got an item right, is it either one equally often?

    Args:
        a, b: [n] outcomes 0 or 1 of two arms on the same items, in the same order.

    Raises:
        ValueError: other values than 0 and 1, other lengths, or no item.
    """
    a, b = paired(a, b)
    if not _is_binary(a, b):
        raise ValueError("McNemar's test is on outcomes 0 or 1; use paired_difference for others")
    a_only, b_only = int(np.sum(a > b)), int(np.sum(b > a))
    discordant = a_only + b_only
    p = stats.binomtest(a_only, discordant).pvalue if discordant else 1.0
    return McNemar(float(p), a_only, b_only)


def holm(ps: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p: where all of them are below α, so is the chance of any false finding.

    Holm (1979); valid however the tests depend on each other.

    Args:
        ps: [n], of tests that are read together.
    """
    ps = np.asarray(ps, dtype=np.float64)
    order = np.argsort(ps)
    adjusted = np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1))
    return np.minimum(1, adjusted)[np.argsort(order)]


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """mean(a) − mean(b) with an interval over the items.

    Of outcomes 0 or 1, Bonett and Price's (2012), which covers where few items are discordant, or
    none. Of scores that all lie in 0..1, which are taken to be bounded so, the one of `mean` for
    (1 + a − b) / 2: never outside −1..1, and with a width where all items differ alike. Of other
    numbers Student's t, which then has no bounds.

    Args:
        a, b: [n] scores of two arms on the same items, in the same order.

    Raises:
        ValueError: other lengths, fewer than 2 items, or a score that is not finite.
    """
    a, b = paired(a, b)
    n = len(a)
    if n < 2:
        raise ValueError("1 item shows no spread: compare the arms on 2 items or more")
    difference = a - b
    estimate = float(difference.mean())
    if _is_binary(a, b):
        centre = difference.sum() / (n + 2)
        share = (np.abs(difference).sum() + 2) / (n + 2)
        reach = quantile(confidence) * np.sqrt((share - centre**2) / (n + 2))
        low, high = max(-1.0, centre - reach), min(1.0, centre + reach)
    elif _are_shares(a, b):
        _, low, high = (2 * bound - 1 for bound in mean((1 + difference) / 2, confidence))
    elif is_constant(difference):
        low, high = -np.inf, np.inf
    else:
        reach = quantile(confidence, n - 1) * difference.std(ddof=1) / np.sqrt(n)
        low, high = estimate - reach, estimate + reach
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def detectable_difference(a: ArrayLike, b: ArrayLike, level: float = SIGNIFICANCE) -> float:
    """The difference of means that this many items show with 80 % power at a level of significance.

    δ = (q₁₋ₗ/₂ + q₀.₈) · sqrt(mean((a − b)²) / n): the items spread about the null hypothesis' 0 as
    observed. For outcomes 0 or 1 the quantiles are the normal's (2.8 at the 5 % level), and the
    spread is the share of discordant items (Connor 1987, without its −δ²); a difference takes at
    least as many discordant items, hence δ ≥ q² / n. Otherwise they are Student's, and δ is
    infinite where no result of so few items is significant (2 / 2ⁿ of the sign-flip test).

    Args:
        a, b: as for `paired_difference`.
        level: of one comparison; α / m for the first of m that Holm's correction tests.
    """
    a, b = paired(a, b)
    n, binary = len(a), _is_binary(a, b)
    if not binary and 2 / 2.0**n >= level:
        return np.inf
    freedom = np.inf if binary else n - 1
    q = quantile(1 - level, freedom) + quantile(2 * POWER - 1, freedom)
    delta = float(q * np.sqrt(np.mean((a - b) ** 2) / n))
    return max(delta, float(q**2) / n) if binary else delta


def conclusions(comparisons: Sequence[Comparison]) -> list[str]:
    """What can, and what cannot, be concluded from comparisons read together, in plain English.

    An arm is called higher only where a paired test is significant at 5 % (McNemar's for outcomes
    0 or 1, else the sign-flip permutation test, which is the same idea for real numbers) with its p
    corrected for all of the comparisons by `holm`, and the interval leaves out 0. Otherwise it
    reports `detectable_difference`. Equal arms are never claimed. An interval is for its comparison
    alone.

    Raises:
        ValueError: as `paired_difference`.
    """
    arms = [paired(each.a, each.b) for each in comparisons]
    ps = [_p(a, b) for a, b in arms]
    return [
        _conclusion(each, a, b, p, float(adjusted), len(arms))
        for each, (a, b), p, adjusted in zip(comparisons, arms, ps, holm(ps), strict=True)
    ]


def _conclusion(
    names: Comparison,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    p: float,
    adjusted: float,
    together: int,
) -> str:
    n, difference = len(a), paired_difference(a, b)
    if np.array_equal(a, b):
        # Clopper-Pearson's one-sided bound at 0 of n: the "rule of three", about 3 / n.
        unseen = 1 - SIGNIFICANCE ** (1 / n)
        return (
            f"{names.name_a} and {names.name_b} scored alike on each of these {n} items "
            f"({a.mean():.3f}); they may still differ on up to {100 * unseen:.2g} % of such items "
            "(95 % confidence)."
        )
    excludes_0 = difference.low > 0 or difference.high < 0
    scores = f"{names.name_a} ({a.mean():.3f})", f"{names.name_b} ({b.mean():.3f})"
    p_text = _p_text(p)
    if together > 1:
        p_text += f" ({_p_text(adjusted)} corrected for {together} comparisons)"
    if adjusted < SIGNIFICANCE and excludes_0:
        if difference.high < 0:
            scores = scores[::-1]
            difference = Interval(-difference.estimate, -difference.high, -difference.low)
        return (
            f"{scores[0]} scores higher than {scores[1]} on items such as these {n}: difference "
            f"{difference:+z.3f} (95 % interval), {p_text}; it may be as small as "
            f"{difference.low:.3f}."
        )
    disagree = (p < SIGNIFICANCE) != excludes_0
    caution = " (test and interval disagree: too close to call)" * disagree
    seen = detectable_difference(a, b, SIGNIFICANCE / together)
    if seen >= (1 if _are_shares(a, b) else np.inf):
        bound = "so few items would not show even the largest difference reliably."
    else:
        among = f" and with {together} comparisons" * (together > 1)
        bound = (
            f"at this n{among} only a difference of about {seen:.3f} or more would be seen "
            f"{100 * POWER:.0f} % of the time."
        )
    return (
        f"These {n} items do not tell {scores[0]} and {scores[1]} apart: difference "
        f"{difference:+z.3f} (95 % interval), {p_text}{caution}. That does not make them equal: "
        f"{bound}"
    )


def _p_text(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def _p(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return mcnemar(a, b).p if _is_binary(a, b) else sign_flip_p(a, b)


def sign_flip_p(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0) -> float:
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


def _is_binary(*arms: NDArray[np.float64]) -> bool:
    return all(np.isin(arm, (0, 1)).all() for arm in arms)


def _are_shares(*arms: NDArray[np.float64]) -> bool:
    return all((arm >= 0).all() and (arm <= 1).all() for arm in arms)
