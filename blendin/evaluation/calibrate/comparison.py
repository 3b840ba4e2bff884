"""Arms against the raw blend on prompts that nothing was fitted to or chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ...policy import Policy
from ..comparison import SIGNIFICANCE, holm, mcnemar, sign_flip_p
from ..statistics import Interval
from .arms import Outcome, outcome
from .metrics import clustered_mean
from .positions import Numbers, Places, Positions

RESAMPLES = 10_000
AT_ONCE = 500
"""Resamples drawn at once."""

Verdict = Literal["better", "worse", "untold", "same"]


class Compared(NamedTuple):
    """One arm on the test's prompts, against another.

    Attributes:
        name: the arm's.
        policy: it.
        log_prob: mean of the given tokens, in nats, with an interval over prompts.
        difference: of it from the other arm's, with a bootstrap interval over prompts.
        p: of the sign-flip test over prompts' differences; `holm_p` corrected for all arms.
        rate: the intervention rate over the given tokens.
        accuracy: the share of tokens that it would have chosen.
        accuracy_difference: from the other arm's, with a bootstrap interval over prompts.
        mcnemar_p: over one token a prompt, its first uncertain one; `mcnemar_holm_p` corrected.
        impossible: tokens that count as e⁻²⁰ because it made them less likely.
        verdict: what may be said of the difference.
    """

    name: str
    policy: Policy
    log_prob: Interval
    difference: Interval
    p: float
    holm_p: float
    rate: float
    accuracy: float
    accuracy_difference: Interval
    mcnemar_p: float
    mcnemar_holm_p: float
    impossible: int
    verdict: Verdict


def compare(
    reference: Policy, arms: Mapping[str, Policy], positions: Positions, uncertain_below: float
) -> list[Compared]:
    """Each arm against the reference; both corrections are for all of them together.

    Args:
        reference: the raw blend.
        arms: by name.
        positions: of the test; `item` is the prompt.
        uncertain_below: τ of the tokens at which choices are compared.
    """
    told, items = outcome(reference, positions), positions.item
    first = _first(items, positions.base.top_prob() < uncertain_below)
    found = {name: outcome(policy, positions) for name, policy in arms.items()}
    ps = [_p(each, told, items) for each in found.values()]
    choices = [
        mcnemar(each.right[first], told.right[first]).p if len(first) else 1.0
        for each in found.values()
    ]
    rows = []
    for (name, each), p, holm_p, choice_p, choice_holm_p in zip(
        found.items(), ps, holm(ps), choices, holm(choices), strict=True
    ):
        difference = bootstrap(each.log_prob - told.log_prob, items)
        rows.append(
            Compared(
                name,
                arms[name],
                clustered_mean(each.log_prob, items),
                difference,
                p,
                float(holm_p),
                float(each.intervenes.mean()),
                float(each.right.mean()),
                bootstrap(each.right.astype(float) - told.right, items),
                choice_p,
                float(choice_holm_p),
                each.impossible,
                _verdict(difference, float(holm_p)),
            )
        )
    return rows


def bootstrap(values: Numbers, items: Places, seed: int = 0) -> Interval:
    """The mean over tokens and its 95 % percentile interval over prompts drawn anew."""
    sums, totals = _by_prompt(values, items)
    if len(sums) < 2:
        return Interval(float(values.mean()), -np.inf, np.inf)
    rng = np.random.default_rng(seed)
    means: list[Numbers] = []
    for _ in range(RESAMPLES // AT_ONCE):
        times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=AT_ONCE)
        means.append(times @ sums / (times @ totals))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    estimate = float(values.mean())
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def _p(ours: Outcome, theirs: Outcome, items: Places) -> float:
    """Of the sign-flip test: under no difference a prompt's sum of differences has either sign."""
    sums, _ = _by_prompt(ours.log_prob - theirs.log_prob, items)
    if not np.abs(sums).max() > 1e-9 or len(sums) < 2:
        return 1.0
    return sign_flip_p(sums, np.zeros_like(sums))


def _by_prompt(values: Numbers, items: Places) -> tuple[Numbers, Numbers]:
    _, place = np.unique(items, return_inverse=True)
    return np.bincount(place, values).astype(float), np.bincount(place).astype(float)


def _first(items: Places, uncertain: np.ndarray) -> Places:
    """The place of each prompt's first uncertain token."""
    places = np.flatnonzero(uncertain)
    _, first = np.unique(items[places], return_index=True)
    return places[first]


def _verdict(difference: Interval, p: float) -> Verdict:
    if difference.low == difference.high == 0:
        return "same"
    if p < SIGNIFICANCE and difference.low > 0:
        return "better"
    if p < SIGNIFICANCE and difference.high < 0:
        return "worse"
    return "untold"


def sentences(rows: Sequence[Compared], reference: str, prompts: int) -> list[str]:
    """What may be said, in plain words."""
    words = {
        "better": "makes the given answers likelier than {1}: {2} nats a token, {3}.",
        "worse": "makes the given answers less likely than {1}: {2} nats a token, {3}.",
        "untold": "is not told apart from {1} by these {4} prompts: {2} nats a token, {3}.",
        "same": "gives every token the probability that {1} gives it.",
    }
    return [
        f"{each.name} "
        + words[each.verdict].format(
            each.name, reference, format(each.difference, "+z.4f"), _p_text(each.holm_p), prompts
        )
        for each in rows
    ]


def _p_text(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
