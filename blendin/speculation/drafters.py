"""Where draft tokens come from: the text itself, or the guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..models.context import Context
from ..models.protocol import Model
from ..vocab.alignment import Alignment

SHORTEST, LONGEST = 1, 4
"""The n-grams that are looked up, in tokens."""


class Draft(NamedTuple):
    """The tokens that may follow, in the vocabulary of the target model.

    Acceptance is estimated for each `kind` of draft.
    """

    kind: str
    tokens: list[int]


class NgramLookup:
    """What followed when the text last ended as it does now, in prompt and output."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, ids: Sequence[int], count: int) -> Draft | None:
        """The continuation of the longest ending that came before, or None.

        One that runs into the ending itself goes round in circles, as texts that loop do.
        """
        self._index(ids)
        for length in range(LONGEST, SHORTEST - 1, -1):
            place = self._after.get(tuple(ids[-length:]))
            if place is not None and len(ids) >= length:
                period = len(ids) - place
                tokens = [ids[place + step % period] for step in range(count)]
                return Draft(f"lookup {length}", tokens)
        return None

    def _index(self, ids: Sequence[int]) -> None:
        """Notes what followed each ending but the text's own, which nothing has followed."""
        for end in range(self._indexed + 1, len(ids)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._after[tuple(ids[end - length : end])] = end
        self._indexed = max(self._indexed, len(ids) - 1)


def guide_draft(
    guide_model: Model, guide: Context, alignment: Alignment, pending_bytes: bytes, count: int
) -> Draft | None:
    """The guide's greedy continuation, in the base's tokens; None where it cannot cross.

    Half a character at the end is left out, for the base would encode it in single bytes.
    """
    pending = alignment.guide.encode_bytes(pending_bytes)
    if pending is None or not guide_model.can_draft:
        return None
    tokens: list[int] | None = guide_model.draft(guide, pending, count)
    if tokens and not alignment.same:
        data = b"".join(alignment.guide.tokens[token] or b"" for token in tokens)
        tokens = alignment.base.encode_bytes(data.decode("utf-8", "ignore").encode())
    return Draft("guide", tokens) if tokens else None
