"""What is fitted on one part of the prompts and chosen on another: temperatures, α, τ, the arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ...calibration import Calibration
from ...policy import DEFAULT_THRESHOLD, THRESHOLD, BaseOnly, Blend, Defer, Nudge, Policy
from ...values import Real, check_fields, setting, shown
from ..statistics import Interval
from .arms import best, blend_alpha, mixed_log_prob, nearest_rate, rate
from .fits import (
    best_threshold,
    conformal_threshold,
    fitted_alpha,
    temperature,
    threshold_of_rate,
    unlabelled_temperature,
)
from .positions import Positions

RAW = "raw"
WHOLE = "calibrated α and τ"
FIXED = tuple(place / 20 for place in range(21))
BUDGETS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.7, 0.85, 1.0)
"""θ of `Defer`, of which the best is chosen; smaller ones lie below what the tables list."""

FEWEST_TOKENS = 30
"""Interventions without which no α is fitted."""

RULES: tuple[Literal["token", "budget", "bet"], ...] = ("token", "budget", "bet")


@dataclass(frozen=True)
class Wanted:
    """What τ is to be chosen by.

    Attributes:
        threshold: τ of the raw blend and of what is called uncertain.
        rate: a wanted intervention rate; None for τ by score.
        touched: the share of prompts that may be touched at all; None likewise.
        kind: of which kind of prompts that is; None for all.

    Raises:
        ValueError: for a value out of range, or two that do not go together.
    """

    threshold: float = setting(DEFAULT_THRESHOLD, THRESHOLD)
    rate: float | None = setting(None, Real(0, 1, above=True, none="τ by score"))
    touched: float | None = setting(None, Real(0, 1, above=True, none="τ by score"))
    kind: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rate is not None and self.touched is not None:
            raise ValueError(
                f"{shown('rate')} and {shown('touched')} both choose τ: give one of them"
            )
        if self.kind is not None and self.touched is None:
            raise ValueError(
                f"{shown('kind')} is of the prompts that {shown('touched')} bounds: give it, too"
            )


class Fitted(NamedTuple):
    """What is fitted on one part and chosen on another.

    Attributes:
        temperatures: "base" and "guide" by the given tokens, "guide, unlabelled" by the base.
        arms: policies by name; the first is the raw blend.
        matched: policies at the raw blend's intervention rate.
        calibration: what is written.
        thresholds: τ of the calibration by what it was chosen by.
    """

    temperatures: Mapping[str, Interval]
    arms: Mapping[str, Policy]
    matched: Mapping[str, Policy]
    calibration: Calibration
    thresholds: Mapping[str, float]


def fit(
    part: Positions, select: Positions, wanted: Wanted, of_kind: Positions | None = None
) -> Fitted:
    """Everything that is fitted or chosen.

    Args:
        part: the tokens to fit to.
        select: the tokens by which τ, θ and the best fixed α are chosen.
        wanted: what τ is to be chosen by.
        of_kind: the prompts that a bound is about; `select` where None.
    """
    everywhere = np.ones(len(part), dtype=bool)
    temperatures = {
        "base": temperature(part.base, part.item, everywhere),
        "guide": temperature(part.guide, part.item, everywhere),
        "guide, unlabelled": unlabelled_temperature(part),
    }
    plain_tau = wanted.threshold
    at = Calibration(temperatures["base"].estimate, temperatures["guide"].estimate)
    with_alpha = _with_alpha(at, part, plain_tau)
    tau = {name: _score_threshold(each, select) for name, each in (("τ", at), ("both", with_alpha))}
    both = _with_alpha(at, part, tau["both"])
    p_b = select.base.top_prob(at.base_temperature)
    thresholds = {"score": tau["both"]}
    if wanted.rate is not None:
        thresholds["rate"] = threshold_of_rate(p_b, wanted.rate)
    if wanted.touched is not None:
        some = select if of_kind is None else of_kind
        own = some.base.top_prob(at.base_temperature)
        thresholds["touched"], _ = conformal_threshold(own, some.item, wanted.touched)
    chosen = list(thresholds.values())[-1]
    written = replace(_with_alpha(at, part, chosen), threshold=chosen)
    raw = Blend(plain_tau)
    arms: dict[str, Policy] = {
        RAW: raw,
        "base alone": BaseOnly(),
        "best fixed α": best([Blend(plain_tau, alpha=each) for each in FIXED], part),
        "calibrated α": Blend(plain_tau, calibration=with_alpha),
        "calibrated τ": Blend(tau["τ"], calibration=at),
        WHOLE: Blend(tau["both"], calibration=both),
        "nudge": Nudge(plain_tau, unit="token"),
        **{
            f"defer, {rule}": best([Defer(each, rule) for each in BUDGETS], select)
            for rule in RULES
        },
    }
    wanted_rate = rate(raw, select)
    fixed = arms["best fixed α"]
    assert isinstance(fixed, Blend)
    same = threshold_of_rate(p_b, wanted_rate)
    matched: dict[str, Policy] = {
        "best fixed α": fixed,
        "calibrated α": Blend(same, calibration=_with_alpha(at, part, same)),
        "temperatures alone": Blend(same, calibration=at),
        "nudge": Nudge(plain_tau, unit="token"),
        **{
            f"defer, {rule}": nearest_rate(
                [Defer(each, rule) for each in BUDGETS], select, wanted_rate
            )
            for rule in RULES
        },
    }
    return Fitted(temperatures, arms, matched, written, thresholds)


def _with_alpha(at: Calibration, part: Positions, threshold: float) -> Calibration:
    """With α fitted where p_b is below τ; without one where that is next to nowhere."""
    asked = part.where(part.base.top_prob(at.base_temperature) < threshold)
    if len(asked) < FEWEST_TOKENS:
        return at
    a, b, c = fitted_alpha(asked, at)
    return replace(at, a=a, b=b, c=c)


def _score_threshold(calibration: Calibration, select: Positions) -> float:
    """τ by the likelihood of the given tokens; never below what leaves any intervention out."""
    alpha = blend_alpha(Blend(calibration=calibration), select)
    gain = mixed_log_prob(select, alpha) - select.base.given_log_prob()
    return best_threshold(select.base.top_prob(calibration.base_temperature), gain)
