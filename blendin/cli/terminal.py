"""What a person sees in a terminal: tokens coloured by who chose them, and the figures."""

from __future__ import annotations

from rich.color import Color
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .. import shades
from ..trace import MEANINGS, RATE_LIMIT, Generation, Step
from ..visible import visible

INK = Color.from_rgb(*shades.INK)


def token_style(step: Step) -> Style:
    """Plain where the base went alone, else the source's colour, the stronger the higher α."""
    if not step.intervened or step.source == "base":
        return Style(dim=step.intervened)
    return Style(color=INK, bgcolor=Color.from_rgb(*shades.shade(step.source, step.alpha)))


def plain(text: str) -> Text:
    """A text as it is, in one line: for cells and titles, where rich would look for markup."""
    return Text(visible(text, one_line=True))


def coloured(output: Generation) -> Text:
    """The whole text, coloured."""
    text = Text()
    for step in output.steps:
        text.append(visible(step.text), style=token_style(step))
    return text


def legend() -> Text:
    """What the colours mean."""
    text = Text("base alone  ")
    for source, meaning in MEANINGS.items():
        pale, full = shades.SHADES[source]
        text.append(f" {meaning}, α 0 ", style=Style(color=INK, bgcolor=Color.from_rgb(*pale)))
        text.append(" α 1 ", style=Style(color=INK, bgcolor=Color.from_rgb(*full)))
        text.append("  ")
    return text


def figures(output: Generation) -> Text:
    """Intervention rate, mean α, speed and stop reason in one line."""
    rate = output.intervention_rate
    text = Text(style="dim")
    text.append(
        f"interventions {output.interventions}/{len(output.steps)} = {rate:.0%}",
        style="yellow" if rate > RATE_LIMIT and output.settings.get("guide_prompt") else "",
    )
    if output.mean_alpha is not None:
        text.append(f" · mean α {output.mean_alpha:.2f}")
    text.append(f" · {output.tokens_per_second:.1f} tok/s")
    if accepted := output.stats["accepted"]:
        text.append(f" · {accepted} draft tokens accepted")
    text.append(f" · stopped by {output.stop_reason or 'interruption'}")
    return text


def side_by_side(outputs: dict[str, Generation], width: int) -> Table:
    """Several generations beside each other, or below where the terminal is narrow."""
    table = Table.grid(expand=True, padding=(0, 1))
    cells = []
    for title, output in outputs.items():
        body = coloured(output)
        body.append("\n\n")
        body.append_text(figures(output))
        cells.append(Panel(body, title=plain(title), title_align="left"))
    if width < 100:
        for cell in cells:
            table.add_row(cell)
        return table
    for _ in cells:
        table.add_column(ratio=1)
    table.add_row(*cells)
    return table
