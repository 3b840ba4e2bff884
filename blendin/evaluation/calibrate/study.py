"""From the tables of given answers to a calibration, and to whether it is worth using."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from ...calibration import Calibration
from ...policy import DEFAULT_THRESHOLD, THRESHOLD, BaseOnly, Blend, Defer, Nudge, Policy, described
from ...values import Real, check_fields, setting, shown
from ..records import plain
from ..statistics import Interval, wilson
from .answers import Answer, Split
from .arms import best, blend_alpha, mixed_log_prob, nearest_rate, rate
from .collect import Collected
from .comparison import Compared, compare, sentences
from .fits import (
    best_threshold,
    conformal_threshold,
    fitted_alpha,
    temperature,
    threshold_of_rate,
    unlabelled_temperature,
)
from .metrics import Reliability, reliability
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


class Bound(NamedTuple):
    """A τ that bounds the share of prompts touched at all.

    Attributes:
        level: the wanted bound.
        threshold: τ.
        prompts: on how many prompts it rests.
        observed: the share touched among the test's prompts, with an interval; None without any.
    """

    level: float
    threshold: float
    prompts: int
    observed: Interval | None


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


class Choices(NamedTuple):
    """Whose choice the given token is, over some tokens; shares."""

    tokens: int
    agree: float
    base: float
    guide: float
    both: float
    neither: float


@dataclass(frozen=True)
class Study:
    """All figures.

    Attributes:
        base, guide, data: what was studied.
        prompts: of each part.
        tokens: of all parts; `left_out` of these by reason, `cut` answers that did not fit.
        lacking: the share of given tokens that the guide's vocabulary lacks.
        wanted: what τ was chosen by.
        fitted: the temperatures, arms and the calibration.
        reliability: by model, temperature and place ("base", "raw", "uncertain"), of the test.
        choices: by place.
        compared, matched: the arms on the test.
        bound: where one was wanted.
        verdict: the first sentence, and what follows.
    """

    base: str
    guide: str
    data: str
    prompts: Mapping[str, int]
    tokens: int
    left_out: Mapping[str, int]
    cut: int
    lacking: float
    wanted: Wanted
    fitted: Fitted
    reliability: Mapping[tuple[str, str, str], Reliability]
    choices: Mapping[str, Choices]
    compared: Sequence[Compared]
    matched: Sequence[Compared]
    bound: Bound | None
    verdict: Sequence[str]

    @property
    def whole(self) -> Compared:
        """The arm that the headline is about: α and τ together."""
        return next(each for each in self.compared if each.name == WHOLE)

    @property
    def about(self) -> dict[str, Any]:
        """What a calibration's file says of where it comes from."""
        return {
            "base": self.base,
            "guide": self.guide,
            "data": self.data,
            "prompts": dict(self.prompts),
            "verdict": self.verdict[0],
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = plain(
            {
                name: value
                for name, value in vars(self).items()
                if name not in ("fitted", "reliability", "compared", "matched")
            }
        )
        found["fitted"] = {
            "temperatures": {
                name: each._asdict() for name, each in self.fitted.temperatures.items()
            },
            "calibration": self.fitted.calibration.to_dict(),
            "thresholds": dict(self.fitted.thresholds),
        }
        found["reliability"] = [
            {"model": model, "probabilities": which, "where": where}
            | {name: plain(value) for name, value in vars(each).items() if name != "curve"}
            for (model, which, where), each in self.reliability.items()
        ]
        for name in ("compared", "matched"):
            found[name] = [
                each._asdict()
                | {"policy": described(each.policy)}
                | {
                    key: value._asdict()
                    for key, value in each._asdict().items()
                    if isinstance(value, Interval)
                }
                for each in getattr(self, name)
            ]
        return found


def study(
    names: tuple[str, str, str],
    read: Collected,
    answers: Sequence[Answer],
    split: Split,
    wanted: Wanted,
) -> Study:
    """Fits on one part of the prompts, chooses on another and tests on the third.

    Args:
        names: of base, guide and data.
        read: the tables.
        answers: what they are of.
        split: which answers are for what.
        wanted: what τ is to be chosen by.

    Raises:
        ValueError: a part has no token, or no prompt is of the wanted kind.
    """
    whole = read.positions
    parts = {name: _part(whole, places, answers, name) for name, places in split._asdict().items()}
    of_kind = {name: _of_kind(part, answers, wanted.kind) for name, part in parts.items()}
    fitted = fit(parts["fit"], parts["select"], wanted, of_kind["select"])
    test = parts["test"]
    rows = compare(fitted.arms[RAW], _others(fitted.arms), test, wanted.threshold)
    matched = compare(fitted.arms[RAW], fitted.matched, test, wanted.threshold)
    prompts = {name: len(np.unique(part.item)) for name, part in parts.items()}
    return Study(
        *names,
        prompts,
        len(whole),
        read.left_out,
        read.cut,
        float(1 - whole.guide_has.mean()),
        wanted,
        fitted,
        _reliability(test, fitted.calibration, wanted.threshold),
        _choices(test, wanted.threshold),
        rows,
        matched,
        _bound(of_kind, fitted.calibration, wanted),
        _verdict(fitted, rows, matched, prompts["test"]),
    )


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


def _others(arms: Mapping[str, Policy]) -> dict[str, Policy]:
    return {name: policy for name, policy in arms.items() if name != RAW}


def _part(
    whole: Positions, places: Sequence[int], answers: Sequence[Answer], name: str
) -> Positions:
    """The tokens of some answers; `item` becomes their prompt, by its first answer."""
    part = whole.where(np.isin(whole.item, places))
    if not len(part):
        raise ValueError(f"no token is left to {name} on: give more prompts, or longer answers")
    first: dict[str, int] = {}
    for place, each in enumerate(answers):
        first.setdefault(each.prompt, place)
    of_prompt = np.array([first[each.prompt] for each in answers])
    return replace(part, item=of_prompt[part.item])


def _of_kind(part: Positions, answers: Sequence[Answer], kind: str | None) -> Positions:
    if kind is None:
        return part
    some = part.where(np.array([answers[place].kind == kind for place in part.item]))
    if not len(some):
        kinds = sorted({each.kind for each in answers if each.kind is not None})
        raise ValueError(
            f"no prompt of a part is of the kind {kind!r}: use one of {', '.join(kinds) or 'none'},"
            " or give more prompts of it"
        )
    return some


def _reliability(
    test: Positions, calibration: Calibration, threshold: float
) -> dict[tuple[str, str, str], Reliability]:
    uncertain = test.base.top_prob() < threshold
    masks = {"overall": np.ones_like(uncertain), "uncertain": uncertain, "confident": ~uncertain}
    models = {
        "base": (test.base, test.base_right, calibration.base_temperature),
        "guide": (test.guide, test.guide_right, calibration.guide_temperature),
    }
    found = {}
    for model, (side, right, fitted) in models.items():
        told = test.guide_has if model == "guide" else np.ones_like(uncertain)
        for which, at in (("raw", 1.0), ("calibrated", fitted)):
            p, log_prob = side.top_prob(at), side.given_log_prob(at)
            for where, mask in masks.items():
                kept = mask & told
                each = reliability(p[kept], right[kept], log_prob[kept], test.item[kept])
                if each is not None:
                    found[model, which, where] = each
    return found


def _choices(test: Positions, threshold: float) -> dict[str, Choices]:
    uncertain = test.base.top_prob() < threshold
    found = {}
    for where, mask in (("uncertain", uncertain), ("confident", ~uncertain)):
        some = test.where(mask)
        if len(some):
            base, guide = some.base_right, some.guide_right
            shares = (some.base.choice == some.guide.choice, base, guide, base & guide,
                      ~base & ~guide)  # fmt: skip
            found[where] = Choices(len(some), *(float(each.mean()) for each in shares))
    return found


def _bound(
    of_kind: Mapping[str, Positions], calibration: Calibration, wanted: Wanted
) -> Bound | None:
    if wanted.touched is None:
        return None
    t = calibration.base_temperature
    select, test = of_kind["select"], of_kind["test"]
    threshold, prompts = conformal_threshold(select.base.top_prob(t), select.item, wanted.touched)
    below = test.base.top_prob(t) < threshold
    touched = len(np.unique(test.item[below]))
    return Bound(wanted.touched, threshold, prompts, wilson(touched, len(np.unique(test.item))))


def _verdict(
    fitted: Fitted, rows: Sequence[Compared], matched: Sequence[Compared], prompts: int
) -> list[str]:
    by_name = {each.name: each for each in rows}
    whole = by_name[WHOLE]
    headline = {
        "better": "Calibrating pays for this pair on such answers",
        "worse": "Calibrating does harm to this pair on such answers",
        "untold": "Calibrated is not told apart from raw",
        "same": "Calibrated is the same as raw",
    }[whole.verdict]
    found = [f"{headline} ({whole.difference:+z.4f} nats a token)."]
    for role in ("base", "guide"):
        found.append(_temperature_sentence(role, fitted.temperatures[role]))
    return found + sentences(rows, RAW, prompts)


def _temperature_sentence(role: str, fitted: Interval) -> str:
    numbers = f"T = {format(fitted, '.2f')}"
    if fitted.low > 1:
        return f"The {role} is surer than it is right ({numbers})."
    if fitted.high < 1:
        return f"The {role} is less sure than it is right ({numbers})."
    return f"That the {role} is miscalibrated is not shown ({numbers})."
