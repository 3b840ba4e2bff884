"""Policies for vLLM's OpenAI server: an ASGI application around its own.

    vllm serve BASE --middleware blendin.vllm.Middleware ...   (`blendin serve` does it all)

A request's `blendin` goes through `vllm_xargs` to the processor in the worker, and what the worker
reports comes back as `blendin` of the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from secrets import token_hex
from typing import Any

import torch

from ..models.hosted import HostedModel, model_of_vllm
from .arguments import EngineArguments
from .metrics import Metrics, metrics
from .requests import CHAT, COMPLETIONS, WITHOUT_GUIDE, Asked, read_request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PATIENCE = 120.0
"""Seconds that a worker may take to answer: it does between two steps."""


class Engine:
    """vLLM's engine, as the API server knows it.

    Attributes:
        policy: of requests that name none.
        base: the model that it runs, its tokenizer read here.
    """

    def __init__(self, state: Any) -> None:
        """Takes `state` of vLLM's application.

        Raises:
            ValueError: the engine was not started for blending.
        """
        config = state.vllm_config
        self._client = state.engine_client
        self.policy = EngineArguments.of(config.additional_config).policy
        self.base: HostedModel = model_of_vllm(config, torch.device("cpu"))

    async def ask(self, method: str, argument: str) -> Any:
        """What the first worker that knows says; None where none does.

        Raises:
            RuntimeError: the workers cannot be asked.
        """
        try:
            answers = await asyncio.wait_for(
                self._client.collective_rpc(method, args=(argument,)), PATIENCE
            )
        except Exception as error:  # of vLLM's, in another process
            reason = str(error) or type(error).__name__
            raise RuntimeError(f"vLLM's worker does not answer {method}: {reason}") from error
        return next((answer for answer in answers if answer is not None), None)

    async def with_guide_prompt(self, asked: Asked) -> Asked:
        """A request with the guide's prompt in tokens, as the worker's guide reads it.

        Raises:
            ValueError: the guide cannot read it.
            RuntimeError: no worker has a guide.
        """
        if asked.policy is None or not asked.policy.reads_guide:
            return asked
        found = await self.ask("blendin_guide_ids", json.dumps(asked.prompt))
        if found is None:
            raise RuntimeError(
                "vLLM runs without blendin: name it with "
                "--logits-processors blendin.vllm:LogitsProcessor"
            )
        if "error" in found:
            raise ValueError(found["error"])
        return asked.with_guide_prompt(found["ids"])

    async def report(self, id: str) -> dict[str, Any]:
        """What was done for a request; `error` where that cannot be had."""
        try:
            found = await self.ask("blendin_report", id)
        except RuntimeError as error:
            return {"error": str(error)}
        return found or {"error": "the first engine's workers know nothing of this request"}


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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif path in (CHAT, COMPLETIONS):
            await self._blend(path, scope, receive, send)
        elif path in WITHOUT_GUIDE:
            await self._refuse(
                send, f"{path} would answer with the base alone: ask {CHAT} or {COMPLETIONS}"
            )
        else:
            await self._app(scope, receive, send)

    async def _blend(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if (data := await _whole(receive)) is None:
            return
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, Mapping):  # vLLM says what is wrong with it
            await self._app(scope, _Again(data, receive), send)
            return
        engine = self._engine = self._engine or Engine(scope["app"].state)
        id = token_hex(16)
        try:
            asked = await asyncio.to_thread(read_request, path, body, engine.policy, engine.base)
            asked = await engine.with_guide_prompt(asked)
        except ValueError as error:
            await self._refuse(send, str(error))
            return
        except RuntimeError as error:
            await _error(send, 500, str(error))
            return
        if asked.policy is not None:
            policy, counted = type(asked.policy).__name__, self._metrics

            async def report() -> dict[str, Any]:
                found = await engine.report(id)
                counted.finished(policy, found)
                return found

            send = _Reported(send, partial(counted.began, policy), report)
        data = json.dumps(asked.sent(id)).encode()
        sized = {**scope, "headers": _sized(scope["headers"], data)}
        await self._app(sized, _Again(data, receive), send)

    async def _refuse(self, send: Send, message: str) -> None:
        self._metrics.refused()
        await _error(send, 400, message)


class _Again:
    """Gives a body that was read, then whatever else comes."""

    def __init__(self, data: bytes, receive: Receive) -> None:
        self._data: bytes | None = data
        self._receive = receive

    async def __call__(self) -> Message:
        if self._data is None:
            return await self._receive()
        data, self._data = self._data, None
        return {"type": "http.request", "body": data, "more_body": False}


class _Reported:
    """Sends an answer on, with a report in its JSON, or in the event that ends its text."""

    def __init__(
        self,
        send: Send,
        began: Callable[[], None],
        report: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._send, self._began, self._report = send, began, report
        self._start: Message | None = None
        self._is_stream = self._is_reported = False
        self._held = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
            self._is_reported = message["status"] != 200  # there is nothing to report
            if not self._is_reported:
                self._began()
            if self._is_stream or self._is_reported:
                await self._send(message)
            else:
                self._start = message
        elif message["type"] != "http.response.body" or self._is_reported:
            await self._send(message)
        elif self._is_stream:
            await self._pass(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()

    async def _send_whole(self) -> None:
        assert self._start is not None
        data = await self._with_report(self._held)
        await self._send({**self._start, "headers": _sized(self._start["headers"], data)})
        await self._send({"type": "http.response.body", "body": data})

    async def _pass(self, message: Message) -> None:
        """Sends on all events that are complete."""
        *events, self._held = (self._held + message.get("body", b"")).split(b"\n\n")
        more = message.get("more_body", False)
        data = b""
        for event in events:
            if not self._is_reported and event.startswith(b"data: ") and b"finish_reason" in event:
                event = b"data: " + await self._with_report(event[6:], ends_text=True)
            data += event + b"\n\n"
        if self._is_reported or not more:
            data, self._held = data + self._held, b""
        if data or not more:
            await self._send({**message, "body": data})

    async def _with_report(self, data: bytes, ends_text: bool = False) -> bytes:
        """JSON with the report in it, if it is an answer's.

        Args:
            data: the JSON.
            ends_text: it is to be one whose text has ended.
        """
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            return data
        choices = answer.get("choices") if isinstance(answer, dict) else None
        ended = isinstance(choices, list) and any(each.get("finish_reason") for each in choices)
        if choices is None or (ends_text and not ended):
            return data
        self._is_reported = True
        return json.dumps({**answer, "blendin": await self._report()}).encode()


async def _whole(receive: Receive) -> bytes | None:
    """A request's body; None where its sender has gone."""
    data, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return data


def _sized(headers: Any, data: bytes) -> list[tuple[bytes, bytes]]:
    """Headers for another body."""
    replaced = (b"content-length", b"transfer-encoding")
    kept = [(name, value) for name, value in headers if name.lower() not in replaced]
    return [*kept, (b"content-length", str(len(data)).encode())]


async def _error(send: Send, status: int, message: str) -> None:
    """An answer in the form of OpenAI's errors, as vLLM gives them."""
    kind = "BadRequestError" if status == 400 else "InternalServerError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    data = json.dumps({"error": error}).encode()
    headers = _sized([(b"content-type", b"application/json")], data)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
