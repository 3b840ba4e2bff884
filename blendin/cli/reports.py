"""`blendin report`: runs of any pairs as one page, with its pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from ..files import is_special, write_whole
from .errors import check_file
from .evaluate import write
from .options import takes_options
from .streams import console, messages

if TYPE_CHECKING:
    from ..evaluation.diagnosis.paradox import PairResult
    from ..evaluation.evidence.report import Report

PaperOption = Annotated[
    Path | None,
    typer.Option(
        help="Other pairs' rates and scores to draw beside these, a file as for `blendin paradox`."
    ),
]


@takes_options
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders that `blendin evaluate` or `blendin evidence` made."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data files, to compare the runs with and, with --rescore, to score "
            "by. By default the runs' own folders are enough."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The page, in Markdown; its pictures lie beside it.")
    ] = Path("RESULTS.md"),
    html: Annotated[
        Path | None, typer.Option(help="The same as one HTML file that stands alone.")
    ] = None,
    paper: PaperOption = None,
    rescore: Annotated[
        bool,
        typer.Option("--rescore", help="Score the stored answers anew, and keep those scores."),
    ] = False,
) -> None:
    """One page of several runs' results, of one pair or of several."""
    from ..evaluation.evidence.report import Report
    from ..evaluation.runs.reading import notes, read_results

    check_file("out", out)
    check_file("html", html)
    beside = read_paper(paper)
    results = [read_results(run, data, rescore) for run in runs]
    for run, sentences in zip(runs, map(notes, results), strict=True):
        for sentence in sentences:
            messages.print(f"{run}: {sentence}", soft_wrap=True)
    if rescore:
        for run, each in zip(runs, results, strict=True):
            write(each, run)
    write_pages(Report(results, beside), out, html)


def read_paper(path: Path | None) -> list[PairResult]:
    """Other pairs' points; none without a file.

    Raises:
        ValueError: as `paradox.read_pair_results`.
    """
    if path is None:
        return []
    from ..evaluation.diagnosis.paradox import read_pair_results

    return read_pair_results(path)


def show_opening(report: Report) -> None:
    """The table that opens the page, and what limits it."""
    from ..evaluation.runs.results import markdown

    header, rows = report.table()
    lines = [[line.pair, line.arm, *(text for text, _ in cells)] for line, cells in rows]
    if console.is_terminal:
        table = Table("pair", "arm", *header)
        for line, (_, cells) in zip(lines, rows, strict=True):
            styles = ["", "", *("bold" if stands_out else "" for _, stands_out in cells)]
            table.add_row(*map(Text, line, styles))
        console.print(table, soft_wrap=False)
    else:
        console.print(markdown((["pair", "arm", *header], lines)))
    for sentence in report.warnings:
        console.print(f"· {sentence}")


def write_pages(report: Report, page: Path, html: Path | None) -> None:
    """Writes the page, its pictures beside it, and the HTML file where one is asked for."""
    from ..evaluation.evidence import markdown
    from ..evaluation.evidence.html import html as as_html
    from ..evaluation.pictures import alone

    with messages.status("drawing"):
        pictures = [] if is_special(page) else report.pictures
        for picture in pictures:
            write_whole(_beside(page, picture.name), alone(picture.svg) + "\n")
        links = {each.name: quote(_beside(page, each.name).name) for each in pictures}
        write_whole(page, markdown.page(report, links or None))
        if html is not None:
            write_whole(html, as_html(report))
    written = str(page) if html is None else f"{page} and {html}"
    messages.print(f"written to {written}", soft_wrap=True)


def _beside(page: Path, picture: str) -> Path:
    return page.with_name(f"{page.stem}-{picture}.svg")
