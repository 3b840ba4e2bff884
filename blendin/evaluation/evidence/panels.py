"""What the figures of several pairs share: panels, looks, and a picture with its caption."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ..pictures import SERIES, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 1.75 * WIDTH
ABREAST = 3
"""The most panels in a row."""
MARKERS = "osD^vP"


class Picture(NamedTuple):
    """A figure.

    Attributes:
        name: a word, for its file and ids.
        svg: as `pictures.drawn` gives it.
        caption: what to read in it.
        width: in inches, of `WIDE` for a whole page's.
    """

    name: str
    svg: str
    caption: str
    width: float = WIDE


def across(count: int) -> int:
    """How many of so many panels stand in a row, so that the rows are as full as can be."""
    return math.ceil(count / math.ceil(count / ABREAST))


def panels(figure: Figure, count: int, sharey: bool = False) -> list[Axes]:
    """So many panels, `across` of them in a row."""
    columns = across(count)
    axes = figure.subplots(math.ceil(count / columns), columns, squeeze=False, sharey=sharey).flat
    found = list(axes)
    for left_over in found[count:]:
        left_over.remove()
    return found[:count]


def look(place: int) -> dict[str, Any]:
    """A colour and a marker; further ones where colours repeat."""
    return {
        "color": SERIES[place % len(SERIES)],
        "marker": MARKERS[place // len(SERIES) % len(MARKERS)],
        "linestyle": "none",
        "markersize": 5,
        "linewidth": 1.5,
    }
