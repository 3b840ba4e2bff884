"""What is fitted to a pair: temperatures, a logistic α, and τ.

Temperatures minimise the NLL of the given tokens (Guo et al., arXiv 1706.04599), the guide's also
without any: matched to the base's confidence where both choose alike (DACA, arXiv 2505.16690). α
maximises the likelihood of the given tokens under the blend. Data are the fit's for all of these;
τ is chosen on other prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from ...calibration import EDGE, Calibration
from ..statistics import Interval, quantile
from .curves import HIGHEST, LOWEST
from .positions import Numbers, Places, Positions, Side

STEP = 1e-3
"""In log T, of the differences that the interval's derivatives are taken by."""

RIDGE = 1.0
"""Weight of (a² + (b − 1)² + c²) / 2 beside a sum over tokens: it decides where few tokens would
let a coefficient run away, and nothing where there are hundreds."""

STARTS = ((0.0, 1.0, 0.0), (0.0, 0.3, 0.0), (-2.0, 1.0, 1.0), (2.0, 1.0, -1.0))


class Alpha(NamedTuple):
    """logit α = a + b·(logit p_g − logit p_b) + c·P_B(t_g)."""

    a: float
    b: float
    c: float


def temperature(side: Side, items: Places, kept: NDArray[np.bool_]) -> Interval:
    """T that minimises the NLL of the given tokens, with an interval over the answers.

    Args:
        side: the model's numbers.
        items: `[N]`, the answer that each token is of.
        kept: `[N]`, the tokens to fit to; those that its vocabulary lacks teach nothing.
    """
    kept = kept & np.isfinite(side.given)
    curves, given, items = side.curves[kept], side.given[kept], items[kept]
    some = Side(curves, side.top[kept], side.ends[kept], given, side.mass[kept], side.choice[kept])
    return _minimised(lambda t: -some.given_log_prob(t), items)


def unlabelled_temperature(positions: Positions, base_temperature: float = 1.0) -> Interval:
    """The guide's T at which its confidence is the base's where both choose alike.

    Minimises the cross-entropy of "the shared choice or another" (DACA's Kullback-Leibler
    divergence, with all other tokens as one: two vocabularies have no others in common).
    """
    alike = positions.where(positions.base.choice == positions.guide.choice)
    p_b = np.clip(alike.base.top_prob(base_temperature), EDGE, 1 - EDGE)

    def losses(t: float) -> Numbers:
        p_g = np.clip(alike.guide.top_prob(t), EDGE, 1 - EDGE)
        return -p_b * np.log(p_g) - (1 - p_b) * np.log1p(-p_g)

    return _minimised(losses, alike.item)


def _minimised(losses: Callable[[float], Numbers], items: Places) -> Interval:
    """The T with the lowest mean loss, and the interval of an M-estimate over answers."""
    if not len(items):
        return Interval(1.0, LOWEST, HIGHEST)
    bounds = math.log(LOWEST) + 2 * STEP, math.log(HIGHEST) - 2 * STEP
    x = float(
        optimize.minimize_scalar(
            lambda x: losses(math.exp(x)).mean(), bounds=bounds, method="bounded",
            options={"xatol": 1e-5},
        ).x
    )  # fmt: skip
    below, here, above = (losses(math.exp(x + shift)) for shift in (-STEP, 0, STEP))
    _, place = np.unique(items, return_inverse=True)
    slopes = np.bincount(place, (above - below) / (2 * STEP))
    bend, n = float((above - 2 * here + below).sum()) / STEP**2, len(slopes)
    if n < 2 or bend <= 0:
        return Interval(math.exp(x), LOWEST, HIGHEST)
    reach = quantile(0.95, n - 1) * math.sqrt(n / (n - 1) * float(slopes @ slopes)) / bend
    return Interval(math.exp(x), math.exp(x - reach), math.exp(x + reach))


def fitted_alpha(positions: Positions, at: Calibration) -> Alpha:
    """a, b and c by which the blend makes the given tokens likeliest.

    Args:
        positions: the interventions to fit to.
        at: the temperatures at which gate and α read probabilities.
    """
    p_b, p_g = blended_probs(positions)
    of_base, of_guide = (
        special.logit(np.clip(side.top_prob(t), EDGE, 1 - EDGE))
        for side, t in (
            (positions.base, at.base_temperature),
            (positions.guide, at.guide_temperature),
        )
    )
    inputs = np.stack(
        [np.ones(len(positions)), of_guide - of_base, positions.agreement(at.base_temperature)]
    )
    prior = np.array([0.0, 1.0, 0.0])

    def loss(weights: Numbers) -> tuple[float, Numbers]:
        alpha = special.expit(weights @ inputs)
        total = np.maximum((1 - alpha) * p_b[0] + alpha * p_g[0], 1e-30)
        mass = (1 - alpha) * p_b[1] + alpha * p_g[1]
        slope = (p_g[0] - p_b[0]) / total - (p_g[1] - p_b[1]) / mass
        away = weights - prior
        value = -np.log(total / mass).sum() + RIDGE * away @ away / 2
        return float(value), -inputs @ (slope * alpha * (1 - alpha)) + RIDGE * away

    found = [
        optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-50, 50)] * 3)
        for start in STARTS
    ]
    return Alpha(*(float(value) for value in min(found, key=lambda each: each.fun).x))


def blended_probs(positions: Positions) -> tuple[tuple[Numbers, Numbers], tuple[Numbers, Numbers]]:
    """Of base and guide, the given token's probability and that of all candidates, `[N]` each."""
    return tuple(  # type: ignore[return-value]
        (np.exp(side.given_log_prob()), side.mass.astype(np.float64))
        for side in (positions.base, positions.guide)
    )


def best_threshold(top_prob: Numbers, gain: Numbers, highest: float = 1.01) -> float:
    """τ with the largest sum of gains where `top_prob` is below it.

    Args:
        top_prob: `[N]`, p_b.
        gain: `[N]`, how much log-likelihood an intervention adds to that of the base alone.
        highest: no larger τ is considered.
    """
    order = np.argsort(top_prob, kind="stable")
    sorted_probs, gains = top_prob[order], np.concatenate([[0.0], np.cumsum(gain[order])])
    bounds = np.concatenate([[0.0], (sorted_probs[1:] + sorted_probs[:-1]) / 2, [highest]])
    bounds[1:-1][sorted_probs[1:] == sorted_probs[:-1]] = np.nan  # no τ parts equal ones
    gains[np.isnan(bounds)] = -np.inf
    return float(bounds[int(np.argmax(gains))])


def threshold_of_rate(top_prob: Numbers, rate: float) -> float:
    """τ below which a share of the tokens lies: a wanted intervention rate."""
    return float(np.quantile(top_prob, rate, method="higher"))


def conformal_threshold(top_prob: Numbers, items: Places, level: float) -> tuple[float, int]:
    """τ by which a new prompt's answer is touched at all with a probability of at most `level`.

    An answer is touched where its lowest p_b is below τ. With n answers that are exchangeable with
    the new one, τ is the ⌊level·(n + 1)⌋-th smallest of their lowest p_b, and the new one is below
    it with a probability of at most ⌊level·(n + 1)⌋ / (n + 1), whatever the distribution
    (split conformal prediction); 0 where that is none, which never intervenes.

    Returns:
        τ and n.
    """
    lowest = np.sort([top_prob[items == each].min() for each in np.unique(items)])
    place = math.floor(level * (len(lowest) + 1) + 1e-9)
    if place == 0:
        return 0.0, len(lowest)
    return float(lowest[min(place, len(lowest)) - 1]), len(lowest)
