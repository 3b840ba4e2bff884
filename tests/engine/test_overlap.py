"""The base steps on while the guide reads, and every text is that of a base that waits."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from children import in_child
from conftest import model, tokenizer
from serving import until
from tiny import tiny_model

from blendin import BaseOnly, Blend, BlendInGenerator, Defer, GuideOnly, InterventionCap, Nudge
from blendin import generator as generator_module
from blendin.engine import guide_thread
from blendin.engine.guide_thread import Flight, GuideThread, Reading
from blendin.engine.live import LiveQueue, Stopped
from blendin.engine.overlapped_steps import OverlappedSteps
from blendin.engine.request import Request
from blendin.engine.scheduler import Scheduler
from blendin.engine.sequence import SequenceState
from blendin.models import local
from blendin.models.context import Context

SECONDS = 20.0
NAME = "blendin-guide"
PROMPTS = ("How many?", "def add(a, b):", "Où est le café?", "a", "48 + 24 = 72. The answer")
POLICIES = (
    Blend(0.7), Nudge(0.6), Blend(2, top_k=None), BaseOnly(), GuideOnly(), Defer(0.3),
    InterventionCap(Blend(0.9), grace_steps=2), Blend(0.4),
)  # fmt: skip
LIST = tuple(PROMPTS[place % 5] for place in range(len(POLICIES)))

Made = tuple[BlendInGenerator, BlendInGenerator]


@pytest.fixture(scope="module")
def both() -> Made:
    """A pair whose base waits, and the same with a guide's thread; hooks are put on the guide."""
    lm = tiny_model("llama", tokenizer("sentencepiece"), 1)
    pair: Any = model("llama", "byte-level", 0), (lm, tokenizer("sentencepiece"))
    return BlendInGenerator(*pair), BlendInGenerator(*pair, overlap=True)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits who is free, however the times fall."""

    def patience(self: OverlappedSteps, count: int) -> float | None:
        return None if len(self._waiting) == count else 0.0

    monkeypatch.setattr(OverlappedSteps, "patience", patience)


def guides_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


class Gate:
    """The guide's reads in its thread wait here, each until it is let through."""

    def __init__(self) -> None:
        self.begun, self.over, self.rows = threading.Event(), threading.Event(), list[int]()

    def __call__(self, *_: Any, **given: Any) -> None:
        if threading.current_thread().name.startswith(NAME):
            self.rows.append(given["input_ids"].numel())
            self.begun.set()
            assert self.over.wait(SECONDS)


@contextmanager
def gated(gen: BlendInGenerator) -> Iterator[Gate]:
    gate = Gate()
    hook = gen.guide.model.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda module, args, kwargs: gate(**kwargs), with_kwargs=True
    )
    try:
        yield gate
    finally:
        gate.over.set()
        until(lambda: not guides_threads())
        hook.remove()


@contextmanager
def watched(gen: BlendInGenerator, work: Callable[[], None]) -> Iterator[None]:
    """Calls something before each forward of the base."""
    hook = gen.base.model.register_forward_pre_hook(lambda *_: work())  # type: ignore[attr-defined]
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("size", [2, 32])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_cached_tokens": 130},
        {"do_sample": True, "seed": 7},
        {"speculate": 3, "trace_top": 2},
        {"speculate": "guide"},
    ],
    ids=["greedy", "few places", "drawn", "drafted", "drafted by the guide"],
)
def test_the_traces_are_those_of_a_base_that_waits(
    both: Made, settings: dict[str, Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = [], GuideThread.ask
    monkeypatch.setattr(
        GuideThread, "ask", lambda self, reading: (asked.append(reading), ask(self, reading))
    )
    lengths = [4 + 2 * place for place in range(len(LIST))]
    waiting, overlapped = (
        gen.generate(
            list(LIST), policy=POLICIES, max_new_tokens=lengths, max_batch_size=size, **settings
        )
        for gen in both
    )
    for one, other in zip(waiting, overlapped, strict=True):
        assert (one.steps, one.stop_reason) == (other.steps, other.stop_reason)
        assert one.error is other.error is None and one.text == other.text
        assert one.base_forwards == other.base_forwards
    assert asked and all(reading.is_over.is_set() for reading in asked)


def test_a_sequence_that_finds_no_room_waits_and_goes_on(
    both: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    init, preempt, preempted = SequenceState.__init__, Scheduler._preempt, []

    def modest(self: SequenceState, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for context in (self.base, self.guide):
            if context is not None:
                context.expected = len(context.ids) + 1

    def watching(self: Scheduler) -> None:
        preempted.extend(each for each in self.running if each.preempted)
        preempt(self)

    monkeypatch.setattr(SequenceState, "__init__", modest)
    monkeypatch.setattr(Scheduler, "_preempt", watching)
    asked: dict[str, Any] = {"policy": POLICIES, "max_new_tokens": 20, "stop": ()}
    waiting, overlapped = (gen.generate(list(LIST), max_cached_tokens=150, **asked) for gen in both)
    assert [out.steps for out in waiting] == [out.steps for out in overlapped]
    assert not any(out.error for out in overlapped) and preempted


def test_the_base_goes_on_while_the_guide_reads(both: Made) -> None:
    """The guide's first read is not over until the base has made three steps more."""
    _, gen = both
    expected = gen.generate(list(LIST), policy=POLICIES, max_new_tokens=12)
    steps = 0

    def stepped() -> None:
        nonlocal steps
        steps += gate.begun.is_set()
        if steps == 3:
            gate.over.set()

    with gated(gen) as gate, watched(gen, stepped):
        outs = gen.generate(list(LIST), policy=POLICIES, max_new_tokens=12)
    assert steps >= 3
    assert [out.steps for out in outs] == [out.steps for out in expected]


def readings(gen: BlendInGenerator, *texts: str) -> list[Reading]:
    contexts = [Context(gen.guide.encode_prompt(text)) for text in texts]
    return [Reading(None, [None], [context]) for context in contexts]  # type: ignore[list-item, arg-type]


def test_what_gathers_meanwhile_is_read_together_and_what_is_taken_out_is_not(both: Made) -> None:
    _, gen = both
    alone = [gen.guide.forward(Context(gen.guide.encode_prompt(text))) for text in PROMPTS]
    asked, thread = readings(gen, *PROMPTS), GuideThread(gen.guide)
    with gated(gen) as gate:
        thread.ask(asked[0])
        assert gate.begun.wait(SECONDS)
        for reading in asked[1:]:
            thread.ask(reading)
        thread.drop(asked[2], 0)  # nobody waits: it is not being read
        gate.over.set()
        flights: list[Flight] = []
        while len(flights) < 2:
            flights += thread.finished(SECONDS)
        thread.close(lambda: None)
    assert [flight.readings for flight in flights] == [asked[:1], asked[1:]]
    assert len(flights[1].places) == 3 and asked[2].contexts[0].forwards == 0
    answers = [answer for flight in flights for _, answer in flight.answers()]
    assert answers[2].returned is None and answers[2].dropped == {0}
    for place in (0, 1, 3, 4):
        torch.testing.assert_close(answers[place].returned, alone[place])


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_a_guides_failing_row_fails_alone(kind: type[Exception]) -> None:
    lm, bad = tiny_model("llama", tokenizer("byte-level"), 1), tokenizer("byte-level").encode("@")
    forward = lm.forward

    def failing(*args: Any, **given: Any) -> Any:
        if bool((given["input_ids"] == bad[0]).any()):
            raise kind("not this one")
        return forward(*args, **given)

    lm.forward = failing
    pair: Any = model("gemma3", "sentencepiece", 2), (lm, tokenizer("byte-level"))
    prompts = ["How many?", "An @ sign", "def add(a, b):", "a"]
    asked: dict[str, Any] = {"policy": [Blend(0.6), Blend(2), Nudge(0.7), BaseOnly()]}
    waiting, overlapped = (
        BlendInGenerator(*pair, overlap=overlap).generate(prompts, max_new_tokens=12, **asked)
        for overlap in (False, True)
    )
    assert overlapped[1].error == "not this one" and overlapped[3].error is None
    assert [(o.steps, o.error) for o in waiting] == [(o.steps, o.error) for o in overlapped]


class Broken(BaseException):
    """What no row is blamed for."""


def test_what_breaks_the_thread_off_is_raised_to_who_asked(both: Made) -> None:
    _, gen = both

    def broken(*_: Any) -> None:
        if threading.current_thread().name.startswith(NAME):
            raise Broken

    hook = gen.guide.model.register_forward_pre_hook(broken)  # type: ignore[attr-defined]
    try:
        with pytest.raises(Broken) as caught:
            gen.generate(list(LIST), policy=POLICIES, max_new_tokens=12)
    finally:
        hook.remove()
    assert len(caught.value.outputs) == len(LIST)  # type: ignore[attr-defined]
    until(lambda: not guides_threads())


def request(gen: BlendInGenerator, prompt: str, **settings: Any) -> Request:
    return Request.of(prompt, None, None, default_policy=gen.policy, stop=(), **settings)


def test_who_is_taken_out_while_it_is_read_keeps_what_it_has_and_its_place_till_then(
    both: Made,
) -> None:
    waiting, gen = both
    asked = [("a", Blend(2), 400), ("Où", Blend(2), 20), ("def add", BaseOnly(), 60)]
    expected = [
        waiting.generate(text, policy=policy, max_new_tokens=length, stop=()).steps
        for text, policy, length in asked[1:]
    ]
    with gated(gen) as gate, LiveQueue(gen.pair) as queue:
        gone, *others = queue.submit_all(
            [
                request(gen, text, policy=policy, max_new_tokens=length)
                for text, policy, length in asked
            ]
        )
        assert gate.begun.wait(SECONDS)
        made = len(gone.output.steps)
        gone.cancel()
        until(lambda: not queue._cancelled)  # the queue's thread has it, and waits for the read
        assert gone.sequence.guide is not None and gone.sequence.guide.cache is not None
        gate.over.set()
        assert [list(other) for other in others] == expected and not list(gone)[made:]
        assert gone.sequence.guide.cache is None and gone.output.stop_reason is None


def test_a_queue_stops_in_the_midst_of_a_read(both: Made) -> None:
    _, gen = both
    with gated(gen) as gate:
        queue = LiveQueue(gen.pair)
        lives = queue.submit_all(
            [request(gen, text, policy=Blend(2), max_new_tokens=400) for text in PROMPTS]
            + [request(gen, "a", policy=BaseOnly(), max_new_tokens=400)]
        )
        assert gate.begun.wait(SECONDS)
        queue.stop()
        assert all(live.is_over for live in lives) and queue.error is None
        with pytest.raises(Stopped):
            list(lives[-1])
        gate.over.set()
        until(lambda: all(each.sequence.guide.cache is None for each in lives[:-1]))  # type: ignore[union-attr]


def test_the_pool_is_locked_while_it_is_read_into(both: Made) -> None:
    _, gen = both
    batch = gen.stream_batch(list(LIST), policy=POLICIES, max_new_tokens=6)
    pool, owned = batch._scheduler.pools["guide"], []
    hook = gen.guide.model.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda *_: owned.append(pool.lock._lock._is_owned())  # type: ignore[attr-defined]
    )
    try:
        list(batch)
    finally:
        hook.remove()
    assert owned and all(owned)


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_ending_waits_for_no_read_and_the_caches_are_freed_after_it(both: Made, how: str) -> None:
    """The garbage collector may end a list in the midst of anything: waiting could be for ever."""
    _, gen = both
    with gated(gen) as gate:
        batch = gen.stream_batch(
            ["a", "def", "x"],
            policy=[Blend(2), BaseOnly(), BaseOnly()],
            max_new_tokens=[300, 300, 2],
            stop=(),
        )
        assert next(batch)[0] == 2 and gate.begun.wait(SECONDS)
        pool, thread = batch._scheduler.pools["guide"], guides_threads()[0]
        (sequence,) = [each for each in batch._scheduler.running if each.index == 0]
        context, known = sequence.guide, weakref.ref(batch)
        del sequence
        if how == "closed":
            batch.close()
        del batch
        gc.collect()
        assert known() is None or how == "closed"
        assert context is not None and context.cache is not None and thread.is_alive()
        gate.over.set()
        thread.join(SECONDS)
        assert not thread.is_alive() and context.cache is None and pool.bytes == 0
    del context
    gc.collect()
    assert known() is None


def test_no_thread_begins_before_anybody_would_wait(
    both: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for what is alone, nor for a score, nor where all of a batch need the guide."""
    waiting, gen = both
    monkeypatch.setattr(guide_thread, "ThreadPoolExecutor", None)
    for asked, policy in (("a", Blend(2)), (["a"], Blend(2)), (list(PROMPTS), BaseOnly())):
        assert gen.generate(asked, policy=policy, max_new_tokens=6) is not None
    assert gen.score("a", " b", policy=Blend(2)) == waiting.score("a", " b", policy=Blend(2))
    gen.generate(list(PROMPTS), policy=Blend(2), max_new_tokens=6, stop=())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_goes_on_with_what_its_parents_thread_was_reading(both: Made) -> None:
    waiting, gen = both
    asked: dict[str, Any] = {"policy": [Blend(2), Blend(0.6), BaseOnly()], "stop": ()}
    lengths = [12, 12, 2]
    expected = waiting.generate(["a", "def", "x"], max_new_tokens=lengths, **asked)
    with gated(gen) as gate:
        batch = gen.stream_batch(["a", "def", "x"], max_new_tokens=lengths, **asked)
        assert next(batch)[0] == 2 and gate.begun.wait(SECONDS)

        def rest() -> list[Any]:
            gate.over.set()
            return sorted((place, out.token_ids) for place, out in batch)

        told = in_child(rest, SECONDS)
        assert told == [[place, expected[place].token_ids] for place in (0, 1)]
        gate.over.set()
        assert [out.token_ids for _, out in sorted(batch)] == [each for _, each in told]


def test_threads_get_what_each_gets_alone(both: Made) -> None:
    """Several lists of one generator, each with a thread for the guide."""
    waiting, gen = both
    work = [([*LIST[place:], *LIST[:place]], POLICIES[place]) for place in (0, 1, 5, 7)]

    def run(of: BlendInGenerator, job: Any) -> list[Any]:
        return [out.steps for out in of.generate(job[0], policy=job[1], max_new_tokens=6)]

    expected = [run(waiting, job) for job in work]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: run(gen, job), work)) == expected


@pytest.mark.parametrize(
    ("rows", "left", "waits"),
    [(2, 0.1, 0.5), (2, 0.6, 0.0), (2, -0.1, 0.4), (2, -0.6, 0.0), (6, 0.6, 1.5)],
)
def test_the_base_waits_where_that_costs_less_than_a_step_without(
    both: Made, monkeypatch: pytest.MonkeyPatch, rows: int, left: float, waits: float
) -> None:
    """Of 8 sequences some are read: waiting pays up to their share of a step, here of 2 seconds."""
    monkeypatch.undo()
    steps = OverlappedSteps(both[1].pair)
    assert steps.patience(8) == 0.0
    steps._waiting = dict.fromkeys(range(rows))  # type: ignore[assignment, arg-type]
    assert steps.patience(rows) is None and steps.patience(8) == 0.0  # nothing is known
    steps._base_seconds.append(2.0)
    monkeypatch.setattr(steps._thread, "expected", lambda: (rows, left))
    assert steps.patience(8) == pytest.approx(waits)


def test_it_is_so_where_the_models_share_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = model("llama", "byte-level", 0), model("llama", "sentencepiece", 1)
    places = {id(pair[0][0]): {"cuda:0", "cuda:1"}, id(pair[1][0]): {"cuda:2"}}
    monkeypatch.setattr(local, "run_devices", lambda lm: set(map(torch.device, places[id(lm)])))
    found = [BlendInGenerator(*pair, overlap=overlap).pair for overlap in (None, False, True)]
    assert [each.overlaps for each in found] == [True, False, True]
    assert not any(each.is_async for each in found)
    places[id(pair[1][0])].add("cuda:1")  # one layer of it
    found = [BlendInGenerator(*pair, overlap=overlap).pair for overlap in (None, False, True)]
    assert [each.overlaps for each in found] == [False, False, True]
    places[id(pair[1][0])] = {"cuda:2"}
    monkeypatch.setattr(local, "is_offloaded", lambda lm: lm is pair[0][0])
    assert not BlendInGenerator(*pair).pair.overlaps


def test_it_cannot_be_asked_of_models_that_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.setattr(generator_module, "load", None)
    pair = model("llama", "byte-level", 0), "http://127.0.0.1:9/v1"
    with pytest.raises(ValueError, match="and the guide does not: leave it out"):
        BlendInGenerator(*pair, overlap=True)
    with pytest.raises(ValueError, match="and the base does not"):
        BlendInGenerator(*reversed(pair), overlap=True)
    with pytest.raises(ValueError, match="overlap is 'yes'; use True or False, or None for where"):
        BlendInGenerator(*pair, overlap="yes")  # type: ignore[arg-type]
