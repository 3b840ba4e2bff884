"""A stress test as one HTML file that needs no other, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from ...files import write_whole
from ...visible import to_json
from ..diagnosis.report import templates
from ..statistics import Interval
from . import plots
from .mitigations import ACCEPTED_WRONG, OF_STEPS
from .results import Results
from .trust import NAMES, Move


class Table(NamedTuple):
    """Cells in rows; the first of a row names it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def write(results: Results, html_path: Path | None, json_path: Path | None) -> None:
    """Writes the page and the numbers, each where a path is given.

    Raises:
        OSError: a file cannot be written.
    """
    if html_path is not None:
        write_whole(html_path, html(results))
    if json_path is not None:
        write_whole(json_path, to_json(results.to_dict(), indent=2, allow_nan=False) + "\n")


def html(results: Results) -> str:
    """One page that loads nothing else: the answer, a figure and a table, then all numbers."""
    return (
        templates(__package__)
        .get_template("stress.html")
        .render(
            data=results.suite.sources.data,
            shades={},  # of tokens, of which the page shows none
            counts=results.suite.counts(),
            sentences=sentences(results),
            figures={caption: Markup(svg) for caption, svg in plots.figures(results).items()},
            overview=overview(results),
            tables=tables(results),
            settings=[(name, str(value)) for name, value in results.settings.items()],
        )
    )


def told(value: Interval | None, spec: str = "+.3f") -> str:
    """An interval as a cell; without bounds where there are none, a dash for no value."""
    if value is None or math.isnan(value.estimate):
        return "–"
    if math.isnan(value.low):
        return format(value.estimate, spec)
    return format(value, spec)


def sentences(results: Results) -> list[str]:
    """Whether α moves, under each transformation and policy."""
    several = len(results.trust) > 1
    return [
        f"{name}: {each.sentence}" if several else each.sentence
        for name, own in results.trust.items()
        for each in own.values()
    ]


def overview(results: Results) -> Table:
    """What a reader wants first: over chains, of each scorer and transformation."""
    rows = [
        [
            f"{name}, {title}",
            str(each.count),
            told(each.inflation_rate, ".2f"),
            told(each.change),
            told(each.correlation, "+.2f"),
            told(each.correlation_change, "+.2f"),
            told(each.sensitivity_loss),
        ]
        for name, own in results.chains.items()
        for title, each in own.items()
    ]
    header = [
        "scorer, transformation",
        "chains",
        "score rises",
        "mean change",
        "r before",
        "change of r",
        "sensitivity lost",
    ]
    return Table(
        header,
        rows,
        "Over chains: right ones and wrong ones; r is Pearson's, of score and correctness; "
        "sensitivity is the mean score of right chains less that of wrong ones.",
    )


def tables(results: Results) -> dict[str, Table]:
    """All other numbers, by heading."""
    steps = [
        [
            f"{name}, {title}",
            f"{each.count} ({each.count - each.right} wrong)",
            told(each.inflation_rate, ".2f"),
            told(each.change),
            told(each.change_of_wrong),
            told(each.correlation, "+.2f"),
            told(each.correlation_change, "+.2f"),
            told(each.sensitivity_loss),
        ]
        for name, own in results.steps.items()
        for title, each in own.items()
    ]
    verdicts = [
        [
            f"{name}, {title}",
            each.mitigation,
            told(each.auroc, ".2f"),
            told(each.true_positives, ".2f"),
            told(each.false_positives, ".2f"),
        ]
        for name, own in results.verdicts.items()
        for title, found in own.items()
        for each in found
    ]
    moves = [
        [f"{name}, {title}", NAMES[quantity], where, *_move(move)]
        for name, own in results.trust.items()
        for title, each in own.items()
        for where, found in (("same tokens", each.same), ("whole chain", each.whole))
        for quantity, move in found.items()
    ]
    head = ["scorer, transformation"]
    made = {
        "Over steps": Table(
            [*head, "steps", "score rises", "mean change", "of wrong steps", "r before",
             "change of r", "sensitivity lost"],
            steps,
            "The source's own steps whose label is known, before and after.",
        ),
        "What may be done against it": Table(
            [*head, "mitigation", "AUROC", "true positives", "false positives"],
            verdicts,
            "A verifier accepts a chain from a threshold on, at which it accepts "
            f"{ACCEPTED_WRONG:.0%} of the wrong ones as they are; true positives are right chains "
            "that it accepts, false positives wrong ones. “minimum” is the weakest of "
            f"{OF_STEPS} steps drawn at random, “orders” the mean over several valid orders.",
        ),
        "What p_b, p_g, α and the intervention rate do": Table(
            [*head, "quantity", "over", "before", "after", "change", "tokens"],
            moves,
            "The same tokens: of the source's own steps, where nothing differs but the text before "
            "them; p_g and α where the guide was asked both times. The weight of the guide is α at "
            "interventions and 0 elsewhere.",
        ),
    }  # fmt: skip
    return {heading: table for heading, table in made.items() if table.rows}


def _move(move: Move) -> list[str]:
    return [f"{move.before:.3f}", f"{move.after:.3f}", told(move.change), f"{move.tokens:,}"]
