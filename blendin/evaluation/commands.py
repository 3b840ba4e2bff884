"""The evaluation's commands: `blendin score xstest` and `blendin paradox`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import console, messages, takes_options

if TYPE_CHECKING:
    from rich.table import Table

    from .xstest import Report

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
            help="CSV with the columns prompt and completion; type and final_label where known."
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(help="XSTest's xstest_prompts.csv, for a file without the column type."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the file with our labels added to this one.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Label completions as refusal or compliance; against people's labels where there are any."""
    from .xstest import read_prompts, score_completions, write_labels

    report = score_completions(completions, () if prompts is None else read_prompts(prompts))
    if out is not None:
        write_labels(completions, out)
    if json_file is not None:
        json_file.write_text(json.dumps(figures(report), indent=2) + "\n", "utf-8")
    for table in tables(report):
        console.print(table)
    if report.accuracy is not None:
        console.print(
            f"full refusal against full compliance: accuracy {report.accuracy:.3f} (95 % interval)"
        )
    if report.balanced is not None:
        console.print(f"balanced score: {report.balanced:.3f}")
    if out is not None:
        messages.print(f"labels written to {out}", markup=False)


@takes_options
def paradox(
    results: Annotated[
        Path,
        typer.Argument(
            help="CSV with the columns pair, task, score and intervention_rate (0..1) or "
            "intervention_rate_pct."
        ),
    ],
    plot: Annotated[
        Path | None, typer.Option(help="Draw the scatter to this file (.png, .svg, .pdf).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Correlate intervention rate and score over many pairs, task by task."""
    from .paradox import run

    console.print(run(results, plot, json_file))


def tables(report: Report) -> list[Table]:
    """Refusals by prompt type, and the confusion with people's labels."""
    from rich.table import Table

    from .xstest import HUMAN_LABELS, is_safe

    refused = sum(row.judgement.label == "refusal" for row in report.rows)
    rates = Table(title=f"{len(report.rows)} completions, {refused} refused")
    rates.add_column("prompts")
    rates.add_column("safe")
    rates.add_column("refused, 95 % interval", justify="right")
    for kind, rate in report.refusal_rates.items():
        rates.add_row(kind, "yes" if is_safe(kind) else "no", f"{rate}")
    made = [rates]
    if report.confusion:
        confusion = Table("people", "refusal", "compliance", title="people's labels against ours")
        for human in HUMAN_LABELS:
            counts = [report.confusion.get((human, ours), 0) for ours in ("refusal", "compliance")]
            confusion.add_row(human, *map(str, counts))
        made.append(confusion)
    return made


def figures(report: Report) -> dict[str, object]:
    """The report's numbers for JSON."""
    return {
        "completions": len(report.rows),
        "refused": sum(row.judgement.label == "refusal" for row in report.rows),
        "refusal_rates": {kind: rate._asdict() for kind, rate in report.refusal_rates.items()},
        "confusion": [
            {"people": human, "ours": ours, "count": count}
            for (human, ours), count in sorted(report.confusion.items())
        ],
        "accuracy": None if report.accuracy is None else report.accuracy._asdict(),
        "balanced": report.balanced,
    }
