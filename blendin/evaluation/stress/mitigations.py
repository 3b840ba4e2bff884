"""What may be done against it, without training: three ways to score a chain, and the plain one.

- "stripped": words of confidence are taken off each step, known from the text alone;
- "minimum": the weakest step counts, as it would be of `OF_STEPS` steps drawn at random: a plain
  minimum falls with every step that is added, right or wrong;
- "orders": the mean over several valid orders, where dependencies are known.

Each is judged as a verifier that accepts a chain from a threshold on. The threshold is set on the
untransformed chains, where it lets `ACCEPTED_WRONG` of the wrong ones through, and stays: so a rise
of the false positives under a transformation is what an author gains by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..statistics import Interval, wilson
from . import bootstrap
from .run import Scores
from .suite import Variant

OF_STEPS = 2
ACCEPTED_WRONG = 0.2


@dataclass(frozen=True)
class Verdicts:
    """A way to score chains, under one transformation ("original" for none).

    Attributes:
        mitigation: one of `MITIGATIONS`.
        auroc: how often a right chain scores above a wrong one.
        true_positives: the share of right chains that are accepted.
        false_positives: of wrong chains.
        threshold: from which chains are accepted.
    """

    mitigation: str
    auroc: Interval
    true_positives: Interval
    false_positives: Interval
    threshold: float


def expected_minimum(values: Sequence[float], of: int = OF_STEPS) -> float:
    """The expected minimum of `of` values that are drawn from these without replacement.

    Of fewer values it is their minimum.
    """
    ordered, count = sorted(values), len(values)
    of = min(of, count)
    ways = math.comb(count, of)
    return sum(v * math.comb(count - n - 1, of - 1) for n, v in enumerate(ordered)) / ways


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def plain(variant: Variant, scores: Scores) -> float:
    """The mean of the steps' scores."""
    return _mean(scores.of(variant.chain.question, variant.chain.texts))


def without_markers(variant: Variant, scores: Scores) -> float:
    """The same of the steps without words of confidence."""
    return _mean(scores.of(variant.chain.question, variant.stripped))


def minimum(variant: Variant, scores: Scores) -> float:
    """The weakest step, at a length that is the same for all chains."""
    return expected_minimum(scores.of(variant.chain.question, variant.chain.texts))


def over_orders(variant: Variant, scores: Scores) -> float:
    """The mean over the order that it has and further valid ones."""
    orders = (variant.chain, *variant.orders)
    return _mean([_mean(scores.of(each.question, each.texts)) for each in orders])


MITIGATIONS: dict[str, Callable[[Variant, Scores], float]] = {
    "none": plain,
    "stripped": without_markers,
    "minimum": minimum,
    "orders": over_orders,
}


def judged(
    mitigation: str,
    originals: Sequence[Variant],
    variants: Sequence[Variant],
    scores: Scores,
    seed: int = 0,
) -> Verdicts | None:
    """How one way to score chains tells right from wrong; None without both kinds.

    Args:
        mitigation: one of `MITIGATIONS`.
        originals: untransformed chains, on which the threshold is set.
        variants: those that are judged.
        scores: of all their steps.
        seed: of the bootstrap.
    """
    way = MITIGATIONS[mitigation]
    right = np.array([variant.chain.is_right for variant in variants], dtype=bool)
    wrong_before = [way(each, scores) for each in originals if not each.chain.is_right]
    if not wrong_before or right.all() or not right.any():
        return None
    threshold = float(np.quantile(wrong_before, 1 - ACCEPTED_WRONG, method="higher"))
    values = np.array([way(variant, scores) for variant in variants])
    accepted = values > threshold
    items = [variant.chain.id for variant in variants]
    return Verdicts(
        mitigation,
        bootstrap.over_items(items, lambda w: bootstrap.auroc(w, values, right), seed),
        wilson(int(accepted[right].sum()), int(right.sum())),
        wilson(int(accepted[~right].sum()), int((~right).sum())),
        threshold,
    )
