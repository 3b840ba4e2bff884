"""`async for` over results: the event loop goes on, and whoever leaves loses nothing."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import pytest
from conftest import generator
from serving import PATIENCE

from blendin import BlendInGenerator
from blendin.engine import stream as engine


@pytest.fixture
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("blendin")]


def test_the_steps_are_those_of_the_plain_loop(gen: BlendInGenerator) -> None:
    async def steps() -> list[Any]:
        return [step async for step in gen.stream("Why?", max_new_tokens=8)]

    before = set(workers())
    assert asyncio.run(steps()) == gen.generate("Why?", max_new_tokens=8).steps
    assert not [thread for thread in workers() if thread not in before and thread.daemon]


def test_a_batch_comes_so_too(gen: BlendInGenerator) -> None:
    async def results() -> list[Any]:
        return [result async for result in gen.stream_batch(["Why?", "x"], max_new_tokens=4)]

    found = dict(asyncio.run(results()))
    assert [found[place].token_ids for place in range(2)] == [
        out.token_ids for out in gen.generate(["Why?", "x"], max_new_tokens=4)
    ]


def test_the_event_loop_goes_on(gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step waits for it to turn, and would for ever where the loop waits for the step."""
    advance, ticked = engine.advance, threading.Semaphore(0)

    def waiting(*args: Any) -> None:
        for _ in range(3):
            assert ticked.acquire(timeout=PATIENCE)
        advance(*args)

    monkeypatch.setattr(engine, "advance", waiting)

    async def steps() -> int:
        async def tick() -> None:
            while True:
                ticked.release()
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        count = 0
        async for _ in gen.stream("Why?", max_new_tokens=4, speculate="off"):
            count += 1
            while ticked.acquire(blocking=False):
                pass  # the next step has to see others
        ticking.cancel()
        return count

    assert asyncio.run(steps()) == 4


def test_two_streams_run_side_by_side(gen: BlendInGenerator) -> None:
    async def text(prompt: str) -> str:
        stream = gen.stream(prompt, max_new_tokens=6, speculate="off")
        async for _ in stream:
            await asyncio.sleep(0)
        return stream.output.text

    async def texts() -> list[str]:
        return [await text("Why?"), await text("x")]

    assert asyncio.run(texts()) == [
        gen.generate(prompt, max_new_tokens=6, speculate="off").text for prompt in ("Why?", "x")
    ]


def test_a_cancelled_wait_loses_no_step(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step comes while the wait after a cancelled one begins, lasts or is cancelled."""
    advance, allowed = engine.advance, threading.Semaphore(0)

    def held(*args: Any) -> None:
        assert allowed.acquire(timeout=PATIENCE)
        advance(*args)

    async def steps() -> list[Any]:
        stream, found = gen.stream("Why?", max_new_tokens=5), []
        while True:
            try:
                found.append(await asyncio.wait_for(anext(stream), 0.02))
            except TimeoutError:
                allowed.release()
            except StopAsyncIteration:
                return found

    with monkeypatch.context() as patch:
        patch.setattr(engine, "advance", held)
        found = asyncio.run(steps())
    assert found == gen.generate("Why?", max_new_tokens=5).steps


def test_a_cancelled_task_ends_and_what_was_made_stays(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled while its third step is being made."""
    stream = gen.stream("Why?", max_new_tokens=200, speculate="off")
    advance, third, over = engine.advance, threading.Event(), threading.Event()

    def held(*args: Any) -> None:
        if len(stream.output.steps) == 2:
            third.set()
            assert over.wait(PATIENCE)
        advance(*args)

    monkeypatch.setattr(engine, "advance", held)

    async def read() -> None:
        async with aclosing(stream):
            async for _ in stream:
                pass

    async def cancelled() -> None:
        task = asyncio.create_task(read())
        assert await asyncio.to_thread(third.wait, PATIENCE)
        task.cancel()
        await asyncio.sleep(0)
        over.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert len(stream.output.steps) == 3 and stream.output.stop_reason is None
    assert list(stream) == [] and len(stream.output.steps) == 3


def test_closing_frees_the_caches_and_ends_the_steps(gen: BlendInGenerator) -> None:
    left: list[Any] = []
    stream = gen.stream("Why?", max_new_tokens=20)
    whole = gen.generate("Why?", max_new_tokens=20).steps
    first = [next(stream), next(stream)]
    leave = gen.pair.leave
    gen.pair.leave = lambda *contexts: (left.append(contexts), leave(*contexts))[1]  # type: ignore[method-assign]
    try:
        stream.close()
        stream.close()
    finally:
        del gen.pair.leave
    assert len(left) == 1
    assert first == whole[:2] == stream.output.steps
    assert next(stream, None) is None


def test_an_error_comes_out_where_it_is_awaited(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise FloatingPointError("not numbers")

    monkeypatch.setattr(engine, "advance", broken)

    async def read() -> None:
        async for _ in gen.stream("Why?"):
            pass

    with pytest.raises(FloatingPointError, match="not numbers"):
        asyncio.run(read())


def test_two_tasks_do_not_wait_for_one_stream(gen: BlendInGenerator) -> None:
    async def both() -> list[Any]:
        stream = gen.stream("Why?", max_new_tokens=3)
        return await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)

    _, refused = asyncio.run(both())
    assert isinstance(refused, RuntimeError) and "another task" in str(refused)
