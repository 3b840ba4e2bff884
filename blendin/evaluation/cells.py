"""What a cell says: one of a few words, or a number. What it does not say is refused by row."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_QUOTES = str.maketrans("‘’‚‛′“”„‟″", "'''''\"\"\"\"\"")


def key(text: str) -> str:
    """What texts have in common that differ in case, blanks and the shape of quotes alone."""
    plain = unicodedata.normalize("NFKC", text.translate(_QUOTES))
    return " ".join(plain.casefold().split())


def known_word(cell: str, words: Iterable[str]) -> str | None:
    """The one of some words that a cell means, whatever its case, blanks and hyphens; or None."""
    by_key = {_word(each): each for each in words}
    return by_key.get(_word(cell))


def _word(text: str) -> str:
    return re.sub(r"[\s_\-‐‑–—]+", "_", key(text)).strip("_")


def one_of(cell: str, words: Iterable[str], place: str, column: str, otherwise: str = "") -> str:
    """As `known_word`, of a cell that has to be one.

    Raises:
        ValueError: it is none; names the place, the words and what else can be done.
    """
    words = tuple(words)
    if (found := known_word(cell, words)) is None:
        raise ValueError(
            f"{place}: {column} {cell!r} is not one of {', '.join(words)}: correct it{otherwise}"
        )
    return found


def number(cell: str, place: str, column: str, percent: float | None = None) -> float:
    """A finite number with a point for its decimals.

    Args:
        cell: the text.
        place, column: where it is.
        percent: what one percent is worth, where "12 %" may stand.

    Raises:
        ValueError: it is none; names the place and the column.
    """
    text = cell.strip().replace("−", "-")
    worth = 1.0
    if percent is not None and text.endswith("%"):
        text, worth = text[:-1].rstrip(), percent
    value = float(text) * worth if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        further = ", with a point for the decimals and nothing between thousands" * ("," in text)
        raise ValueError(f"{place}, column {column} is {cell!r}: use a finite number{further}")
    return value
