"""Asked of BlendIn: what the text so far does to p_b, p_g, α and the intervention rate.

A policy reads the transformed chain as the text so far. Two comparisons, with intervals over items:

- whole chains, before and after: all tokens, those of added steps and markers among them;
- the same tokens: of the source's own steps those that begin and end at the same bytes before and
  after. Nothing about them differs but what stands before, so an α that moves there is moved by it.
  p_g and α are compared where the guide was asked both times.

The *weight of the guide* is α at interventions and 0 elsewhere: how much of a text is the guide's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..statistics import Interval
from . import bootstrap
from .run import Scores
from .scorers import TokenTrace
from .suite import Variant

QUANTITIES = ("p_b", "p_g", "alpha", "intervention_rate", "guide_weight")
NAMES = {
    "p_b": "p_b",
    "p_g": "p_g",
    "alpha": "α",
    "intervention_rate": "the intervention rate",
    "guide_weight": "the weight of the guide",
}
MEANT = 0.01
"""An interval within ± this counts as "does not move"."""


class Move(NamedTuple):
    """One quantity, before and after.

    Attributes:
        before: its mean.
        after: likewise.
        change: of the mean, with an interval over items.
        tokens: over how many tokens (those after).
    """

    before: float
    after: float
    change: Interval
    tokens: int


@dataclass(frozen=True)
class Trust:
    """How one transformation moves the policy.

    Attributes:
        whole: by quantity, over whole chains.
        same: by quantity, over the same tokens.
        furthest: the mean over chains of the largest |change of α| at one of the same tokens.
        sentence: the answer in words.
    """

    whole: Mapping[str, Move]
    same: Mapping[str, Move]
    furthest: Interval | None
    sentence: str


def _value(name: str, token: TokenTrace) -> float | None:
    match name:
        case "p_b":
            return token.base_top_prob
        case "p_g":
            return token.guide_top_prob
        case "alpha":
            return token.alpha
        case "intervention_rate":
            return float(token.guide_top_prob is not None)
    return token.alpha or 0.0


def measure(transformation: str, variants: Sequence[Variant], scores: Scores) -> Trust | None:
    """What a transformation does to a policy; None where there is no trace.

    Args:
        transformation: its name, for the sentence.
        variants: chains that it made.
        scores: of a policy.
    """
    pairs = []
    for variant in variants:
        source, chain = variant.source, variant.chain
        before = scores.scored(source.question, source.texts).trace
        after = scores.scored(chain.question, chain.texts).trace
        if before and after:
            pairs.append((variant, before, after))
    if not pairs:
        return None
    whole = {name: _move([(v.chain.id, b, a) for v, b, a in pairs], name) for name in QUANTITIES}
    matched = [(v.chain.id, *same_tokens(v, b, a)) for v, b, a in pairs]
    same = {name: _paired_move(matched, name) for name in QUANTITIES}
    same_found = {name: move for name, move in same.items() if move is not None}
    whole_found = {name: move for name, move in whole.items() if move is not None}
    return Trust(whole_found, same_found, _furthest(matched), _sentence(transformation, same_found))


def same_tokens(
    variant: Variant, before: Sequence[TokenTrace], after: Sequence[TokenTrace]
) -> tuple[list[TokenTrace], list[TokenTrace]]:
    """The tokens of the source's own steps that are there before and after, pairwise.

    The first of a step is none of them: before it stand a newline, or a marker and a blank.
    """
    steps = variant.chain.steps
    shift = {place: len(step.marker.encode()) for place, step in enumerate(steps)}
    known = {
        (variant.source.steps[token.step].origin, token.offset, token.length): token
        for token in before
        if token.offset > 0
    }
    found = []
    for token in after:
        step = steps[token.step]
        key = (step.origin, token.offset - shift[token.step], token.length)
        if step.role == "own" and key in known:
            found.append((known[key], token))
    return [one for one, _ in found], [other for _, other in found]


_Rows = Sequence[tuple[str, Sequence[TokenTrace], Sequence[TokenTrace]]]


def _sums(tokens: Sequence[TokenTrace], name: str) -> tuple[float, int]:
    values = [value for token in tokens if (value := _value(name, token)) is not None]
    return math.fsum(values), len(values)


def _move(rows: _Rows, name: str) -> Move | None:
    """Pooled means over all tokens that have the quantity."""
    before = np.array([_sums(tokens, name) for _, tokens, _ in rows])
    after = np.array([_sums(tokens, name) for _, _, tokens in rows])
    return _moved([item for item, _, _ in rows], before, after)


def _paired_move(rows: _Rows, name: str) -> Move | None:
    """The same over the tokens that have it both times."""
    kept = []
    for item, before, after in rows:
        both = [
            (one, other)
            for one, other in zip(before, after, strict=True)
            if _value(name, one) is not None and _value(name, other) is not None
        ]
        kept.append((item, [one for one, _ in both], [other for _, other in both]))
    return _move(kept, name)


def _moved(items: list[str], before: np.ndarray, after: np.ndarray) -> Move | None:
    if not before[:, 1].sum() or not after[:, 1].sum():
        return None

    def change(weights: bootstrap.Numbers) -> bootstrap.Numbers:
        return bootstrap.ratio(weights, *after.T) - bootstrap.ratio(weights, *before.T)

    return Move(
        float(before[:, 0].sum() / before[:, 1].sum()),
        float(after[:, 0].sum() / after[:, 1].sum()),
        bootstrap.over_items(items, change),
        int(after[:, 1].sum()),
    )


def _furthest(rows: _Rows) -> Interval | None:
    found = []
    for item, before, after in rows:
        moved = [
            abs(one.alpha - other.alpha)
            for one, other in zip(before, after, strict=True)
            if one.alpha is not None and other.alpha is not None
        ]
        if moved:
            found.append((item, max(moved)))
    if not found:
        return None
    values = [value for _, value in found]
    return bootstrap.over_items([item for item, _ in found], lambda w: bootstrap.mean(w, values))


WHAT: Mapping[str, str] = {
    "inflation": "Behind steps that are said twice or in two",
    "order": "In another valid order of the steps",
    "markers": "Behind words such as “Clearly,”",
}


def _sentence(transformation: str, same: Mapping[str, Move]) -> str:
    """Whether α moves, in words, with the interval."""
    where = WHAT.get(transformation, transformation)
    if "alpha" not in same:
        return f"{where} α cannot be compared: the guide was asked at no token both times."
    told = [name for name in ("alpha", "intervention_rate") if name in same]
    parts = [_part(same[name], NAMES[name]) for name in told]
    return f"{where}, at the same tokens of the source's own steps: {'; '.join(parts)}."


def _part(move: Move, name: str) -> str:
    change = move.change
    shown = f"{change.estimate:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    if math.isnan(change.low):
        return f"{name} changes by {change.estimate:+.3f} (too few problems for an interval)"
    if change.low > 0 or change.high < 0:
        verb = "rises" if change.estimate > 0 else "falls"
        return f"{name} {verb}: {shown}, from {move.before:.3f}"
    if -MEANT <= change.low and change.high <= MEANT:
        return f"{name} does not move by as much as {MEANT:g} ({shown})"
    return f"{name} is not shown to move ({shown})"
