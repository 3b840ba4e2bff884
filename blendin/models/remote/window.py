"""Looking ahead: how many tokens to ask for, and what of them still holds.

A request asks for several tokens with what the model says at each. They are the model's own
choices; the loop decides as ever, and as long as it decides for them the next row is there already.
Where it decides otherwise the rest is dropped, and the request ended if it still runs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from enum import Enum

from .completions import Row

MOST = 128
"""Tokens of a window at most."""

RUN_OUT = 0.02
"""How likely a window may end while it still holds: a longer one costs little, for its request is
ended where the base is unsure, and a new one costs the reading of what the server has not kept."""


class Standing(Enum):
    """How a window stands to what was decided."""

    HOLDS = "the row is there"
    COMING = "it holds so far, and the row is still to come"
    RAN_OUT = "it held to its end"
    BROKEN = "another token was decided"


class Window:
    """The tokens that one request brought so far.

    Attributes:
        start: how many tokens the context had when it was asked.
        rows: row i follows `start + i` tokens.
        over: whether no more will come.
        error: why, if it failed.
        changed: set when one of these changes.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.rows: list[Row] = []
        self.over = False
        self.error: Exception | None = None
        self.changed = asyncio.Event()

    def standing(self, ids: Sequence[int]) -> Standing:
        """Of this window, where a context has come to be `ids`."""
        over, rows = self.over, len(self.rows)  # in this order: rows may be added by another thread
        new = ids[self.start :]
        if len(ids) < self.start:  # tokens were taken back
            return Standing.BROKEN
        if any(row.token != id for row, id in zip(self.rows, new, strict=False)):
            return Standing.BROKEN
        if rows > len(new):
            return Standing.HOLDS
        return Standing.RAN_OUT if over else Standing.COMING

    def row(self, ids: Sequence[int]) -> Row:
        """What follows `ids`, where the window holds."""
        return self.rows[len(ids) - self.start]


class Luck:
    """How often a window went on to hold, to choose the next one's length by.

    Under `Blend` the windows of a base break at interventions that decide against it, so this is
    the running intervention rate as far as it matters here.
    """

    def __init__(self, prior: Luck | None = None) -> None:
        self.held, self.broke = 0.0, 0.0
        self._prior = prior

    def count(self, held: bool) -> None:
        self.held += held
        self.broke += not held
        if self._prior is not None:
            self._prior.count(held)

    @property
    def chance(self) -> float:
        """That a window holds for one more token."""
        expected, weight = (0.8, 8.0) if self._prior is None else (self._prior.chance, 4.0)
        return (self.held + weight * expected) / (self.held + self.broke + weight)

    @property
    def length(self) -> int:
        """The shortest window that holds to its end with a chance of `RUN_OUT` at most."""
        chance = min(max(self.chance, 1e-9), 1 - 1e-9)
        return min(MOST, max(1, math.ceil(math.log(RUN_OUT) / math.log(chance))))
