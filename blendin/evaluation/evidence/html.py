"""The report as one HTML file that needs no other: a figure and a table first, the rest folded."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from ..diagnosis.report import templates
from ..runs.results import duration
from .panels import Picture
from .report import Report, budget, sentences, settings, title

EXAMPLES = 2


def html(report: Report) -> str:
    """The page.

    Args:
        report: of at least one run.
    """
    header, rows = report.table()
    return (
        _templates()
        .get_template("page.html")
        .render(
            opening=report.opening,
            header=header,
            rows=rows,
            warnings=report.warnings,
            figures=[each for each in (report.rates, *report.grids) if each is not None],
            facts=report.facts(),
            budgets=report.budgets(),
            runs=[
                (title(pair, run), run)
                for pair in report.pairs
                for run in (*pair.runs, *pair.sweeps)
            ],
            examples=EXAMPLES,
        )
    )


def _svg(picture: Picture) -> Markup:
    """As it is: matplotlib has escaped its texts."""
    return Markup(picture.svg)


@cache
def _templates() -> Environment:
    environment = templates(__package__)  # the style is the diagnosis' own: both pages look alike
    environment.filters |= {
        "svg": _svg,
        "budget": budget,
        "sentences": sentences,
        "settings": settings,
        "duration": duration,
        "total": lambda run: sum(arm.seconds for arm in run.arms),
    }
    environment.globals["shades"] = {}  # of traces, which this page has none of
    return environment
