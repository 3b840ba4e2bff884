"""Pictures: SVG that a page's CSS variables colour, or a file that stands alone."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from ..trace import RATE_LIMIT
from ..visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib draws with, and the page's variables that take their place: so one
# picture serves a light and a dark page.
INK, MUTED, GRID, LIMIT = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    LIMIT: "--limit",
    **{colour: f"--series-{place}" for place, colour in enumerate(SERIES)},
}
LIGHT = {
    "--ink": "#1b1f24",
    "--muted": "#5b6570",
    "--grid": "#e3e7eb",
    "--limit": "#b3261e",
    "--series-0": "#0072b2",
    "--series-1": "#d55e00",
    "--series-2": "#009e73",
    "--series-3": "#aa4499",
}
"""What the variables are on a light page, for pictures that are files of their own."""
DASHES = ("-", "--", ":", "-.")
SETTINGS = {
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's own font
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
}
WIDTH = 5.8  # inches
LONGEST = 48
"""Characters of a name in a picture; the page has all of them."""


def drawn(
    name: str, label: str, paint: Callable[[Figure], None], height: float, width: float = WIDTH
) -> str:
    """An SVG element that needs nothing else; its ids begin with `name`, unlike other pictures'.

    Args:
        name: of the picture, a word.
        label: what it shows, for those who do not see it.
        paint: draws into the figure, in the stand-ins' colours.
        height, width: in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    settings: Any = {**SETTINGS, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style element would be the whole page's.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    accessible_name = escape(label)
    return re.sub(
        r"<svg[^>]*>",
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box[0]} role="img" aria-label="{accessible_name}"><title>{accessible_name}</title>',
        svg,
        count=1,
    )


def alone(svg: str) -> str:
    """A picture of `drawn` as a file: in the light page's colours, on white."""
    for variable, colour in LIGHT.items():
        svg = svg.replace(f"var({variable})", colour)
    svg = svg.replace("</title>", '</title><rect width="100%" height="100%" fill="#fff"/>', 1)
    # In pixels, of which a point has 4 / 3: or a viewer makes every picture as wide as the page.
    return re.sub(
        r'viewBox="0 0 (\S+) [^"]*"',
        lambda box: f'{box[0]} width="{float(box[1]) * 4 / 3:.0f}"',
        svg,
        count=1,
    )


def limit_line(axes: Axes, horizontal: bool = False) -> None:
    """The paper's line, in per cent."""
    limit = 100 * RATE_LIMIT
    if not horizontal:
        marked(axes, limit, f"{limit:.0f} % line")
        return
    axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.4)
    axes.annotate(
        f"{limit:.0f} %\nline",
        (1.01, limit),
        xycoords=("axes fraction", "data"),
        ha="left",
        va="center",
        color=LIMIT,
        fontsize=9,
    )


def marked(axes: Axes, x: float, text: str) -> None:
    """A line across, with a word at its top."""
    axes.axvline(x, color=LIMIT, linestyle="--", linewidth=1.4)
    axes.annotate(
        text,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=LIMIT,
        fontsize=9,
    )


def in_plain_letters(text: str) -> str:
    """Without what matplotlib would read as mathematics, or as a label to leave out."""
    text = visible(text, one_line=True)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return text.replace("$", r"\$").replace("_", "\u200b_", 1 if text.startswith("_") else 0)
