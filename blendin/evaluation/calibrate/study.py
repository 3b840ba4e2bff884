"""From the tables of given answers to a calibration, and to whether it is worth using."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...calibration import Calibration
from ...policy import Policy, described
from ..records import plain
from ..statistics import Interval, wilson
from .answers import Answer, Split
from .arms import rate
from .collect import Collected
from .comparison import Compared, compare
from .fits import conformal_threshold
from .fitted import RAW, WHOLE, Fitted, Wanted, fit
from .metrics import Reliability, reliability
from .positions import Positions
from .verdict import verdict

RIVALS = ("best fixed α", "base alone")
"""What is simpler than a calibration and may do as much."""


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
        compared, matched: the arms on the test, against the raw blend.
        rivals: α and τ together against what is simpler than they are, by its name.
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
    rivals: Mapping[str, Compared]
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
                if name not in ("fitted", "reliability", "compared", "rivals", "matched")
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
        found["compared"] = [_plain(each) for each in self.compared]
        found["rivals"] = {name: _plain(each) for name, each in self.rivals.items()}
        found["matched"] = [_plain(each) for each in self.matched]
        return found


def _plain(arm: Compared) -> dict[str, Any]:
    """An arm for JSON."""
    return {
        name: value._asdict() if isinstance(value, Interval) else value
        for name, value in (arm._asdict() | {"policy": described(arm.policy)}).items()
    }


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
    whole_arm = {WHOLE: fitted.arms[WHOLE]}
    rivals = {
        name: compare(fitted.arms[name], whole_arm, test, wanted.threshold)[0] for name in RIVALS
    }
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
        rivals,
        matched,
        _bound(of_kind, fitted.calibration, wanted),
        verdict(fitted, rows, rivals, matched, prompts["test"], rate(fitted.arms[RAW], test)),
    )


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
