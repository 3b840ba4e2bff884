"""An OpenAI-compatible chat server: one question, one greedy reply, with retries.

The API key is `$BLENDIN_JUDGE_API_KEY`, else `$OPENAI_API_KEY`; the former, if empty, sends none.
It goes to the server's URL alone: redirects are not followed, proxies and .netrc are not used.
"""

from __future__ import annotations

import os
import random
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

KEY_VARIABLES = ("BLENDIN_JUDGE_API_KEY", "OPENAI_API_KEY")
EXCERPT = 80
"""Characters of a reply that are quoted where it cannot be used."""
RETRIED = (408, 429, 500, 502, 503, 504)
RETRIES, LOST_RETRIES = 5, 2
LONGEST_WAIT = 60.0  # seconds, even if a server's Retry-After is longer


class NoReply(Exception):
    """No reply, and why; `lost` where the server is gone."""

    def __init__(self, reason: str, advice: str, lost: bool = False) -> None:
        super().__init__(reason)
        self.advice, self.lost = advice, lost

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.advice, self.lost), self.__dict__


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
        self.client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(10.0, timeout), pool=None),
            limits=httpx.Limits(max_connections=concurrency),
            follow_redirects=False,  # the key is for this server alone
            trust_env=False,  # hence no proxy and no .netrc either
        )

    def reply(self, question: str, max_tokens: int) -> str:
        """The greedy answer to a question, stripped.

        Raises:
            NoReply: the server is lost, refuses, or sends something else.
        """
        response = self._post(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": question}],
                "temperature": 0,
                "max_tokens": max_tokens,
            }
        )
        if response.status_code != 200:
            reason = f"answered {response.status_code} {self._quoted(response)}"
            raise NoReply(reason, advice(response.status_code))
        try:
            content = response.json()["choices"][0]["message"]["content"] or ""
            return content.strip()
        except (ValueError, LookupError, TypeError, AttributeError):
            reason = f"gave no chat completion but {self._quoted(response)}"
            raise NoReply(reason, advice(404)) from None

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
            except (httpx.RequestError, httpx.InvalidURL) as error:
                lost += 1
                if lost > LOST_RETRIES or tries == RETRIES:
                    raise NoReply(
                        f"cannot be reached ({error})",
                        "start its server, or check --judge-url",
                        lost=True,
                    ) from None
                wait = None
            else:
                wait = _retry_after(response)
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
        if self._key:
            text = text.replace(self._key, "[API key]")
        return repr(text[:EXCERPT] + "…" * (len(text) > EXCERPT))


def api_key() -> str | None:
    """The key in the environment, None for none.

    Raises:
        ValueError: it has a character that HTTP headers cannot; the message does not show it.
    """
    for variable in KEY_VARIABLES:
        if (value := os.environ.get(variable)) is not None:
            key = value.strip()
            # Checked here: the HTTP library would put the whole header into its own error.
            if not all("!" <= character <= "~" for character in key):
                raise ValueError(f"${variable} is no API key: use printable ASCII without spaces")
            return key or None
    return None


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


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait, given as a number or as a date; None for none."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
