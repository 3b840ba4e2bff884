"""From a server's URL to a `RemoteModel`, checked before any work starts."""

from __future__ import annotations

import asyncio
import logging
import math
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ...values import Integer, Real, told
from ...vocab.end_tokens import end_ids
from .. import default_pair as pairs
from ..identity import LIKELIEST
from . import completions, llama_cpp, sglang
from .address import Address, address, is_url, refuse_what_should_be_a_url
from .connection import Access, run, tls_context
from .credentials import headers as checked_headers
from .dialect import Dialect
from .errors import PassingError, ServerError, one_line
from .exchange import get
from .model import RemoteModel

__all__ = ["Address", "address", "is_url", "load", "refuse_what_should_be_a_url"]

logger = logging.getLogger("blendin")

OPTIONS = ("top_logprobs", "timeout", "patience", "max_connections", "headers", "verify")
FOR_WEIGHTS = ("dtype", "device_map")
"""Options given for both models that do not concern a server."""

PROBE = "The quick brown fox: 3 + 4 = 7,\n\tnaïve café — 你好 🙂"
PROBE_TOKENS = 8
PROBE_TRIES, LONGEST_PROBE_WAIT = 4, 30.0
"""How often a server that is busy at loading is asked again, and seconds between."""
DIALECTS: Mapping[str, Dialect] = {"llamacpp": llama_cpp, "sglang": sglang}
"""By what a server says of its model, `owned_by`; all others are asked as vLLM is."""
LISTING_SECONDS, PROBE_SECONDS = 60.0, 600.0
"""How long a server may take for its list of models, and for its first answer."""


def load(source: str, role: str, **options: Any) -> RemoteModel:
    """A model behind completions servers, as they describe it themselves.

    Args:
        source: as `address` reads it.
        role: "base" or "guide": its key is read from `BLENDIN_BASE_API_KEY` or
            `BLENDIN_GUIDE_API_KEY`, else `BLENDIN_API_KEY`, and goes to these URLs alone.
        **options: `tokenizer` (a name, a folder or a tokenizer; by default what the server says it
            serves), `top_logprobs` (100: tokens listed of each position), `timeout` (120 s without
            a byte), `patience` (600 s without a token), `max_connections` (1000), `headers`
            (further ones of every request, a mapping), `verify` (as `connection.tls_context`), and
            `trust_remote_code` and `revision` for the tokenizer.

    Raises:
        ServerError: no server answers, or it refuses what blendin needs.
        ValueError: an unknown option, a key that no header may hold, or a tokenizer that is not
            the server's.
    """
    where = _where(source, role)
    tokenizer = options.pop("tokenizer", None)
    ours = {name: options.pop(name) for name in OPTIONS if name in options}
    hub: dict[str, Any] = {
        name: options.pop(name) for name in ("trust_remote_code", "revision") if name in options
    }
    if foreign := sorted(options.keys() - set(FOR_WEIGHTS)):
        raise ValueError(
            f"{role}={source!r} is a server, which has no setting {', '.join(foreign)}: there are "
            f"tokenizer, {', '.join(OPTIONS)}, trust_remote_code and revision"
        )
    top, patience, access = _access(role, ours)
    cards = run(_within(LISTING_SECONDS, _cards(where, role, access), where)).result()
    served, dialect = next(iter(cards.values())), _dialect(cards)
    name = str(served["id"])
    place = _place(tokenizer, name, served.get("root"), role)
    read = place if isinstance(place, PreTrainedTokenizerBase) else _tokenizer(place, role, hub)
    size, ends = _vocabulary(read, place, hub)
    model = RemoteModel(
        where.urls,
        name,
        read,
        size=size,
        end_ids=ends,
        max_length=_shortest([card.get("max_model_len") for card in cards.values()]),
        top=top,
        dialect=dialect,
        access=access,
        patience=patience,
    )
    if not model.end_ids:
        raise ValueError(f"{name!r} has no end token, so nothing would stop it; pass tokenizer=")
    answer = run(_check(where, model, access)).result()
    model.described = {
        "id": name,
        "root": served.get("root"),
        "max_length": model.max_length,
        "answer": answer,
    }
    return model


def check(source: str, role: str, options: Mapping[str, Any]) -> None:
    """Refuses what `load` would refuse before it asks a server.

    Raises:
        ValueError: an address, a key, a header or another option that cannot be.
    """
    _where(source, role)
    with warnings.catch_warnings(action="ignore"):  # `load` warns
        _access(role, options)


def _where(source: str, role: str) -> Address:
    if find_spec("httpx") is None:
        raise ValueError(f"{role}={source!r} is a server: `pip install 'blendin[remote]'`")
    return address(source)


def _access(role: str, given: Mapping[str, Any]) -> tuple[int, float, Access]:
    """How many tokens are listed, patience, and how servers are asked; each setting checked."""

    def number(name: str, default: float, kind: Integer | Real) -> Any:
        return kind(f"{name} of the {role}", given.get(name, default))

    access = Access(
        headers=checked_headers(role, given.get("headers")),
        timeout=number("timeout", 120.0, Real(0, above=True)),
        connections=number("max_connections", 1000, Integer(1)),
        tls=tls_context(given.get("verify", True), f"verify of the {role}"),
    )
    top = number("top_logprobs", 100, Integer(1))
    return top, number("patience", 600.0, Real(0, above=True)), access


def _shortest(lengths: list[int | None]) -> int | None:
    """How many tokens can be continued at every one of the servers that tell how much they hold."""
    known = [length for length in lengths if length is not None]
    return min(known) - 1 if known else None  # a server must add one


async def _within(seconds: float, work: Any, where: Address) -> Any:
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        urls = ", ".join(where.urls)
        raise ServerError(f"{urls}: no answer within {seconds:g} s at loading") from None


async def _cards(where: Address, role: str, access: Access) -> dict[str, dict[str, Any]]:
    """The servers' own descriptions of the model, by URL; logs those that do not answer."""
    async with access.client() as asking:
        replies = await asyncio.gather(
            *(get(asking, url, "models") for url in where.urls), return_exceptions=True
        )
    answers = []
    for url, answer in zip(where.urls, replies, strict=True):
        if isinstance(answer, PassingError) and len(where.urls) > 1:
            logger.warning("%s", answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            answers.append((url, _models(answer, url)))
    if not answers:
        raise ServerError(f"{role}: none of {', '.join(where.urls)} answers: start one")
    wanted, found = where.model, {}
    for url, models in answers:
        wanted = wanted or (next(iter(models)) if len(models) == 1 else None)
        if wanted not in models:
            raise ServerError(
                f"{role}: {url} serves {', '.join(map(one_line, models)) or 'nothing'}"
                + (f", not {wanted}" if wanted else ": name one, as in " + url + "#model")
            )
        found[url] = models[wanted]
    return found


def _dialect(cards: Mapping[str, Mapping[str, Any]]) -> Dialect:
    """Of the engine that all of the servers run."""
    found = {
        url: DIALECTS.get(str(card.get("owned_by")), completions) for url, card in cards.items()
    }
    if len({each.NAME for each in found.values()}) > 1:
        told_of = ", ".join(f"{url} is {each.NAME}'s" for url, each in found.items())
        raise ServerError(
            f"replicas of one model must run one engine, which rounds alike, and {told_of}: name "
            "those of one"
        )
    return next(iter(found.values()))


def _models(answer: Any, url: str) -> dict[str, dict[str, Any]]:
    """A server's models by their names, each with the length of its context where that is known.

    An adapter's card has none of its own: it is its model's.
    """
    cards = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(cards, list):
        raise ServerError(f"{url} lists no models (`data` of /models) but {told(answer)}")
    models = {
        card["id"]: dict(card)
        for card in cards
        if isinstance(card, dict) and isinstance(card.get("id"), str)
    }
    for card in models.values():
        parent = models.get(str(card.get("parent")), {})
        meta = card.get("meta")  # llama.cpp's
        length = card.get("max_model_len") or parent.get("max_model_len")
        length = length or (meta.get("n_ctx") if isinstance(meta, dict) else None)
        card["max_model_len"] = _length(length, url)
    return models


def _length(value: Any, url: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ServerError(
            f"{url} says that its context holds max_model_len={told(value)}: it must be a number "
            "of tokens from 2 up"
        )
    return value


def _place(tokenizer: Any, name: str, root: Any, role: str) -> Any:
    """Where the tokenizer comes from: where the user says, or where the server found it."""
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        return tokenizer
    for candidate in (tokenizer, name, root):
        if candidate is not None and str(candidate) in pairs.EMBEDDED:
            return str(pairs.folder(str(candidate)))
    return str(tokenizer or (root if isinstance(root, str) and root else name))


def _tokenizer(place: str, role: str, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(place, **hub)
    except (OSError, ValueError) as error:
        if _is_gated(error):
            raise ValueError(
                f"the {role}'s server does not hand out its tokenizer, and {place!r} is gated on "
                "the hub: accept its terms there and log in (`hf auth login`, or HF_TOKEN), or "
                f"pass {role}_kwargs={{'tokenizer': ...}} with a folder that has it"
            ) from error
        raise ValueError(
            f"the {role}'s server does not hand out its tokenizer, and {place!r} is neither a "
            f"folder nor available from the hub: pass {role}_kwargs={{'tokenizer': ...}} "
            f"(on the command line --{role}-tokenizer)"
        ) from error


def _is_gated(error: BaseException | None) -> bool:
    """Whether the hub keeps a model for those who accepted its terms."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or "gated repo" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _vocabulary(
    tokenizer: PreTrainedTokenizerBase, place: Any, hub: Mapping[str, Any]
) -> tuple[int, frozenset[int]]:
    """The size of the model's vocabulary, and its end tokens."""
    size, configured = len(tokenizer), None
    if isinstance(place, str):
        try:
            config = AutoConfig.from_pretrained(place, **hub)
            size = max(size, config.get_text_config().vocab_size)
            configured = config.get_text_config().eos_token_id
        except (OSError, ValueError):
            logger.warning("%s has a tokenizer and no configuration", place)
        try:
            generation = GenerationConfig.from_pretrained(
                place, revision=hub.get("revision") or "main"
            )
            configured = generation.eos_token_id or configured
        except (OSError, ValueError):
            pass
    return size, end_ids(configured, tokenizer, size)


async def _check(where: Address, model: RemoteModel, access: Access) -> list[tuple[int, float]]:
    """Checks that the servers have the same token ids, and answer a request as all will be.

    Returns:
        The likeliest tokens that one of them lists after the probe, with their log-probabilities.
    """
    ids = model.tokenizer.encode(PROBE)
    async with access.client() as asking:
        described = [
            await model.dialect.tokenized(asking, url, model.name, PROBE) for url in where.urls
        ]
    for url, (tokens, _) in zip(where.urls, described, strict=True):
        if tokens is not None and tokens != ids:
            raise ValueError(
                f"{url} has other tokens for {PROBE!r} than the tokenizer "
                f"{model.tokenizer.name_or_path!r}: pass the model's own as tokenizer="
            )
    lengths = [None if length is None else _length(length, url) for _, length in described]
    known = [*lengths, None if model.max_length is None else model.max_length + 1]
    model.max_length = _shortest(known)
    errors, answers = [], []
    for url in where.urls:
        try:
            answers.append(await _within(PROBE_SECONDS, _probe(model, url, ids), where))
        except PassingError as error:
            errors.append(error)
    if len(errors) == len(where.urls):
        raise ServerError(f"{errors[0]}: no request could be made to try it") from None
    for passing in errors:
        logger.warning("%s", passing)
    likeliest = sorted(answers[0].items(), key=lambda entry: -entry[1])[:LIKELIEST]
    return [(token, round(log_prob, 3)) for token, log_prob in likeliest if log_prob > -math.inf]


async def _probe(model: RemoteModel, url: str, ids: list[int]) -> dict[int, float]:
    """One request to a server; its first position's tokens with their log-probabilities.

    Raises:
        PassingError: it is busy, or not there.
        ServerError: it refuses, or answers in another form.
    """
    room = math.inf if model.max_length is None else model.max_length + 1
    count = int(min(PROBE_TOKENS, max(1, room - len(ids))))
    ids = ids[: int(min(len(ids), room - count))]
    for left in reversed(range(PROBE_TRIES)):
        try:
            rows = await model.probe(url, ids, count)
            break
        except PassingError as error:
            if not left or error.wait is None or error.wait > LONGEST_PROBE_WAIT:
                raise
            await asyncio.sleep(error.wait)
        except ServerError as error:
            raise ServerError(_advice(str(error), model)) from None
    listed = min(len(row.tokens) for row in rows)
    if listed < min(model.top, len(model.vocabulary)):
        logger.warning("%s lists %d tokens, not %d", url, listed, model.top)
    model.listed(rows)
    return dict(zip(rows[0].tokens, rows[0].log_probs, strict=True))


def _advice(message: str, model: RemoteModel) -> str:
    if "logprobs" in message and model.top > 1:
        return (
            f"{message}. Start it with --max-logprobs {model.top}, or pass top_logprobs= (fewer "
            "candidates for a blend)"
        )
    return message
