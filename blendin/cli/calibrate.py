"""`blendin calibrate`: what α and τ may trust, fitted to a pair on given answers and tested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluation.tasks.data import SUBSET_SEED
from ..policy import DEFAULT_THRESHOLD
from .errors import check_file, check_folder, interruptible
from .options import DelimiterOption, ModelOptions, takes_options
from .streams import console, messages

if TYPE_CHECKING:
    from ..evaluation.calibrate.answers import Answer
    from ..evaluation.calibrate.collect import Collected
    from ..evaluation.calibrate.study import Study
    from ..generator import BlendInGenerator


@takes_options
def calibrate(
    models: ModelOptions,
    data: Annotated[
        str,
        typer.Option(
            help="Given answers: gsm8k, truthfulqa, or a file (.jsonl, .json, .csv or .tsv) with "
            'the columns "prompt" and "answer", and perhaps "kind".'
        ),
    ] = "gsm8k",
    delimiter: DelimiterOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the tasks' files; else $BLENDIN_DATA, else the hub."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many prompts, a fixed subset; 0: all.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the subset and of its parts.")] = SUBSET_SEED,
    threshold: Annotated[
        float, typer.Option(help="τ of the raw blend that is calibrated.")
    ] = DEFAULT_THRESHOLD,
    rate: Annotated[
        float | None,
        typer.Option(help="Choose τ for this intervention rate, not by the answers' likelihood."),
    ] = None,
    touched: Annotated[
        float | None,
        typer.Option(
            help="Choose τ such that at most this share of prompts is touched at all, with a "
            "finite-sample guarantee."
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="With --touched: prompts of this kind alone.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="The calibration. Beside it: the page (.html), all figures (-figures.json), and a "
            "folder of what was read (-read), from which a run that was stopped continues."
        ),
    ] = Path("calibration.json"),
) -> None:
    """Fit temperatures, α and τ to a pair on given answers, and test whether that pays.

    The prompts are divided: what is fitted to some and chosen by others is tested on the rest.
    """
    from ..evaluation.calibrate.answers import read, split
    from ..evaluation.calibrate.fitted import Wanted
    from ..evaluation.calibrate.report import write
    from ..evaluation.calibrate.study import study

    wanted = Wanted(threshold, rate, touched, kind)
    page, figures = out.with_suffix(".html"), out.with_name(f"{out.stem}-figures.json")
    folder = out.with_name(f"{out.stem}-read")
    for path in (out, page, figures):
        check_file("out", path)
    check_folder("out", folder)
    answers = read(data, data_dir, limit or None, seed, delimiter)
    if kind is not None and all(each.kind != kind for each in answers):
        raise ValueError(f'no prompt is of the kind {kind!r}: give them a column "kind"')
    gen = models.load()
    with interruptible():
        tables = _read(gen, answers, folder)
    with messages.status("fitting and testing"):
        found = study(
            (gen.base.name, gen.guide.name, data), tables, answers, split(answers, seed), wanted
        )
        write(found, page, figures)
    found.fitted.calibration.save(out, found.about)
    _show(found)
    messages.print(f"calibration: {out}\npage: {page}", soft_wrap=True)


def _read(gen: BlendInGenerator, answers: Sequence[Answer], folder: Path) -> Collected:
    """What both models say of the answers, from the folder where it is there."""
    from ..evaluation.calibrate.collect import collect, collected

    with _bar(len(answers), "reading the answers") as advance:
        for _ in collect(gen, answers, folder):
            advance()
    return collected(folder, answers)


@contextmanager
def _bar(total: int, title: str) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def _show(found: Study) -> None:
    """The verdict and the arms' table."""
    from rich.table import Table

    from ..evaluation.calibrate.report import arms_table

    console.print(f"{found.base} + {found.guide} on {found.data}", style="bold")
    for sentence in found.verdict:
        console.print(f"· {sentence}", soft_wrap=True)
    header, rows = arms_table(found.compared)
    table = Table(*header, title=f"on the {found.prompts['test']} prompts held back")
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)
