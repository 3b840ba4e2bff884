"""Segments never overlap, never lose what they hold, and never exceed the limit."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin.models.kv_pool import MIN_SHARED_PREFIX, KVSegment, Pool, shared_prefix


@torch.inference_mode()
def fill(pool: Pool, segment: KVSegment, ids: list[int]) -> None:
    """Stores keys and values that tell their token, as a forward does."""
    begin = segment.start + len(segment.ids)
    places = torch.arange(begin, begin + len(ids))
    tokens = torch.tensor(ids, dtype=torch.float32)[None, :, None]
    for layer in (0, 1):
        pool.write(layer, places, tokens + layer, -tokens - layer)
    segment.ids += ids


@torch.inference_mode()
def held(pool: Pool, segment: KVSegment) -> list[int]:
    """The tokens that a segment's keys and values tell of, once all layers agree."""
    empty = torch.empty(0, dtype=torch.int64)
    nothing = torch.empty(1, 0, 1)
    tokens = []
    for layer in (0, 1):
        keys, values = pool.write(layer, empty, nothing, nothing)
        at = slice(segment.start, segment.start + len(segment.ids))
        tokens += [(keys[0, at, 0] - layer).tolist(), (-values[0, at, 0] - layer).tolist()]
    assert all(each == tokens[0] for each in tokens)
    return [int(token) for token in tokens[0]]


moves = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "reserve", "write", "grow", "release", "copy prefix")),
        st.integers(0, 10),
        st.integers(1, 60),
    ),
    max_size=40,
)
PREFIX = list(range(1000, 1000 + 2 * MIN_SHARED_PREFIX))


@settings(deadline=None, max_examples=200)
@given(moves, st.none() | st.integers(40, 200))
def test_segments_keep_what_they_hold(moves: list[tuple[str, int, int]], limit: int | None) -> None:
    pool, live, fresh = Pool(limit), [], iter(range(10_000))
    for move, which, size in moves:
        if move == "reserve":
            ids = (PREFIX if which % 2 else []) + [next(fresh) for _ in range(size)]
            segment = pool.reserve(ids, len(ids) + which)
            if segment is not None:
                assert segment.capacity >= len(ids) + which
                assert segment.ids == ids[: len(segment.ids)]
                assert not segment.ids or len(segment.ids) >= MIN_SHARED_PREFIX
                live.append((segment, ids))
            else:
                assert limit is not None
        elif live:
            segment, ids = live[which % len(live)]
            if move == "write":
                fill(pool, segment, ids[len(segment.ids) :][:size])
            elif move == "grow":
                if pool.resize(segment, segment.capacity + size):
                    ids += [next(fresh) for _ in range(segment.capacity - len(ids))]
            elif move == "copy prefix":
                before = len(segment.ids)
                pool.copy_prefix(segment, ids)
                assert len(segment.ids) >= before
                assert len(segment.ids) < len(ids) or len(segment.ids) == before
            else:
                live.remove((segment, ids))
                pool.release(segment)
        places = sorted((segment.start, segment.end) for segment, _ in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
        assert not places or places[-1][1] <= pool.size
        assert limit is None or pool.size <= limit
        for segment, ids in live:
            assert segment.ids == ids[: len(segment.ids)]
            if segment.ids:
                assert held(pool, segment) == segment.ids


def test_a_finished_sequences_beginning_is_taken_over() -> None:
    pool = Pool(limit=100)
    first = pool.reserve([*PREFIX, 1, 2, 3], 60)
    assert first is not None and first.ids == []
    fill(pool, first, [*PREFIX, 1, 2, 3])
    assert pool.reserve([*PREFIX, 4], 60) is None  # both do not fit
    pool.release(first)
    second = pool.reserve([*PREFIX, 4], 90)  # larger than what is taken over
    assert second is not None and second.ids == PREFIX
    assert held(pool, second) == PREFIX


def test_room_that_is_not_needed_is_not_taken() -> None:
    pool = Pool()
    for count in range(50):
        segment = pool.reserve([count] * 20, 100)
        assert segment is not None
        fill(pool, segment, [count] * 20)
        pool.release(segment)
    assert pool.size <= 125
    pool.clear()
    assert pool.bytes == pool.size == 0


@pytest.mark.parametrize(
    ("held", "ids", "expected"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2, 3], [1, 2, 3], 2), ([], [1], 0), ([1, 2], [1, 2, 3], 2)],
)
def test_the_last_token_is_always_read(held: list[int], ids: list[int], expected: int) -> None:
    """Without it there would be no logits."""
    assert shared_prefix(held, ids) == expected


def test_what_moves_or_frees_the_tensors_waits_for_a_read() -> None:
    """And nothing else does: sequences come, go and grow while others are read."""
    pool = Pool()
    one, other = (pool.reserve(PREFIX, 64) for _ in range(2))
    assert one is not None and other is not None and pool.size == 160
    fill(pool, one, PREFIX)
    held_by: list[bool] = []
    move = pool._move

    def moving(needed: int) -> None:
        held_by.append(pool.lock._lock._is_owned())  # type: ignore[attr-defined]
        move(needed)

    pool._move = moving  # type: ignore[method-assign]
    placed = threading.Event()

    def work() -> None:
        pool.resize(other, 70)
        pool.release(other)
        pool.reserve([1, 2, 3], 30)  # where the other was
        placed.set()
        pool.resize(one, 500)

    with pool.lock:  # as a read has it
        worker = threading.Thread(target=work)
        worker.start()
        assert placed.wait(20) and not held_by
    worker.join()
    assert held_by == [True] and one.capacity == 500 and held(pool, one) == PREFIX
    with pool.lock:
        worker = threading.Thread(target=pool.clear)
        worker.start()
        worker.join(0.1)
        assert worker.is_alive() and pool.bytes > 0
    worker.join()
    assert pool.size == pool.bytes == 0
