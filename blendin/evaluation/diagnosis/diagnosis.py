"""Will this base and guide work together? What a run's records say about its interventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from ...trace import RATE_LIMIT
from ..records import Record, plain
from ..statistics import Interval, pooled_rate, wilson
from .interventions import (
    Agreement,
    Position,
    Streaks,
    agreements,
    by_position,
    steps_withheld,
    streaks_of,
)
from .overlap import Overlap
from .verdict import Verdict, judged, notes_on

BINS = 20
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


class Distribution(NamedTuple):
    """Numbers in 0..1, summed up; `counts` are those of `BINS` bins of equal width."""

    n: int
    mean: float
    quantiles: dict[str, float]
    counts: list[int]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        if not values:
            return None
        counts, _ = np.histogram(values, bins=BINS, range=(0, 1))
        return cls(len(values), float(np.mean(values)), quantiles(values), counts.tolist())


class Below(NamedTuple):
    """The share of the steps at which the base was asked and p_b was below a threshold."""

    threshold: float
    share: Interval


class Example(NamedTuple):
    """One answer, in the steps' texts with their source (None where the guide was not asked) and α.

    What a stop text cut off is not in them.
    """

    id: str
    intervention_rate: float
    stop_reason: str | None
    pieces: list[tuple[str, str | None, float | None]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the records of one pair on one task show; rates have 95 % intervals over the items.

    Attributes:
        base, guide, task: names.
        top_k: k of `agreement`.
        settings: of the run.
        items: answers that count; `failed` ended with an error or wrote nothing.
        steps, interventions: theirs.
        rate: interventions over steps.
        verdict: on that rate.
        item_rates: each answer's own, by id.
        above: the share of answers whose own rate is above `RATE_LIMIT`.
        positions: the rate by position in the answer.
        base_top_prob: p_b, at the steps that asked the base.
        below: what the rate would be near at other thresholds, were the answers the same.
        alpha: α, at interventions.
        agreement: None where no intervention asked both.
        runs: None where there is no intervention.
        withheld: steps at which the base was as unsure as at interventions and went on alone.
        lengths: quantiles of the answers' steps.
        stop_reasons: how many answers ended by each.
        first_intervention: quantiles of its position (from 1), of the answers that have one.
        never: answers that have none.
        tokens_per_second: of the whole run, failed items included; None where it was not timed.
        vocabulary_overlap: None where it was not measured.
        examples: the answers with the lowest, the median and the highest rate, of those that are at
            least half as long as the median.
    """

    base: str
    guide: str
    task: str
    top_k: int | None
    settings: Mapping[str, Any]
    items: int
    failed: int
    steps: int
    interventions: int
    rate: Interval
    verdict: Verdict
    item_rates: dict[str, float]
    above: Interval
    positions: tuple[Position, ...]
    base_top_prob: Distribution
    below: tuple[Below, ...]
    alpha: Distribution | None
    agreement: Agreement | None
    runs: Streaks | None
    withheld: int
    lengths: dict[str, float]
    stop_reasons: dict[str, int]
    first_intervention: dict[str, float] | None
    never: int
    tokens_per_second: float | None
    vocabulary_overlap: Overlap | None
    examples: tuple[Example, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(plain(self))


def diagnose(
    records: Sequence[Record],
    *,
    base: str,
    guide: str,
    task: str,
    top_k: int | None,
    settings: Mapping[str, Any],
    vocabulary_overlap: Overlap | None = None,
) -> Diagnosis:
    """The analysis of one arm's records.

    Args:
        records: one an item, of a policy that asks the base (`Blend`, `Nudge`).
        base, guide, task: names, for the report.
        top_k: k of the policy, None for the whole vocabulary.
        settings: what the run depends on; kept as it is.
        vocabulary_overlap: from `top_overlap`.

    Raises:
        ValueError: no answer among the records, two of one item, one without a trace, or a policy
            that never asked the base.
    """
    kept, failed = _usable(records)
    made, totals = [each.interventions for each in kept], [each.tokens for each in kept]
    rate, over = pooled_rate(made, totals), [each.intervention_rate > RATE_LIMIT for each in kept]
    asked = [[p for p in each.steps.base_top_prob if p is not None] for each in kept]
    firsts = [each.steps.intervened.index(True) + 1 for each in kept if each.interventions]
    withheld, seconds = steps_withheld(kept), sum(each.elapsed for each in records)
    return Diagnosis(
        base=base,
        guide=guide,
        task=task,
        top_k=top_k,
        settings=settings,
        items=len(kept),
        failed=failed,
        steps=sum(totals),
        interventions=sum(made),
        rate=rate,
        verdict=judged(rate, len(kept))._replace(notes=tuple(notes_on(kept, failed, withheld))),
        item_rates={each.id: each.intervention_rate for each in kept},
        above=wilson(sum(over), len(kept)),
        positions=tuple(by_position(kept)),
        base_top_prob=_top_probs(asked),
        below=tuple(_below(asked)),
        alpha=Distribution.of([a for each in kept for a in each.steps.alpha if a is not None]),
        agreement=agreements(kept, top_k),
        runs=streaks_of(kept) if any(made) else None,
        withheld=withheld,
        lengths=quantiles(totals),
        stop_reasons=dict(Counter(str(each.stop_reason) for each in kept).most_common()),
        first_intervention=quantiles(firsts) if firsts else None,
        never=len(kept) - len(firsts),
        tokens_per_second=sum(each.tokens for each in records) / seconds if seconds else None,
        vocabulary_overlap=vocabulary_overlap,
        examples=_examples(kept),
    )


def _top_probs(asked: Sequence[Sequence[float]]) -> Distribution:
    found = Distribution.of([p for item in asked for p in item])
    if found is None:
        raise ValueError("the base was never asked: diagnose a run with the policy blend or nudge")
    return found


def _below(top_probs: Sequence[Sequence[float]]) -> Iterator[Below]:
    """At each of `THRESHOLDS`, from p_b at the steps of each answer."""
    totals = [len(item) for item in top_probs]
    for threshold in THRESHOLDS:
        counts = [sum(p < threshold for p in item) for item in top_probs]
        yield Below(threshold, pooled_rate(counts, totals))


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The least, the greatest, the median and the quartiles, and the 5th and 95th percentile."""
    names = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
    found = np.percentile(values, list(names.values()))
    return dict(zip(names, found.tolist(), strict=True))


def _usable(records: Sequence[Record]) -> tuple[list[Record], int]:
    """The records that have an answer, and how many have none."""
    kept = [each for each in records if each.error is None and each.tokens]
    if not kept:
        raise ValueError(f"none of {len(records)} records has an answer: run items that succeed")
    repeated = [id for id, count in Counter(each.id for each in kept).items() if count > 1]
    if repeated:
        raise ValueError(f"there are two records of {repeated[0]!r}: give those of one run alone")
    for each in kept:
        if len(each.steps) != each.tokens or sum(each.steps.intervened) != each.interventions:
            raise ValueError(
                f"the record of {each.id!r} has no trace of its steps: diagnose a run that writes "
                "answers, not one that scores given texts"
            )
    return kept, len(records) - len(kept)


def _examples(kept: list[Record]) -> tuple[Example, ...]:
    # The extremes of all would be answers of a few words.
    long = float(np.median([each.tokens for each in kept])) / 2
    ordered = sorted(
        (each for each in kept if each.tokens >= long), key=lambda each: each.intervention_rate
    )
    places = sorted({0, len(ordered) // 2, len(ordered) - 1})
    return tuple(_example(ordered[place]) for place in places)


def _example(record: Record) -> Example:
    steps, left, pieces = record.steps, len(record.text), []
    columns = zip(steps.text, steps.source, steps.intervened, steps.alpha, strict=True)
    for text, source, intervened, alpha in columns:
        pieces.append((text[:left], source if intervened else None, alpha))
        left = max(0, left - len(text))
    return Example(record.id, record.intervention_rate, record.stop_reason, pieces)
