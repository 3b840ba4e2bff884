"""The diagnosis as one HTML file that needs no other, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...trace import RATE_LIMIT
from ..records import plain
from ..statistics import Interval
from . import plots
from .diagnosis import Diagnosis, Distribution, Example
from .interventions import LONG_RUN, Agreement, Runs
from .overlap import Overlap
from .ranking import Ranking
from .report_style import PAGE, css
from .verdict import CAUTION

LINE = f"{100 * RATE_LIMIT:.0f} % line"

Cell = str | int | float | Interval | None


def write(
    diagnoses: Sequence[Diagnosis],
    ranking: Ranking | None = None,
    *,
    html_path: str | Path | None = None,
    json_path: str | Path | None = None,
) -> None:
    """Writes the report and its numbers, each where a path is given.

    Args:
        diagnoses: of one or more guides.
        ranking: `diagnosis.rank` of them, in the same order.
        html_path: of the report.
        json_path: of the numbers.

    Raises:
        ValueError: no diagnosis, or a ranking of others.
        OSError: a file cannot be written.
    """
    page, told = html(diagnoses, ranking), numbers(diagnoses, ranking)
    if html_path is not None:
        Path(html_path).write_text(page, "utf-8")
    if json_path is not None:
        text = json.dumps(told, ensure_ascii=False, indent=2, allow_nan=False)
        Path(json_path).write_text(text + "\n", "utf-8")


def numbers(diagnoses: Sequence[Diagnosis], ranking: Ranking | None = None) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "rate_limit": RATE_LIMIT,
        "confidence": 0.95,
        "caution": CAUTION,
        "diagnoses": [each.to_dict() for each in diagnoses],
        "ranking": None if ranking is None else ranking.to_dict(),
    }


def html(diagnoses: Sequence[Diagnosis], ranking: Ranking | None = None) -> str:
    """One page that asks for nothing else: verdicts first, then the figures they rest on.

    Args:
        diagnoses: of one or more guides.
        ranking: `diagnosis.rank` of them, in the same order; its order is the page's.

    Raises:
        ValueError: no diagnosis, or a ranking of others.
    """
    if not diagnoses:
        raise ValueError("there is nothing to report: give at least one diagnosis")
    ordered = list(diagnoses)
    if ranking is not None:
        ranked = dict(zip(ranking.order, ranking.guides, strict=True))
        if ranked != {place: each.guide for place, each in enumerate(diagnoses)}:
            raise ValueError("the ranking is of other guides: rank these diagnoses, in this order")
        ordered = [diagnoses[place] for place in ranking.order]
    tasks = ", ".join(dict.fromkeys(each.task for each in ordered))
    body = [_head(ordered, tasks)]
    if len(ordered) > 1:
        body.append(_overview(ordered, ranking))
    body += [_section(each, place, alone=len(ordered) == 1) for place, each in enumerate(ordered)]
    title = f"blendin diagnose: {_names(ordered)} on {tasks}"
    return PAGE.format(title=escape(title), css=css(), body="\n".join(body))


# -- the parts of the page -------------------------------------------------------------------------


def _names(diagnoses: Sequence[Diagnosis]) -> str:
    bases = ", ".join(dict.fromkeys(each.base for each in diagnoses))
    guides = diagnoses[0].guide if len(diagnoses) == 1 else f"{len(diagnoses)} guides"
    return f"{bases} with {guides}"


def _head(diagnoses: Sequence[Diagnosis], tasks: str) -> str:
    return (
        f"<header><p class=kicker>blendin diagnose · {escape(tasks)}</p>"
        f"<h1>{escape(_names(diagnoses))}</h1></header>"
    )


def _overview(ordered: list[Diagnosis], ranking: Ranking | None) -> str:
    columns: dict[str, list[Cell]] = {
        "guide": [f"{place}. {each.guide}" for place, each in enumerate(ordered, start=1)],
        "intervention rate": [each.rate for each in ordered],
        LINE: [each.verdict.word for each in ordered],
        "answers": [each.items for each in ordered],
        "agrees with the base": [_own(each) for each in ordered],
        "top overlap": [_tops(each) for each in ordered],
    }
    columns = {name: cells for name, cells in columns.items() if any(c is not None for c in cells)}
    table = _table(list(columns), zip(*columns.values(), strict=True))
    told = "".join(f"<li>{escape(gap.sentence)}</li>" for gap in ranking.gaps) if ranking else ""
    note = (
        "<p class=note>Lower is better. Differences are means over the items that both answered; "
        "their intervals allow for so many comparisons.</p>"
    )
    figures = (
        _figure(plots.ranking(ordered, "ranking"), "Whiskers: 95 % intervals."),
        _figure(plots.rate_by_position(ordered, "overlay"), POSITIONS),
    )
    return (
        f"<section><h2>Guides, the lowest rate first</h2>{table}<ul>{told}</ul>"
        f"{note if ranking else ''}<div class=pair>{''.join(figures)}</div></section>"
    )


def _section(found: Diagnosis, place: int, alone: bool) -> str:
    name = f"g{place}"
    heading = "" if alone else f"<h2>{place + 1}. {escape(found.guide)}</h2>"
    parts = [_by_position(found, name), _answers(found, name), _top_probs(found, name)]
    if found.alpha:
        parts.append(_alphas(found.alpha, name))
    if found.agreement:
        parts.append(_agreement(found.agreement, found.top_k, name))
    if found.runs:
        parts.append(_runs(found.runs, name))
    if found.vocabulary_overlap:
        parts.append(_overlap(found.vocabulary_overlap, name))
    return (
        f"<section>{heading}{_verdict(found)}{_key_figures(found)}"
        f"<div class=pair>{''.join(parts)}</div>"
        f"{_examples(found.examples)}{_settings(found.settings)}</section>"
    )


def _verdict(found: Diagnosis) -> str:
    verdict = found.verdict
    said = {
        "below": f"Below the {LINE}",
        "above": f"Above the {LINE}",
        "undecided": f"Undecided against the {LINE}",
    }[verdict.word]
    notes = "".join(f"<li>{escape(note)}</li>" for note in verdict.notes)
    return (
        f'<div class="verdict {verdict.word}"><p class=word>{said}</p>'
        f"<p>{escape(verdict.sentence)}</p>{f'<ul>{notes}</ul>' if notes else ''}"
        f"<p class=note>{escape(CAUTION)}</p></div>"
    )


def _key_figures(found: Diagnosis) -> str:
    figures: dict[str, tuple[Cell, str]] = {
        "intervention rate": (found.rate, f"{found.interventions:,} of {found.steps:,} steps"),
        "answers": (found.items, f"{found.failed} failed" if found.failed else "none failed"),
        f"answers above the {LINE}": (found.above, "by their own rate"),
        "mean α": (found.alpha.mean if found.alpha else None, "the guide's weight"),
        "guide's choice is the base's own": (_own(found), "at interventions"),
        "median length": (found.lengths["median"], "steps"),
        "tokens a second": (found.tokens_per_second, "of the whole run"),
    }
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{_cell(value)}</dd>"
        f"<dd class=note>{escape(unit)}</dd></div>"
        for name, (value, unit) in figures.items()
    )
    return f"<dl class=cards>{cells}</dl>"


def _by_position(found: Diagnosis, name: str) -> str:
    def rows() -> Iterator[list[Cell]]:
        for each in found.positions:
            span = str(each.first) if each.first == each.last else f"{each.first}–{each.last}"
            yield [span, each.items, each.steps, each.rate]

    return _figure(
        plots.rate_by_position([found], f"{name}-position"),
        POSITIONS,
        _table(["steps", "answers", "steps made", "rate"], rows()),
        title="Rate by position in the answer",
    )


def _answers(found: Diagnosis, name: str) -> str:
    reasons = ", ".join(f"{count} by {reason}" for reason, count in found.stop_reasons.items())
    columns = {"length in steps": found.lengths}
    if found.first_intervention:
        columns["first intervention at step"] = found.first_intervention
    return _figure(
        plots.rates(found.item_rates.values(), f"{name}-items"),
        f"{_cell(found.above, plain_text=True)} of the answers are above the line by themselves; "
        f"{found.never} of {found.items} have no intervention. A wide spread means that the pair "
        f"suits some items and not others. Answers ended: {reasons}.",
        _table(
            ["", *found.lengths],
            [[label, *(f"{v:.0f}" for v in values.values())] for label, values in columns.items()],
        ),
        title="Rates of single answers",
    )


def _top_probs(found: Diagnosis, name: str) -> str:
    return _figure(
        plots.top_probs(found.base_top_prob, _threshold(found.settings), f"{name}-top"),
        "Left of τ the guide is asked. The numbers tell which share of the steps would be left of "
        "other thresholds; at another τ the answers would differ, so that is a first guess, and "
        f"the {LINE} is not known to hold there.",
        _table(["threshold τ", "steps with p_b below"], ([f"{t:g}", s] for t, s in found.below))
        + _quantiles("p_b", found.base_top_prob),
        title="How sure the base is",
    )


def _alphas(found: Distribution, name: str) -> str:
    return _figure(
        plots.alphas(found, f"{name}-alpha"),
        "At 0 the base alone decides, at 1 the guide. Above ½ the guide is mostly surer than the "
        "base.",
        _quantiles("α", found),
        title="The guide's weight at interventions",
    )


def _agreement(found: Agreement, top_k: int | None, name: str) -> str:
    rows = plots.agreement_rows(found, top_k)
    return _figure(
        plots.agreement(found, top_k, f"{name}-agreement"),
        f"Over the {found.steps:,} interventions that asked both. Where the guide's choice is the "
        "base's own, asking it changed little; what is outside the base's top k or unknown to it, "
        "the base would hardly have written. The first bar is part of the second.",
        _table(["the guide's choice is", "of interventions"], ([*row] for row in rows.items())),
        title="What the guide's choice is to the base",
    )


def _runs(found: Runs, name: str) -> str:
    expected = found.independent_mean
    long = _percent(found.independent_in_long)
    rows: list[list[Cell]] = [
        ["mean length", f"{found.mean:.2f}", "–" if expected is None else f"{expected:.2f}"],
        ["likewise, each answer in random order", None, f"{found.shuffled_mean:.2f}"],
        [f"interventions in runs of {LONG_RUN} or more", found.in_long, long],
        ["longest", found.longest, None],
    ]
    return _figure(
        plots.runs(found, f"{name}-runs"),
        f"Runs are {found.mean:.2f} interventions long on the average; with each answer's steps in "
        f"a random order they would be {found.shuffled_mean:.2f}. Longer runs mean that the guide "
        "writes whole phrases.",
        _table(["", "observed", "if independent"], rows),
        title="Interventions in a row",
    )


def _overlap(found: Overlap, name: str) -> str:
    rows: list[list[Cell]] = [
        [label, each.items, each.positions, each.jaccard, f"{each.in_both:.1f}", each.same_choice]
        for label, each in plots.overlap_rows(found).items()
    ]
    header = ["positions", "answers", "n", "Jaccard", f"shared of {found.k}", "same first choice"]
    share = found.partnered / found.candidates if found.candidates else 0.0
    return _figure(
        plots.overlap(found, f"{name}-overlap"),
        f"Both models read the same {found.everywhere.items} answers; their {found.k} likeliest "
        "symbols are compared wherever tokens of both end at the same byte. At an answer's first "
        "position the lists differ where one prompt ends before a space and the other does not. "
        f"The base's vocabulary has {_percent(share)} of the guide's {found.candidates:,} tokens; "
        "others can never be shared.",
        _table(header, rows),
        title=f"Overlap of the likeliest {found.k}",
    )


def _examples(examples: Sequence[Example]) -> str:
    legend = (
        "<p class=legend><span>base alone</span> <span class=both style='--a:50%'>blended from "
        "both</span> <span class=guide style='--a:50%'>the guide's alone</span> <span class=base>"
        "guide asked, the base's alone</span> the stronger the higher α</p>"
    )
    told = "".join(
        f"<article><h4>{escape(each.id)} · rate {_percent(each.intervention_rate)} · stopped by "
        f"{escape(str(each.stop_reason))}</h4>"
        f"<pre tabindex=0>{''.join(map(_piece, each.pieces))}</pre></article>"
        for each in examples
    )
    return f"<h3>Longer answers with the lowest, the median and the highest rate</h3>{legend}{told}"


def _piece(piece: tuple[str, str | None, float | None]) -> str:
    text, source, alpha = piece
    if not text or source is None:
        return escape(text)
    strength = 100 if alpha is None else round(100 * alpha)
    return f"<span class={source} style='--a:{strength}%'>{escape(text)}</span>"


def _settings(settings: Mapping[str, Any]) -> str:
    table = _table(["setting", "value"], _flat(plain(settings)))
    return f"<details class=settings><summary>Settings and versions</summary>{table}</details>"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else key)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _threshold(settings: Mapping[str, Any]) -> float | None:
    """τ, wherever the settings have it."""
    for key, value in settings.items():
        found = _threshold(value) if isinstance(value, Mapping) else None
        if key == "threshold" and isinstance(value, int | float):
            found = float(value)
        if found is not None:
            return found
    return None


# -- cells, tables, figures ------------------------------------------------------------------------


def _own(found: Diagnosis) -> Interval | None:
    return found.agreement.own if found.agreement else None


def _tops(found: Diagnosis) -> Interval | None:
    return found.vocabulary_overlap.everywhere.jaccard if found.vocabulary_overlap else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _cell(value: Cell, plain_text: bool = False) -> str:
    if isinstance(value, Interval):
        low, high = (f"{100 * bound:.1f}" for bound in value[1:])
        bounds = f"[{low}, {high}]"
        return f"{_percent(value.estimate)} {bounds if plain_text else f'<small>{bounds}</small>'}"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    return "–" if value is None else escape(f"{value:,}" if isinstance(value, int) else value)


def _table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """The first column names its row."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr><th scope=row>{_cell(first)}</th>"
        + "".join(f"<td>{_cell(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _quantiles(label: str, found: Distribution) -> str:
    values = [found.mean, *found.quantiles.values()]
    row: list[Cell] = [label, found.n, *(f"{value:.2f}" for value in values)]
    return _table(["", "n", "mean", *found.quantiles], [row])


def _figure(svg: str, caption: str, table: str = "", title: str = "") -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    more = f"<details><summary>The numbers</summary>{table}</details>" if table else ""
    return f"<figure>{heading}{svg}<figcaption>{escape(caption)}</figcaption>{more}</figure>"


POSITIONS = (
    "Bands: 95 % intervals. Later positions are those of the longer answers alone, whose number "
    "stands below; the axis is logarithmic."
)

# No request of any kind leaves the page: the policy forbids what the page does not do anyhow.
