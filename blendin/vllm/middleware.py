"""Policies for vLLM's OpenAI server: an ASGI application around its own.

    vllm serve BASE --middleware blendin.vllm.Middleware ...   (`blendin serve` does it all)

A request's `blendin` goes through `vllm_xargs` to the processor in the worker, and what the worker
reports comes back as `blendin` of the answer.
"""

from __future__ import annotations

from ..protocol.fields import CHAT, COMPLETIONS
from .asgi import App, Receive, Scope, Send
from .engine import Engine
from .exchange import Exchange, Refusal
from .listing import MODELS, Listing
from .metrics import Metrics, metrics
from .requests import WITHOUT_GUIDE


class Middleware:
    """An ASGI application that adds policies to vLLM's."""

    def __init__(self, app: App, series: Metrics | None = None) -> None:
        """Takes vLLM's application.

        Args:
            app: it.
            series: what to count in; by default what /metrics shows.
        """
        self._app = app
        self._metrics = metrics() if series is None else series
        self._engine: Engine | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on as it is."""
        if scope["type"] == "lifespan":
            try:
                self._engine = Engine(scope["app"].state)
            except ValueError as error:
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path") or "")
        asked = (scope["method"], path) if scope["type"] == "http" else None
        if asked == ("GET", MODELS):
            await self._app(scope, receive, Listing(send).send)
            return
        if asked not in {("POST", each) for each in (CHAT, COMPLETIONS, *WITHOUT_GUIDE)}:
            await self._app(scope, receive, send)
            return
        engine = self._engine = self._engine or Engine(scope["app"].state)
        exchange = Exchange(path, engine, self._metrics, receive, send)
        # Without the length of a body that will be another.
        headers = [each for each in scope["headers"] if each[0].lower() != b"content-length"]
        try:
            await self._app({**scope, "headers": headers}, exchange.receive, exchange.send)
        except Refusal:
            await exchange.refuse([])
        finally:
            exchange.close()
