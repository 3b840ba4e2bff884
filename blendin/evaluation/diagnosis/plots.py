"""The diagnosis in pictures: SVG to embed in a page, coloured by the page's CSS variables."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ...trace import RATE_LIMIT
from ...visible import visible
from ..statistics import Interval
from .diagnosis import BINS, Diagnosis, Distribution
from .interventions import Agreement, Streaks
from .overlap import Overlap, Shared

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


def rate_by_position(diagnoses: Sequence[Diagnosis], name: str) -> str:
    """The rate by position in the answer, with bands, above the number of answers that long."""

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        top = max(150 * RATE_LIMIT, *(_line(upper, lower, *each) for each in enumerate(diagnoses)))
        _limit(upper, horizontal=True)
        upper.set(ylim=(0, min(100, 1.05 * top)), ylabel="intervention rate (%)")
        upper.grid(axis="y", linewidth=0.7)
        if len(diagnoses) > 1:
            figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", fontsize=9)
        lower.set(ylim=(0, None), ylabel="answers", xlabel="position in the answer (step)")
        _powers_of_two(lower, max(each.positions[-1].last for each in diagnoses))

    label = "Intervention rate by position in the answer, with 95 % intervals, and answers so long."
    named = 0.19 * len(diagnoses) if len(diagnoses) > 1 else 0
    return drawn(name, label, paint, height=3.6 + named)


def _line(upper: Axes, lower: Axes, place: int, found: Diagnosis) -> float:
    """Draws one guide's rate and count; returns the highest bound."""
    colour, dashes = SERIES[place % len(SERIES)], DASHES[place // len(SERIES) % len(DASHES)]
    spans = found.positions
    edges = [spans[0].first - 0.5, *(span.last + 0.5 for span in spans)]
    values = 100 * np.array([span.rate for span in spans])
    low, high = (np.append(values[:, column], values[-1, column]) for column in (1, 2))
    upper.fill_between(edges, low, high, step="post", alpha=0.18, linewidth=0, color=colour)
    for axes, heights in ((upper, values[:, 0]), (lower, [span.items for span in spans])):
        axes.stairs(
            heights,
            edges,
            baseline=None,
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            label=in_plain_letters(found.guide),
        )
    return float(high.max())


def _powers_of_two(axes: Axes, last: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = [2**power for power in range(last.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in ticks])


def rates(values: Iterable[float], name: str) -> str:
    """How the answers' own rates are distributed."""
    found = Distribution.of(list(values))
    assert found is not None
    return _histogram(
        found,
        name,
        label="How many answers have which intervention rate.",
        xlabel="an answer's own intervention rate (%)",
        unit="answers",
        paint=_limit,
        scale=100,
    )


def top_probs(found: Distribution, threshold: float | None, name: str) -> str:
    """How p_b is distributed, with τ where it is known."""

    def line(axes: Axes) -> None:
        if threshold is not None and threshold <= 1:
            _marked(axes, threshold, f"τ = {threshold:g}")

    return _histogram(
        found,
        name,
        label="How the base's top probability is distributed over the steps.",
        xlabel="the base's top probability $p_b$",
        unit="steps",
        paint=line,
    )


def alphas(found: Distribution, name: str) -> str:
    """How α is distributed."""
    return _histogram(
        found,
        name,
        label="How the guide's weight alpha is distributed over the interventions.",
        xlabel="the guide's weight α",
        unit="interventions",
        paint=lambda axes: None,
    )


def agreement(found: Agreement, top_k: int | None, name: str) -> str:
    """What the guide's choice is to the base, with whiskers."""
    rows = agreement_rows(found, top_k)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _bars(axes, rows)
        axes.set_xlabel("share of interventions (%)")

    label = "What the guide's choice is to the base, as shares of the interventions."
    return drawn(name, label, paint, height=2.3)


def agreement_rows(found: Agreement, top_k: int | None) -> dict[str, Interval]:
    """The shares by what they are of."""
    if top_k is None:
        return {
            "the base's own choice": found.own,
            "in its vocabulary": found.in_top_k,
            "unknown to it": found.unknown,
        }
    return {
        "the base's own choice": found.own,
        f"in its top {top_k}": found.in_top_k,
        f"outside its top {top_k}": found.outside,
        "unknown to it": found.unknown,
    }


def streaks(found: Streaks, name: str) -> str:
    """How long runs of interventions are, beside what independent ones would give."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        total = sum(found.lengths.values())
        shown = np.arange(1, max(6, min(found.longest, 16)) + 1)
        made = [100 * found.lengths.get(int(length), 0) / total for length in shown]
        if found.longest > shown[-1]:
            made[-1] = 100 * sum(n for k, n in found.lengths.items() if k >= shown[-1]) / total
        axes.bar(shown, made, width=0.7, color=SERIES[0], label="observed")
        if found.independent_mean is not None:
            rate = 1 - 1 / found.independent_mean
            expected = 100 * (1 - rate) * rate ** (shown - 1)
            if found.longest > shown[-1]:
                expected[-1] = 100 * rate ** (shown[-1] - 1)
            axes.plot(shown, expected, "D", color=SERIES[1], markersize=5, label="if independent")
        axes.set_xticks(shown)
        if found.longest > shown[-1]:
            axes.set_xticklabels([*map(str, shown[:-1]), f"{shown[-1]}+"])
        axes.set(xlabel="interventions in a row", ylabel="share of runs (%)")
        axes.grid(axis="y", linewidth=0.7)
        axes.legend(fontsize=9)

    return drawn(name, "How many interventions follow each other.", paint, height=2.8)


def overlap(found: Overlap, name: str) -> str:
    """The overlap of the top lists, and of their first entries, by kind of position."""
    rows = overlap_rows(found)

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        _points(left, {label: shared.jaccard for label, shared in rows.items()}, SERIES[0])
        _points(right, {label: shared.same_choice for label, shared in rows.items()}, SERIES[0])
        for axes in (left, right):
            axes.set_xticks([0, 50, 100])
        left.set_xlabel(f"top-{found.k} overlap\n(Jaccard, %)")
        right.set_xlabel("same first choice\n(% of positions)")

    label = f"Overlap of both models' top {found.k} symbols by kind of position."
    return drawn(name, label, paint, height=2.5)


def overlap_rows(found: Overlap) -> dict[str, Shared]:
    """The kinds of positions that there are."""
    rows = {
        "all positions": found.everywhere,
        "answer's first": found.first,
        "base confident": found.confident,
        "base uncertain": found.uncertain,
    }
    return {label: shared for label, shared in rows.items() if shared is not None}


def ranking(diagnoses: Sequence[Diagnosis], name: str) -> str:
    """Each guide's rate with its interval, in the order given."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        labels = [f"{place}. {each.guide}" for place, each in enumerate(diagnoses, start=1)]
        rows = {label: each.rate for label, each in zip(labels, diagnoses, strict=True)}
        colours = [SERIES[place % len(SERIES)] for place in range(len(diagnoses))]
        _points(axes, rows, colours, whole=False)
        _limit(axes)
        axes.set_xlabel("intervention rate (%)")

    label = "Intervention rates of the guides with 95 % intervals."
    return drawn(name, label, paint, height=1.1 + 0.42 * len(diagnoses))


def _histogram(
    found: Distribution,
    name: str,
    *,
    label: str,
    xlabel: str,
    unit: str,
    paint: Callable[[Axes], None],
    scale: float = 1,
) -> str:
    def whole(figure: Figure) -> None:
        axes = figure.subplots()
        edges = scale * np.linspace(0, 1, BINS + 1)
        shares = 100 * np.array(found.counts) / found.n
        axes.bar(edges[:-1], shares, scale / BINS * 0.9, align="edge", color=SERIES[0])
        axes.set(xlim=(0, scale), xlabel=xlabel, ylabel=f"share of {unit} (%)")
        axes.grid(axis="y", linewidth=0.7)
        paint(axes)

    return drawn(name, label, whole, height=2.8)


def _bars(axes: Axes, rows: Mapping[str, Interval]) -> None:
    places = np.arange(len(rows))
    values = 100 * np.array(list(rows.values()))
    axes.barh(places, values[:, 0], height=0.6, color=SERIES[0], alpha=0.75)
    reach = np.abs(values[:, 1:] - values[:, :1]).T
    axes.errorbar(values[:, 0], places, xerr=reach, fmt="none", ecolor=INK, capsize=4)
    _rows_named(axes, rows)


def _points(
    axes: Axes, rows: Mapping[str, Interval], colours: str | Sequence[str], whole: bool = True
) -> None:
    values = 100 * np.array(list(rows.values()))
    colours = [colours] * len(rows) if isinstance(colours, str) else colours
    for place, ((estimate, low, high), colour) in enumerate(zip(values, colours, strict=True)):
        reach = [[estimate - low], [high - estimate]]
        axes.errorbar(
            [estimate],
            [place],
            xerr=np.maximum(reach, 0),
            fmt="o",
            color=colour,
            capsize=4,
            clip_on=False,
        )
    _rows_named(axes, rows)
    if not whole:
        axes.set_xlim(0, min(100, max(1.15 * values.max(), 130 * RATE_LIMIT)))


def _rows_named(axes: Axes, rows: Mapping[str, Interval]) -> None:
    """Named on the left, the first one above."""
    axes.set_yticks(range(len(rows)), [in_plain_letters(label) for label in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(axis="x", linewidth=0.7)


def _limit(axes: Axes, horizontal: bool = False) -> None:
    """The paper's line, in per cent."""
    limit = 100 * RATE_LIMIT
    if not horizontal:
        _marked(axes, limit, f"{limit:.0f} % line")
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


def _marked(axes: Axes, x: float, text: str) -> None:
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


def drawn(name: str, label: str, paint: Callable[[Figure], None], height: float) -> str:
    """An SVG element that needs nothing else; its ids begin with `name`, unlike other pictures'."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    settings: Any = {**SETTINGS, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
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
