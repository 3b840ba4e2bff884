"""SGLang's dialect: `/generate`, which takes and gives token ids.

https://docs.sglang.io/basic_usage/native_api.html
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ...values import told
from . import completions
from .answers import MISSING_TRIES, Row, row_of
from .connection import told_as_ours
from .dialect import Request
from .errors import PassingError, ServerError
from .exchange import DONE, post, streamed
from .transcript import TokenTexts

if TYPE_CHECKING:
    import httpx

NAME = "SGLang"

tokenized = completions.tokenized
"""It has the same page as vLLM."""


def body(request: Request) -> dict[str, Any]:
    """The JSON of a greedy request; it overrides the server's sampling defaults."""
    return {
        "input_ids": list(request.prompt),
        "sampling_params": {
            "max_new_tokens": request.max_tokens,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 1,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "ignore_eos": False,
            "skip_special_tokens": False,
        },
        "return_logprob": True,
        "top_logprobs_num": request.top,
        "return_text_in_logprobs": False,
    }


async def stream(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts
) -> AsyncGenerator[Row, None]:
    """As `Dialect.stream`; the server's own count of its tokens shows that none is lost."""
    seen, is_done, is_whole = 0, False, False
    asked = {**body(request), "stream": True}
    with told_as_ours(url, client.headers):
        async with aclosing(streamed(client, url, "/generate", asked)) as answers:
            async for answer in answers:
                is_done |= answer is DONE
                if is_done:
                    continue
                meta = _meta(answer, url)
                is_whole |= meta.get("finish_reason") is not None
                _refuse_abort(meta, url)
                for row in _new(meta, seen, url, texts.size):
                    seen += 1
                    if seen > request.max_tokens:
                        raise ServerError(f"{url} gives more tokens than it was asked for")
                    yield row
        if not (is_done or is_whole):
            raise PassingError(f"{url} broke off its answer")
        if not seen:
            raise PassingError(f"{url} gives no token", tries=MISSING_TRIES)


async def read(
    client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts, positions: int
) -> list[Row]:
    """As `Dialect.read`, with the prompt's own log-probabilities."""
    ids = list(request.prompt)
    start = max(0, len(ids) - positions)
    asked = {**body(request), "logprob_start_len": start}
    with told_as_ours(url, client.headers):
        meta = _meta(await post(client, url, "/generate", asked), url)
        _refuse_abort(meta, url)
        rows = _listed(meta, "input", url, texts.size)
        told_ids = [row.token for row in rows]
        wanted = ids[len(ids) - positions + 1 :] if positions else []
        if len(rows) < len(wanted) or told_ids[len(rows) - len(wanted) :] != wanted:
            raise ServerError(
                f"{url} reads {len(rows)} tokens back that are not the {len(wanted)} it was given: "
                "it cannot score texts"
            )
        after = _new(meta, 0, url, texts.size)
        if len(after) != 1:
            raise ServerError(f"{url} gives {len(after)} tokens where one was asked for")
        return [*rows[len(rows) - len(wanted) :], *after]


def _meta(answer: Any, url: str) -> dict[str, Any]:
    meta = answer.get("meta_info") if isinstance(answer, dict) else None
    if not isinstance(meta, dict):
        raise _other_form(url, f"no `meta_info` but {told(answer)}")
    return meta


def _refuse_abort(meta: dict[str, Any], url: str) -> None:
    """Raises where a request was given up, which SGLang tells with status 200."""
    finish = meta.get("finish_reason")
    if isinstance(finish, dict) and finish.get("type") == "abort":
        raise PassingError(f"{url} gave up: {told(finish.get('message'))}", tries=MISSING_TRIES)


def _new(meta: dict[str, Any], seen: int, url: str, size: int) -> list[Row]:
    """The rows of an event that are not there yet.

    Events tell all tokens so far, or with --incremental-streaming-output the new ones alone.
    """
    count = meta.get("completion_tokens")
    if isinstance(count, bool) or not isinstance(count, int):
        raise _other_form(url, f"no `completion_tokens` but {told(count)}")
    if count == seen:
        return []
    rows = _listed(meta, "output", url, size, skip=seen, count=count)
    if len(rows) != count - seen:
        raise PassingError(
            f"{url} gives no log-probabilities for one of its tokens", tries=MISSING_TRIES
        )
    return rows


def _listed(
    meta: dict[str, Any], which: str, url: str, size: int, skip: int = 0, count: int | None = None
) -> list[Row]:
    """The rows of a prompt or of what was written; the first of a prompt may have none.

    Args:
        meta: of an answer.
        which: "input" or "output".
        url: the server's.
        size: of the vocabulary.
        skip: so many are known where all `count` are there.
        count: how many there are in all.
    """
    own, top = (meta.get(f"{which}_{name}") for name in ("token_logprobs", "top_logprobs"))
    if not isinstance(own, list) or not isinstance(top, list) or len(own) != len(top):
        raise _other_form(
            url, f"no lists of one length of `{which}_token_logprobs` and `_top_logprobs`"
        )
    start = skip if len(own) == count else 0
    rows = []
    for place, (entry, others) in enumerate(zip(own[start:], top[start:], strict=True)):
        is_first = which == "input" and place == 0
        if is_first and (others is None or not _is_entry(entry) or entry[0] is None):
            continue
        if not _is_entry(entry) or not isinstance(others, list) or not all(map(_is_entry, others)):
            raise _other_form(url, f"log-probabilities that are none, {told(entry)}")
        pairs = [(id, value) for value, id, *_ in others]
        rows.append(row_of(entry[1], entry[0], pairs, url, size))
    return rows


def _is_entry(value: Any) -> bool:
    """Whether it is a log-probability, an id and perhaps a text."""
    return isinstance(value, list) and 2 <= len(value) <= 3


def _other_form(url: str, what: str) -> ServerError:
    return ServerError(
        f"{url} gives {what}: blendin needs the answers of SGLang's /generate (`meta_info` with "
        "`output_token_logprobs` and `output_top_logprobs`)"
    )
