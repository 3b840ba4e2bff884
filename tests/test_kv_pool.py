"""Spans never overlap, never lose what they hold, and never exceed the limit."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin.models.kv_pool import SHARED_AT_LEAST, Pool, Span, shared


@torch.inference_mode()
def fill(pool: Pool, span: Span, ids: list[int]) -> None:
    """Stores keys and values that tell their token, as a forward does."""
    places = torch.arange(span.start + len(span.ids), span.start + len(span.ids) + len(ids))
    tokens = torch.tensor(ids, dtype=torch.float32)[:, None, None]
    for layer in (0, 1):
        pool.write(layer, places, tokens + layer, -tokens - layer)
    span.ids += ids


@torch.inference_mode()
def held(pool: Pool, span: Span) -> list[int]:
    """The tokens that a span's keys and values tell of, once all layers agree."""
    empty = torch.empty(0, dtype=torch.int64)
    nothing = torch.empty(0, 1, 1)
    tokens = []
    for layer in (0, 1):
        keys, values = pool.write(layer, empty, nothing, nothing)
        at = slice(span.start, span.start + len(span.ids))
        tokens += [(keys[at, 0, 0] - layer).tolist(), (-values[at, 0, 0] - layer).tolist()]
    assert all(each == tokens[0] for each in tokens)
    return [int(token) for token in tokens[0]]


moves = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "reserve", "write", "grow", "release", "borrow")),
        st.integers(0, 10),
        st.integers(1, 60),
    ),
    max_size=40,
)
PREFIX = list(range(1000, 1000 + 2 * SHARED_AT_LEAST))


@settings(deadline=None, max_examples=200)
@given(moves, st.none() | st.integers(40, 200))
def test_spans_keep_what_they_hold(moves: list[tuple[str, int, int]], limit: int | None) -> None:
    pool, live, fresh = Pool(limit), [], iter(range(10_000))
    for move, which, size in moves:
        if move == "reserve":
            ids = (PREFIX if which % 2 else []) + [next(fresh) for _ in range(size)]
            span = pool.reserve(ids, len(ids) + which)
            if span is not None:
                assert span.capacity >= len(ids) + which
                assert span.ids == ids[: len(span.ids)]
                assert not span.ids or len(span.ids) >= SHARED_AT_LEAST
                live.append((span, ids))
            else:
                assert limit is not None
        elif live:
            span, ids = live[which % len(live)]
            if move == "write":
                fill(pool, span, ids[len(span.ids) :][:size])
            elif move == "grow":
                if pool.resize(span, span.capacity + size):
                    ids += [next(fresh) for _ in range(span.capacity - len(ids))]
            elif move == "borrow":
                before = len(span.ids)
                pool.borrow(span, ids)
                assert len(span.ids) >= before
                assert len(span.ids) < len(ids) or len(span.ids) == before
            else:
                live.remove((span, ids))
                pool.release(span)
        places = sorted((span.start, span.end) for span, _ in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
        assert not places or places[-1][1] <= pool.size
        assert limit is None or pool.size <= limit
        for span, ids in live:
            assert span.ids == ids[: len(span.ids)]
            if span.ids:
                assert held(pool, span) == span.ids


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
        span = pool.reserve([count] * 20, 100)
        assert span is not None
        fill(pool, span, [count] * 20)
        pool.release(span)
    assert pool.size <= 125
    pool.clear()
    assert pool.bytes == pool.size == 0


@pytest.mark.parametrize(
    ("held", "ids", "expected"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2, 3], [1, 2, 3], 2), ([], [1], 0), ([1, 2], [1, 2, 3], 2)],
)
def test_the_last_token_is_always_read(held: list[int], ids: list[int], expected: int) -> None:
    """Without it there would be no logits."""
    assert shared(held, ids) == expected
