"""A server of a tiny pair in a thread of this process, on a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from blendin import BlendInGenerator
from blendin.serve import ServeSettings
from blendin.serve.run import Server, listen
from blendin.serve.service import Service


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
        """How many texts run or wait."""
        return self.service.queue.running + self.service.queue.waiting

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
        server = Server(service)
        service.start(on_failure=server.give_up)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        headers = {} if options.api_key is None else {"Authorization": f"Bearer {options.api_key}"}
        try:
            with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
                while wait and client.get("/health").status_code != 200:
                    time.sleep(0.01)
                yield Served(url, client, service, server, thread)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def until(holds: Callable[[], bool]) -> None:
    """Waits, a minute at most, until something is so."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, which has to end as it should."""
    *parts, last, empty = text.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]
