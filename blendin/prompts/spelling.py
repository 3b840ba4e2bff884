"""Where control tokens may be spelled in contents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any
from unicodedata import normalize


class Spellings:
    """The texts of control tokens, as they may stand in a content."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = {token.strip() for token in tokens} - {""}
        self._delimiters = {
            char for token in self._tokens for char in (token[0], token[-1]) if not char.isalnum()
        }
        words = [token for token in self._tokens if token[0].isalnum() and token[-1].isalnum()]
        longest = sorted(words, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, longest)) or "(?!)", re.IGNORECASE)

    def hidden(self, value: Any, stand_in: str) -> Any:
        """A text, or all in a list or mapping, with stand-ins where a token may begin or end."""

        def hide(text: str) -> str:
            text = self._words.sub(lambda match: stand_in * len(match[0]), text)
            return "".join(
                stand_in if self._delimiters.intersection(normalize("NFKC", char)) else char
                for char in text
            )

        return mapped(value, hide)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where a text has the spelling of a token."""
        found = sorted((token for token in self._tokens if token in text), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, found)) or "(?!)")
        return [match.span() for match in pattern.finditer(text)]


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A value with all texts in it changed, names not."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: mapped(each, change) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(each, change) for each in value]
    return value


def unused(text: str) -> str:
    """A character for private use that a text does not have."""
    planes = range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)
    return next(char for char in map(chr, chain(*planes)) if char not in text)
