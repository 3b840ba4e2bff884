"""The colours of tokens by the model that chose them: in a terminal, a notebook and the pages."""

from __future__ import annotations

from collections.abc import Mapping

Shade = tuple[int, int, int]

# Background of a token, from pale (α = 0) to full (α = 1).
SHADES: Mapping[str, tuple[Shade, Shade]] = {
    "guide": ((255, 233, 214), (255, 140, 26)),
    "both": ((220, 238, 255), (64, 156, 255)),
}

# Dark text is readable on all shades. Not the terminal's own "black", which a theme may make grey.
INK: Shade = (20, 20, 20)


def shade(source: str, alpha: float | None) -> Shade:
    """Of a token that a guide had a part in, the stronger the higher α; full where α is None."""
    weight = 1.0 if alpha is None else alpha
    red, green, blue = (
        round(low + weight * (high - low)) for low, high in zip(*SHADES[source], strict=True)
    )
    return red, green, blue
