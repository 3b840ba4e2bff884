"""Intervention rate against score over pairs, as the paper has it, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...trace import RATE_LIMIT
from ..cells import key
from ..diagnosis.paradox import PairResult
from ..pictures import INK, MUTED, SERIES, WIDTH, drawn, in_plain_letters, limit_line
from ..statistics import Interval
from .overview import Pair, asks_now_and_then, task_name
from .panels import ABREAST, MARKERS, WIDE, Picture, across, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "pairs of --paper, by their own scorers"


class Point(NamedTuple):
    """An arm of a pair on a task, by its intervention rate and its score."""

    pair: str
    arm: str
    rate: Interval
    score: Interval


def points(pairs: Sequence[Pair]) -> dict[str, list[Point]]:
    """By task; arms whose rate is 0 or 1 by definition have none."""
    found: dict[str, list[Point]] = {}
    for pair in pairs:
        for run in pair.runs:
            for arm in run.arms:
                score = arm.figures.get(run.task.headline)
                if score is not None and arm.rate is not None and asks_now_and_then(run, arm):
                    found.setdefault(run.task.title, []).append(
                        Point(pair.name, arm.name, arm.rate, score)
                    )
    return found


def rates(pairs: Sequence[Pair], paper: Sequence[PairResult] = ()) -> Picture | None:
    """Intervention rate against score; None where there is no point.

    Args:
        pairs: their runs, a panel for each task.
        paper: other pairs' points, of tasks by the names of ours, drawn beside them.
    """
    found = points(pairs)
    if not found:
        return None
    tasks = {run.task.title: run.task for pair in pairs for run in pair.runs}
    colours = {pair.name: place for place, pair in enumerate(pairs)}
    arms = list(dict.fromkeys(point.arm for each in found.values() for point in each))

    def paint(figure: Figure) -> None:
        for (title, own), axes in zip(found.items(), panels(figure, len(found)), strict=True):
            beside = [p for p in paper if key(p.task) == key(tasks[title].name)]
            _rates_panel(axes, own, beside, colours, arms)
            axes.set_title(task_name(tasks[title]), fontsize=10, loc="left", pad=16,
                           parse_math=False)  # fmt: skip
            axes.set_ylabel(tasks[title].headline, fontsize=9)
        handles = [*_legend(colours, arms)]
        if any(key(p.task) == key(tasks[title].name) for title in found for p in paper):
            handles.append(_handle(PAPER, color=MUTED, marker=".", linestyle="none"))
        figure.legend(handles=handles, loc="outside lower left", fontsize=8, ncols=2)

    entries = len(colours) + len(arms) + bool(paper)
    height = 3.1 * math.ceil(len(found) / ABREAST) + 0.19 * math.ceil(entries / 2)
    caption = (
        "How often the guide was asked, against the score, each with its 95 % interval; the "
        f"dashed line is the paper's {100 * RATE_LIMIT:.0f} %, above which pairs tend not to work. "
        "A point is an arm of a pair."
    )
    label = "Intervention rate against score, with 95 % intervals."
    width = max(WIDTH, WIDE * across(len(found)) / ABREAST)
    return Picture("rates", drawn("rates", label, paint, height, width), caption, width)


def _rates_panel(
    axes: Axes,
    own: Sequence[Point],
    paper: Sequence[PairResult],
    colours: dict[str, int],
    arms: Sequence[str],
) -> None:
    axes.scatter(
        [100 * each.intervention_rate for each in paper],
        [each.score for each in paper],
        s=14,
        color=MUTED,
        alpha=0.55,
        linewidths=0,
    )
    for each in own:
        rate, score = (np.array(interval) for interval in (each.rate, each.score))
        axes.errorbar(
            [100 * rate[0]],
            [score[0]],
            xerr=100 * np.maximum([[rate[0] - rate[1]], [rate[2] - rate[0]]], 0),
            yerr=np.maximum([[score[0] - score[1]], [score[2] - score[0]]], 0),
            color=SERIES[colours[each.pair] % len(SERIES)],
            marker=MARKERS[arms.index(each.arm) % len(MARKERS)],
            markersize=6,
            linewidth=1.2,
            linestyle="none",
        )
    highest = max([each.rate.high for each in own] + [each.intervention_rate for each in paper])
    axes.set_xlim(0, 100 * min(1, max(1.5 * RATE_LIMIT, 1.05 * highest)))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("intervention rate (%)", fontsize=9)
    axes.grid(linewidth=0.7)
    limit_line(axes)


def _legend(colours: dict[str, int], arms: Sequence[str]) -> Iterator[Any]:
    for name, place in colours.items():
        yield _handle(name, color=SERIES[place % len(SERIES)], linewidth=2.5)
    for place, arm in enumerate(arms):
        yield _handle(
            arm, color=INK, marker=MARKERS[place % len(MARKERS)], linestyle="none", markersize=6
        )


def _handle(label: str, **look: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=in_plain_letters(label), **look)
