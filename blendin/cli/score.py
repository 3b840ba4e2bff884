"""The evaluation's commands: `blendin score` with its tasks, and `blendin paradox`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..files import is_special, write_whole
from ..visible import to_json
from .errors import as_option, check_file
from .options import DelimiterOption, RefusalModelOption, takes_options, warn_of_languages
from .streams import console, messages
from .terminal import plain

if TYPE_CHECKING:
    from ..evaluation.diagnosis.paradox import PairResult
    from ..evaluation.statistics import Interval
    from ..evaluation.tables import Table as Rows
    from ..evaluation.tasks.judge import ChatJudge
    from ..evaluation.tasks.refusal_model import RefusalModel
    from ..evaluation.tasks.written_answers import WrittenAnswers
    from ..evaluation.tasks.xstest import Completion, Report

NOTES = 3
"""Unlabelled completions that are reported one by one."""

score_app = typer.Typer(
    help="Score completions that are already written.", no_args_is_help=True, name="score"
)


@score_app.callback()
def score() -> None:
    """Score completions that are already written."""


@score_app.command("xstest")
@takes_options
def score_xstest(
    completions: Annotated[
        Path,
        typer.Argument(
            help="File (.csv, .tsv, .jsonl, .json) with the columns prompt and completion; type, "
            "label (safe, unsafe) and final_label where known."
        ),
    ],
    delimiter: DelimiterOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with xstest_prompts.csv, for a file without the column type; "
            "$BLENDIN_DATA by default."
        ),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="Ask an OpenAI-compatible server too, such as http://127.0.0.1:8000/v1; its key "
            "is $BLENDIN_JUDGE_API_KEY, else $OPENAI_API_KEY."
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="The model's name on that server.")
    ] = None,
    refusal_model: RefusalModelOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the file with the labels added to this one, as its suffix says (.csv, "
            ".tsv, .jsonl, .json)."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Label completions as refusal or compliance; compare with people's labels if there are any.

    The classifier reads English only; a --refusal-model or a --judge-model labels beside it.
    """
    from ..evaluation.csv_rows import as_delimiter
    from ..evaluation.tasks.xstest import read_table, report, write_labels

    _check_destinations(completions, out, json_file)
    judge = _judge(judge_url, judge_model)
    table = read_table(completions, as_delimiter(delimiter))
    rows = _completions(table, data)
    model = None if refusal_model is None else _refusal_model(refusal_model)
    warn_of_languages(f"{completions}, rows", [row.text for row in rows])
    ours = report(rows)
    modelled = None if model is None else report(rows, model)
    judged = None if judge is None else report(rows, judge)
    values = figures(ours)
    _show(ours, "the classifier (English only)")
    if modelled is not None:
        _show(modelled, "the model")
        values["refusal_model"] = {"model": refusal_model, **figures(modelled)}
    if judged is not None:
        values["judge"] = {"model": judge_model, **figures(judged)}
        values["agreement"] = _show_judge(judged, ours)
    if out is not None:
        reports = [each for each in (ours, modelled, judged) if each]
        write_labels(out, *reports, delimiter=table.delimiter)
        messages.print(f"labels written to {out}", soft_wrap=True)
    if json_file is not None:
        write_whole(json_file, to_json(values, indent=2) + "\n")


Answers = Annotated[
    Path,
    typer.Argument(
        help="File (.csv, .tsv, .jsonl, .json) with the column completion; answer (what is right), "
        "stop_reason where known."
    ),
]
LabelledFile = Annotated[
    Path | None,
    typer.Option(help="Write the file with what was read added to this one, as its suffix says."),
]
FiguresFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]


@score_app.command("gsm8k")
@takes_options
def score_gsm8k(
    completions: Answers,
    delimiter: DelimiterOption = None,
    out: LabelledFile = None,
    json_file: FiguresFile = None,
) -> None:
    """Read each completion's final number, as `evaluate gsm8k` does: blendin_number."""
    from ..evaluation.csv_rows import as_delimiter
    from ..evaluation.tasks.written_answers import read_numbers

    _check_destinations(completions, out, json_file)
    answers = read_numbers(completions, as_delimiter(delimiter))
    _show_answers(answers, "number", out, json_file)


@score_app.command("truthfulqa-letter")
@takes_options
def score_letters(
    completions: Answers,
    delimiter: DelimiterOption = None,
    out: LabelledFile = None,
    json_file: FiguresFile = None,
) -> None:
    """Read the letter that each completion chooses: blendin_letter.

    The options' letters are in the column letters (such as ABCD), else those listed in the column
    prompt, else A to M.
    """
    from ..evaluation.csv_rows import as_delimiter
    from ..evaluation.tasks.written_answers import read_letters

    _check_destinations(completions, out, json_file)
    answers = read_letters(completions, as_delimiter(delimiter))
    _show_answers(answers, "letter", out, json_file)


def _show_answers(
    answers: WrittenAnswers, kind: str, out: Path | None, json_file: Path | None
) -> None:
    """How many answers give what is asked for, are right and are unfinished; the files."""
    count = len(answers.rows)
    console.print(
        f"{count} completions, {answers.given} give a {kind}, {answers.unfinished} unfinished"
    )
    if answers.accuracy is not None:
        console.print(f"accuracy {answers.accuracy:.3f} (95 % interval)")
    if out is not None:
        answers.write(out)
        messages.print(f"written to {out}", soft_wrap=True)
    if json_file is not None:
        figures = {
            "completions": count,
            f"gave a {kind}": answers.given,
            "unfinished": answers.unfinished,
            "accuracy": _numbers(answers.accuracy),
        }
        write_whole(json_file, to_json(figures, indent=2) + "\n")


@takes_options
def paradox(
    results: Annotated[
        Path,
        typer.Argument(
            help="File (.csv, .tsv, .jsonl, .json) with the columns pair, task, score and "
            "intervention_rate (0..1) or intervention_rate_pct."
        ),
    ],
    delimiter: DelimiterOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the scatter to this file (.png, .svg, .pdf).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Correlate intervention rate and score over many pairs, task by task."""
    from ..evaluation.csv_rows import as_delimiter
    from ..evaluation.diagnosis.paradox import read_pair_results, save

    for name, destination in (("plot", plot), ("json_file", json_file)):
        _check_destination(name, destination, results)
    found = read_pair_results(results, as_delimiter(delimiter))
    console.print(correlation_table(found))
    save(found, results, plot, json_file)


def correlation_table(results: list[PairResult]) -> Table:
    """r, its interval and n for each task, and what that does not mean."""
    from ..evaluation.diagnosis.paradox import CAUTION, by_task, correlations

    table = Table(title="Intervention rate against score", caption=CAUTION, caption_justify="left")
    table.add_column("task")
    for heading in ("r", "95 % interval", "n"):
        table.add_column(heading, justify="right")
    tasks = by_task(results)
    for task, r in correlations(results).items():
        table.add_row(
            plain(task),
            f"{r.estimate:+z.2f}",
            f"{r.low:+z.2f} to {r.high:+z.2f}",
            str(len(tasks[task])),
        )
    return table


def figures(report: Report) -> dict[str, object]:
    """The report's numbers for JSON."""
    return {
        "completions": len(report.completions),
        "refused": report.refused,
        "unlabelled": sum(label.verdict is None for label in report.labels),
        "empty": _empty(report),
        "refusal_rates": {kind: rate._asdict() for kind, rate in report.refusal_rates.items()},
        "safe": _numbers(report.safe),
        "unsafe": _numbers(report.unsafe),
        "balanced": _numbers(report.balanced),
        **_agreement_figures(report.confusion, report.accuracy),
    }


def _agreement_figures(
    confusion: Mapping[tuple[str, str], int], accuracy: Interval | None
) -> dict[str, object]:
    return {
        "confusion": [
            {"reference": reference, "label": label, "count": count}
            for (reference, label), count in sorted(confusion.items())
        ],
        "accuracy": _numbers(accuracy),
    }


def _numbers(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval._asdict()


def _empty(report: Report) -> int:
    return sum(not each.text.strip() for each in report.completions)


def _judge(url: str | None, model: str | None) -> ChatJudge | None:
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise ValueError("--judge-url and --judge-model go together: give both or neither")
    from ..evaluation.tasks.judge import ChatJudge

    return ChatJudge(url, model)


def _refusal_model(name: str) -> RefusalModel:
    from ..evaluation.tasks.refusal_model import RefusalModel

    return RefusalModel(name)


def _completions(table: Rows, data: Path | None) -> list[Completion]:
    """The table's rows, with types from XSTest's prompts where it has none and they are at hand."""
    from ..evaluation.tasks.data import FOLDER_VARIABLE
    from ..evaluation.tasks.xstest import read_completions, read_prompts, with_types

    rows = read_completions(table)
    if any(row.type for row in rows):
        return rows
    folder = data or os.environ.get(FOLDER_VARIABLE)
    if folder:
        rows = with_types(rows, read_prompts(folder))
    if not any(row.type for row in rows):
        hint = "none of its prompts is XSTest's" if folder else "--data DIR would give them"
        messages.print(f"no rates by type: {table.path} has no column 'type', and {hint}")
    return rows


def _check_destinations(source: Path, out: Path | None, json_file: Path | None) -> None:
    for name, destination in (("out", out), ("json_file", json_file)):
        _check_destination(name, destination, source)


def _check_destination(name: str, path: Path | None, source: Path) -> None:
    """As `check_file`; nor may a file be written over what is read."""
    check_file(name, path)
    if path is not None and not is_special(path) and path.resolve() == source.resolve():
        raise ValueError(f"{as_option(name, path)}: choose another file, so that this one is kept")


def _show(report: Report, judge: str) -> None:
    """Refusals by prompt type, and the confusion with people's labels."""
    total = f"{len(report.completions)} completions, {report.refused} refused"
    empty = _empty(report)
    console.print(f"{judge}: {total}" + f" ({empty} of them empty)" * bool(empty))
    if report.refusal_rates:
        rates = Table("prompts", "safe")
        rates.add_column("refused, 95 % interval", justify="right")
        for kind, rate in report.refusal_rates.items():
            rates.add_row(plain(kind), "yes" if kind in report.safe_types else "no", f"{rate}")
        rates.add_section()
        for name, overall in (("yes", report.safe), ("no", report.unsafe)):
            if overall is not None:
                rates.add_row("all", name, f"{overall:.3f}")
        console.print(rates)
    if report.balanced is not None:
        console.print(f"balanced score: {report.balanced:.3f} (95 % interval)")
    if report.confusion:
        console.print(_confusion("people", judge, report.confusion))
    if report.accuracy is not None:
        console.print(
            f"full refusal against full compliance: accuracy {report.accuracy:.3f} (95 % interval)"
        )


def _show_judge(judged: Report, ours: Report) -> dict[str, object]:
    """The judge's report, what it left unlabelled, and the classifier against it; its figures."""
    from ..evaluation.tasks.xstest import agreement

    _show(judged, "the judge")
    notes = [
        f"row {number}: {label.note}"
        for number, label in enumerate(judged.labels, start=1)
        if label.verdict is None
    ]
    if notes:
        messages.print(f"{len(notes)} completions are unlabelled and left out:", style="yellow")
        more = [f"and {len(notes) - NOTES} more"] * (len(notes) > NOTES)
        for line in notes[:NOTES] + more:
            messages.print(f"  {line}")
    known = [None if label.verdict is None else label.name for label in judged.labels]
    confusion, accuracy = agreement(known, ours.labels)
    console.print(_confusion("the judge", "the classifier", confusion))
    if accuracy is not None:
        console.print(
            f"the classifier agrees with the judge's full refusals and full compliances: "
            f"{accuracy:.3f} (95 % interval)"
        )
    return _agreement_figures(confusion, accuracy)


def _confusion(rows: str, columns: str, confusion: Mapping[tuple[str, str], int]) -> Table:
    from ..evaluation.tasks.xstest import CLASSES

    names = [
        name
        for name in ("refusal", "compliance", *CLASSES, "unlabelled")
        if any(name == label for _, label in confusion)
    ]
    table = Table(rows, *names, title=f"{columns} against {rows}")
    for known in CLASSES:
        table.add_row(known, *(str(confusion.get((known, name), 0)) for name in names))
    return table
