"""The colours of tokens by the model that chose them, the same on the page and in a terminal."""

from __future__ import annotations

# Background of a token, from pale (α = 0) to full (α = 1).
SHADES = {
    "guide": ((255, 233, 214), (255, 140, 26)),
    "both": ((220, 238, 255), (64, 156, 255)),
}
