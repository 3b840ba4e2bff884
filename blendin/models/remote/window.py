"""A server's lookahead: how many tokens to ask for, and which of them still hold.

A request asks for several tokens with the model's prediction at each. They are the model's own
choices; the loop decides as ever, and as long as it decides for them the next row is there already.
Where it decides otherwise the rest is dropped, and a request that still runs is ended.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from enum import Enum

from ..lookahead import Lookahead
from .answers import Row

MAX_WINDOW_TOKENS = 128

RUN_OUT = 0.02
"""How likely a window may end while it still holds: a longer one costs little, for its request is
ended where the base is unsure, and a new one costs the reading of what the server has not kept."""


class Standing(Enum):
    """How a window stands to what was decided."""

    HOLDS = "the row is there"
    COMING = "it holds so far, and the row has yet to arrive"
    RAN_OUT = "it held to its end"
    BROKEN = "another token was decided"


class Window(Lookahead[Row]):
    """A lookahead that is streamed: what one request has brought so far.

    Attributes:
        over: whether no more will come.
        error: why, if it failed.
        changed: set when one of these changes.
    """

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.over = False
        self.error: Exception | None = None
        self.changed = asyncio.Event()

    def add(self, row: Row) -> None:
        """The next row, and the token with which the server went on after it."""
        self.rows.append(row)
        self.tokens.append(row.token)

    def standing(self, ids: Sequence[int]) -> Standing:
        """Whether the window holds for a context that has become `ids`."""
        over, tokens = self.over, len(self.tokens)  # in this order: another thread adds rows
        if len(ids) < self.start or self.agreed_end(ids) < min(len(ids), self.start + tokens):
            return Standing.BROKEN
        if self.start + tokens > len(ids):
            return Standing.HOLDS
        return Standing.RAN_OUT if over else Standing.COMING


class AcceptanceEstimate:
    """How often a window went on to hold, to choose the next one's length by.

    Under `Blend` the windows of a base break at interventions that decide against it, so this is
    the running intervention rate as far as it matters here.
    """

    def __init__(self, prior: AcceptanceEstimate | None = None) -> None:
        self.held, self.broke = 0.0, 0.0
        self._prior = prior

    def count(self, held: bool) -> None:
        self.held += held
        self.broke += not held
        if self._prior is not None:
            self._prior.count(held)

    @property
    def chance(self) -> float:
        """The probability that a window holds for one more token."""
        expected, weight = (0.8, 8.0) if self._prior is None else (self._prior.chance, 4.0)
        return (self.held + weight * expected) / (self.held + self.broke + weight)

    @property
    def length(self) -> int:
        """The shortest window that holds to its end with a chance of `RUN_OUT` at most."""
        chance = min(max(self.chance, 1e-9), 1 - 1e-9)
        return min(MAX_WINDOW_TOKENS, max(1, math.ceil(math.log(RUN_OUT) / math.log(chance))))
