"""An OpenAI-compatible chat server: one question, one reply, greedy where it can be, with retries.

The API key is `$BLENDIN_JUDGE_API_KEY`, else `$OPENAI_API_KEY`; the former, if empty, sends none.
It goes to the server's URL alone: redirects are not followed, proxies and .netrc are not used.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from ...models.remote import credentials
from ...models.remote.connection import tls_context
from ...models.remote.errors import one_line, retry_after

logger = logging.getLogger("blendin")

KEY_VARIABLES = ("BLENDIN_JUDGE_API_KEY", "OPENAI_API_KEY")
EXCERPT = 80
"""Characters of a reply that are quoted where it cannot be used."""
RETRIED = (408, 429, 500, 502, 503, 504)
RETRIES, LOST_RETRIES = 5, 2
LONGEST_WAIT = 60.0  # seconds, even if a server's Retry-After is longer
ROOM_TO_REASON = 4096
"""Tokens of a reply where the model reasons first, which counts."""

FILTERED = re.compile(
    r"content.?filter|content.?policy|responsible.?ai|moderation|flagged|safety|unsafe|prohibited",
    re.IGNORECASE,
)
"""What a refusal says that is about a question's content, whatever its status."""
OF_THE_QUESTION = (400, 413, 422, 451)
"""Statuses that another question may not meet."""
NOT_TAKEN = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|not permitted|not allowed|extra|"
    r"deprecated|only the default",
    re.IGNORECASE,
)


class NoReply(Exception):
    """No reply, and why.

    Attributes:
        advice: what to change.
        lost: the server is gone.
        is_item: it may be this question alone that gets none.
        is_content: it is; its content was refused or filtered.
    """

    def __init__(
        self,
        reason: str,
        advice: str = "",
        *,
        lost: bool = False,
        is_item: bool = False,
        is_content: bool = False,
    ) -> None:
        super().__init__(reason)
        self.advice, self.lost = advice, lost
        self.is_item, self.is_content = is_item or is_content, is_content

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.advice), self.__dict__


class ChatServer:
    """A chat-completions server, asked from many threads."""

    def __init__(
        self, url: str, model: str, *, timeout: float, concurrency: int, backoff: float
    ) -> None:
        """Opens no connection yet; `client` closes those that are opened.

        Args:
            url: up to the part before /chat/completions.
            model: its name on the server.
            timeout: seconds to wait for a reply.
            concurrency: requests at a time.
            backoff: seconds before the second retry, doubled for each further one.
        """
        self.endpoint = f"{url.rstrip('/')}/chat/completions"
        self._model, self._key, self._backoff = model, api_key(), backoff
        self._limit, self._room, self._is_greedy = "max_tokens", 0, True
        self.client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(10.0, timeout), pool=None),
            limits=httpx.Limits(max_connections=concurrency),
            follow_redirects=False,  # the key is for this server alone
            trust_env=False,  # hence no proxy and no .netrc either
            verify=tls_context(True),
        )

    def reply(self, question: str, max_tokens: int) -> str:
        """The answer to a question, stripped; greedy, unless the server takes no temperature.

        Newer models want `max_completion_tokens` and their own temperature: what a server refuses
        is asked as it wants it, for this question and all that follow.

        Raises:
            NoReply: the server is lost, refuses, or sends something else.
        """
        while True:
            body = self._body(question, max_tokens)
            response = self._post(body)
            if response.status_code != 200:
                if self._adapts(response, body):
                    continue
                raise self._refusal(response)
            choice = self._choice(response)
            content = self._content(choice, response)
            if content or choice.get("finish_reason") != "length":
                return content
            if self._room >= ROOM_TO_REASON:
                raise NoReply(
                    f"wrote {self._room} tokens of reasoning and no reply",
                    "name a model at --judge-model that reasons less",
                    is_item=True,
                )
            self._room = ROOM_TO_REASON

    def _body(self, question: str, max_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": question}],
            self._limit: max(max_tokens, self._room),
        }
        return body | ({"temperature": 0} if self._is_greedy else {})

    def _adapts(self, response: httpx.Response, body: dict[str, Any]) -> bool:
        """Whether a server refused a parameter that can be left out or named otherwise, and is."""
        if response.status_code not in (400, 422):
            return False
        error = self._error(response)
        said = f"{error.get('message')} {error.get('detail')} {error.get('code')}"
        named = str(error.get("param") or "")
        if not named and NOT_TAKEN.search(said):
            named = said
        changed = False
        if "max_tokens" in body and re.search(r"\bmax_tokens\b", named):
            self._limit, self._room, changed = "max_completion_tokens", ROOM_TO_REASON, True
        if "temperature" in body and re.search(r"\btemperature\b", named):
            if self._is_greedy:
                logger.warning(
                    "the judge at %s takes no temperature: its labels are drawn, and may differ "
                    "from run to run",
                    self.endpoint,
                )
            self._is_greedy, changed = False, True
        return changed

    def _refusal(self, response: httpx.Response) -> NoReply:
        """Why a server gave no reply, by its status and what it says."""
        status = response.status_code
        reason = f"answered {status} {self._quoted(response)}"
        if 300 <= status < 400 and (target := response.headers.get("Location")):
            where = one_line(urljoin(self.endpoint, target)).removesuffix("/chat/completions")
            return NoReply(reason, f"it points to {where}: if that is it, name it in --judge-url")
        if 400 <= status < 500 and status not in (401, 404, 429):
            is_content = FILTERED.search(response.content.decode(errors="replace")) is not None
            return NoReply(
                reason,
                advice(status),
                is_item=status in OF_THE_QUESTION,
                is_content=is_content,
            )
        return NoReply(reason, advice(status))

    def _choice(self, response: httpx.Response) -> dict[str, Any]:
        """The first choice of a completion."""
        try:
            choices = response.json()["choices"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise self._no_completion(response) from None
        if not isinstance(choices, list) or (choices and not isinstance(choices[0], dict)):
            raise self._no_completion(response)
        if not choices:
            raise self._no_completion(response, is_item=True)
        choice: dict[str, Any] = choices[0]
        return choice

    def _content(self, choice: dict[str, Any], response: httpx.Response) -> str:
        """What a choice says, stripped; text in parts is joined."""
        message = choice.get("message")
        if not isinstance(message, dict):
            raise self._no_completion(response)
        content = message.get("content")
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            content = "".join(str(part.get("text") or "") for part in content)
        if not isinstance(content, str | None):
            raise self._no_completion(response)
        content = (content or "").strip()
        if not content and message.get("refusal"):
            refusal = self.excerpt(str(message["refusal"]))
            raise NoReply(f"refused to judge it: {refusal}", is_content=True)
        if not content and choice.get("finish_reason") == "content_filter":
            raise NoReply("gave nothing, for its content filter", is_content=True)
        return content

    def _no_completion(self, response: httpx.Response, is_item: bool = False) -> NoReply:
        reason = f"gave no chat completion but {self._quoted(response)}"
        return NoReply(reason, advice(404), is_item=is_item)

    @staticmethod
    def _error(response: httpx.Response) -> dict[str, Any]:
        """The object of an error body that tells of it; empty where there is none."""
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError):
            return {}
        inner = answer.get("error") if isinstance(answer, dict) else None
        answer = inner if isinstance(inner, dict) else answer
        return answer if isinstance(answer, dict) else {}

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        """The last answer to a question, which is asked again where that may help.

        Raises:
            NoReply: the connection was lost, or never there, once more than `LOST_RETRIES` allow.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        lost = 0
        for tries in range(RETRIES + 1):
            try:
                response = self.client.post(self.endpoint, json=body, headers=headers)
            except httpx.DecodingError:
                raise NoReply("sent what cannot be unpacked", advice(500), is_item=True) from None
            except (httpx.RequestError, httpx.InvalidURL) as error:
                lost += 1
                if lost > LOST_RETRIES or tries == RETRIES:
                    raise NoReply(
                        f"cannot be reached ({self.hidden(one_line(error))})",
                        "start its server, or check --judge-url",
                        lost=True,
                    ) from None
                wait = None
            else:
                wait = retry_after(response.headers)
                passing = response.status_code in RETRIED or (
                    response.status_code == 413 and wait is not None
                )
                if not passing or tries == RETRIES:
                    return response
            if pause := wait or self._pause(tries):
                time.sleep(min(pause, LONGEST_WAIT))
        raise AssertionError("the last try returns or raises")

    def _pause(self, tries: int) -> float:
        """Seconds before the next try, where the server does not say: none before the second."""
        if tries == 0:
            return 0.0
        return self._backoff * (2 ** (tries - 1) + random.random())

    def _quoted(self, response: httpx.Response) -> str:
        return self.excerpt(response.content.decode(errors="replace"))

    def excerpt(self, text: str) -> str:
        """The beginning of what the server sent, on one line, without our key."""
        text = self.hidden(text)
        return repr(text[:EXCERPT] + "…" * (len(text) > EXCERPT))

    def hidden(self, text: str) -> str:
        """A text without our key."""
        return text.replace(self._key, "[API key]") if self._key else text


def api_key() -> str | None:
    """The key in the environment, None for none.

    Raises:
        ValueError: it has a character that HTTP headers cannot; the message does not show it.
    """
    return credentials.api_key(KEY_VARIABLES)


def check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        # The message leaves the URL out, which may hold a secret.
        raise ValueError(
            "--judge-url: give scheme, host, port and path alone, such as "
            f"http://127.0.0.1:8000/v1; a key belongs in ${KEY_VARIABLES[0]}"
        )


def advice(status: int) -> str:
    """What to change where the server answered with this status."""
    match status:
        case 401 | 403:
            return f"set ${KEY_VARIABLES[0]} to a key that it accepts"
        case 429:
            return "wait, or raise the account's limits"
        case status if status >= 500:
            return "fix its server, or try again later"
        case _:
            return "check --judge-url (it usually ends in /v1) and --judge-model"
