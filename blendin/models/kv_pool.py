"""One model's keys and values: a tensor a layer, and a segment of it for each sequence.

Segments are contiguous, so that attention reads a sequence's keys as a view and copies nothing. A
finished sequence's segment stays until its room is needed: a prompt that begins like it takes the
segment over, or copies the common prefix from whichever sequence has it, instead of reading it
again. A sequence that is decoded alone has a pool to itself.

One thread reads into a pool, and one reserves, grows and gives back; they may be two
(`engine/guide_thread.py`). Keys are written by the reader alone, so that a segment may be taken
over, or dropped, while it reads others; the list that it looks at is replaced, never changed. What
moves the tensors waits for it (`Pool.lock`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..forks import Lock
from .lookahead import MAX_DRAFT_TOKENS, common_prefix

SMALLEST_CAPACITY = 256
"""Tokens in a cache that is handed from one sequence decoded alone to the next."""

MIN_SHARED_PREFIX = 16
"""A shorter common prefix is read again: copying it is hardly cheaper."""


@dataclass(eq=False)
class KVSegment:
    """A sequence's place in a pool; a `Cache`.

    Attributes:
        pool: the pool.
        start: where it begins.
        capacity: how many tokens it has room for.
        ids: the tokens whose keys and values it holds.
    """

    pool: Pool
    start: int
    capacity: int
    ids: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + self.capacity

    @property
    def length(self) -> int:
        return len(self.ids)

    def crop(self, length: int) -> None:
        del self.ids[length:]

    def draft_room(self, length: int) -> int:
        return self.capacity - length


class Pool:
    """Segments, and the tensors behind them, which are made when the first keys arrive.

    Attributes:
        limit: of tokens, reserved ones included; None is unbounded.
        size: tokens that the tensors hold now; grows as segments are reserved, up to `limit`.
        version: of the tensors; another one when they, or the places of segments, have changed.
        lock: held while it is read into, and while its tensors are moved or freed.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.size, self.version, self.lock = limit, 0, 0, Lock()
        self._segments: list[KVSegment] = []  # by start
        self._finished: list[KVSegment] = []  # the longest finished first
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, ids: Sequence[int], tokens: int) -> KVSegment | None:
        """A segment for a sequence that begins with `ids` and may grow to `tokens`.

        It is not empty where it could be taken over from a finished sequence. None: there is no
        room until another sequence ends.
        """
        tokens = max(tokens, len(ids))
        match, count = _prefix_match(self._finished, ids)
        if match is not None and count >= MIN_SHARED_PREFIX:
            self._finished.remove(match)  # or it might be dropped to make room for itself
            if not self.resize(match, tokens):
                self._finished.append(match)
                return None
            del match.ids[count:]
            return match
        while (start := self._hole(tokens)) is None and self._finished:
            self._drop(self._finished[0])
        if start is None:
            if not self._rebuild(tokens):
                return None
            start = self._used()
        segment = KVSegment(self, start, tokens)
        self._segments = sorted([*self._segments, segment], key=lambda segment: segment.start)
        return segment

    def resize(self, segment: KVSegment, tokens: int) -> bool:
        """Makes room for a longer sequence; False where there is none."""
        if tokens <= segment.capacity:
            return True
        following = self._segments[self._segments.index(segment) + 1 :]
        if segment.start + tokens <= (following[0].start if following else self.size):
            segment.capacity = tokens
            return True
        extra = tokens - segment.capacity
        while self._finished and self._used() + extra > self.size:
            self._drop(self._finished[0])
        if self.limit is not None and self._used() + extra > self.limit:
            return False
        segment.capacity = tokens
        self._rebuild(0)
        return True

    def release(self, segment: KVSegment) -> None:
        """A sequence is finished: its segment may be taken over, or dropped for room."""
        self._finished.append(segment)

    @torch.inference_mode()
    def copy_prefix(self, segment: KVSegment, ids: Sequence[int]) -> None:
        """Copies the keys and values of the longest prefix of `ids` that any sequence has."""
        others = [other for other in self._segments if other is not segment]
        match, count = _prefix_match(others, ids)
        if match is None or count < max(MIN_SHARED_PREFIX, segment.length + 1):
            return
        for stored in self._layers.values():
            for tensor in stored:
                source = tensor[:, match.start : match.start + count]
                tensor[:, segment.start : segment.start + count] = source
        segment.ids[:] = ids[:count]

    def write(
        self, layer: int, places: slice | Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stores `[heads, T, width]` keys and values at T places: a slice, or `[T]` int64.

        Returns:
            All keys and all values of that layer, `[heads, size, width]`.
        """
        if layer not in self._layers:
            self._layers[layer] = (
                key.new_empty(len(key), self.size, key.shape[2]),
                value.new_empty(len(value), self.size, value.shape[2]),
            )
        keys, values = self._layers[layer]
        keys[:, places], values[:, places] = key, value
        return keys, values

    def clear(self) -> None:
        """Frees everything."""
        with self.lock:
            self.size, self.version = 0, self.version + 1
            self._segments.clear()
            self._finished.clear()
            self._layers.clear()

    @property
    def bytes(self) -> int:
        """The size of the tensors."""
        layers = list(self._layers.values())  # another thread may write meanwhile
        return sum(tensor.nbytes for stored in layers for tensor in stored)

    @property
    def tokens(self) -> int:
        """How many tokens' keys and values it holds, finished sequences' included."""
        return sum(segment.length for segment in list(self._segments))

    def _used(self) -> int:
        return sum(segment.capacity for segment in self._segments)

    def _hole(self, tokens: int) -> int | None:
        """Where there is room for `tokens` between the segments."""
        ends = [0, *(segment.end for segment in self._segments)]
        starts = [*(segment.start for segment in self._segments), self.size]
        fits = (end for end, start in zip(ends, starts, strict=True) if start - end >= tokens)
        return next(fits, None)

    def _drop(self, segment: KVSegment) -> None:
        self._finished.remove(segment)
        self._segments = [each for each in self._segments if each is not segment]

    @torch.inference_mode(False)  # or models that run without it could not write to them
    @torch.no_grad()
    def _rebuild(self, tokens: int) -> bool:
        """Packs the segments in tensors with room for `tokens` more; False over the limit."""
        needed = self._used() + tokens
        if self.limit is not None and needed > self.limit:
            return False
        with self.lock:
            self._wait_for_streams()
            self._move(needed)
            self._wait_for_streams()
        return True

    def _wait_for_streams(self) -> None:
        """On CUDA devices: a read's stream may be another, which knows nothing of copies in this
        one, nor this one of its writes."""
        devices = {tensor.device for stored in self._layers.values() for tensor in stored}
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def _move(self, needed: int) -> None:
        self.version += 1
        if needed > self.size:
            self.size = needed + needed // 4
            if self.limit is not None:
                self.size = min(self.size, self.limit)
        starts, end = [], 0
        for segment in self._segments:
            starts.append(end)
            end += segment.capacity
        for layer, stored in self._layers.items():
            fresh = [tensor.new_empty(len(tensor), self.size, tensor.shape[2]) for tensor in stored]
            for old, new in zip(stored, fresh, strict=True):
                for segment, start in zip(self._segments, starts, strict=True):
                    held = old[:, segment.start : segment.start + segment.length]
                    new[:, start : start + segment.length] = held
            self._layers[layer] = (fresh[0], fresh[1])
        for segment, start in zip(self._segments, starts, strict=True):
            segment.start = start


def capacity_for(tokens: int) -> int:
    """How many tokens a cache has room for that is to serve other sequences later: a power of two.

    A captured forward's padding is within it.
    """
    capacity = SMALLEST_CAPACITY
    while capacity < tokens + 1 + MAX_DRAFT_TOKENS:
        capacity *= 2
    return capacity


class SpareSegments:
    """Segments with a pool to themselves, taken by sequences that are decoded alone, one after the
    other: what was captured over a pool's tensors serves them all.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[KVSegment]] = {}
        self._lock = Lock()

    def take(self, tokens: int) -> KVSegment:
        """An empty segment with room for `tokens` and the padding of captured forwards."""
        capacity = capacity_for(tokens)
        with self._lock:
            free = self._free.get(capacity)
            segment = free.pop() if free else None
        if segment is None:
            segment = Pool().reserve((), capacity)
            assert segment is not None
        return segment

    def give_back(self, segment: KVSegment) -> None:
        """Makes a segment free for the next sequence, unless its pool was cleared."""
        if segment.pool.size == 0:
            return
        segment.ids.clear()
        with self._lock:
            self._free.setdefault(segment.capacity, []).append(segment)


def shared_prefix(held: Sequence[int], ids: Sequence[int]) -> int:
    """The length of the common prefix; the last of `ids` is always left to be read."""
    return common_prefix(held, ids[:-1])


def _prefix_match(
    segments: Sequence[KVSegment], ids: Sequence[int]
) -> tuple[KVSegment | None, int]:
    """The segment that shares the longest prefix with `ids`, and that prefix's length."""
    match = max(segments, key=lambda segment: shared_prefix(segment.ids, ids), default=None)
    return match, 0 if match is None else shared_prefix(match.ids, ids)
