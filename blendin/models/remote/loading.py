"""From a server's URL to a `RemoteModel`, checked before any work starts."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from ...vocab.end_tokens import end_ids
from .. import default_pair as pairs
from . import completions
from .completions import PassingError, ServerError
from .model import RemoteModel, client, run

logger = logging.getLogger("blendin")

OPTIONS = ("top_logprobs", "timeout", "patience", "max_connections")
FOR_WEIGHTS = ("dtype", "device_map")
"""Options given for both models that do not concern a server."""

PROBE = "The quick brown fox: 3 + 4 = 7,\n\tnaïve café — 你好 🙂"


@dataclass(frozen=True)
class Address:
    """Where a model is served.

    Attributes:
        urls: one for each replica, up to and including /v1.
        model: what the servers call it; None: the only one they have.
    """

    urls: tuple[str, ...]
    model: str | None


def is_url(source: Any) -> bool:
    """Whether a model's source is the URL of a server."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def address(source: str) -> Address:
    """Reads `http://host:8000/v1#model`; several replicas stand before the #, with commas between.

    Raises:
        ValueError: it is not of that form, or has a password in it.
    """
    places, _, model = source.partition("#")
    urls = tuple(url.strip().rstrip("/") for url in places.split(","))
    for url in urls:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError(
                f"the URL of {parts.hostname} has a user or a password in it, which would stand in "
                "results and logs: put a key into BLENDIN_API_KEY"
            )
        if not is_url(url) or not parts.hostname or parts.query:
            raise ValueError(
                f"{url!r} is no server's URL: use http://host:8000/v1#model, and for replicas "
                "http://one:8000/v1,http://two:8000/v1#model"
            )
    return Address(urls, model or None)


def load(source: str, role: str, **options: Any) -> RemoteModel:
    """A model behind completions servers, as they describe it themselves.

    Args:
        source: as `address` reads it.
        role: "base" or "guide": its key is read from `BLENDIN_BASE_API_KEY` or
            `BLENDIN_GUIDE_API_KEY`, else `BLENDIN_API_KEY`, and goes to these URLs alone.
        **options: `tokenizer` (a name, a folder or a tokenizer; by default what the server says it
            serves), `top_logprobs` (100: tokens listed of each position), `timeout` (120 s without
            a byte), `patience` (600 s without a token), `max_connections` (1000), and
            `trust_remote_code` and `revision` for the tokenizer.

    Raises:
        ServerError: no server answers, or it refuses what blendin needs.
        ValueError: an unknown option, or a tokenizer that is not the server's.
    """
    if find_spec("httpx") is None:
        raise ValueError(f"{role}={source!r} is a server: `pip install 'blendin[remote]'`")
    where = address(source)
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
    top = int(ours.pop("top_logprobs", 100))
    _check_positive(role, top_logprobs=top, **ours)
    headers = _authorization(role)
    served = run(_ask(where, role, headers)).result()
    name = str(served["id"])
    place = _place(tokenizer, name, served.get("root"), role)
    read = place if isinstance(place, PreTrainedTokenizerBase) else _tokenizer(place, role, hub)
    size, ends = _vocabulary(read, place, hub)
    length = served.get("max_model_len")
    model = RemoteModel(
        where.urls,
        name,
        read,
        size=size,
        end_ids=ends,
        max_length=None if length is None else int(length) - 1,  # a server must add one
        top=top,
        headers=headers,
        **ours,
    )
    if not model.end_ids:
        raise ValueError(f"{name!r} has no end token, so nothing would stop it; pass tokenizer=")
    run(_check(where, model, headers)).result()
    return model


def _check_positive(role: str, **values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} of the {role} is {value!r}; use a number above 0")


def _authorization(role: str) -> dict[str, str]:
    for name in (f"BLENDIN_{role.upper()}_API_KEY", "BLENDIN_API_KEY"):
        if (key := os.environ.get(name)) is not None:
            return {"Authorization": f"Bearer {key}"} if key else {}
    return {}


async def _ask(where: Address, role: str, headers: dict[str, str]) -> Mapping[str, Any]:
    """The servers' own description of the model; logs those that do not answer."""
    async with client(headers, 30.0, 8) as asking:
        replies = await asyncio.gather(
            *(completions.get(asking, url, "models") for url in where.urls), return_exceptions=True
        )
    answers = []
    for url, answer in zip(where.urls, replies, strict=True):
        if isinstance(answer, PassingError) and len(where.urls) > 1:
            logger.warning("%s", answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            answers.append((url, answer))
    if not answers:
        raise ServerError(f"{role}: none of {', '.join(where.urls)} answers: start one")
    for url, answer in answers:
        models = {card["id"]: card for card in answer.get("data", []) if "id" in card}
        wanted = where.model or (next(iter(models)) if len(models) == 1 else None)
        if wanted not in models:
            raise ServerError(
                f"{role}: {url} serves {', '.join(models) or 'nothing'}"
                + (f", not {wanted}" if wanted else ": name one, as in " + url + "#model")
            )
    return dict(models[wanted])


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
        raise ValueError(
            f"the {role}'s server does not hand out its tokenizer, and {place!r} is neither a "
            f"folder nor available from the hub: pass {role}_kwargs={{'tokenizer': ...}} "
            f"(on the command line --{role}-tokenizer)"
        ) from error


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


async def _check(where: Address, model: RemoteModel, headers: dict[str, str]) -> None:
    """Checks that the servers accept our requests and have the same token ids."""
    ids = model.tokenizer.encode(PROBE)
    async with client(headers, 300.0, 8) as asking:  # a server's first answer may take long
        for url in where.urls:
            try:
                theirs = await _tokenized(asking, url, model.name)
                if theirs is not None and theirs != ids:
                    raise ValueError(
                        f"{url} has other tokens for {PROBE!r} than the tokenizer "
                        f"{model.tokenizer.name_or_path!r}: pass the model's own as tokenizer="
                    )
                rows = await completions.read(
                    asking, url, completions.body(model.name, ids, 1, model.top)
                )
            except PassingError as error:
                logger.warning("%s", error)
                continue
            except ServerError as error:
                raise ServerError(_advice(str(error), model)) from error
            row = rows[0] if rows else None
            if row is None or len(row.tokens) < min(model.top, len(model.vocabulary)):
                count = 0 if row is None else len(row.tokens)
                logger.warning("%s lists %d tokens, not %d", url, count, model.top)


async def _tokenized(asking: Any, url: str, name: str) -> list[int] | None:
    """The probe in the server's tokens; None where it has no endpoint for that."""
    import httpx

    page = url.removesuffix("/v1") + "/tokenize"
    try:
        response = await asking.post(page, json={"model": name, "prompt": PROBE})
        tokens = response.json().get("tokens") if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    return tokens if isinstance(tokens, list) else None


def _advice(message: str, model: RemoteModel) -> str:
    if "logprobs" in message and model.top > 1:
        return (
            f"{message}. Start it with --max-logprobs {model.top}, or pass top_logprobs= (fewer "
            "candidates for a blend)"
        )
    return message
