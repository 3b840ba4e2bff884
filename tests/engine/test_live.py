"""The live queue: requests come, go and fail while others run, and each gets what it gets alone."""

from __future__ import annotations

import asyncio
import gc
import queue
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import fail_third_step, generator, model, tokenizer
from fake_server import FakeServer
from serving import PATIENCE, held_steps, until

from blendin import BaseOnly, Blend, BlendInGenerator, Defer, GuideOnly, InterventionCap, Nudge
from blendin.engine import scheduler as scheduler_module
from blendin.engine.live import Live, LiveQueue, Stopped
from blendin.engine.request import Request

PROMPTS = ("How many?", "def add(a, b):", "Où est le café?", "a", "48 + 24 = 72. The answer")
POLICIES = (
    Blend(0.7), Nudge(0.6), Blend(2, top_k=None), BaseOnly(), GuideOnly(), Defer(0.3),
    InterventionCap(Blend(0.9), grace_steps=2), Nudge(0.9, unit="token"),
)  # fmt: skip


@pytest.fixture(scope="module")
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))


def request(gen: BlendInGenerator, prompt: str = "Why?", **settings: Any) -> Request:
    return Request.of(prompt, None, None, default_policy=gen.policy, **settings)


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [
        (prompt, {"policy": policy, "max_new_tokens": 4 + 2 * place, "stop": (), **sampling})
        for policy in POLICIES
        for place, (prompt, sampling) in enumerate(
            zip(PROMPTS, ({}, {"do_sample": True, "seed": 7}, {}, {}, {"seed": 1}), strict=True)
        )
    ]


@pytest.mark.parametrize("cached", [None, 260], ids=["unbounded", "preempting"])
def test_each_gets_what_it_gets_alone(gen: BlendInGenerator, cached: int | None) -> None:
    """Whenever it comes, from whatever thread, in whatever company."""
    work = jobs()
    expected = [gen.generate(prompt, **settings).token_ids for prompt, settings in work]

    def ask(job: tuple[str, dict[str, Any]]) -> list[int]:
        time.sleep(random.random() / 50)
        live = live_queue.submit(request(gen, job[0], **job[1]))
        steps = list(live)
        assert steps == live.output.steps
        return live.output.token_ids

    with LiveQueue(gen.pair, max_batch_size=5, max_cached_tokens=cached) as live_queue:
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, work)) == expected
        assert live_queue.running == live_queue.waiting == 0


@pytest.mark.parametrize("ends", ["base", "guide", "both"])
def test_of_served_models_too(ends: str) -> None:
    base, guide = model("llama", "byte-level", 0), model("llama", "byte-level", 1)
    here = BlendInGenerator(base, guide)
    with FakeServer(base, delay=0.002) as one, FakeServer(guide, delay=0.002) as other:
        options = {"tokenizer": tokenizer("byte-level")}
        served: dict[str, Any] = {"base": base, "guide": guide}
        for role, server in (("base", one), ("guide", other)):
            if ends in (role, "both"):
                served |= {role: server.url, f"{role}_kwargs": options}
        gen = BlendInGenerator(**served)
        work = [(p, {"policy": Blend(0.7), "max_new_tokens": 8, "stop": ()}) for p in PROMPTS]
        expected = [here.generate(prompt, **settings).token_ids for prompt, settings in work]
        with LiveQueue(gen.pair) as live_queue:
            lives = []
            for prompt, settings in work:
                lives.append(live_queue.submit(request(gen, prompt, **settings)))
                time.sleep(0.01)  # it has to be woken while it waits for a server
            with held_steps() as held:
                gone = live_queue.submit(request(gen, max_new_tokens=200, stop=()))
                while not gone.output.steps:
                    held.make()
                gone.take()
                gone.cancel()
            for live in lives:
                list(live)
            assert [live.output.token_ids for live in lives] == expected
            list(gone)
            assert gone.output.stop_reason is None and live_queue.running == 0


def test_steps_come_as_they_are_decided_and_the_event_loop_goes_on(gen: BlendInGenerator) -> None:
    """Each is let go from the loop itself, once all before it have been read."""

    async def read(live: Live, told: list[list[Any]]) -> None:
        while new := await live.async_take():
            told.append(new)

    async def all_of_them() -> list[list[list[Any]]]:
        lives = [live_queue.submit(request(gen, p, max_new_tokens=12, stop=())) for p in PROMPTS]
        *quick, late = lives
        told: list[list[list[Any]]] = [[] for _ in lives]
        reading = [asyncio.create_task(read(*each)) for each in zip(quick, told, strict=False)]
        while not all(each.is_over for each in quick):
            made = held.made
            held.allow(1)
            while held.made == made and not all(each.is_over for each in quick):
                await asyncio.sleep(0.001)
            for live, parts in zip(quick, told, strict=False):
                while sum(map(len, parts)) < len(live.output.steps):
                    await asyncio.sleep(0.001)
        await asyncio.gather(*reading)
        held.allow()
        until(lambda: late.is_over)
        await read(late, told[-1])
        return told

    with LiveQueue(gen.pair) as live_queue, held_steps() as held:
        told = asyncio.run(asyncio.wait_for(all_of_them(), PATIENCE))
    for prompt, parts in zip(PROMPTS, told, strict=True):
        steps = gen.generate(prompt, max_new_tokens=12, stop=()).steps
        assert [step for part in parts for step in part] == steps
    assert len(told[-1]) == 1  # whoever reads slowly gets several at once


def test_a_wait_that_is_cancelled_loses_nothing(gen: BlendInGenerator) -> None:
    async def read() -> list[Any]:
        live, steps = live_queue.submit(request(gen, max_new_tokens=5, stop=())), []
        while True:
            try:
                if not (new := await asyncio.wait_for(live.async_take(), 0.005)):
                    return steps
                steps += new
            except TimeoutError:
                held.allow(1)  # which comes while the next wait begins, lasts or is cancelled

    with LiveQueue(gen.pair) as live_queue, held_steps() as held:
        steps = asyncio.run(asyncio.wait_for(read(), PATIENCE))
    assert steps == gen.generate("Why?", max_new_tokens=5, stop=()).steps


def test_who_leaves_frees_its_place_at_the_next_step(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    leave = gen.pair.leave
    monkeypatch.setattr(gen.pair, "leave", lambda *each: (left.append(each), leave(*each)))
    with LiveQueue(gen.pair, max_batch_size=1) as live_queue, held_steps() as held:
        begun = live_queue.submit(request(gen, max_new_tokens=500, stop=(), policy=Blend(0.5)))
        waiting = live_queue.submit(request(gen, max_new_tokens=500, stop=()))
        following = live_queue.submit(request(gen, "a", max_new_tokens=3, stop=()))
        held.make()
        made = len(begun.take())
        assert (live_queue.running, live_queue.waiting) == (1, 2)
        waiting.cancel()
        assert waiting.take() == [] and not waiting.output.steps
        begun.cancel()
        begun.cancel()
        held.allow()
        list(begun)
        assert made <= len(begun.output.steps) < 400 and begun.output.stop_reason is None
        list(following)
        assert following.output.stop_reason == "length"
        begun.cancel()  # of what is over nothing is left to be ended
    assert [each[0].ids for each in left if each[0] is begun.sequence.base]


def test_who_leaves_again_while_it_is_being_ended_ends_nothing_else(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's answer is left by its text, by itself and by its connection."""
    with LiveQueue(gen.pair) as live_queue:
        remove = live_queue.scheduler.remove

        def while_left_again(sequence: Any) -> None:
            live.cancel()
            remove(sequence)

        monkeypatch.setattr(live_queue.scheduler, "remove", while_left_again)
        live = live_queue.submit(request(gen, max_new_tokens=500, stop=()))
        live.take()
        live.cancel()
        list(live)
        until(lambda: not live_queue._cancelled or not live_queue._thread.is_alive())
        following = live_queue.submit(request(gen, max_new_tokens=3, stop=()))
        assert len(list(following)) == 3


def test_what_is_over_is_not_held_on_to(gen: BlendInGenerator) -> None:
    """Neither by a queue that has nothing to do, nor by one that was stopped before it could."""

    def is_gone(live: weakref.ref[Live]) -> bool:
        return live() is None or gc.collect() < 0 or live() is None

    with LiveQueue(gen.pair, max_batch_size=1) as live_queue:
        for count in (1, 2):
            lives = live_queue.submit_all([request(gen, max_new_tokens=2, stop=())] * count)
            assert all(len(list(live)) == 2 for live in lives)
            left = [weakref.ref(live) for live in lives]
            del lives
            until(lambda left=left: all(map(is_gone, left)))
        with held_steps() as held:
            live = live_queue.submit(request(gen, max_new_tokens=500, stop=()))
            held.make()
            stopping = threading.Thread(target=live_queue.stop)
            stopping.start()
            until(lambda: live_queue._is_cut)
            live.cancel()
        stopping.join()
        gone = weakref.ref(live)
        del live
        until(lambda: is_gone(gone))


def test_too_many_are_refused_and_all_of_one_call_or_none(gen: BlendInGenerator) -> None:
    asked = request(gen, max_new_tokens=300, stop=())
    with LiveQueue(gen.pair, max_batch_size=1, max_waiting=2) as live_queue, held_steps():
        with pytest.raises(ValueError, match="4 texts are asked for at once and 3 may"):
            live_queue.submit_all([asked] * 4)
        lives = live_queue.submit_all([asked] * 2)
        with pytest.raises(queue.Full, match="ask again later"):
            live_queue.submit_all([asked] * 2)
        lives.append(live_queue.submit(asked))
        with pytest.raises(queue.Full):
            live_queue.submit(asked)
        lives[1].cancel()
        live_queue.submit(asked)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "x " * 400}, "max_cached_tokens is 200"),
    ],
)
def test_what_cannot_run_is_refused_at_once(
    gen: BlendInGenerator, asked: Any, sentence: str
) -> None:
    with LiveQueue(gen.pair, max_cached_tokens=200) as live_queue:
        with pytest.raises(ValueError, match=sentence):
            live_queue.submit(request(gen, **asked))
        assert live_queue.running == live_queue.waiting == 0


def test_an_error_in_one_stays_its_own(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = gen.generate("a", max_new_tokens=12, stop=()).token_ids
    fail_third_step(monkeypatch, 33, "not numbers")
    with LiveQueue(gen.pair) as live_queue:
        bad = live_queue.submit(request(gen, max_new_tokens=33, stop=()))
        good = live_queue.submit(request(gen, "a", max_new_tokens=12, stop=()))
        with pytest.raises(FloatingPointError, match="not numbers") as caught:
            list(bad)
        assert len(caught.value.output.steps) == 2  # type: ignore[attr-defined]
        list(good)
        assert good.output.token_ids == expected and live_queue.error is None


def test_an_error_of_the_loop_reaches_all(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise MemoryError("no memory left")

    live_queue = LiveQueue(gen.pair, max_batch_size=1)
    monkeypatch.setattr(scheduler_module, "advance", broken)
    lives = live_queue.submit_all([request(gen), request(gen)])
    for live in lives:
        with pytest.raises(Stopped, match="MemoryError: no memory left"):
            live.take()
    assert isinstance(live_queue.error, MemoryError)
    with pytest.raises(Stopped, match="no memory left"):
        live_queue.submit(request(gen))
    live_queue.stop()


@pytest.mark.parametrize("patience", [0.0, PATIENCE])
def test_stopping_lets_them_finish_or_hands_back_what_there_is(
    gen: BlendInGenerator, patience: float
) -> None:
    live_queue = LiveQueue(gen.pair, max_batch_size=1)
    with held_steps() as held:
        lives = live_queue.submit_all([request(gen, max_new_tokens=20, stop=())] * 2)
        held.make()
        lives[0].take()
        stopping = threading.Thread(target=live_queue.stop, args=(patience,))
        stopping.start()
        until(lambda: live_queue._is_stopping if patience else live_queue._is_cut)
        with pytest.raises(Stopped, match="takes no requests"):
            live_queue.submit(request(gen))
    stopping.join()
    if patience:
        assert all(list(live) and live.output.stop_reason for live in lives)
    else:
        for live in lives:
            with pytest.raises(Stopped) as caught:
                list(live)
            assert caught.value.output is live.output  # type: ignore[attr-defined]
        assert 0 < len(lives[0].output.steps) < 20
    assert all(live.is_over for live in lives)


@pytest.mark.skipif(
    not hasattr(time, "pthread_getcpuclockid"), reason="a thread's own time is not told here"
)
def test_an_idle_queue_uses_no_time(gen: BlendInGenerator) -> None:
    with LiveQueue(gen.pair) as live_queue:
        list(live_queue.submit(request(gen, max_new_tokens=2)))
        assert live_queue._thread.ident is not None
        clock = time.pthread_getcpuclockid(live_queue._thread.ident)

        def is_idle() -> bool:
            before = time.clock_gettime(clock)
            time.sleep(0.3)
            return time.clock_gettime(clock) - before < 0.001

        until(is_idle)  # once its last step has ended
