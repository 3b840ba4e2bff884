"""Where guesses of a text's next tokens come from: the text itself, or the guide."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from typing import NamedTuple

import torch

from ..engine.pair import Pair
from ..engine.sequence import SequenceState as Sequence
from ..models.local import LanguageModel
from ..models.lookahead import Guess

SHORTEST, LONGEST = 1, 4
"""Of the endings that are looked up, in tokens."""


class Draft(NamedTuple):
    """A guess of the tokens that follow, in the vocabulary of the model that reads first.

    `kind` tells drafts apart that are likely to be right to different degrees.
    """

    kind: str
    tokens: list[int]


class Lookup:
    """What followed when the text last ended as it does now: n-grams of prompt and output."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, ids: ListLike[int], count: int) -> Draft | None:
        """The continuation of the longest ending that came before, or None.

        One that runs into the ending itself goes on in circles, as texts that loop do.
        """
        self._index(ids)
        for length in range(LONGEST, SHORTEST - 1, -1):
            place = self._after.get(tuple(ids[-length:]))
            if place is not None and len(ids) >= length:
                period = len(ids) - place
                tokens = [ids[place + step % period] for step in range(count)]
                return Draft(f"lookup {length}", tokens)
        return None

    def _index(self, ids: ListLike[int]) -> None:
        """Notes what followed each ending but the text's own, which nothing has followed."""
        for end in range(self._indexed + 1, len(ids)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._after[tuple(ids[end - length : end])] = end
        self._indexed = max(self._indexed, len(ids) - 1)


@torch.inference_mode()
def guide_draft(pair: Pair, sequence: Sequence, count: int) -> Draft | None:
    """The guide's greedy continuation, in the base's tokens; None where it cannot cross.

    What the guide computes for it is kept: if it is asked at one of these places, and its context
    has come to be what it read, its logits are there.
    """
    context = sequence.guide
    if context is None or not isinstance(pair.guide, LanguageModel):
        return None
    missed = pair.alignment.guide.spell(bytes(sequence.pending_bytes))
    wanted = [] if missed is None else [*missed, *[0] * count]
    if missed is None or pair.guide.ahead(context, wanted) != wanted:
        return None
    start = len(context.ids)
    read: list[int] = list(missed)
    rows: list[torch.Tensor | None] = [None] * len(missed)
    context.ids += missed
    try:
        for _ in range(count):
            logits = pair.guide.forward_batch([context])
            rows.append(logits.clone())
            token = int(logits.argmax())
            if token in pair.guide.end_ids or pair.guide.vocabulary.tokens[token] is None:
                break
            read.append(token)
            context.ids.append(token)
    finally:
        del context.ids[start:]
    if context.guess is None:  # else all of it was read ahead before
        context.guess = Guess(start, read[: context.cached - start], rows)
    tokens = crossed(pair, read[len(missed) :])
    return Draft("guide", tokens) if tokens else None


def crossed(pair: Pair, tokens: list[int]) -> list[int] | None:
    """The guide's tokens as the base reads that text; None where it cannot.

    Half a character at the end is left out, for the base would spell it in single bytes.
    """
    if pair.alignment.same:
        return tokens
    data = b"".join(pair.guide.vocabulary.tokens[token] or b"" for token in tokens)
    return pair.alignment.base.spell(data.decode("utf-8", "ignore").encode())
