"""Scores and intervention rates over τ and α, as the paper's Table 5, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..pictures import INK, SERIES, drawn, in_plain_letters
from ..runs.grid import Grid
from ..runs.results import Arm, Results
from ..statistics import Interval
from .overview import Pair, task_name
from .panels import ABREAST, WIDE, Picture, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def grids(pairs: Sequence[Pair]) -> list[Picture]:
    """A figure for each sweep: every measure and the rate over τ and α, with intervals."""
    sweeps = [(pair, run) for pair in pairs for run in pair.sweeps]
    return [_grid(pair, run, f"grid-{place}") for place, (pair, run) in enumerate(sweeps, start=1)]


def _grid(pair: Pair, run: Results, name: str) -> Picture:
    grid = run.grid
    assert grid is not None
    by_name = {arm.name: arm for arm in run.arms}
    of_panel: dict[str, Callable[[Arm], Interval | None]] = {
        measure.title: lambda arm, name=measure.name: arm.figures.get(name)  # type: ignore[misc]
        for measure in run.task.compared
    }
    of_panel["intervention rate"] = lambda arm: arm.rate
    told = [run.told(measure) for measure in run.task.compared]

    def paint(figure: Figure) -> None:
        for place, ((title, of), axes) in enumerate(
            zip(of_panel.items(), panels(figure, len(of_panel)), strict=True)
        ):
            starred = told[place] if place < len(told) else set()
            _grid_panel(axes, grid, by_name, of, starred)
            axes.set_title(in_plain_letters(title), fontsize=10, loc="left")

    height = math.ceil(len(of_panel) / ABREAST) * (0.85 + 0.5 * len(grid.alphas))
    caption = (
        f"{pair.name}, {task_name(run.task)}, {len(run.task.items)} items: τ across, α down, each "
        "cell with its 95 % interval (the paper's Table 5 has no intervals). Framed: "
        f"{grid.reference}; ∗: told apart from it (paired tests, Holm)."
    )
    label = f"Scores and intervention rates over τ and α on {task_name(run.task)}."
    return Picture(name, drawn(name, label, paint, height, WIDE), caption)


def _grid_panel(
    axes: Axes,
    grid: Grid,
    arms: dict[str, Arm],
    of: Callable[[Arm], Interval | None],
    told: set[frozenset[str]],
) -> None:
    from matplotlib.patches import Rectangle

    for (threshold, alpha), name in grid.arms.items():
        figure = of(arms[name])
        x, y = grid.thresholds.index(threshold), grid.alphas.index(alpha)
        strength = 0 if figure is None else 0.55 * figure.estimate
        axes.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=SERIES[0], alpha=strength, linewidth=0)
        )
        if name == grid.reference:
            axes.add_patch(
                Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor=INK, zorder=3)
            )
        if figure is not None:
            star = "∗" if frozenset((name, grid.reference)) in told else ""
            axes.text(x, y - 0.13, f"{figure.estimate:.2f}{star}", ha="center", va="center")
            axes.text(x, y + 0.24, f"{figure.low:.2f}–{figure.high:.2f}", ha="center", va="center",
                      fontsize=7.5)  # fmt: skip
    axes.set_xticks(range(len(grid.thresholds)), [f"{value:g}" for value in grid.thresholds])
    axes.set_yticks(
        range(len(grid.alphas)),
        ["adaptive" if alpha is None else f"{alpha:g}" for alpha in grid.alphas],
    )
    axes.set_xlim(-0.5, len(grid.thresholds) - 0.5)
    axes.set_ylim(len(grid.alphas) - 0.5, -0.5)
    axes.set(xlabel="τ", ylabel="α")
    axes.tick_params(length=0)
