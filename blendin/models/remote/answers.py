"""What a completions server answers, believed only as far as it can be: rows of log-probabilities.

The form is vLLM's: `choices[0].logprobs` has `tokens`, `token_logprobs` and `top_logprobs`, with
tokens as ids. Whatever is of another form, or cannot be, is refused with the server's URL and what
it sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...values import told
from .errors import ContextFullError, PassingError, ServerError, one_line

ID_PREFIX = "token_id:"
TOKEN = re.compile(r"token_id:([0-9]{1,10})")
TOKENS = re.compile(r"token_id:[0-9]{1,10}(?: token_id:[0-9]{1,10})*")
LEAST = -9998.0
"""Servers write -9999 for -inf, which JSON lacks."""
EPSILON = 1e-3
"""Servers round: how far probabilities may be above 1, one or all of a row."""
IS_LOG_PROB = EPSILON.__ge__
"""Of a float; False for NaN."""
LISTED_TWICE = 0.01
"""How far a token's log-probability may be from the one in the list of the likeliest."""
MISSING_TRIES = 3

PASSING = frozenset({408, 425, 429})
"""Statuses that another try may not meet, beside the 5xx."""
REFUSAL = re.compile(
    r"bad.?request|invalid.?request|not.?found|unauthori[sz]ed|authentication|permission|"
    r"forbidden|unprocessable|exceed_context_size|context_length_exceeded",
    re.IGNORECASE,
)
"""Kinds of errors that stand for a 4xx where a server gives no status."""
CONTEXT_FULL = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|(?:context (?:length|size|window)|maximum model length|max_model_len)(?:\D{0,20}(\d{1,9}))?",
    re.IGNORECASE,
)


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


class Chunk(NamedTuple):
    """One answer, or one event of a streamed one.

    Attributes:
        tokens: what the model wrote.
        rows: of each; None where the server gives no log-probabilities for it.
        text: the same as text; None where the server sends none along.
        finish: why it ended; None where it goes on.
        is_gap: it has none of these, as some servers begin or end.
    """

    tokens: list[int]
    rows: list[Row | None]
    text: str | None
    finish: str | None
    is_gap: bool = False


class _RepeatedKey(ValueError):
    pass


def parsed(text: str, url: str) -> Any:
    """A server's JSON, where it is no error.

    Raises:
        PassingError: it is none, or tells of a fault of the server's.
        ServerError: it tells of a refusal, or no JSON of ours can be like it.
    """
    try:
        answer = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise PassingError(f"{url} answers with what is not JSON: {told(text)}") from None
    except _RepeatedKey as repeated:
        raise ServerError(f"{url} gives {repeated} twice in one object: {told(text)}") from None
    except RecursionError:
        raise ServerError(f"{url} answers with JSON that is nested too deep to read") from None
    except ValueError:
        raise ServerError(f"{url} answers with a number too long to read: {told(text)}") from None
    if isinstance(answer, dict) and (answer.get("error") or answer.get("object") == "error"):
        raise error_of(text, url)
    return answer


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(told(next(name for name in names if names.count(name) > 1)))
    return made


def error_of(text: str, url: str) -> ServerError:
    """The error that an answer with status 200, or an event of one, tells of."""
    message = f"{url} gave up: {message_of(text)}"
    error = _error(text)
    kind = f"{error.get('type')} {error.get('code')}"
    status = str(error.get("code") or error.get("status") or error.get("status_code") or "")
    if re.fullmatch(r"4\d\d", status):
        return refusal(message) if int(status) not in PASSING else PassingError(message)
    return refusal(message) if REFUSAL.search(kind) else PassingError(message)


def refusal(message: str) -> ServerError:
    """The error for what a server refuses: of its context, where that is what it tells of."""
    if (found := CONTEXT_FULL.search(message)) is not None:
        return ContextFullError(message, int(found[1]) if found[1] else None)
    return ServerError(message)


def message_of(text: str) -> str:
    """What a server says in its error, in its own JSON or as it is, in one short line."""
    error = _error(text)
    for name in ("message", "detail", "error", "msg"):
        if isinstance(said := error.get(name), str) and said.strip():
            return one_line(said)
        if said:
            return one_line(told(said))
    return one_line(text) or "nothing"


def _error(text: str) -> Mapping[str, Any]:
    """The object of an error body that tells of it; empty where there is none."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(answer, list) and answer:
        answer = answer[0]
    inner = answer.get("error") if isinstance(answer, dict) else None
    answer = inner if isinstance(inner, dict) else answer
    return answer if isinstance(answer, dict) else {}


def chunk_of(answer: Any, url: str, size: int) -> Chunk:
    """The rows in an answer.

    Args:
        answer: its JSON.
        url: the server's, for messages.
        size: of the vocabulary; no token's id may reach it.

    Raises:
        ServerError: it is of another form, or its numbers cannot be.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list):
        raise _other_form(url, f"no list of `choices` but {told(answer)}")
    if not choices:  # the usage, which some servers send last
        return Chunk([], [], None, None, is_gap=True)
    choice = choices[0]
    if len(choices) > 1 or not isinstance(choice, dict):
        raise _other_form(url, f"other `choices` than the one asked for: {told(choices)}")
    if "delta" in choice or "message" in choice:
        raise _other_form(url, f"a chat server's answer, {told(choice)}")
    text, finish, logprobs = (choice.get(name) for name in ("text", "finish_reason", "logprobs"))
    if not isinstance(text, str | None):
        raise _other_form(url, f"a `text` that is none, {told(text)}")
    finish = finish if isinstance(finish, str) else None
    if logprobs is None:
        if text:
            raise ServerError(
                f"{url} gives no log-probabilities: blendin needs a completions server that does"
            )
        return Chunk([], [], text, finish, is_gap=True)
    tokens, rows = _rows(logprobs, url, size)
    return Chunk(tokens, rows, text, finish)


def _rows(logprobs: Any, url: str, size: int) -> tuple[list[int], list[Row | None]]:
    if isinstance(logprobs, dict) and "content" in logprobs and "tokens" not in logprobs:
        raise _other_form(url, "its log-probabilities in `logprobs.content`, as llama.cpp does")
    lists = []
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        each = logprobs.get(name) if isinstance(logprobs, dict) else None
        if not isinstance(each, list):
            raise _other_form(url, f"no list of `logprobs.{name}` but {told(each)}")
        lists.append(each)
    if len({len(each) for each in lists}) > 1:
        raise _other_form(url, f"lists of different lengths in `logprobs`, {told(logprobs)}")
    tokens = [_id(token, url, size) for token in lists[0]]
    return tokens, [
        _row(token, log_prob, top, url, size)
        for token, log_prob, top in zip(tokens, lists[1], lists[2], strict=True)
    ]


def _row(token: int, log_prob: Any, top: Any, url: str, size: int) -> Row | None:
    if log_prob is None and top is None:
        return None
    if not isinstance(top, dict):
        raise _other_form(url, f"`top_logprobs` that are no object: {told(top)}")
    return _checked(
        token, log_prob, _listed_at_once(top, size) or _listed(top, url, size), url, size
    )


def row_of(token: Any, log_prob: Any, top: Sequence[tuple[Any, Any]], url: str, size: int) -> Row:
    """A row from a server that gives ids as numbers.

    Args:
        token: what stands there.
        log_prob: its own.
        top: the likeliest with theirs.
        url: the server's, for messages.
        size: of the vocabulary.

    Raises:
        ServerError: an id or a log-probability that cannot be.
    """
    listed: dict[int, float] = {}
    for id, value in top:
        if _number_id(id, url, size) in listed:
            raise ServerError(f"{url} lists token {id} twice at one position: {told(top)}")
        listed[id] = _log_prob(value, url)
    return _checked(_number_id(token, url, size), log_prob, listed, url, size)


def _checked(token: int, log_prob: Any, listed: dict[int, float], url: str, size: int) -> Row:
    """A row, where its numbers can be."""
    own = _log_prob(log_prob, url)
    if abs(listed.setdefault(token, own) - own) > LISTED_TWICE:
        raise ServerError(
            f"{url} says two log-probabilities of token {token}, {own:g} and {listed[token]:g}"
        )
    values = list(listed.values())
    if (total := math.fsum(map(math.exp, values))) > 1 + EPSILON:
        raise ServerError(
            f"{url} gives probabilities that sum to {total:.4g} at one position: those of all "
            "tokens together are 1"
        )
    if max(values) < -math.log(size) - EPSILON:
        raise ServerError(
            f"{url} gives no token more than p = {math.exp(max(values)):.3g}, less than the "
            f"likeliest of {size} can have"
        )
    return Row(token, list(listed), values)


def _listed_at_once(top: dict[str, Any], size: int) -> dict[int, float] | None:
    """`_listed` for what is in order, as nearly all is; a hundred tokens at each position."""
    names, values = " ".join(top), list(top.values())
    if not TOKENS.fullmatch(names) or set(map(type, values)) != {float}:
        return None
    ids = list(map(int, names[len(ID_PREFIX) :].split(f" {ID_PREFIX}")))
    if not len(top) == len(ids) == len(set(ids)) or max(ids) >= size:
        return None
    if not all(map(IS_LOG_PROB, values)):
        return None
    if min(values) < LEAST or max(values) > 0:
        values = [-math.inf if value < LEAST else min(value, 0.0) for value in values]
    return dict(zip(ids, values, strict=True))


def _listed(top: dict[str, Any], url: str, size: int) -> dict[int, float]:
    """The tokens of a list with their log-probabilities, each of them checked."""
    listed: dict[int, float] = {}
    for name, value in top.items():
        id = _id(name, url, size)
        if id in listed:
            raise ServerError(f"{url} lists token {id} twice at one position: {told(top)}")
        listed[id] = _log_prob(value, url)
    return listed


def _log_prob(value: Any, url: str) -> float:
    """A log-probability; raises where a value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _other_form(url, f"{told(value)} for a log-probability")
    if not value <= EPSILON:  # NaN, too
        raise ServerError(
            f"{url} gives the log-probability {told(value)}: it must be 0 or less (p ≤ 1)"
        )
    return -math.inf if value < LEAST else min(float(value), 0.0)


def _id(token: Any, url: str, size: int) -> int:
    if not isinstance(token, str):
        raise _other_form(url, f"{told(token)} for a token")
    if not token.startswith(ID_PREFIX):
        raise ServerError(
            f"{url} gives its tokens as text ({told(token)}), in which bytes get lost: blendin "
            "needs a server that gives token ids, as vLLM does (return_tokens_as_token_ids)"
        )
    found = TOKEN.fullmatch(token)
    if found is None or (id := int(found[1])) >= size:
        raise ServerError(
            f"{url} gives the token {told(token)}, which is none of the vocabulary's {size}: "
            "pass the model's own tokenizer as tokenizer="
        )
    return id


def _number_id(id: Any, url: str, size: int) -> int:
    if isinstance(id, bool) or not isinstance(id, int):
        raise ServerError(f"{url} gives {told(id)} for a token's id")
    if not 0 <= id < size:
        raise ServerError(
            f"{url} gives the token {id}, which is none of the vocabulary's {size}: pass the "
            "model's own tokenizer as tokenizer="
        )
    return id


def _other_form(url: str, what: str) -> ServerError:
    return ServerError(
        f"{url} gives {what}: blendin needs the answers of vLLM's /v1/completions (`choices` with "
        "`logprobs.tokens`, `token_logprobs` and `top_logprobs`)"
    )
