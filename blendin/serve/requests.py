"""What the body of a request asks of the pair: a `Request` of the engine for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..engine.pair import Pair
from ..engine.request import Request
from ..policy import BaseOnly, Policy
from ..prompts import as_messages
from ..prompts.encoding import RenderedPrompt
from ..sampling import fresh_seed
from ..values import Flag, Integer, Real, encodable, told
from .errors import refused
from .fields import CHAT, COMPLETIONS, check
from .ours import NAME, chosen_policy, guide_reads, refusing, token_ids
from .settings import ServeSettings

LIMITS = ("max_completion_tokens", "max_tokens")

MOST_CANDIDATES = 100
MOST_CHOICES = 128
COMPLETION_TOKENS = 16
"""The default of OpenAI's completions."""

Tokens = list[int]


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
        given = check(body, CHAT)
        model, policy, own = chosen_policy(given, settings)
        messages = read_messages(given)
        ours = guide_reads(own, pair)
        template = given.get("chat_template_kwargs") or {}
        if template and own.get("chat_template_kwargs"):
            raise refused("chat_template_kwargs stands in blendin and beside it: give one of them")
        if "messages" in ours:
            raise refused(
                "messages stands in blendin and beside it: give one of them, or guide_prompt for "
                "what the guide alone reads",
                NAME,
            )
        logprobs = None
        if Flag()("logprobs", given.get("logprobs", False)):
            logprobs = _candidates("top_logprobs", given.get("top_logprobs", 0))
        elif given.get("top_logprobs"):
            raise refused("top_logprobs needs logprobs: true beside it", "top_logprobs")
        made = _requests(
            given, own, settings, policy, logprobs, settings.default_max_tokens,
            [{"prompt": messages, "base_prompt": None, **ours}],
            chat_template_kwargs=template or own.get("chat_template_kwargs"),
        )  # fmt: skip
        return Asked(
            model, True, tuple(made), ("",) * len(made), 1, logprobs, **_told(given, own)
        )  # fmt: skip


def read_completion(body: Mapping[str, Any], settings: ServeSettings, pair: Pair) -> Asked:
    """Reads prompts that are to be continued.

    Raises:
        ApiError: naming what to change.
    """
    with refusing():
        given = check(body, COMPLETIONS)
        model, policy, own = chosen_policy(given, settings)
        prompts = [_rendered(prompt, pair) for prompt in _prompts(given)]
        echo = Flag()("echo", given.get("echo", False))
        logprobs = given.get("logprobs")
        if logprobs is False:
            logprobs = None
        logprobs = None if logprobs is None else _candidates("logprobs", logprobs)
        echoes_logprobs = echo and logprobs is not None
        if echoes_logprobs and not isinstance(policy, BaseOnly):
            raise refused(
                "echo with logprobs: a prompt's log-probabilities are the base's own, for nothing "
                f"of it was emitted; leave one out, or ask {settings.served_model_name}:base",
                "echo",
            )
        if echoes_logprobs and pair.base.is_async:
            raise refused("echo with logprobs needs a base that runs here: leave one out", "echo")
        generates = not (echo and given.get("max_tokens") == 0)
        ours = guide_reads(own, pair)
        rows = []
        for prompt in prompts:
            reads = ours or {"prompt": [{"role": "user", "content": str(prompt)}]}
            if "messages" in reads:
                reads = {"prompt": reads["messages"]}
            elif not policy.reads_guide:
                reads = {}
            rows.append({"prompt": None, "base_prompt": prompt, **reads})
        made = _requests(
            given if generates else given | {"max_tokens": 1}, own, settings, policy, logprobs,
            COMPLETION_TOKENS, rows, chat_template_kwargs=own.get("chat_template_kwargs"),
        )  # fmt: skip
        n = len(made) // len(prompts)
        echoed = tuple(str(prompt) if echo else "" for prompt in prompts for _ in range(n))
        return Asked(
            model, False, tuple(made), echoed, len(prompts), logprobs,
            echoes_logprobs=bool(echoes_logprobs), generates=generates, **_told(given, own),
        )  # fmt: skip


def read_messages(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation, as it is rendered."""
    messages = given.get("messages")
    if not isinstance(messages, list):
        raise refused(f"messages is {told(messages)}: give a list of messages", "messages")
    read = as_messages(messages, None)
    for message in read:
        encodable(f"the content of the {message['role']}'s message", message["content"])
    begun = read[-1]["role"] == "assistant"
    opens, continues = given.get("add_generation_prompt"), given.get("continue_final_message")
    if opens is not None and bool(opens) == begun:
        raise refused(
            f"add_generation_prompt is {told(opens)}: the answer goes on with the last message "
            "where that is the assistant's, and is opened where it is not: leave it out",
            "add_generation_prompt",
        )
    if continues is not None and bool(continues) != begun:
        raise refused(
            f"continue_final_message is {told(continues)}: the last message is continued where it "
            "is the assistant's, and nowhere else: leave it out",
            "continue_final_message",
        )
    return read


def _prompts(given: Mapping[str, Any]) -> list[str | Tokens]:
    """The prompts of a completion, each a text or tokens."""
    prompt = given.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise refused(
            f"prompt is {told(prompt)}: give a text, texts, token ids, or lists of them", "prompt"
        )
    return [prompt] if isinstance(prompt[0], int) else prompt


def _rendered(prompt: Any, pair: Pair) -> str:
    """A prompt, with its tokens where it is given so."""
    if isinstance(prompt, str):
        return encodable("prompt", prompt)
    ids = token_ids("prompt", prompt, len(pair.base.vocabulary))
    data = b"".join(pair.base.vocabulary.tokens[id] or b"" for id in ids)
    return RenderedPrompt(data.decode("utf-8", "replace"), ids)


def _candidates(name: str, value: Any) -> int:
    count: int = Integer(0, MOST_CANDIDATES)(name, value)  # type: ignore[assignment]
    return count


def _told(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """How the answer is to be given."""
    options = given.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise refused(f"stream_options is {told(options)}: give a mapping", "stream_options")
    known = ("include_usage", "include_obfuscation")
    if unknown := sorted(name for name, value in options.items() if value and name not in known):
        raise refused(f"stream_options has no {unknown[0]!r}: leave it out", "stream_options")
    trace = own.get("trace", False)
    return {
        "stream": Flag()("stream", given.get("stream", False)),
        "include_usage": bool(options.get("include_usage")),
        "tells_steps": trace is not False,
    }


def _requests(
    given: Mapping[str, Any],
    own: Mapping[str, Any],
    settings: ServeSettings,
    policy: Policy,
    logprobs: int | None,
    default_max_tokens: int,
    rows: Sequence[Mapping[str, Any]],
    **further: Any,
) -> list[Request]:
    """A request for each of the n texts of each prompt."""
    n: int = Integer(1, MOST_CHOICES)("n", given.get("n", 1))  # type: ignore[assignment]
    limits = [given[name] for name in LIMITS if name in given]
    if limits[1:] and limits[0] != limits[1]:
        raise refused(f"{' and '.join(LIMITS)} differ: give one of them", "max_tokens")
    trace = own.get("trace", False)
    listed = 0 if isinstance(trace, bool) else _candidates("trace", trace)
    common = {
        "policy": policy,
        "max_new_tokens": limits[0] if limits else default_max_tokens,
        "stop": given.get("stop"),
        "trace_top": max(listed, 0 if logprobs is None else max(1, logprobs)),
        **_sampling(given, n),
        **further,
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
            row["prompt"], row["base_prompt"], row.get("guide_prompt"),
            default_policy=policy, index=len(made), **common,
        )  # fmt: skip
        first = replace(first, **whole)  # with its tokens
        made += [replace(first, index=len(made) + place) for place in range(n)]
    return made


def _sampling(given: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The sampling settings; greedy where nothing asks for a draw."""
    top_k = given.get("top_k")
    if top_k in (0, -1) and not isinstance(top_k, bool):
        top_k = None
    top_p = given.get("top_p", 1.0)
    is_drawn = n > 1 or top_p != 1 or top_k is not None or "seed" in given
    temperature = given.get("temperature", 1.0 if is_drawn else 0.0)
    temperature = Real(0)("temperature", temperature)
    if Flag()("do_sample", given.get("do_sample", True)) is False:
        if "temperature" in given and temperature:
            raise refused("do_sample is false and temperature is not 0: give one", "do_sample")
        temperature = 0.0
    return {
        "do_sample": temperature > 0,
        "temperature": temperature,
        "top_p": top_p,
        "sampling_top_k": top_k,
        "repetition_penalty": given.get("repetition_penalty", 1.0),
        # One that JavaScript's numbers hold, too: answers tell it.
        "seed": given.get("seed", fresh_seed() % 2**31 if temperature else None),
    }
