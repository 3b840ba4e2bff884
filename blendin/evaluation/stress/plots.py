"""The figures of a stress test: SVG to embed in its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...visible import visible
from ..pictures import MUTED, SERIES, drawn
from ..statistics import Interval
from .results import Results
from .trust import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WHISKERS = "Whiskers: 95 % intervals over problems; none where there are too few problems."


def figures(results: Results) -> dict[str, str]:
    """What scores do under each transformation, and what the policy does, by their captions."""
    changes = {
        title: {name: own[title].change for name, own in results.chains.items() if title in own}
        for title in _titles(results.chains)
    }
    lost = {
        title: {n: own[title].sensitivity_loss for n, own in results.chains.items() if title in own}
        for title in _titles(results.chains)
    }
    styles = {name: index for index, name in enumerate(results.chains)}
    label = "How the scores of whole chains change under each transformation"
    panels = {"mean change of the score": changes, "sensitivity lost": lost}
    made = {f"{label}. {WHISKERS}": _forest("scores", label, panels, styles)}
    if results.trust:
        moves = {
            NAMES[quantity]: {
                title: {
                    name: own[title].same[quantity].change
                    for name, own in results.trust.items()
                    if title in own and quantity in own[title].same
                }
                for title in _titles(results.trust)
            }
            for quantity in ("alpha", "intervention_rate")
        }
        label = "How α and the intervention rate change at the same tokens"
        named = {f"change of {name}": own for name, own in moves.items()}
        made[f"{label} of the source's own steps. {WHISKERS}"] = _forest(
            "trust", label, named, styles
        )
    return made


def _titles(by_scorer: Mapping[str, Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(title for own in by_scorer.values() for title in own))


def _forest(
    name: str,
    label: str,
    panels: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    styles: Mapping[str, int],
) -> str:
    """Panels beside each other: a row a transformation, in it a point with whiskers a scorer.

    Args:
        name: of the picture.
        label: what it shows.
        panels: by their titles.
        styles: each scorer's colour and mark, the same in all pictures.
    """
    rows = list(next(iter(panels.values())))
    points = [own for panel in panels.values() for own in panel.values()]
    scorers = list(dict.fromkeys(name for own in points for name in own))

    def paint(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, panel) in zip(all_axes, panels.items(), strict=True):
            axes.axvline(0, color=MUTED, linewidth=1)
            for place, row in enumerate(rows):
                for index, scorer in enumerate(scorers):
                    if scorer in panel[row]:
                        y = place + (index - (len(scorers) - 1) / 2) * 0.2
                        name_once = scorer if not place else None
                        _whisker(axes, panel[row][scorer], y, styles[scorer], name_once)
            axes.set_yticks(range(len(rows)), [visible(row, one_line=True) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_xlabel(title, fontsize=9)
            axes.tick_params(axis="x", labelsize=8)
            axes.locator_params(axis="x", nbins=5)
            axes.grid(axis="x", linewidth=0.7)
        if len(scorers) > 1:
            handles, labels = all_axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=9)

    return drawn(name, f"{label}, with 95 % intervals.", paint, height=1.3 + 0.6 * len(rows))


def _whisker(axes: Axes, value: Interval, y: float, index: int, label: str | None) -> None:
    if math.isnan(value.estimate):
        return
    low, high = (value.estimate if math.isnan(v) else v for v in (value.low, value.high))
    axes.errorbar(
        [value.estimate],
        [y],
        xerr=[[max(0.0, value.estimate - low)], [max(0.0, high - value.estimate)]],
        fmt="os^D"[index % 4],
        markersize=5,
        color=SERIES[index % len(SERIES)],
        capsize=3,
        label=label,
    )
