"""One request to a server and what it answers: JSON, or a stream of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from .address import page
from .answers import MISSING_TRIES, PASSING, error_of, message_of, parsed, refusal
from .connection import told_as_ours
from .errors import PassingError, ServerError, one_line, retry_after
from .sse import LongEventError, events

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 1 << 30
MAX_ERROR_BYTES = 1 << 20

DONE = object()
"""What `streamed` yields last where the server says that it has said all."""


async def streamed(
    client: httpx.AsyncClient, url: str, path: str, content: Any
) -> AsyncGenerator[Any, None]:
    """The JSON of each event of an answer, read to the end, which frees the connection.

    Raises:
        PassingError: time-out, lost connection, broken answer, 429 or 5xx.
        ServerError: the server refuses the request as it is.
    """
    import httpx

    is_done = False
    with told_as_ours(url, client.headers):
        try:
            async with (
                client.stream("POST", page(url, path), json=content) as response,
                aclosing(_events(response, url)) as told,
            ):
                async for data, kind in told:
                    if is_done:
                        continue
                    if is_done := data.strip() == "[DONE]":
                        yield DONE
                    elif kind == "error":
                        raise error_of(data, url)
                    else:
                        yield parsed(data, url)
        except (httpx.TransportError, httpx.StreamError):
            if not is_done:
                raise


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
