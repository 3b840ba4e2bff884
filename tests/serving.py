"""A server of a tiny pair in a thread of this process, on a real socket."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import httpx

from blendin import BlendInGenerator
from blendin.engine.scheduler import Scheduler
from blendin.serve import ServeSettings
from blendin.serve import run as run_module
from blendin.serve.run import Server, listen
from blendin.serve.service import Service

PATIENCE = 120.0
"""Seconds that only what would hang takes: any thread may stand still for some, any time."""


@dataclass
class Served:
    """A running server.

    Attributes:
        url: its address.
        client: of it.
        service: what its routes ask.
        server: uvicorn's.
        thread: that it runs in.
    """

    url: str
    client: httpx.Client
    service: Service
    server: Server
    thread: threading.Thread

    def chat(self, text: Any = "How many?", **fields: Any) -> httpx.Response:
        """Asks a question, or goes on with messages."""
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        return self.client.post("/v1/chat/completions", json={"messages": messages, **fields})

    def complete(self, prompt: Any = "How many?", **fields: Any) -> httpx.Response:
        """Goes on with a prompt."""
        return self.client.post("/v1/completions", json={"prompt": prompt, **fields})

    @property
    def in_flight(self) -> int:
        """How many texts run or wait, counted at one moment."""
        queue = self.service.queue
        with queue._lock:
            return len(queue._waiting) + len(queue._begun)

    def stop(self) -> None:
        """As a signal does."""
        self.server.should_exit = True


@contextmanager
def served(gen: BlendInGenerator, wait: bool = True, **settings: Any) -> Iterator[Served]:
    """Serves a generator on a port of its own.

    Args:
        gen: the generator, or what makes it.
        wait: whether to wait until it is loaded.
        **settings: of `ServeSettings`.
    """
    options = ServeSettings(**{"port": 0, "policy": getattr(gen, "policy", None)} | settings)
    service = Service(options, gen if callable(gen) else lambda: gen)
    with listen(options) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with mock.patch.object(run_module, "AFTERWARDS", int(PATIENCE)):
            server = Server(service)
        service.start(on_failure=server.give_up)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        headers = {} if options.api_key is None else {"Authorization": f"Bearer {options.api_key}"}
        try:
            with httpx.Client(base_url=url, timeout=PATIENCE, headers=headers) as client:
                while wait and client.get("/health").status_code != 200:
                    time.sleep(0.01)
                yield Served(url, client, service, server, thread)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def until(holds: Callable[[], bool]) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Steps:
    """The steps of the live queues of this process, each when a test lets it be made.

    One is of all that runs: a sequence may gain several by it, or none.

    Attributes:
        made: how many there were.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._allowed, self.made = 0.0, 0

    def run(self, make: Callable[[], None]) -> None:
        """Makes one, as soon as it may be."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._allowed, PATIENCE), "no step is let go"
            self._allowed -= 1
        try:
            make()
        finally:
            with self._changed:
                self.made += 1
                self._changed.notify_all()

    def make(self, count: int = 1) -> None:
        """Lets so many be made; returns when they are."""
        with self._changed:
            wanted = self.made + count
            self.allow(count)
            assert self._changed.wait_for(lambda: self.made >= wanted, PATIENCE), "nothing runs"

    def allow(self, count: float = math.inf) -> None:
        """Lets so many be made, all of them by default."""
        with self._changed:
            self._allowed += count
            self._changed.notify_all()


@contextmanager
def held_steps() -> Iterator[Steps]:
    """Within it live queues make the steps that they are let make; then they go on.

    To be entered after the queue, or the queue's end would wait for a step that nobody lets go.
    """
    steps, advance = Steps(), Scheduler._advance

    def held(scheduler: Scheduler) -> None:
        steps.run(lambda: advance(scheduler))

    with mock.patch.object(Scheduler, "_advance", held):
        try:
            yield steps
        finally:
            steps.allow()


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, which has to end as it should."""
    *parts, last, empty = text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]
