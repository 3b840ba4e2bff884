"""The live queue: requests come, go and fail while others run, and each gets what it gets alone."""

from __future__ import annotations

import asyncio
import gc
import queue
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import fail_third_step, generator, model, tokenizer
from fake_server import FakeServer
from serving import until

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


@contextmanager
def slow_steps(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> Iterator[None]:
    advance = scheduler_module.advance

    def slowly(*args: Any) -> None:
        time.sleep(seconds)
        advance(*args)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler_module, "advance", slowly)
        yield


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
            gone = live_queue.submit(request(gen, max_new_tokens=200, stop=()))
            gone.take()
            gone.cancel()
            for live in lives:
                list(live)
            assert [live.output.token_ids for live in lives] == expected
            list(gone)
            assert gone.output.stop_reason is None and live_queue.running == 0


def test_steps_come_as_they_are_decided_and_the_event_loop_goes_on(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(live: Live, pause: float = 0.0) -> tuple[list[Any], int]:
        steps, times = [], 0
        while new := await live.async_take():
            steps, times = steps + new, times + 1
            await asyncio.sleep(pause)
        return steps, times

    async def all_of_them() -> list[Any]:
        lives = [live_queue.submit(request(gen, p, max_new_tokens=12, stop=())) for p in PROMPTS]
        return await asyncio.gather(*map(read, lives[:-1]), read(lives[-1], pause=0.2))

    with slow_steps(monkeypatch), LiveQueue(gen.pair) as live_queue:
        *quick, (late_steps, late) = asyncio.run(all_of_them())
    for prompt, (steps, times) in zip(PROMPTS, quick, strict=False):
        assert steps == gen.generate(prompt, max_new_tokens=12, stop=()).steps
        assert times > len(steps) // 2
    assert late_steps == gen.generate(PROMPTS[-1], max_new_tokens=12, stop=()).steps
    assert late <= 6  # whoever reads slowly gets several at once


def test_a_wait_that_is_cancelled_loses_nothing(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read() -> list[Any]:
        live, steps = live_queue.submit(request(gen, max_new_tokens=5, stop=())), []
        while True:
            try:
                if not (new := await asyncio.wait_for(live.async_take(), 0.005)):
                    return steps
                steps += new
            except TimeoutError:
                continue

    with slow_steps(monkeypatch), LiveQueue(gen.pair) as live_queue:
        assert asyncio.run(read()) == gen.generate("Why?", max_new_tokens=5, stop=()).steps


def test_who_leaves_frees_its_place_at_the_next_step(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    leave = gen.pair.leave
    monkeypatch.setattr(gen.pair, "leave", lambda *each: (left.append(each), leave(*each)))
    with slow_steps(monkeypatch), LiveQueue(gen.pair, max_batch_size=1) as live_queue:
        begun = live_queue.submit(request(gen, max_new_tokens=500, stop=(), policy=Blend(0.5)))
        waiting = live_queue.submit(request(gen, max_new_tokens=500, stop=()))
        following = live_queue.submit(request(gen, "a", max_new_tokens=3, stop=()))
        made = len(begun.take())
        assert (live_queue.running, live_queue.waiting) == (1, 2)
        waiting.cancel()
        assert waiting.take() == [] and not waiting.output.steps
        begun.cancel()
        begun.cancel()
        list(begun)
        assert made <= len(begun.output.steps) < 400 and begun.output.stop_reason is None
        list(following)
        assert following.output.stop_reason == "length"
        begun.cancel()  # of what is over nothing is left to be ended
    assert [each[0].ids for each in left if each[0] is begun.sequence.base]


def test_too_many_are_refused_and_all_of_one_call_or_none(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(gen, max_new_tokens=300, stop=())
    with (
        slow_steps(monkeypatch),
        LiveQueue(gen.pair, max_batch_size=1, max_waiting=2) as live_queue,
    ):
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


@pytest.mark.parametrize("patience", [0.0, 30.0])
def test_stopping_lets_them_finish_or_hands_back_what_there_is(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    with slow_steps(monkeypatch):
        live_queue = LiveQueue(gen.pair, max_batch_size=1)
        lives = live_queue.submit_all([request(gen, max_new_tokens=20, stop=())] * 2)
        lives[0].take()
        stopping = threading.Thread(target=live_queue.stop, args=(patience,))
        stopping.start()
        until(lambda: live_queue._is_stopping)
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


def test_an_idle_queue_uses_no_time(gen: BlendInGenerator) -> None:
    with LiveQueue(gen.pair) as live_queue:
        list(live_queue.submit(request(gen, max_new_tokens=2)))
        gc.collect()
        used = []
        for _ in range(20):  # what other tests have left behind may be busy for a while
            before = time.process_time()
            time.sleep(0.3)
            used.append(time.process_time() - before)
            if used[-1] < 0.1:
                return
        pytest.fail(f"seconds of processor time in 0.3: {used}")
