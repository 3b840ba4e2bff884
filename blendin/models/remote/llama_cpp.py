"""llama.cpp's dialect: `/completion` of its own server.

Its streams, and its lists of probabilities, leave out a token that ends within a character, and its
prompts have no probabilities. Both are had by a bias: it decides what is written, and the
probabilities told are those before it.
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from ...values import told
from .answers import Row, row_of
from .connection import told_as_ours
from .dialect import Request
from .errors import PassingError, ServerError
from .exchange import post
from .transcript import TokenTexts, is_within_character

if TYPE_CHECKING:
    import httpx

NAME = "llama.cpp"
BIAS = 1e5
"""Added to a logit, above all others whatever they are."""


def body(request: Request, written: int | None = None) -> dict[str, Any]:
    """The JSON of a greedy request; it overrides the server's sampling defaults.

    Args:
        request: what is asked.
        written: the token that is to be written, whatever the model would write.
    """
    return {
        "prompt": list(request.prompt),
        "n_predict": request.max_tokens,
        "n_probs": request.top,
        "return_tokens": True,
        "stream": False,
        "cache_prompt": True,
        "samplers": ["top_k"],
        "top_k": 1,
        "temperature": 0.0,
        "post_sampling_probs": False,
        "ignore_eos": False,
        "stop": [],
        "logit_bias": [] if written is None else [[written, BIAS]],
    }


async def stream(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts
) -> AsyncGenerator[Row, None]:
    """As `Dialect.stream`: up to the first token that ends within a character."""
    with told_as_ours(url, client.headers):
        rows = await _rows(client, url, request, texts)
        for row in rows or [await _next(client, url, request, texts)]:
            yield row


async def read(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts, positions: int
) -> list[Row]:
    """As `Dialect.read`, by a request for each position."""
    ids = list(request.prompt)
    rows = []
    with told_as_ours(url, client.headers):
        for place in range(len(ids) - positions + 1, len(ids)):
            asked = request._replace(prompt=ids[:place], max_tokens=1)
            rows.append(await _row(client, url, asked, texts, ids[place]))
        rows.append(await _next(client, url, request._replace(max_tokens=1), texts))
    return rows


async def tokenized(
    client: httpx.AsyncClient, url: str, model: str, text: str
) -> tuple[list[int] | None, Any]:
    """As `Dialect.tokenized`; its context's length stands in the list of its models."""
    asked = {"content": text, "add_special": True, "parse_special": False}
    try:
        answer = await post(client, url, "/tokenize", asked)
    except ServerError:
        return None, None
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    return tokens if isinstance(tokens, list) else None, None


async def _rows(
    client: httpx.AsyncClient,
    url: str,
    request: Request,
    texts: TokenTexts,
    written: int | None = None,
) -> list[Row]:
    """The rows of what is written before the first token that ends within a character."""
    answer = await post(client, url, "/completion", body(request, written))
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(tokens, list):
        raise _other_form(url, f"no list of `tokens` but {told(answer)}")
    if not tokens:
        raise PassingError(f"{url} gives no token", tries=3)
    if len(tokens) > request.max_tokens:
        raise ServerError(f"{url} gives more tokens than it was asked for")
    if answer.get("truncated"):
        raise ServerError(f"{url} left out a part of the prompt (context shift): turn that off")
    positions = answer.get("completion_probabilities", [])
    if not isinstance(positions, list) or not all(isinstance(each, dict) for each in positions):
        raise _other_form(url, f"`completion_probabilities` that are no list: {told(positions)}")
    rows: list[Row] = []
    text = b""
    for token in tokens:
        text += texts.bytes_of(token) if isinstance(token, int) and token >= 0 else b""
        if is_within_character(text):
            break
        if len(rows) == len(positions):
            raise PassingError(f"{url} gives no log-probabilities for one of its tokens", tries=3)
        rows.append(_row_of(positions[len(rows)], token, url, texts.size))
    return rows


def _row_of(position: dict[str, Any], token: Any, url: str, size: int) -> Row:
    top = position.get("top_logprobs")
    if position.get("id") != token:
        raise ServerError(
            f"{url} gives the probabilities of token {told(position.get('id'))} where it writes "
            f"{told(token)}: some are lost on the way, or the tokenizer is another model's (pass "
            "its own as tokenizer=)"
        )
    if not isinstance(top, list) or not all(isinstance(each, dict) for each in top):
        raise _other_form(url, f"`top_logprobs` that are no list of objects: {told(top)}")
    pairs = [(each.get("id"), each.get("logprob")) for each in top]
    return row_of(token, position.get("logprob"), pairs, url, size)


async def _next(client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts) -> Row:
    """What follows a prompt, where the model would write a part of a character too."""
    rows = await _rows(client, url, request._replace(max_tokens=1), texts, texts.plain)
    likeliest = max(zip(rows[0].log_probs, rows[0].tokens, strict=True), key=lambda each: each[0])
    return rows[0]._replace(token=likeliest[1])


async def _row(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts, token: int
) -> Row:
    """What follows a prompt, a given token among it."""
    if not is_within_character(texts.bytes_of(token)):
        return (await _rows(client, url, request, texts, token))[0]
    whole = await _next(client, url, request._replace(top=texts.size), texts)
    own = dict(zip(whole.tokens, whole.log_probs, strict=True)).get(token)
    if own is None:
        raise ServerError(f"{url} lists {len(whole.tokens)} tokens, and not token {token}")
    listed = sorted(zip(whole.log_probs, whole.tokens, strict=True), reverse=True)
    kept = {id: value for value, id in listed[: request.top]} | {token: own}
    return Row(token, list(kept), list(kept.values()))


def _other_form(url: str, what: str) -> ServerError:
    return ServerError(
        f"{url} gives {what}: blendin needs the answers of llama.cpp's /completion (`tokens` and "
        "`completion_probabilities`, of a release since 2025)"
    )
