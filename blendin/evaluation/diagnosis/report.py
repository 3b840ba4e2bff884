"""The diagnosis as one HTML file that needs no other, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from ...files import write_whole
from ...shades import SHADES
from ...trace import RATE_LIMIT
from ...visible import to_json, visible
from ..records import plain
from ..statistics import Interval
from . import figures
from .diagnosis import Diagnosis
from .figures import LINE, Cell, Figure, Table, bounds, in_words, percent
from .ranking import Gap, Ranking
from .verdict import CAUTION

HEADLINES = {
    "below": f"Below the {LINE}",
    "above": f"Above the {LINE}",
    "undecided": f"Undecided against the {LINE}",
}

NONE: Mapping[str, str] = {}


class Overview(NamedTuple):
    """What the page says of several guides together."""

    table: Table
    gaps: Sequence[Gap]
    figures: Sequence[Figure]


class Section(NamedTuple):
    """What the page says of one guide, beside what stands in its diagnosis."""

    heading: str | None
    headline: str
    diagnosis: Diagnosis
    key_figures: Mapping[str, tuple[Cell, str]]
    figures: Sequence[Figure]
    settings: Table


def write(
    diagnoses: Sequence[Diagnosis],
    ranking: Ranking | None = None,
    left_out: Mapping[str, str] = NONE,
    *,
    html_path: str | Path | None = None,
    json_path: str | Path | None = None,
) -> None:
    """Writes the report and its numbers, each where a path is given.

    Args:
        diagnoses: of one or more guides.
        ranking: `ranking.rank` of them, in the same order.
        left_out: guides that were not diagnosed, and why.
        html_path: of the report.
        json_path: of the numbers.

    Raises:
        ValueError: no diagnosis, or a ranking of others.
        OSError: a file cannot be written.
    """
    page = html(diagnoses, ranking, left_out)
    values = numbers(diagnoses, ranking, left_out)
    if html_path is not None:
        write_whole(html_path, page)
    if json_path is not None:
        write_whole(json_path, to_json(values, indent=2, allow_nan=False) + "\n")


def numbers(
    diagnoses: Sequence[Diagnosis],
    ranking: Ranking | None = None,
    left_out: Mapping[str, str] = NONE,
) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "rate_limit": RATE_LIMIT,
        "confidence": 0.95,
        "caution": CAUTION,
        "diagnoses": [each.to_dict() for each in diagnoses],
        "ranking": None if ranking is None else ranking.to_dict(),
        "left_out": [{"guide": guide, "reason": reason} for guide, reason in left_out.items()],
    }


def html(
    diagnoses: Sequence[Diagnosis],
    ranking: Ranking | None = None,
    left_out: Mapping[str, str] = NONE,
) -> str:
    """One page that loads nothing else: verdicts first, then the figures they rest on.

    Args:
        diagnoses: of one or more guides.
        ranking: `ranking.rank` of them, in the same order; its order is the page's.
        left_out: guides that were not diagnosed, and why.

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
    several = len(ordered) > 1
    return (
        templates(__package__)
        .get_template("page.html")
        .render(
            names=_names(ordered),
            tasks=", ".join(dict.fromkeys(each.task for each in ordered)),
            caution=CAUTION,
            shades=SHADES,
            overview=_overview(ordered, ranking) if several else None,
            left_out=left_out,
            guides=[_section(each, place, several) for place, each in enumerate(ordered)],
        )
    )


@cache
def templates(package: str) -> Environment:
    """A package's templates, and these here for what it has none of: style and parts."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.tests["interval"] = lambda value: isinstance(value, Interval)
    environment.filters |= {
        "bounds": bounds,
        "in_words": in_words,
        "percent": percent,
        "strength": lambda alpha: 100 if alpha is None else round(100 * alpha),
    }
    return environment


def _names(diagnoses: Sequence[Diagnosis]) -> str:
    bases = ", ".join(dict.fromkeys(each.base for each in diagnoses))
    guides = diagnoses[0].guide if len(diagnoses) == 1 else f"{len(diagnoses)} guides"
    return f"{bases} with {guides}"


def _overview(ordered: Sequence[Diagnosis], ranking: Ranking | None) -> Overview:
    columns: dict[str, list[Cell]] = {
        "guide": [f"{place}. {each.guide}" for place, each in enumerate(ordered, start=1)],
        "intervention rate": [each.rate for each in ordered],
        LINE: [each.verdict.word for each in ordered],
        "answers": [each.items for each in ordered],
        "agrees with the base": [_own(each) for each in ordered],
        "top overlap": [_top_overlap(each) for each in ordered],
    }
    columns = {name: cells for name, cells in columns.items() if any(c is not None for c in cells)}
    table = Table([*columns], [*zip(*columns.values(), strict=True)])
    return Overview(table, () if ranking is None else ranking.gaps, figures.overview(ordered))


def _section(found: Diagnosis, place: int, several: bool) -> Section:
    return Section(
        f"{place + 1}. {found.guide}" if several else None,
        HEADLINES[found.verdict.word],
        found,
        _key_figures(found),
        figures.of_guide(found, f"g{place}"),
        Table(["setting", "value"], [*_flat(plain(found.settings))]),
    )


def _key_figures(found: Diagnosis) -> dict[str, tuple[Cell, str]]:
    """Numbers by what they are, each with a word on what it is counted in."""
    return {
        "intervention rate": (found.rate, f"{found.interventions:,} of {found.steps:,} steps"),
        "answers": (found.items, f"{found.failed} failed" if found.failed else "none failed"),
        f"answers above the {LINE}": (found.above, "by their own rate"),
        "mean α": (found.alpha.mean if found.alpha else None, "the guide's weight"),
        "guide's choice is the base's own": (_own(found), "at interventions"),
        "median length": (found.lengths["median"], "steps"),
        "tokens a second": (found.tokens_per_second, "of the whole run"),
    }


def _own(found: Diagnosis) -> Interval | None:
    return found.agreement.own if found.agreement else None


def _top_overlap(found: Diagnosis) -> Interval | None:
    return found.vocabulary_overlap.everywhere.jaccard if found.vocabulary_overlap else None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else key)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
