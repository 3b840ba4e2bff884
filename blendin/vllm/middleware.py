"""Policies for vLLM's OpenAI server: an ASGI application around its own.

    vllm serve BASE --middleware blendin.vllm.Middleware ...   (`blendin serve` does it all)

A request's `blendin` goes through `vllm_xargs` to the processor in the worker, and what the worker
reports comes back as `blendin` of the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from secrets import token_hex
from typing import Any

import torch

from ..models.hosted import HostedModel, model_of_vllm
from .arguments import NAME, EngineArguments
from .metrics import Metrics, metrics
from .requests import CHAT, COMPLETIONS, WITHOUT_GUIDE, Asked, read_request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

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
        is_ours = path in (CHAT, COMPLETIONS, *WITHOUT_GUIDE)
        if scope["type"] != "http" or scope["method"] != "POST" or not is_ours:
            await self._app(scope, receive, send)
            return
        engine = self._engine = self._engine or Engine(scope["app"].state)
        exchange = _Exchange(path, engine, self._metrics, receive, send)
        # Without the length of a body that will be another.
        headers = [each for each in scope["headers"] if each[0].lower() != b"content-length"]
        try:
            await self._app({**scope, "headers": headers}, exchange.receive, exchange.send)
        except Refusal:
            await exchange.refuse([])


class Refusal(Exception):
    """A request that cannot be answered; what reads its body gets this."""


class _Exchange:
    """One request and its answer.

    The body is rewritten when it is read: by then vLLM has seen the key and the path. The report is
    put into the answer's JSON, or into the event that ends its text.
    """

    def __init__(
        self, path: str, engine: Engine, series: Metrics, receive: Receive, send: Send
    ) -> None:
        self._path, self._engine, self._metrics = path, engine, series
        self._receive, self._send = receive, send
        self._id = token_hex(16)
        self._policy: str | None = None
        self._refusal: tuple[int, str] | None = None
        self._is_read = self._is_stream = False
        self._start: Message | None = None
        self._held = b""

    async def receive(self) -> Message:
        """The body as vLLM is to read it, then whatever else comes.

        Raises:
            Refusal: it is not to be read; the answer will say why.
        """
        if self._is_read:
            return await self._receive()
        self._is_read = True
        if (data := await _whole(self._receive)) is None:
            return {"type": "http.disconnect"}
        try:
            return {"type": "http.request", "body": await self._rewritten(data), "more_body": False}
        except (ValueError, RuntimeError) as error:
            self._refusal = (400 if isinstance(error, ValueError) else 500), str(error)
            raise Refusal(str(error)) from error

    async def _rewritten(self, data: bytes) -> bytes:
        if self._path in WITHOUT_GUIDE:
            raise ValueError(
                f"{self._path} would answer with the base alone: ask {CHAT} or {COMPLETIONS}"
            )
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return data  # vLLM says what is wrong with it
        if not isinstance(body, Mapping):
            return data
        engine = self._engine
        asked = await asyncio.to_thread(read_request, self._path, body, engine.policy, engine.base)
        asked = await engine.with_guide_prompt(asked)
        if asked.policy is not None:
            self._policy = type(asked.policy).__name__
        return json.dumps(asked.sent(self._id)).encode()

    async def send(self, message: Message) -> None:
        """Sends vLLM's answer on, with the report in it."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._refusal is not None:
            if not message.get("more_body", False) and self._start is not None:
                await self.refuse(self._start["headers"])
        elif self._policy is None:
            await self._send(message)
        elif self._is_stream:
            await self._pass(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()

    async def refuse(self, headers: Headers) -> None:
        """Answers in the form of OpenAI's errors, as vLLM gives them.

        Args:
            headers: of the answer that this one replaces.
        """
        assert self._refusal is not None
        status, message = self._refusal
        if status == 400:
            self._metrics.refused()
        kind = "BadRequestError" if status == 400 else "InternalServerError"
        error = {"message": message, "type": kind, "param": None, "code": status}
        data = json.dumps({"error": error}).encode()
        typed = [each for each in headers if each[0].lower() != b"content-type"]
        sized = _sized([*typed, (b"content-type", b"application/json")], data)
        await self._send({"type": "http.response.start", "status": status, "headers": sized})
        await self._send({"type": "http.response.body", "body": data})

    async def _begin(self, message: Message) -> None:
        if message["status"] != 200:
            self._policy = None  # there is nothing to report
        if self._policy is not None:
            self._metrics.began(self._policy)
        kind = dict(message["headers"]).get(b"content-type", b"")
        self._is_stream = kind.startswith(b"text/event-stream")
        if self._refusal is None and (self._policy is None or self._is_stream):
            await self._send(message)
        else:
            self._start = message

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
            if self._policy and event.startswith(b"data: ") and b"finish_reason" in event:
                event = b"data: " + await self._with_report(event[6:], ends_text=True)
            data += event + b"\n\n"
        if self._policy is None or not more:
            data, self._held = data + self._held, b""
        if data or not more:
            await self._send({**message, "body": data})

    async def _with_report(self, data: bytes, ends_text: bool = False) -> bytes:
        """JSON with the report in it, if it is an answer's; no other gets it after that.

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
        if choices is None or self._policy is None or (ends_text and not ended):
            return data
        policy, self._policy = self._policy, None
        report = await self._engine.report(self._id)
        self._metrics.finished(policy, report)
        return json.dumps({**answer, NAME: report}).encode()


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


def _sized(headers: Headers, data: bytes) -> list[tuple[bytes, bytes]]:
    """Headers for another body."""
    replaced = (b"content-length", b"transfer-encoding")
    kept = [(name, value) for name, value in headers if name.lower() not in replaced]
    return [*kept, (b"content-length", str(len(data)).encode())]
