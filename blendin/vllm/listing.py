"""What `/v1/models` lists: each model of vLLM's under each policy, too."""

from __future__ import annotations

import json
from typing import Any

from ..policy import POLICY_NAMES
from ..protocol.names import names_of
from .asgi import Message, Send, sized

MODELS = "/v1/models"

SERVED = tuple(name for name in POLICY_NAMES if name != "guide")
"""The policies that can be asked for: the base's engine has no place for the guide alone."""


class Listing:
    """An answer to `GET /v1/models`, held until it is whole."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._held = b""

    async def send(self, message: Message) -> None:
        """Sends vLLM's answer on, with further names in it."""
        if message["type"] == "http.response.start" and message["status"] == 200:
            self._start = message
        elif message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                data = _listed(self._held)
                await self._send({**self._start, "headers": sized(self._start["headers"], data)})
                await self._send({"type": "http.response.body", "body": data})


def _listed(data: bytes) -> bytes:
    try:
        answer: Any = json.loads(data)
        models = [
            {**each, "id": name} for each in answer["data"] for name in names_of(each["id"], SERVED)
        ]
        return json.dumps({**answer, "data": models}).encode()
    except (ValueError, RecursionError, LookupError, TypeError):
        return data  # whatever vLLM said
