"""The report as one page of Markdown: a figure and a table first, the rest folds away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from ...visible import visible
from ..runs.results import Results, duration, markdown
from .panels import Picture
from .report import Report, budget, sentences, settings, title

EXAMPLES = 2
SHOWN = 240
"""Characters of an example's answer."""


def page(report: Report, files: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        report: of at least one run.
        files: where each picture lies, by its name, as a link from the page; None: without them.
    """
    lines = [
        "# Results",
        "",
        "Made by `blendin evidence` or `blendin report`; not edited by hand.",
        "",
    ]
    lines += _picture(report.opening, files)
    if report.overview.columns:
        lines += [_table(report), LEGEND, ""]
    lines += [f"- **{one_line(each, shown=None)}**" for each in report.warnings]
    lines += [""] * bool(report.warnings)
    if report.rates is not None and files is not None:
        lines += ["## How often the guide is asked, and the score", ""]
        lines += _picture(report.rates, files)
    if report.grids and files is not None:
        lines += ["## τ and α", ""]
        for grid in report.grids:
            lines += _picture(grid, files)
    lines += ["## How it was made", ""]
    lines += [f"- {one_line(each, shown=None)}" for each in report.facts()]
    lines += [
        "- Equal budgets: on a task every arm has the same prompts, the same most tokens, the same "
        "greedy decoding.",
        *(f"- {one_line(each, shown=None)}." for each in report.budgets()),
        "- Square brackets: 95 % intervals (Wilson for rates of items; over the items, with "
        "Student's t, for means and intervention rates). `tok/s` is of all answers in flight "
        "together, prompts included; for given texts, of tokens scored. Times are on the clock.",
        "- Arms: `base` and `guide` alone, `nudge` (NUDGING, word by word), `blend` (BlendIn, α "
        "adaptive), `blend-fixed` (the same with a fixed α), `cap` (BlendIn held below an "
        "intervention rate, the paper's negative baseline).",
        "",
        "## Runs",
        "",
    ]
    for pair in report.pairs:
        for run in (*pair.runs, *pair.sweeps):
            lines += _run(title(pair, run), run)
    return "\n".join(lines)


LEGEND = (
    "↑ higher is better, ↓ lower. Of one pair and column, arms that share a letter are not told "
    'apart; bold: the best, and what is not told apart from it, where anything is. "guide asked": '
    "the intervention rate, from the lowest to the highest of the tasks."
)


def _table(report: Report) -> str:
    header, rows = report.table()
    cells = [
        [
            one_line(line.pair, shown=None),
            one_line(line.arm, shown=None),
            *(f"**{text}**" if stands_out else text for text, stands_out in own),
        ]
        for line, own in rows
    ]
    return markdown((["pair", "arm", *(one_line(each, shown=None) for each in header)], cells))


def _picture(picture: Picture | None, files: Mapping[str, str] | None) -> list[str]:
    if picture is None or files is None:
        return []
    caption = one_line(picture.caption, shown=None)
    return [f"![{picture.name}]({files[picture.name]})", "", caption, ""]


def _run(name: str, results: Results) -> list[str]:
    """One run, folded away."""
    seconds = duration(sum(arm.seconds for arm in results.arms))
    lines = [
        f"<details><summary>{_html(name)}: {seconds}</summary>",
        "",
        f"{one_line(budget(results), shown=None)}.",
        "",
        markdown(results.table()),
        *(f"- {sentence}" for sentence in sentences(results)),
        "",
    ]
    if told := settings(results):
        lines += [f"Settings: {one_line('; '.join(told), shown=None)}.", ""]
    if results.task.writes and results.grid is None:
        lines += _examples(results)
    return [*lines, "</details>", ""]


def _examples(results: Results) -> list[str]:
    """The first items' answers under every arm."""
    lines = ["Answers to the first items, shortened:", ""]
    for item, answers in results.answers(EXAMPLES):
        lines += [f"**{one_line(item.prompt)}**", ""]
        lines += [f"- {code(arm)}: {one_line(text)}" for arm, text in answers.items()]
        lines.append("")
    return lines


def _html(text: str) -> str:
    """A text within HTML, where Markdown is not read."""
    return escape(visible(text, one_line=True))


def code(name: str) -> str:
    """A name as code, whatever is in it."""
    shown = visible(name, one_line=True)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def one_line(text: str, shown: int | None = SHOWN) -> str:
    """One line, escaped for Markdown; cut after so many characters, None: not."""
    line = " ⏎ ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    if shown is not None and len(line) > shown:
        line = line[:shown].rstrip() + " …"
    return re.sub(r"([\\`*_{}\[\]<>()#+!|$~&-])", r"\\\1", visible(line)) or "(nothing)"
