"""The figures of a report: each a picture, what it says, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ...trace import RATE_LIMIT
from ..statistics import Interval
from . import plots
from .diagnosis import Diagnosis, Distribution
from .interventions import LONG_STREAK, Agreement, Streaks
from .overlap import Overlap

LINE = f"{100 * RATE_LIMIT:.0f} % line"
POSITIONS = (
    "Bands: 95 % intervals. Later positions are those of the longer answers alone, whose number "
    "stands below; the axis is logarithmic."
)

Cell = str | int | float | Interval | None


class Table(NamedTuple):
    """Cells in rows; the first of a row names it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Figure(NamedTuple):
    """A picture with its caption and, folded away, the numbers that it is drawn from."""

    svg: Markup
    caption: str
    tables: tuple[Table, ...] = ()
    title: str = ""


def in_words(value: Cell) -> str:
    """A cell as plain text."""
    if isinstance(value, Interval):
        return f"{percent(value.estimate)} {bounds(value)}"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else value


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def bounds(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def overview(ordered: Sequence[Diagnosis]) -> tuple[Figure, ...]:
    """Several guides beside each other."""
    return (
        Figure(Markup(plots.ranking(ordered, "ranking")), "Whiskers: 95 % intervals."),
        Figure(Markup(plots.rate_by_position(ordered, "overlay")), POSITIONS),
    )


def of_guide(found: Diagnosis, name: str) -> tuple[Figure, ...]:
    """Those that one diagnosis allows; ids in their pictures begin with `name`."""
    made = [_by_position(found, name), _answers(found, name), _top_probs(found, name)]
    if found.alpha:
        made.append(_alphas(found.alpha, name))
    if found.agreement:
        made.append(_agreement(found.agreement, found.top_k, name))
    if found.runs:
        made.append(_streaks(found.runs, name))
    if found.vocabulary_overlap:
        made.append(_overlap(found.vocabulary_overlap, name))
    return tuple(made)


def _by_position(found: Diagnosis, name: str) -> Figure:
    def rows() -> Iterator[list[Cell]]:
        for each in found.positions:
            span = str(each.first) if each.first == each.last else f"{each.first}–{each.last}"
            yield [span, each.items, each.steps, each.rate]

    return Figure(
        Markup(plots.rate_by_position([found], f"{name}-position")),
        POSITIONS,
        (Table(["steps", "answers", "steps made", "rate"], [*rows()]),),
        title="Rate by position in the answer",
    )


def _answers(found: Diagnosis, name: str) -> Figure:
    reasons = ", ".join(f"{count} by {reason}" for reason, count in found.stop_reasons.items())
    columns = {"length in steps": found.lengths}
    if found.first_intervention:
        columns["first intervention at step"] = found.first_intervention
    rows = [[label, *(f"{v:.0f}" for v in values.values())] for label, values in columns.items()]
    return Figure(
        Markup(plots.rates(found.item_rates.values(), f"{name}-items")),
        f"{in_words(found.above)} of the answers are above the line by themselves; "
        f"{found.never} of {found.items} have no intervention. A wide spread means that the pair "
        f"suits some items and not others. Answers ended: {reasons}.",
        (Table(["", *found.lengths], rows),),
        title="Rates of single answers",
    )


def _top_probs(found: Diagnosis, name: str) -> Figure:
    shares: list[list[Cell]] = [[f"{threshold:g}", share] for threshold, share in found.below]
    return Figure(
        Markup(plots.top_probs(found.base_top_prob, _threshold(found.settings), f"{name}-top")),
        "Left of τ the guide is asked. The numbers show which share of the steps would be left of "
        "other thresholds; at another τ the answers would differ, so that is a first guess, and "
        f"the {LINE} is not known to hold there.",
        (
            Table(["threshold τ", "steps with p_b below"], shares),
            _quantiles("p_b", found.base_top_prob),
        ),
        title="How sure the base is",
    )


def _threshold(settings: Mapping[str, Any]) -> float | None:
    """τ, at whatever depth the settings have it."""
    for key, value in settings.items():
        found = _threshold(value) if isinstance(value, Mapping) else None
        if key == "threshold" and isinstance(value, int | float):
            found = float(value)
        if found is not None:
            return found
    return None


def _alphas(found: Distribution, name: str) -> Figure:
    return Figure(
        Markup(plots.alphas(found, f"{name}-alpha")),
        "At 0 the base alone decides, at 1 the guide. Above ½ the guide is mostly surer than the "
        "base.",
        (_quantiles("α", found),),
        title="The guide's weight at interventions",
    )


def _quantiles(label: str, found: Distribution) -> Table:
    values = [found.mean, *found.quantiles.values()]
    row: list[Cell] = [label, found.n, *(f"{value:.2f}" for value in values)]
    return Table(["", "n", "mean", *found.quantiles], [row])


def _agreement(found: Agreement, top_k: int | None, name: str) -> Figure:
    rows: list[list[Cell]] = [
        [label, share] for label, share in plots.agreement_rows(found, top_k).items()
    ]
    return Figure(
        Markup(plots.agreement(found, top_k, f"{name}-agreement")),
        f"Over the {found.steps:,} interventions that asked both, in {found.items:,} answers. "
        "Where the guide's choice is the base's own, asking it changed little; what is outside the "
        "base's top k or unknown to it, the base would hardly have written. The first bar is part "
        "of the second.",
        (Table(["the guide's choice is", "of interventions"], rows),),
        title="What the guide's choice is to the base",
    )


def _streaks(found: Streaks, name: str) -> Figure:
    expected = found.independent_mean
    rows: list[list[Cell]] = [
        ["mean length", f"{found.mean:.2f}", "–" if expected is None else f"{expected:.2f}"],
        ["the same, with each answer in random order", None, f"{found.shuffled_mean:.2f}"],
        [
            f"interventions in runs of {LONG_STREAK} or more",
            found.in_long,
            percent(found.independent_in_long),
        ],
        ["longest", found.longest, None],
    ]
    return Figure(
        Markup(plots.streaks(found, f"{name}-runs")),
        f"Runs are {found.mean:.2f} interventions long on average; with each answer's steps in "
        f"a random order they would be {found.shuffled_mean:.2f}. Longer runs mean that the guide "
        "writes whole phrases.",
        (Table(["", "observed", "if independent"], rows),),
        title="Interventions in a row",
    )


def _overlap(found: Overlap, name: str) -> Figure:
    rows: list[list[Cell]] = [
        [label, each.items, each.positions, each.jaccard, f"{each.in_both:.1f}", each.same_choice]
        for label, each in plots.overlap_rows(found).items()
    ]
    header = ["positions", "answers", "n", "Jaccard", f"shared of {found.k}", "same first choice"]
    share = found.partnered / found.candidates if found.candidates else 0.0
    return Figure(
        Markup(plots.overlap(found, f"{name}-overlap")),
        f"Both models read the same {found.everywhere.items} answers; their {found.k} likeliest "
        "symbols are compared wherever tokens of both end at the same byte. At an answer's first "
        "position the lists differ where one prompt ends before a space and the other does not. "
        f"The base's vocabulary has {percent(share)} of the guide's {found.candidates:,} tokens; "
        "the others can never be shared.",
        (Table(header, rows),),
        title=f"Overlap of the likeliest {found.k}",
    )
