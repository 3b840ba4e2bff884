"""One request to vLLM's server, and its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from ..protocol.errors import ApiError, refused
from ..protocol.fields import CHAT, COMPLETIONS
from ..protocol.report import report_of_base
from .arguments import NAME
from .asgi import Headers, Message, Receive, Send, sized, whole_body
from .engine import Engine
from .metrics import Metrics
from .requests import WITHOUT_GUIDE, Asked, read_request


class Refusal(Exception):
    """A request that cannot be answered; what reads its body gets this."""


class Exchange:
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
        self._asked: Asked | None = None
        self._refusal: ApiError | None = None
        self._is_read = self._is_stream = self._is_counted = False
        self._start: Message | None = None
        self._held = b""

    @property
    def _policy(self) -> str:
        assert self._asked is not None
        return type(self._asked.policy).__name__

    async def receive(self) -> Message:
        """The body as vLLM is to read it, then whatever else comes.

        Raises:
            Refusal: it is not to be read; the answer will say why.
        """
        if self._is_read:
            return await self._receive()
        self._is_read = True
        if (data := await whole_body(self._receive)) is None:
            return {"type": "http.disconnect"}
        try:
            return {"type": "http.request", "body": await self._rewritten(data), "more_body": False}
        except (ApiError, RuntimeError) as error:
            self._refusal = error if isinstance(error, ApiError) else ApiError(500, str(error))
            raise Refusal(str(error)) from error

    async def _rewritten(self, data: bytes) -> bytes:
        if self._path in WITHOUT_GUIDE:
            raise refused(
                f"{self._path} would answer with the base alone: ask {CHAT} or {COMPLETIONS}"
            )
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            return data  # vLLM says what is wrong with it
        if not isinstance(body, Mapping):
            return data
        engine = self._engine
        asked = await asyncio.to_thread(read_request, self._path, body, engine.own, engine.base)
        asked = self._asked = await engine.with_guide_prompt(asked)
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
        elif self._asked is None:
            await self._send(message)
        elif self._is_stream:
            await self._pass(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()

    async def refuse(self, headers: Headers) -> None:
        """Answers in the form of OpenAI's errors.

        Args:
            headers: of the answer that this one replaces.
        """
        assert self._refusal is not None
        status = self._refusal.status
        if status == 400:
            self._metrics.refused()
        data = json.dumps(self._refusal.body).encode()
        typed = [each for each in headers if each[0].lower() != b"content-type"]
        typed = sized([*typed, (b"content-type", b"application/json")], data)
        await self._send({"type": "http.response.start", "status": status, "headers": typed})
        await self._send({"type": "http.response.body", "body": data})

    async def _begin(self, message: Message) -> None:
        if message["status"] != 200:
            self._asked = None  # there is nothing to report
        if self._asked is not None and self._asked.ours is not None:
            self._metrics.began(self._policy)
            self._is_counted = True
        kind = dict(message["headers"]).get(b"content-type", b"")
        self._is_stream = kind.startswith(b"text/event-stream")
        if self._refusal is None and (self._asked is None or self._is_stream):
            await self._send(message)
        else:
            self._start = message

    async def _send_whole(self) -> None:
        assert self._start is not None
        data = await self._with_report(self._held)
        await self._send({**self._start, "headers": sized(self._start["headers"], data)})
        await self._send({"type": "http.response.body", "body": data})

    async def _pass(self, message: Message) -> None:
        """Sends on all events that are complete."""
        *events, self._held = (self._held + message.get("body", b"")).split(b"\n\n")
        more = message.get("more_body", False)
        data = b""
        for event in events:
            if self._asked and event.startswith(b"data: ") and b"finish_reason" in event:
                event = b"data: " + await self._with_report(event[6:], ends_text=True)
            data += event + b"\n\n"
        if self._asked is None or not more:
            data, self._held = data + self._held, b""
        if data or not more:
            await self._send({**message, "body": data})

    async def _with_report(self, data: bytes, ends_text: bool = False) -> bytes:
        """JSON with the report in it, if it is an answer's; no other gets a worker's after that.

        Args:
            data: the JSON.
            ends_text: it is to be one whose text has ended.
        """
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            return data
        choices = answer.get("choices") if isinstance(answer, dict) else None
        reasons = [each.get("finish_reason") for each in choices or ()]
        if choices is None or self._asked is None or (ends_text and not any(reasons)):
            return data
        report = await self._report(answer, next(filter(None, reasons), "length"))
        return json.dumps({**answer, NAME: report}).encode()

    async def _report(self, answer: Mapping[str, Any], reason: str) -> dict[str, Any]:
        """What was done for a text that has ended for a reason."""
        assert self._asked is not None
        if self._asked.ours is None:
            made = (answer.get("usage") or {}).get("completion_tokens")
            steps = {} if made is None else {"steps": made}
            return report_of_base(self._asked.policy) | steps
        policy, self._asked, self._is_counted = self._policy, None, False
        report = await self._engine.report(self._id)
        self._metrics.finished(policy, reason, report)
        return report

    def close(self) -> None:
        """Counts what did not come to its end: its client has gone."""
        if self._is_counted:
            self._metrics.finished(self._policy, "gone", {})
