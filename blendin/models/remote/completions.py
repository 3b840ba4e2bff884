"""One request to a completions server: token ids in, token ids with log-probabilities out.

Prompts go as token ids and tokens come back as ids (vLLM's `return_tokens_as_token_ids`), so that
no character is lost on the way and nothing is tokenized again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from .address import page
from .answers import MISSING_TRIES, PASSING, Row, chunk_of, error_of, message_of, parsed, refusal
from .connection import told_as_ours
from .errors import PassingError, ServerError, one_line, retry_after
from .sse import LongEventError, events
from .transcript import TokenTexts, Transcript

if TYPE_CHECKING:
    import httpx

__all__ = ["PassingError", "Row", "ServerError", "body", "get", "read", "stream"]

MAX_ANSWER_BYTES = 1 << 30
MAX_ERROR_BYTES = 1 << 20


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
    client: httpx.AsyncClient, url: str, request: Mapping[str, Any], texts: TokenTexts
) -> AsyncGenerator[Row, None]:
    """The rows of a request as the server makes them; closing the iterator ends the request.

    Args:
        client: to ask with.
        url: the server's.
        request: as `body` makes it.
        texts: what the model's tokens are as text, which the server's is compared with.

    Raises:
        PassingError: time-out, lost connection, broken answer, a row that is missing, 429 or 5xx.
        ServerError: the server refuses the request as it is, or what it says cannot be.
    """
    import httpx

    transcript = Transcript(texts, url, request["max_tokens"])
    is_done = is_whole = has_rows = False
    with told_as_ours(url, client.headers):
        try:
            async with (
                client.stream(
                    "POST", page(url, "completions"), json={**request, "stream": True}
                ) as response,
                aclosing(_events(response, url)) as told,
            ):
                async for data, kind in told:  # to the end, which frees the connection
                    is_done |= data.strip() == "[DONE]"
                    if is_done:
                        continue
                    if kind == "error":
                        raise error_of(data, url)
                    chunk = chunk_of(parsed(data, url), url, texts.size)
                    transcript.add(chunk)
                    is_whole |= chunk.finish is not None
                    for row in chunk.rows:
                        if row is not None:
                            has_rows = True
                            yield row
        except (httpx.TransportError, httpx.StreamError):
            if not is_done:
                raise
        if not (is_done or is_whole):
            raise PassingError(f"{url} broke off its answer")
        transcript.end()
        if not has_rows:
            raise PassingError(f"{url} gives no token", tries=MISSING_TRIES)


async def _events(response: httpx.Response, url: str) -> AsyncGenerator[tuple[str, str], None]:
    """The events of a streamed answer: data and kind."""
    await _check(response, url)
    kind = response.headers.get("content-type", "")
    if "json" in kind or "html" in kind:
        text = await _text(response, url, MAX_ERROR_BYTES)
        if "json" in kind:
            parsed(text, url)  # an error, perhaps
        raise PassingError(
            f"{url} answers with {one_line(kind)} where a stream is due: {one_line(text)[:80]}",
            tries=MISSING_TRIES if "json" in kind else None,
        )
    try:
        async with aclosing(events(response.aiter_bytes())) as told:
            async for event in told:
                yield event.data, event.kind
    except LongEventError as error:
        raise ServerError(f"{url} sends {error}") from None


async def read(
    client: httpx.AsyncClient, url: str, request: Mapping[str, Any], size: int
) -> list[Row]:
    """The rows of a prompt and of one token after it, at once (`echo`); the first token has none.

    Args:
        client: to ask with.
        url: the server's.
        request: as `body` makes it for one token; its prompt is the text that is read.
        size: of the vocabulary.

    Raises:
        PassingError: as `stream`.
        ServerError: likewise; or the server reads another text than it was given.
    """
    request = {**request, "echo": True}
    with told_as_ours(url, client.headers):
        answer = await _answer(client, "POST", url, "completions", json=request)
        chunk = chunk_of(answer, url, size)
        prompt, count = request["prompt"], request["max_tokens"]
        if chunk.tokens[: len(prompt)] != prompt or len(chunk.tokens) != len(prompt) + count:
            raise ServerError(
                f"{url} reads {len(chunk.tokens)} tokens back (echo) that are not the "
                f"{len(prompt)} it was given and {count} more: it cannot score texts"
            )
        rows = [row for row in chunk.rows[1:] if row is not None]
        if len(rows) < len(chunk.rows) - 1:
            raise ServerError(f"{url} gives no log-probabilities of prompts (echo)")
        return rows


async def get(client: httpx.AsyncClient, url: str, path: str) -> Any:
    """The JSON of one of the server's pages.

    Raises:
        PassingError: as `stream`.
        ServerError: likewise.
    """
    with told_as_ours(url, client.headers):
        return await _answer(client, "GET", url, path)


async def post(client: httpx.AsyncClient, url: str, path: str, content: Any) -> Any:
    """The JSON that one of the server's pages answers; as `get`."""
    with told_as_ours(url, client.headers):
        return await _answer(client, "POST", url, path, json=content)


async def _answer(
    client: httpx.AsyncClient, method: str, url: str, path: str, **content: Any
) -> Any:
    async with client.stream(method, page(url, path), **content) as response:
        await _check(response, url)
        return parsed(await _text(response, url, MAX_ANSWER_BYTES), url)


async def _text(response: httpx.Response, url: str, most: int) -> str:
    """A whole answer, as UTF-8."""
    parts, length = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        length += len(part)
        if length > most:
            raise ServerError(f"{url} sends an answer of more than {most} bytes")
    return b"".join(parts).decode("utf-8-sig", "replace")


async def _check(response: httpx.Response, url: str) -> None:
    """Raises for every status but 200."""
    import httpx

    status = response.status_code
    if status == 200:
        return
    try:
        said = message_of(await _text(response, url, MAX_ERROR_BYTES))
    except (httpx.HTTPError, httpx.StreamError, ServerError):  # the status says enough
        said = "nothing that could be read"
    if 300 <= status < 400:
        raise ServerError(f"{url} answers {status}{_advice(response, url)}")
    message = f"{url} answers {status}: {said}"
    if status >= 500 or status in PASSING:
        raise PassingError(message, retry_after(response.headers))
    raise refusal(message + _advice(response, url))


def _advice(response: httpx.Response, url: str) -> str:
    """What to change where a server answers with this status."""
    status = response.status_code
    if 300 <= status < 400:
        target = response.headers.get("location", "")
        target = urljoin(str(response.request.url), target) if target else "another place"
        where = one_line(target).removesuffix("/completions").removesuffix("/models")
        return f" and points to {where}: if that is the server meant, name its URL instead"
    if status in (404, 405) and not url.endswith(("/v1", ".sock")):
        return " (a server's URL goes up to /v1)"
    if status in (401, 403, 407):
        return (
            " (the key is read from BLENDIN_BASE_API_KEY, BLENDIN_GUIDE_API_KEY or, for both, "
            "BLENDIN_API_KEY)"
        )
    return ""
