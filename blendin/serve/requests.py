"""What the body of a request asks of the pair: a `Request` of the engine for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..engine.pair import Pair
from ..engine.request import Request
from ..policy import BaseOnly
from ..prompts.encoding import RenderedPrompt
from ..protocol.errors import ApiError, refused, refusing
from ..protocol.fields import CHAT_FIELDS, COMPLETION_FIELDS, ECHOED, check
from ..protocol.names import names_of, split_name
from ..protocol.ours import MOST_CANDIDATES, Ours, read_ours, token_ids
from ..protocol.prompts import as_turn, read_messages, read_prompts, text_of
from ..protocol.sampling import COMPLETION_TOKENS, read_limit, read_sampling
from ..sampling import fresh_seed
from ..values import Flag, Integer, Text, told
from .settings import ServeSettings

MOST_CHOICES = 128


@dataclass(frozen=True)
class Asked:
    """A request, read.

    Attributes:
        model: the name that it asked for.
        is_chat: whether it is a conversation's.
        requests: of each text; of a prompt's `n` texts one after the other.
        echoed: what goes before each text.
        prompts: how many prompts they are of.
        logprobs: how many alternatives of each token are told of; None: not even the token's own.
        tells_steps: whether the trace is part of the answer.
        stream: whether text is sent as it comes.
        include_usage: whether the stream ends with the usage.
        echoes_logprobs: whether the prompt's own are told of.
        generates: whether there is any text to be made.
    """

    model: str
    is_chat: bool
    requests: tuple[Request, ...]
    echoed: tuple[str, ...]
    prompts: int
    logprobs: int | None = None
    tells_steps: bool = False
    stream: bool = False
    include_usage: bool = False
    echoes_logprobs: bool = False
    generates: bool = True


def read_chat(body: Mapping[str, Any], settings: ServeSettings, pair: Pair) -> Asked:
    """Reads a conversation.

    Raises:
        ApiError: naming what to change.
    """
    with refusing(prompt="messages"):
        given = check(body, CHAT_FIELDS)
        model, ours = read_model_and_ours(given, settings)
        messages = read_messages(given)
        logprobs = None
        if Flag()("logprobs", given.get("logprobs", False)):
            logprobs = _candidates("top_logprobs", given.get("top_logprobs", 0))
        elif given.get("top_logprobs"):
            raise refused("top_logprobs needs logprobs: true beside it", "top_logprobs")
        made = _requests(
            given, ours, logprobs, settings.default_max_tokens,
            [_row(pair, ours, messages, messages)],
        )  # fmt: skip
        return Asked(
            model, True, tuple(made), ("",) * len(made), 1, logprobs, **_told(given, ours)
        )  # fmt: skip


def read_completion(body: Mapping[str, Any], settings: ServeSettings, pair: Pair) -> Asked:
    """Reads prompts that are to be continued.

    Raises:
        ApiError: naming what to change.
    """
    with refusing():
        given = check(body, COMPLETION_FIELDS)
        model, ours = read_model_and_ours(given, settings)
        tokens = pair.base.vocabulary.tokens
        prompts = [
            each if isinstance(each, str) else RenderedPrompt(text_of(each, tokens), each)
            for each in read_prompts(given, tokens)
        ]
        echo = Flag()("echo", given.get("echo", False))
        logprobs = given.get("logprobs")
        if logprobs is False:
            logprobs = None
        logprobs = None if logprobs is None else _candidates("logprobs", logprobs)
        echoes_logprobs = echo and logprobs is not None
        if echoes_logprobs and not isinstance(ours.policy, BaseOnly):
            raise refused(ECHOED.format(settings.served_model_name), "echo")
        if echoes_logprobs and pair.base.is_async:
            raise refused("echo with logprobs needs a base that runs here: leave one out", "echo")
        generates = not (echo and given.get("max_tokens") == 0)
        made = _requests(
            given if generates else given | {"max_tokens": 1}, ours, logprobs, COMPLETION_TOKENS,
            [_row(pair, ours, prompt, as_turn(str(prompt))) for prompt in prompts],
        )  # fmt: skip
        n = len(made) // len(prompts)
        echoed = tuple(str(prompt) if echo else "" for prompt in prompts for _ in range(n))
        return Asked(
            model, False, tuple(made), echoed, len(prompts), logprobs,
            echoes_logprobs=bool(echoes_logprobs), generates=generates, **_told(given, ours),
        )  # fmt: skip


def read_model_and_ours(given: Mapping[str, Any], settings: ServeSettings) -> tuple[str, Ours]:
    """The model's name, and what is asked of the pair.

    Raises:
        ApiError: there is no such model, or naming what to change.
    """
    own_name = settings.served_model_name
    model = Text()("model", given.get("model", own_name)) or own_name
    if split_name(model)[0] != own_name:
        names = ", ".join(names_of(own_name))
        raise ApiError(
            404,
            f"the model {told(model)} does not exist here: use one of {names}",
            param="model",
            code="model_not_found",
        )
    return model, read_ours(given, settings.policy)


def _row(
    pair: Pair,
    ours: Ours,
    base: str | list[dict[str, Any]],
    messages: list[dict[str, Any]],
) -> dict[str, Any]:
    """What both models read.

    Args:
        pair: these.
        ours: what is asked of them.
        base: what the base reads: a conversation or a prompt.
        messages: what the guide reads, unless `ours` says otherwise.
    """
    reads = ours.guide_reads(messages)
    row: dict[str, Any] = {
        "prompt": None, "base_prompt": None, "guide_prompt": reads.get("guide_prompt"),
        "chat_template_kwargs": reads.get("chat_template_kwargs"),
    }  # fmt: skip
    if "guide_prompt_ids" in reads:
        ids = token_ids("guide_prompt_ids", reads["guide_prompt_ids"], len(pair.guide.vocabulary))
        row["guide_prompt"] = RenderedPrompt(pair.guide.tokenizer.decode(ids), ids)
    if isinstance(base, str):
        return row | {"base_prompt": base, "prompt": reads.get("messages")}
    if "messages" in reads and reads["messages"] != base:
        kwargs = row.pop("chat_template_kwargs")
        row["guide_prompt"] = pair.prompts.guide(reads["messages"], kwargs)
    return row | {"prompt": base}


def _candidates(name: str, value: Any) -> int:
    count: int = Integer(0, MOST_CANDIDATES)(name, value)  # type: ignore[assignment]
    return count


def _told(given: Mapping[str, Any], ours: Ours) -> dict[str, Any]:
    """How the answer is to be given."""
    options = given.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise refused(f"stream_options is {told(options)}: give a mapping", "stream_options")
    known = ("include_usage", "include_obfuscation")
    if unknown := sorted(name for name, value in options.items() if value and name not in known):
        raise refused(f"stream_options has no {unknown[0]!r}: leave it out", "stream_options")
    return {
        "stream": Flag()("stream", given.get("stream", False)),
        "include_usage": bool(options.get("include_usage")),
        "tells_steps": ours.tells_steps,
    }


def _requests(
    given: Mapping[str, Any],
    ours: Ours,
    logprobs: int | None,
    default_max_tokens: int,
    rows: Sequence[Mapping[str, Any]],
) -> list[Request]:
    """A request for each of the n texts of each prompt."""
    n: int = Integer(1, MOST_CHOICES)("n", given.get("n", 1))  # type: ignore[assignment]
    limit = read_limit(given)
    common = {
        "policy": ours.policy,
        "max_new_tokens": default_max_tokens if limit is None else limit,
        "stop": given.get("stop"),
        "trace_top": max(ours.candidates, 0 if logprobs is None else max(1, logprobs)),
        **_sampling(given),
    }
    if len(rows) * n > MOST_CHOICES:
        raise refused(
            f"{len(rows)} prompts with n {n} are {len(rows) * n} texts: ask for fewer", "n"
        )
    made: list[Request] = []
    for row in rows:
        whole: dict[str, Any] = {
            name: text for name, text in row.items() if isinstance(text, RenderedPrompt)
        }
        first = Request.of(
            row["prompt"], row["base_prompt"], row["guide_prompt"],
            default_policy=ours.policy, index=len(made),
            chat_template_kwargs=row.get("chat_template_kwargs"), **common,
        )  # fmt: skip
        first = replace(first, **whole)  # with its tokens
        made += [replace(first, index=len(made) + place) for place in range(n)]
    return made


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings; one that is drawn has a seed."""
    read = read_sampling(given)
    if read["temperature"] and read["seed"] is None:
        read["seed"] = fresh_seed() % 2**31  # JavaScript's numbers hold it, too: answers tell it
    return {"do_sample": read["temperature"] > 0, **read}
