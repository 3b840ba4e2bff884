"""A stand-in for a pair's server: the page, and scripted answers as server-sent events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any

from blendin.page import page

Answer = Callable[[dict[str, Any]], Iterator[bytes]]
"""From a request's body to the pieces of the answer's."""


def event(**chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode("utf-8") + b"\n\n"


def said(text: str, finish: str | None = None, **blendin: Any) -> bytes:
    """A chunk with text, and what blendin says beside it."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return event(choices=choices, **({"blendin": blendin} if blendin else {}))


DONE = b"data: [DONE]\n\n"


class StandIn:
    """The server.

    Attributes:
        asked: the bodies of requests, in the order of their coming.
        answer: what is said to each.
        key: what clients must know; None for nothing.
        models: the ids of its models.
        gone: how many clients have hung up.
    """

    def __init__(self, answer: Answer, key: str | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer, self.key, self.gone = answer, key, 0
        self.models = ["pair", "pair:nudge", "pair:base"]
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def reply(self, status: int, kind: str, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def is_let_in(self) -> bool:
                known = stand_in.key is None or (
                    self.headers["Authorization"] == f"Bearer {stand_in.key}"
                )
                if not known:
                    self.reply(401, "application/json", b'{"error": {"message": "no key"}}')
                return known

            def do_GET(self) -> None:
                if self.path == "/":
                    self.reply(200, "text/html; charset=utf-8", page().encode())
                elif self.path == "/v1/models" and self.is_let_in():
                    told = {"data": [{"id": id} for id in stand_in.models]}
                    self.reply(200, "application/json", json.dumps(told).encode())
                elif self.path == "/favicon.ico":  # a fault would be complained of, whenever
                    self.send_response(204)
                    self.end_headers()
                elif self.path not in ("/", "/v1/models"):
                    self.reply(404, "text/plain", b"")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.is_let_in():
                    return
                assert self.path == "/v1/chat/completions"
                stand_in.asked.append(body)
                try:
                    pieces = stand_in.answer(body)
                    first = next(pieces)
                except ValueError as error:
                    told = json.dumps({"error": {"message": str(error)}}).encode()
                    self.reply(400, "application/json", told)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for piece in chain([first], pieces):
                        self.wfile.write(piece)
                        self.wfile.flush()
                except OSError:
                    stand_in.gone += 1

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
