"""One request to a completions server: token ids in, token ids with log-probabilities out.

Prompts go as token ids and tokens come back as ids (vLLM's `return_tokens_as_token_ids`), so that
no character is lost on the way and nothing is tokenized again.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import httpx

    from ...trace import Generation

ID_PREFIX = "token_id:"
LEAST = -9998.0
"""Servers write -9999 for -inf, which JSON lacks."""

PASSING = frozenset({408, 425, 429})
"""Statuses that another try may not meet, beside the 5xx."""


class ServerError(ConnectionError):
    """A server that cannot be reached or refuses; the message names its URL and what to change.

    Attributes:
        output: the `Generation` as far as it was decided, where one sequence was.
    """

    output: Generation | None = None


class PassingError(ServerError):
    """A failure that another try, or another replica, may not meet.

    Attributes:
        wait: seconds after which the server wants to be asked again, where it says so.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Row(NamedTuple):
    """A model's prediction at one position.

    Attributes:
        token: what it continued with, its argmax (in a prompt: what stands there).
        tokens: the likeliest, and `token`.
        log_probs: of each, at temperature 1 over the whole vocabulary.
    """

    token: int
    tokens: list[int]
    log_probs: list[float]

    @property
    def top_prob(self) -> float:
        """Of the likeliest token."""
        return math.exp(max(self.log_probs))


def body(model: str, prompt: Sequence[int], max_tokens: int, top: int) -> dict[str, Any]:
    """The JSON of a greedy request; it overrides the server's sampling defaults."""
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "logprobs": top,
        "return_tokens_as_token_ids": True,
        "temperature": 0.0,
        "top_p": 1.0,
        "n": 1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
    }


async def stream(
    client: httpx.AsyncClient, url: str, request: Mapping[str, Any]
) -> AsyncGenerator[Row, None]:
    """The rows of a request as the server makes them; closing the iterator ends the request.

    Raises:
        PassingError: time-out, lost connection, broken answer, 429 or 5xx.
        ServerError: the server refuses the request as it is.
    """
    import httpx

    is_whole = False
    try:
        async with client.stream(
            "POST", f"{url}/completions", json={**request, "stream": True}
        ) as response:
            await _check(response, url)
            async for line in response.aiter_lines():  # to the end, which frees the connection
                if not line.startswith("data:"):
                    continue
                data = line[len("data:") :].strip()
                is_whole |= data == "[DONE]"
                for row in [] if is_whole else _rows(_parsed(data, url), url):
                    if row is not None:
                        yield row
    except (httpx.TransportError, httpx.StreamError) as error:
        if not is_whole:
            raise _lost(url, error) from error
    if not is_whole:
        raise PassingError(f"{url} broke off its answer")


async def read(client: httpx.AsyncClient, url: str, request: Mapping[str, Any]) -> list[Row | None]:
    """The rows of a request at once; with `echo` the prompt's too, the first of them None.

    Raises:
        PassingError: as `stream`.
        ServerError: likewise.
    """
    return _rows(await _answer(client, "POST", url, "completions", json=dict(request)), url)


async def get(client: httpx.AsyncClient, url: str, path: str) -> Any:
    """The JSON of one of the server's pages.

    Raises:
        PassingError: as `stream`.
        ServerError: likewise.
    """
    return await _answer(client, "GET", url, path)


async def _answer(
    client: httpx.AsyncClient, method: str, url: str, path: str, **content: Any
) -> Any:
    import httpx

    try:
        response = await client.request(method, f"{url}/{path}", **content)
        await _check(response, url)
    except httpx.TransportError as error:
        raise _lost(url, error) from error
    return _parsed(response.text, url)


def _lost(url: str, error: Exception) -> PassingError:
    return PassingError(f"{url} does not answer ({type(error).__name__}: {error})")


async def _check(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status == 200:
        return
    await response.aread()
    message = f"{url} answers {status}: {_message(response.text)}"
    if status >= 500 or status in PASSING:
        raise PassingError(message, _seconds(response.headers.get("retry-after")))
    if status == 404 and not url.endswith("/v1"):
        message += " (a server's URL goes up to /v1)"
    if status in (401, 403):
        message += (
            " (the key is read from BLENDIN_BASE_API_KEY, BLENDIN_GUIDE_API_KEY or, for both, "
            "BLENDIN_API_KEY)"
        )
    raise ServerError(message)


def _message(text: str) -> str:
    """What a server says in its error, in its own JSON or as it is, in one short line."""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        text = error.get("message", text) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:500]


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after or "nan")
    except ValueError:  # a date
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _parsed(text: str, url: str) -> Any:
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise PassingError(f"{url} answers with what is not JSON: {text[:80]!r}") from error
    if isinstance(answer, dict) and answer.get("error"):
        raise PassingError(f"{url} gave up: {_message(text)}")
    return answer


def _rows(answer: Any, url: str) -> list[Row | None]:
    try:
        choices = answer["choices"]
        if not choices:  # the usage, which some servers send last
            return []
        logprobs = choices[0]["logprobs"]
        if logprobs is None:
            raise ServerError(
                f"{url} gives no log-probabilities: blendin needs a completions server that does"
            )
        return [
            None if top is None else _row(token, log_prob, top)
            for token, log_prob, top in zip(
                logprobs["tokens"],
                logprobs["token_logprobs"],
                logprobs["top_logprobs"],
                strict=True,
            )
        ]
    except _TextTokens as error:
        raise ServerError(
            f"{url} gives its tokens as text ({error}), in which bytes get lost: blendin needs a "
            "server that gives token ids, as vLLM does (return_tokens_as_token_ids)"
        ) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PassingError(f"{url} gives an answer of another form: {error!r}") from error


class _TextTokens(Exception):
    pass


def _row(token: str, log_prob: float, top: Mapping[str, float]) -> Row:
    chosen = _id(token)
    listed = {_id(key): float(value) for key, value in top.items()}
    listed.setdefault(chosen, float(log_prob))
    values = [value if value > LEAST else -math.inf for value in listed.values()]
    return Row(chosen, list(listed), values)


def _id(token: str) -> int:
    if not token.startswith(ID_PREFIX):
        raise _TextTokens(repr(token))
    return int(token[len(ID_PREFIX) :])
