"""Drives an engine that runs the base in this process: sequences in, steps out."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

import torch
from torch import Tensor

from ..models.context import Context
from ..models.hosted import HostedModel
from .hosted import HostedRows, HostedSequence, Row
from .pair import Pair
from .sequence import SequenceState


class _Reading:
    """A given text that the engine is made to write, and the rows of logits on the way."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.rows: dict[int, Tensor] = {}

    def reached(self, position: int) -> None:
        """Nothing to take back: a row that was shown too early is shown again."""

    def left(self) -> None:
        """Nothing to forget."""


class Driver:
    """The sequences that an engine runs for us; one thread at a time takes all of them further.

    Attributes:
        rows: decides their rows of logits.
    """

    def __init__(self, pair: Pair) -> None:
        """Takes over a pair's base.

        Args:
            pair: its base has an engine.
        """
        assert isinstance(pair.base, HostedModel) and pair.base.engine is not None
        self._base, self._engine = pair.base, pair.base.engine
        self.rows, self._lock, self._count = HostedRows(pair), RLock(), 0
        self._running: dict[str, HostedSequence | _Reading] = {}
        self._keys: dict[Context, str] = {}
        self._counts: dict[str, int] = {}
        pair.base.driver, self._engine.decisions = self, self

    def advance(self, sequences: Sequence[SequenceState]) -> None:
        """One forward of the engine, for these sequences and all others that it runs."""
        with self._lock:
            for sequence in sequences:
                sequence.start()
                context = sequence.context("base")
                if not sequence.done and context not in self._keys:
                    if sequence.can_be_read(self._base, "base"):
                        self._keys[context] = self._submit(HostedSequence(sequence), context.ids)
            if any(not each.done for each in sequences):
                self._step()

    def read(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Tensor]:
        """For each context `[positions, V]` logits after each of its last tokens."""
        with self._lock:
            keys = []
            for context, count in zip(contexts, positions, strict=True):
                begin = len(context.ids) - count + 1
                keys.append(self._submit(_Reading(context.ids[begin:]), context.ids[:begin]))
                context.forwards += 1
            try:
                readings = [self._reading(key) for key in keys]
                while any(
                    self._counts[key] <= len(each.ids)
                    for key, each in zip(keys, readings, strict=True)
                ):
                    self._step()
            finally:
                self._end(keys)
            return [
                torch.stack([each.rows[place] for place in range(len(each.ids) + 1)])
                for each in readings
            ]

    def leave(self, context: Context) -> None:
        """A sequence has ended, or waits."""
        with self._lock:
            if (key := self._keys.pop(context, None)) is not None:
                self._end([key])

    # -- what the engine's processor asks --

    def begin(self, key: str) -> HostedSequence | _Reading:
        """A text enters the engine's batch."""
        entered = self._running[key]
        if isinstance(entered, HostedSequence):
            entered.resumed()
        return entered

    def decide(
        self, asked: Sequence[tuple[HostedSequence | _Reading, int, int]], logits: Tensor
    ) -> list[int | None]:
        """The next token of each row: (text, position, row)."""
        answers: list[int | None] = [None] * len(asked)
        decided = []
        for place, (text, position, index) in enumerate(asked):
            if isinstance(text, HostedSequence):
                decided.append((place, Row(text, position, index)))
                continue
            text.rows[position] = logits[index].clone()
            answers[place] = text.ids[position] if position < len(text.ids) else None
        if decided:
            found = self.rows.decide([row for _, row in decided], logits)
            for (place, _), token in zip(decided, found, strict=True):
                answers[place] = token
        return answers

    def _submit(self, text: HostedSequence | _Reading, ids: Sequence[int]) -> str:
        key = str(self._count)
        self._count += 1
        self._running[key], self._counts[key] = text, 0
        self._engine.submit(key, ids)
        return key

    def _reading(self, key: str) -> _Reading:
        reading = self._running[key]
        assert isinstance(reading, _Reading)
        return reading

    def _step(self) -> None:
        progress = {each.key: each for each in self._engine.step()}
        for key, text in self._running.items():
            came = progress.get(key)
            if came is not None:
                self._counts[key] = came.tokens
            text.reached(self._counts[key])
            if came is not None and came.is_full and isinstance(text, HostedSequence):
                if not text.sequence.done:
                    text.sequence.can_be_read(self._base, "base")
        ended = {
            key
            for key, text in self._running.items()
            if isinstance(text, HostedSequence) and (text.sequence.done or text.sequence.preempted)
        }
        self._keys = {context: key for context, key in self._keys.items() if key not in ended}
        self._end(sorted(ended))

    def _end(self, keys: Sequence[str]) -> None:
        for key in keys:
            if (text := self._running.pop(key, None)) is not None:
                del self._counts[key]
                text.left()
        if keys:
            self._engine.withdraw(keys)
