"""One model's keys and values for many sequences: a tensor a layer, a span of it a sequence.

Spans are contiguous, so that attention reads a sequence's keys as a view and copies nothing. A
finished sequence's span stays until its room is wanted: a prompt that begins like it takes the span
over, or copies the beginning from whichever sequence has it, instead of reading it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

SHARED_AT_LEAST = 16
"""A beginning shorter than this is read again: copying it is hardly cheaper."""


@dataclass(eq=False)
class Span:
    """A sequence's place in a pool.

    Attributes:
        start: where it begins.
        capacity: how many tokens it has room for.
        ids: the tokens whose keys and values it holds.
    """

    start: int
    capacity: int
    ids: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + self.capacity


class Pool:
    """The spans of one run, and the tensors behind them, made when the first keys arrive.

    Attributes:
        limit: of tokens, reserved ones included; None is unbounded.
        size: tokens that the tensors hold now; grows as spans are reserved, up to `limit`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.size = limit, 0
        self._spans: list[Span] = []  # by start
        self._finished: list[Span] = []  # the longest finished first
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, ids: Sequence[int], tokens: int) -> Span | None:
        """A span for a sequence that begins with `ids` and may grow to `tokens`.

        It is not empty where a finished sequence's could be taken over. None: there is no room
        until another sequence ends.
        """
        tokens = max(tokens, len(ids))
        heir = max(self._finished, key=lambda span: shared(span.ids, ids), default=None)
        count = 0 if heir is None else shared(heir.ids, ids)
        if heir is not None and count >= SHARED_AT_LEAST:
            self._finished.remove(heir)  # or it might be dropped to make room for itself
            if not self.resize(heir, tokens):
                self._finished.append(heir)
                return None
            del heir.ids[count:]
            return heir
        while (start := self._hole(tokens)) is None and self._finished:
            self._drop(self._finished[0])
        if start is None:
            if not self._rebuild(tokens):
                return None
            start = self._used()
        span = Span(start, tokens)
        self._spans.append(span)
        self._spans.sort(key=lambda span: span.start)
        return span

    def resize(self, span: Span, tokens: int) -> bool:
        """Makes room for a longer sequence; whether there was any to be had."""
        if tokens <= span.capacity:
            return True
        following = self._spans[self._spans.index(span) + 1 :]
        if span.start + tokens <= (following[0].start if following else self.size):
            span.capacity = tokens
            return True
        extra = tokens - span.capacity
        while self._finished and self._used() + extra > self.size:
            self._drop(self._finished[0])
        if self.limit is not None and self._used() + extra > self.limit:
            return False
        span.capacity = tokens
        self._rebuild(0)
        return True

    def release(self, span: Span) -> None:
        """A sequence is finished: its span may be taken over, or dropped for room."""
        self._finished.append(span)

    @torch.inference_mode()
    def borrow(self, span: Span, ids: Sequence[int]) -> None:
        """Copies the keys and values of the longest beginning of `ids` that any sequence has."""
        others = [other for other in self._spans if other is not span]
        donor = max(others, key=lambda other: shared(other.ids, ids), default=None)
        count = 0 if donor is None else shared(donor.ids, ids)
        if donor is None or count < max(SHARED_AT_LEAST, len(span.ids) + 1):
            return
        for stored in self._layers.values():
            for tensor in stored:
                tensor[span.start : span.start + count] = tensor[donor.start : donor.start + count]
        span.ids[:] = ids[:count]

    def write(self, layer: int, index: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores `[T, heads, width]` keys and values at `[T]` places.

        Returns:
            All keys and all values of that layer, `[size, heads, width]`.
        """
        if layer not in self._layers:
            self._layers[layer] = (
                key.new_empty(self.size, *key.shape[1:]),
                value.new_empty(self.size, *value.shape[1:]),
            )
        keys, values = self._layers[layer]
        keys.index_copy_(0, index, key)
        values.index_copy_(0, index, value)
        return keys, values

    def clear(self) -> None:
        """Frees everything."""
        self.size = 0
        self._spans.clear()
        self._finished.clear()
        self._layers.clear()

    @property
    def bytes(self) -> int:
        """What the tensors take."""
        return sum(tensor.nbytes for stored in self._layers.values() for tensor in stored)

    def _used(self) -> int:
        return sum(span.capacity for span in self._spans)

    def _hole(self, tokens: int) -> int | None:
        """Where so many tokens fit between the spans."""
        ends = [0, *(span.end for span in self._spans)]
        starts = [*(span.start for span in self._spans), self.size]
        fits = (end for end, start in zip(ends, starts, strict=True) if start - end >= tokens)
        return next(fits, None)

    def _drop(self, span: Span) -> None:
        self._finished.remove(span)
        self._spans.remove(span)

    @torch.inference_mode()
    def _rebuild(self, tokens: int) -> bool:
        """Moves the spans together, in tensors with room for `tokens` more; whether that fits."""
        needed = self._used() + tokens
        if self.limit is not None and needed > self.limit:
            return False
        if needed > self.size:
            self.size = needed + needed // 4
            if self.limit is not None:
                self.size = min(self.size, self.limit)
        starts, end = [], 0
        for span in self._spans:
            starts.append(end)
            end += span.capacity
        for layer, stored in self._layers.items():
            fresh = tuple(tensor.new_empty(self.size, *tensor.shape[1:]) for tensor in stored)
            for old, new in zip(stored, fresh, strict=True):
                for span, start in zip(self._spans, starts, strict=True):
                    held = len(span.ids)
                    new[start : start + held] = old[span.start : span.start + held]
            self._layers[layer] = (fresh[0], fresh[1])
        for span, start in zip(self._spans, starts, strict=True):
            span.start = start
        return True


def shared(held: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens `held` and `ids` begin with alike, the last of `ids` left to be read."""
    return agreeing(held, ids[:-1])


def agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
