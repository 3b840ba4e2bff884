"""Scores of all arms of all pairs, with intervals and letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pictures import GRID, drawn, in_plain_letters
from ..statistics import Interval
from .overview import Line, Overview
from .panels import ABREAST, WIDE, Picture, across, look, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scores(found: Overview) -> Picture:
    """Every arm's figures with intervals and letters: a row an arm, a panel a measure."""
    rows = _rows(found.lines)

    def paint(figure: Figure) -> None:
        for place, axes in enumerate(panels(figure, len(found.columns), sharey=True)):
            column = found.columns[place]
            first = place % across(len(found.columns)) == 0
            _scores_panel(axes, rows, place, named=first)
            better = "lower" if column.lower_is_better else "higher"
            axes.set_title(in_plain_letters(column.title), fontsize=10, loc="left")
            axes.set_xlabel(f"{better} is better", fontsize=9)

    height = math.ceil(len(found.columns) / ABREAST) * (0.75 + 0.24 * len(rows))
    caption = (
        "Scores with 95 % intervals. Of one pair and measure, arms that share a letter are not "
        'told apart (paired tests, p corrected together by Holm); an arm with "a" is the best, or '
        "not told apart from it."
    )
    label = "Scores of every arm of every pair, with 95 % intervals and letters."
    return Picture("scores", drawn("scores", label, paint, height, WIDE), caption)


Row = tuple[float, Line | None, str]
"""Its height in the figure, the line that is drawn there, and its label; no line: a pair's name."""


def _rows(lines: Sequence[Line]) -> list[Row]:
    rows: list[Row] = []
    pair = None
    for line in lines:
        if line.pair != pair:
            pair = line.pair
            rows.append((float(len(rows)), None, pair))
        rows.append((float(len(rows)), line, line.arm))
    return rows


def _scores_panel(axes: Axes, rows: Sequence[Row], column: int, named: bool) -> None:
    arms = list(dict.fromkeys(label for _, line, label in rows if line is not None))
    for height, line, label in rows:
        cell = None if line is None else line.cells[column]
        if line is None:
            axes.axhline(height - 0.45, color=GRID, linewidth=0.8)
            if named:
                name = axes.text(
                    0.01,
                    height,
                    in_plain_letters(label),
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    fontsize=9,
                    fontweight="bold",
                )
                name.set_in_layout(False)  # a long one may run on into the empty row beside it
        elif cell is not None:
            _cross(axes, cell.figure, height, look(arms.index(label)))
            axes.annotate(
                cell.letters,
                (cell.figure.high, height),
                (5, -0.5),
                textcoords="offset points",
                va="center",
                fontweight="bold",
            )
    ticks = [(height, label) for height, line, label in rows if line is not None]
    axes.set_yticks([height for height, _ in ticks], [in_plain_letters(name) for _, name in ticks])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.08)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.grid(axis="x", linewidth=0.7)
    axes.tick_params(axis="y", length=0)


def _cross(axes: Axes, figure: Interval, height: float, style: dict[str, Any]) -> None:
    reach = [[figure.estimate - figure.low], [figure.high - figure.estimate]]
    axes.errorbar([figure.estimate], [height], xerr=np.maximum(reach, 0), capsize=3, **style)
