"""How far a model's confidence is from how often it is right.

NLL and Brier are proper scores and stand first: no rescaling of a useless confidence improves them.
Then the smooth calibration error of Błasiok and Nakkiran (arXiv 2309.12236), which has no bins to
choose, and last the common ECE, with bins of equal mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from ..statistics import Interval, quantile
from .positions import Numbers, Places

GRID = 1000
"""Cells of [0, 1] into which confidences are sorted before they are smoothed."""

ECE_BINS = 15
RESAMPLES = 400


@dataclass(frozen=True)
class Reliability:
    """Of N tokens.

    Attributes:
        tokens, answers: how many there are.
        nll: mean −log P(given token), in nats, with an interval over the answers.
        brier: mean (p − right)² of the choice.
        confidence, accuracy: means.
        smooth_ece: the smooth calibration error, with a bootstrap interval over the answers.
        smooth_width: the width σ at which it was smoothed, in probability.
        ece: with bins of equal mass.
        curve: `[points, 3]`: confidence, smoothed accuracy, and the density of confidences there.
    """

    tokens: int
    answers: int
    nll: Interval
    brier: Interval
    confidence: float
    accuracy: float
    smooth_ece: Interval
    smooth_width: float
    ece: float
    curve: NDArray[np.float64]


def reliability(
    confidence: Numbers, right: NDArray[np.bool_], log_prob: Numbers, items: Places, seed: int = 0
) -> Reliability | None:
    """What a model's confidence in its choices is worth; None where there is no token.

    Args:
        confidence: `[N]`, the probability of its choice.
        right: `[N]`, whether that is the given token.
        log_prob: `[N]`, of the given token; infinite ones are left out of the NLL.
        items: `[N]`, the answer that each token is of.
        seed: of the bootstrap.
    """
    if not len(confidence):
        return None
    told = np.isfinite(log_prob)
    width, error = smooth_ece(confidence, right)
    return Reliability(
        len(confidence),
        len(np.unique(items)),
        clustered_mean(-log_prob[told], items[told]),
        clustered_mean((confidence - right) ** 2, items),
        float(confidence.mean()),
        float(right.mean()),
        Interval(error, *_bootstrap(confidence, right, items, seed)),
        width,
        equal_mass_ece(confidence, right),
        _curve(confidence, right, width),
    )


def smooth_ece(confidence: Numbers, right: NDArray[np.bool_]) -> tuple[float, float]:
    """(σ, smECE): the width at which the error smoothed by it equals it, and that error.

    smECE_σ = ∫ |mean(K_σ(t, p)·(right − p))| dt with the Gaussian kernel reflected at 0 and 1; it
    falls as σ grows, so that one σ equals it (arXiv 2309.12236, Definition 3).
    """
    return _fixed_point(_histogram(right - confidence, confidence) / len(confidence))


def equal_mass_ece(confidence: Numbers, right: NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """Σ |mean confidence − accuracy| over bins of as many tokens each, weighted by them."""
    order = np.argsort(confidence, kind="stable")
    gaps = (right - confidence)[order]
    parts = np.array_split(gaps, min(bins, len(gaps)))
    return float(sum(abs(part.sum()) for part in parts) / len(gaps))


def clustered_mean(values: Numbers, items: Places, confidence: float = 0.95) -> Interval:
    """The mean over tokens, with Student's interval from the answers' sums: tokens of one answer
    resemble each other."""
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    _, place = np.unique(items, return_inverse=True)
    sums, totals = np.bincount(place, values), np.bincount(place)
    estimate, n = float(values.mean()), len(sums)
    if n < 2:
        return Interval(estimate, -np.inf, np.inf)
    variance = n / (n - 1) * np.sum((sums - estimate * totals) ** 2) / totals.sum() ** 2
    reach = quantile(confidence, n - 1) * float(np.sqrt(variance))
    return Interval(estimate, estimate - reach, estimate + reach)


def _histogram(values: Numbers, confidence: Numbers) -> Numbers:
    """The values summed by confidence, each shared out to the two nearest of the grid's cells."""
    place = np.clip(confidence * GRID - 0.5, 0, GRID - 1)
    left = np.minimum(place.astype(int), GRID - 2)
    share = place - left
    found = np.zeros(GRID)
    found += np.bincount(left, values * (1 - share), GRID)
    found += np.bincount(left + 1, values * share, GRID)
    return found


def _smoothed(histogram: Numbers, width: float) -> Numbers:
    """With the Gaussian of that width in probability, reflected at 0 and 1.

    Cosines are what a reflected kernel only scales: exp(−(πkσ)² / 2) for the k-th.
    """
    return _from_cosines(fft.dct(histogram, norm="ortho"), width)


def _from_cosines(cosines: Numbers, width: float) -> Numbers:
    scale = np.exp(-0.5 * (np.pi * np.arange(len(cosines)) * width) ** 2)
    return fft.idct(cosines * scale, norm="ortho")


def _fixed_point(gaps: Numbers) -> tuple[float, float]:
    """σ and the smoothed error, of `[GRID]` summed gaps."""
    cosines = fft.dct(gaps, norm="ortho")

    def excess(width: float) -> float:
        return float(np.abs(_from_cosines(cosines, width)).sum()) - width

    lowest, highest = 1 / GRID, 1.0
    if (over := excess(lowest)) <= 0:  # below what the grid resolves
        return lowest, over + lowest
    width = float(optimize.brentq(excess, lowest, highest, xtol=1e-5))
    return width, width


def _bootstrap(
    confidence: Numbers, right: NDArray[np.bool_], items: Places, seed: int
) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles over answers drawn anew."""
    _, place = np.unique(items, return_inverse=True)
    answers = place.max() + 1
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place))[:-1]
    gaps = np.stack(
        [_histogram((right - confidence)[own], confidence[own]) for own in np.split(order, ends)]
    )
    totals = np.bincount(place)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(answers, size=answers), minlength=answers)
        found.append(_fixed_point(times @ gaps / (times @ totals))[1])
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _curve(confidence: Numbers, right: NDArray[np.bool_], width: float) -> NDArray[np.float64]:
    """Where the smoothed accuracy can be told: with the weight of two tokens or more."""
    width = max(width, 0.02)
    weight = _smoothed(_histogram(np.ones(len(confidence)), confidence), width)
    hits = _smoothed(_histogram(right.astype(float), confidence), width)
    at = (np.arange(GRID) + 0.5) / GRID
    shown = (weight * GRID * width * np.sqrt(2 * np.pi) >= 2)[::10]
    with np.errstate(invalid="ignore", divide="ignore"):
        points = np.stack([at, hits / weight, weight / weight.sum() * GRID], axis=1)[::10]
    return points[shown]
