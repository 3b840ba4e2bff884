"""Reading ahead: tokens that are likely to come, read along with those that have.

A context is told a hint; its model reads the hint in the same forward and keeps the logits after
each of its tokens. While the text goes as the hint did, a step's logits are there already; where it
goes another way, the model's cache is cut back to the last token that was right. The loop knows
nothing of it: it asks for a context's logits, and whether they are new or recalled is no matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .kv_pool import agreeing

if TYPE_CHECKING:
    from .context import Context

MOST = 15
"""Hints are cut to so many tokens; with the one before them, CUDA graphs' widest forward."""


@dataclass(eq=False, slots=True)
class Guess:
    """Tokens that a model has read and that have not come yet.

    Attributes:
        start: how many tokens the context had.
        tokens: read after those.
        rows: `[1, V]` each, the logits before and after each of the tokens; None where they were
            not kept.
    """

    start: int
    tokens: list[int]
    rows: list[Tensor | None]


def recall(context: Context) -> Tensor | None:
    """`[1, V]`, the logits after the context's tokens, where they were read ahead.

    Otherwise what was read wrongly is taken out of the cache.
    """
    guess = context.guess
    if guess is None:
        return None
    new = context.ids[guess.start :]
    right = agreeing(new, guess.tokens)
    if right == len(new) and (row := guess.rows[right]) is not None:
        return row
    take_back(context, guess.start + min(right, max(0, len(new) - 1)))
    return None


def take_back(context: Context, length: int) -> None:
    """Forgets what was read ahead, and cuts the cache back to `length` tokens."""
    from .context import forget

    context.guess = None
    if length < context.cached:
        forget(context, length)
