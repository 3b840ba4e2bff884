"""A child of `os.fork` never waits for what a thread of its parent's was in the midst of."""

from __future__ import annotations

import importlib.abc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, get_ident
from typing import Any

import pytest
import torch
from children import in_child
from conftest import generator, model
from fake_server import FakeServer
from test_remote import BASE, GUIDE, PROMPTS, pair
from tqdm.std import TqdmDefaultWriteLock

from blendin import Blend, BlendInGenerator, forks
from blendin.models import attention_route
from blendin.models.remote import connection

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SECONDS = 120.0
"""That only what hangs takes."""


def answers(gen: BlendInGenerator) -> list[Any]:
    """Of every path: a list, a text alone, a score."""
    policy = Blend(threshold=0.9)
    outs = gen.generate(list(PROMPTS[:2]), max_new_tokens=4, policy=policy, progress=False)
    alone = gen.generate(PROMPTS[2], max_new_tokens=4, policy=policy)
    return [
        *(out.token_ids for out in outs),
        alone.token_ids,
        list(gen.score(PROMPTS[0], " I do", policy=policy).token_ids),
    ]


@contextmanager
def another_thread(work: Callable[[Event, Event], None]) -> Iterator[None]:
    """Within it a thread is in the midst of some work, which tells when and waits for the end."""
    begun, over = Event(), Event()
    thread = Thread(target=work, args=(begun, over))
    thread.start()
    try:
        assert begun.wait(SECONDS)
        yield
    finally:
        over.set()
        thread.join()


def within(lock: Any) -> Callable[[Event, Event], None]:
    def hold(begun: Event, over: Event) -> None:
        with lock:
            begun.set()
            over.wait()

    return hold


def reading(gen: Any) -> Callable[[Event, Event], None]:
    """In the midst of a forward of the base."""

    def read(begun: Event, over: Event) -> None:
        here = get_ident()

        def wait(*_: Any) -> None:
            if get_ident() == here:
                begun.set()
                over.wait()

        hook = gen.base.model.register_forward_pre_hook(wait)
        gen.generate("Hi", max_new_tokens=1)
        hook.remove()

    return read


MIDST: dict[str, Callable[[Any], Callable[[Event, Event], None]]] = {
    "a forward": reading,
    "a bar's lock": lambda gen: within(TqdmDefaultWriteLock.th_lock),
    "a cost": lambda gen: within(gen.pair.speculation.cost_model._lock),
    "attention": lambda gen: within(attention_route._installing),
    "a loop's start": lambda gen: within(connection._making),
}


@pytest.mark.parametrize("midst", MIDST)
def test_local_models_go_on(midst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REST_SECONDS", 0.1)
    gen = generator(BASE, GUIDE)
    expected = answers(gen)

    def work() -> list[Any]:
        assert connection._making.acquire(timeout=1.0) and connection.loop()
        return answers(gen)

    with another_thread(MIDST[midst](gen)):
        assert in_child(work, SECONDS) == expected
    assert answers(gen) == expected


class SlowImports(importlib.abc.MetaPathFinder):
    """Keeps whoever imports sniffio, as httpcore tries for every request, for some time."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "sniffio":
            time.sleep(0.02)


def test_served_models_go_on_whenever_a_busy_process_forks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At awkward times: while requests begin, stream, and end, in threads of the parent."""
    if "sniffio" in sys.modules:
        pytest.skip("sniffio is imported: httpcore imports nothing any more")
    monkeypatch.setattr(connection, "REST_SECONDS", SECONDS)  # its thread may stand still
    slow = SlowImports()
    with FakeServer(model(*BASE)) as base, FakeServer(model(*GUIDE)) as guide:
        gen = pair(base.url, guide.url)
        expected = answers(gen)

        def work() -> list[Any]:
            sys.meta_path.remove(slow)
            return answers(gen)

        def ask(begun: Event, over: Event) -> None:
            begun.set()
            while not over.is_set():
                assert answers(gen) == expected

        sys.meta_path.insert(0, slow)
        try:
            with another_thread(ask):
                for nap in (0.0, 0.007, 0.013, 0.031, 0.057):
                    time.sleep(nap)
                    assert in_child(work, SECONDS) == expected
        finally:
            sys.meta_path.remove(slow)


def test_a_fork_does_not_wait_for_ever_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REST_SECONDS", 0.2)
    begun, over = Event(), Event()
    connection.loop().call_soon_threadsafe(lambda: (begun.set(), over.wait()))
    assert begun.wait(SECONDS)
    with pytest.warns(RuntimeWarning, match="requests is blocked"):
        assert in_child(lambda: 1, SECONDS) == 1
    over.set()


def test_torch_computes_on(caplog: pytest.LogCaptureFixture) -> None:
    """OpenMP's threads are in the parent alone, and its next loop in a child waits for them."""
    gen, large = generator(BASE, GUIDE), torch.rand(1 << 20)
    torch.set_num_threads(2)
    large.exp()

    def work() -> list[Any]:
        answers(gen)
        told = [text for text in caplog.messages if "was forked" in text]
        return [float(large.exp().min()) >= 1, torch.get_num_threads(), len(told)]

    assert in_child(work, SECONDS) == [True, 1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("kind", ["stream", "list"])
def test_a_result_that_was_being_made_is_refused(kind: str) -> None:
    gen = generator(BASE, GUIDE)
    results: Any = (
        gen.stream(PROMPTS[0], max_new_tokens=3)
        if kind == "stream"
        else gen.stream_batch(list(PROMPTS), max_new_tokens=3, progress=False)
    )

    def read(begun: Event, over: Event) -> None:
        make = results._make

        def slow() -> Any:
            begun.set()
            over.wait()
            return make()

        results._make = slow
        next(results)

    def work() -> str:
        try:
            next(results)
        except RuntimeError as error:
            results.close()
            return str(error)
        return "it went on"

    with another_thread(read):
        assert "when this process was forked" in in_child(work, SECONDS)
    assert len(list(results)) == (2 if kind == "stream" else 3)


def test_a_property_is_computed_while_another_thread_does() -> None:
    class Owner:
        begun, over = Event(), Event()

        @forks.cached_property
        def value(self) -> int:
            self.begun.set()
            self.over.wait()
            return 3

    def ask(begun: Event, over: Event) -> None:
        owner = Owner()
        Owner.begun, Owner.over = begun, over
        assert owner.value == owner.value == 3

    def work() -> int:
        Owner.over = Event()
        Owner.over.set()
        return Owner().value

    with another_thread(ask):
        assert in_child(work, SECONDS) == 3


def test_generations_count_the_forks_of_a_line() -> None:
    here = forks.generation()
    told = in_child(lambda: [forks.generation(), in_child(forks.generation, SECONDS)], SECONDS)
    assert told == [here + 1, here + 2] and forks.generation() == here
