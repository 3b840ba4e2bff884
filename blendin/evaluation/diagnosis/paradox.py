"""The intervention paradox: pairs that ask the guide more often tend to score lower."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...files import write_whole
from ...trace import RATE_LIMIT
from ...visible import to_json, visible
from .. import tables
from ..cells import key, number
from ..statistics import Interval, pearson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

CAUTION = (
    "Each r is a correlation over n pairs, not a cause: what makes a pair intervene often may "
    "itself lower its score. Pairs that share a model are not independent, so the true intervals "
    "are likely wider."
)

RATES = {"intervention_rate": 1, "intervention_rate_pct": 100}
"""The columns for the rate, and what they have where the guide is asked at every token."""

# Offsets in points and the label's side that faces its point, the nearest first.
PLACES = [
    (dx * step, dy * step, ha, va)
    for step in (5, 9, 14, 20)
    for dx, dy, ha, va in (
        (1, 0, "left", "center"),
        (-1, 0, "right", "center"),
        (0, 1, "center", "bottom"),
        (0, -1, "center", "top"),
        (0.7, 0.7, "left", "bottom"),
        (-0.7, 0.7, "right", "bottom"),
        (0.7, -0.7, "left", "top"),
        (-0.7, -0.7, "right", "top"),
    )
]


class PairResult(NamedTuple):
    """One pair of models on one task; the rate is a fraction, the score in the task's own unit."""

    pair: str
    task: str
    intervention_rate: float
    score: float


def read_pair_results(path: str | Path, delimiter: str | None = None) -> list[PairResult]:
    """The rows of a file (see `tables`), in order.

    Its columns are pair, task, score and intervention_rate (0..1), or else intervention_rate_pct
    (0..100), each of which may be written as "12 %"; others are ignored.

    Args:
        path: of the file.
        delimiter: as for `tables.read`.

    Raises:
        ValueError: as `tables.read`; or both columns of rates or none, an empty or non-numeric
            cell, a rate out of range, or a pair twice on a task; names the file, the row (from 1)
            and the column.
        OSError: the file cannot be read.
    """
    table = tables.read(path, ("pair", "task", "score"), tuple(RATES), delimiter=delimiter)
    rates = [name for name in RATES if name in table.columns]
    if len(rates) != 1:
        has = "has both columns" if rates else "lacks the column"
        raise ValueError(
            f"{path} {has} intervention_rate (0..1) {'and' if rates else 'or'} "
            "intervention_rate_pct (0..100): give it one of them"
        )
    found: dict[tuple[str, str], PairResult] = {}
    tasks: dict[str, str] = {}
    for place, row in table.numbered():
        each = _result(row, rates[0], place)
        each = each._replace(task=tasks.setdefault(key(each.task), each.task))
        if found.setdefault((key(each.pair), key(each.task)), each) is not each:
            raise ValueError(
                f"{place}: the pair {each.pair!r} on {each.task!r} is in a row above already: keep "
                "one of them, or name them apart"
            )
    return list(found.values())


def _result(row: Mapping[str, str], rate_column: str, place: str) -> PairResult:
    names = {column: row[column].strip() for column in ("pair", "task")}
    for column, name in names.items():
        if not name:
            raise ValueError(f"{place}, column {column} is empty: name the {column}")
    full = RATES[rate_column]
    rate = number(row[rate_column], place, rate_column, percent=full / 100)
    if not 0 <= rate <= full:
        raise ValueError(f"{place}, column {rate_column} is {rate:g}: use a number in 0..{full}")
    score = number(row["score"], place, "score")
    return PairResult(**names, intervention_rate=rate / full, score=score)


def by_task(results: list[PairResult]) -> dict[str, list[PairResult]]:
    """The results of each task, tasks and pairs in the order given."""
    tasks: dict[str, list[PairResult]] = {}
    for result in results:
        tasks.setdefault(result.task, []).append(result)
    return tasks


def correlations(results: list[PairResult]) -> dict[str, Interval]:
    """Pearson's r between intervention rate and score with its 95 % interval, for each task.

    Raises:
        ValueError: naming a task with fewer than 4 pairs, or whose rate or score is constant.
    """
    found = {}
    for task, rows in by_task(results).items():
        try:
            found[task] = pearson([r.intervention_rate for r in rows], [r.score for r in rows])
        except ValueError as error:
            raise ValueError(f"task {task}: {error}") from error
    return found


def write(
    csv_path: str | Path, plot_path: str | Path | None = None, json_path: str | Path | None = None
) -> list[PairResult]:
    """Reads a CSV file; its picture and its numbers are written where a path is given.

    Raises:
        ValueError: as `read_pair_results` and `correlations`, or a picture format that matplotlib
            lacks.
        OSError: a file cannot be read or written.
    """
    results = read_pair_results(csv_path)
    correlations(results)  # what cannot be correlated is not written about
    save(results, csv_path, plot_path, json_path)
    return results


def save(
    results: list[PairResult],
    source: str | Path,
    plot_path: str | Path | None = None,
    json_path: str | Path | None = None,
) -> None:
    """Writes the picture and the numbers, each where a path is given.

    Args:
        results: of `read_pair_results`.
        source: where they are from, for the numbers.
        plot_path: of the picture; its suffix is the format.
        json_path: of the numbers.

    Raises:
        ValueError: as `correlations`, or a picture format that matplotlib lacks.
        OSError: a file cannot be written.
    """
    if plot_path is not None:
        draw(results, plot_path)
    if json_path is not None:
        tasks = by_task(results)
        found = {
            task: {"r": r.estimate, "low": r.low, "high": r.high, "n": len(tasks[task])}
            for task, r in correlations(results).items()
        }
        values = {"source": str(source), "confidence": 0.95, "caution": CAUTION, "tasks": found}
        write_whole(json_path, to_json(values, indent=2) + "\n")


def draw(results: list[PairResult], path: str | Path) -> None:
    """A scatter of score over intervention rate for each task; the path's suffix is the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks, found = by_task(results), correlations(results)
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(6 * columns, 4.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    labels = {}
    for (task, points), axes in zip(tasks.items(), panels, strict=False):
        labels[axes] = _panel(axes, points)
        r = found[task]
        interval = f"{r:z.2f}".replace("-", "−")
        title = f"{visible(task, one_line=True)}: r = {interval}, n = {len(points)}"
        axes.set_title(title, fontsize=11, parse_math=False)
    for axes in panels:  # what zip left over, where the tasks do not fill the last row
        axes.remove()
    figure.draw_without_rendering()  # lays the panels out: overlaps are counted in pixels
    for axes, texts in labels.items():
        _spread(axes, texts)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
    write_whole(path, picture.getvalue())


def _panel(axes: Axes, points: list[PairResult]) -> list[Annotation]:
    """Draws one task's points, line and limit, and gives the points' labels, not yet placed."""
    x = np.array([100 * point.intervention_rate for point in points])
    y = np.array([point.score for point in points])
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color="tab:orange", linewidth=1.5)
    axes.axvline(100 * RATE_LIMIT, color="gray", linestyle="--", linewidth=1)
    axes.scatter(x, y, s=18, zorder=3)
    axes.margins(0.16, 0.1)
    axes.set_xlabel(f"intervention rate (%); dashed: the paper's {100 * RATE_LIMIT:.0f} % line")
    axes.set_ylabel("score")
    look: dict[str, Any] = {
        "fontsize": 7,
        "parse_math": False,
        "color": "0.2",
        "bbox": {"fc": "white", "alpha": 0.6, "lw": 0, "pad": 0},
    }
    names = [visible(point.pair, one_line=True) for point in points]
    return [
        axes.annotate(name, (px, py), (0, 0), textcoords="offset points", **look)
        for name, px, py in zip(names, x, y, strict=True)
    ]


def _spread(axes: Axes, labels: list[Annotation]) -> None:
    """Places each label in turn where it covers least of the points and of those placed before."""
    from matplotlib.transforms import Bbox

    points = [axes.transData.transform(label.xy) for label in labels]
    taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in points]
    frame = axes.get_window_extent()
    for label in labels:

        def covered(place: tuple[float, float, str, str], label: Annotation = label) -> float:
            dx, dy, label_ha, label_va = place
            label.set(position=(dx, dy), ha=label_ha, va=label_va)
            box = label.get_window_extent()
            inside = Bbox.intersection(box, frame)
            outside = box.width * box.height - (inside.width * inside.height if inside else 0)
            shared = (Bbox.intersection(box, other) for other in taken)
            return 3 * outside + sum(both.width * both.height for both in shared if both)

        best = min(PLACES, key=covered)
        covered(best)
        taken.append(label.get_window_extent())
