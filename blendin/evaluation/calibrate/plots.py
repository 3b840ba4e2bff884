"""The study in pictures, in the style of the diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..diagnosis.plots import DASHES, GRID, LIMIT, MUTED, SERIES, drawn, in_plain_letters
from .comparison import Compared
from .metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTH = (
    "The smoothed share of tokens at which the model's choice is the given token, by its "
    "confidence, before and after; below the dashed diagonal it is surer than right. Beneath, "
    "where the confidences lie."
)


def reliability(lines: Mapping[str, Reliability], name: str) -> str:
    """Confidence against accuracy, smoothed, above the confidences' density."""

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
        for place, (label, each) in enumerate(lines.items()):
            # Gaps where there are next to no confidences stay gaps.
            at, right, density = each.curve.T
            breaks = np.flatnonzero(np.diff(at) > 0.015) + 1
            for part in np.split(np.arange(len(at)), breaks):
                upper.plot(
                    at[part],
                    right[part],
                    color=SERIES[place],
                    linestyle=DASHES[place],
                    linewidth=2,
                    label=label if (part is not None and not len(part)) or part[0] == 0 else None,
                )
            lower.plot(at, density, color=SERIES[place], linestyle=DASHES[place], linewidth=1.2)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        upper.grid(linewidth=0.7, color=GRID)
        upper.legend(loc="upper left", fontsize=9)
        lower.set(xlabel="confidence", ylabel="density", ylim=(0, None))

    label = "Confidence against the share of choices that are the given token, smoothed."
    return drawn(name, label, paint, height=4.2)


def differences(rows: Sequence[Compared], name: str) -> str:
    """Each arm's log-likelihood less the raw blend's, with whiskers."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        values = np.array([each.difference for each in rows])
        at = np.arange(len(rows))
        colours = {"better": SERIES[2], "worse": SERIES[1], "untold": MUTED, "same": MUTED}
        for place, each in enumerate(rows):
            low, high = each.difference.low, each.difference.high
            axes.plot([low, high], [place, place], color=colours[each.verdict], linewidth=2)
            axes.plot(
                [each.difference.estimate], [place], "o", color=colours[each.verdict], markersize=6
            )
        axes.axvline(0, color=LIMIT, linestyle="--", linewidth=1.2)
        axes.set_yticks(at, [in_plain_letters(each.name) for each in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        finite = values[np.isfinite(values)]
        reach = 1.1 * max(float(np.abs(finite).max(initial=0)), 1e-3)
        axes.set_xlim(max(-reach, float(finite.min(initial=0)) - 0.1 * reach), reach)
        axes.set_xlabel("nats a token above the raw blend (the right is better)")
        axes.grid(axis="x", linewidth=0.7)

    label = "Each arm's log-likelihood of the given answers less the raw blend's, 95 % intervals."
    return drawn(name, label, paint, height=0.9 + 0.3 * len(rows))
