"""vLLM's dialect: `/v1/completions`.

Prompts go as token ids and tokens come back as ids (`return_tokens_as_token_ids`), so that no
character is lost on the way and nothing is tokenized again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from .answers import MISSING_TRIES, Row, chunk_of
from .connection import told_as_ours
from .dialect import Request
from .errors import PassingError, ServerError
from .exchange import DONE, post, streamed
from .transcript import TokenTexts, Transcript

if TYPE_CHECKING:
    import httpx

NAME = "vLLM"


def body(request: Request) -> dict[str, Any]:
    """The JSON of a greedy request; it overrides the server's sampling defaults."""
    return {
        "model": request.model,
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "logprobs": request.top,
        "return_tokens_as_token_ids": True,
        "temperature": 0.0,
        "top_p": 1.0,
        "n": 1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
    }


async def stream(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts
) -> AsyncGenerator[Row, None]:
    """As `Dialect.stream`; what the tokens are as text is compared with the server's own text."""
    transcript = Transcript(texts, url, request.max_tokens)
    is_done = is_whole = has_rows = False
    asked = {**body(request), "stream": True}
    with told_as_ours(url, client.headers):
        async with aclosing(streamed(client, url, "completions", asked)) as answers:
            async for answer in answers:
                is_done |= answer is DONE
                if is_done:
                    continue
                chunk = chunk_of(answer, url, texts.size)
                transcript.add(chunk)
                is_whole |= chunk.finish is not None
                for row in chunk.rows:
                    if row is not None:
                        has_rows = True
                        yield row
        if not (is_done or is_whole):
            raise PassingError(f"{url} broke off its answer")
        transcript.end()
        if not has_rows:
            raise PassingError(f"{url} gives no token", tries=MISSING_TRIES)


async def read(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts, positions: int
) -> list[Row]:
    """As `Dialect.read`, by `echo`.

    Raises:
        ServerError: as `stream`; or the server reads another text than it was given.
    """
    with told_as_ours(url, client.headers):
        answer = await post(client, url, "completions", body(request) | {"echo": True})
        chunk = chunk_of(answer, url, texts.size)
        prompt, count = list(request.prompt), request.max_tokens
        if chunk.tokens[: len(prompt)] != prompt or len(chunk.tokens) != len(prompt) + count:
            raise ServerError(
                f"{url} reads {len(chunk.tokens)} tokens back (echo) that are not the "
                f"{len(prompt)} it was given and {count} more: it cannot score texts"
            )
        rows = [row for row in chunk.rows[1:] if row is not None]
        if len(rows) < len(chunk.rows) - 1:
            raise ServerError(f"{url} gives no log-probabilities of prompts (echo)")
        return rows[-positions:]


async def tokenized(
    client: httpx.AsyncClient, url: str, model: str, text: str
) -> tuple[list[int] | None, Any]:
    """As `Dialect.tokenized`."""
    try:
        answer = await post(client, url, "/tokenize", {"model": model, "prompt": text})
    except ServerError:
        return None, None
    if not isinstance(answer, dict) or not isinstance(tokens := answer.get("tokens"), list):
        return None, None
    return tokens, answer.get("max_model_len")
