"""Predictions at positions that the text has not reached yet.

A local model reads draft tokens along with a context's new ones; a server writes several tokens at
once. Either way there are predictions beyond the context, and each one holds as long as the text
goes on with the tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Generic, TypeVar

MAX_DRAFT_TOKENS = 15
"""Draft tokens of one forward; with the token before them, CUDA graphs' widest forward."""

Row = TypeVar("Row")


@dataclass(eq=False)
class Lookahead(Generic[Row]):
    """Predictions beyond a context.

    Attributes:
        start: the context's length when they were made.
        tokens: expected to follow those; the context may come to differ.
        rows: `rows[i]` is the prediction after `start + i` tokens, provided that `tokens[:i]` came.
    """

    start: int
    tokens: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def agreed_end(self, ids: Sequence[int]) -> int:
        """How far a context that has grown to `ids` agrees with what was expected."""
        return self.start + common_prefix(ids[self.start :], self.tokens)

    def row_after(self, ids: Sequence[int]) -> Row | None:
        """The prediction after `ids`, where there is one and it still holds."""
        place = len(ids) - self.start
        if not 0 <= place < len(self.rows) or self.agreed_end(ids) < len(ids):
            return None
        return self.rows[place]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
