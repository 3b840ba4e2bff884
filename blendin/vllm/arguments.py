"""What reaches the processor from outside: the engine's configuration, and each request's own.

Neither torch nor vLLM is imported here: vLLM's frontend checks requests with it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..calibration import refuse_paths
from ..policy import Blend, GuideOnly, Policy, all_parameters, named_policy
from ..prompts.messages import as_messages
from ..prompts.template_kwargs import checked_template_kwargs
from ..spelling import did_you_mean
from ..values import Integer, Kind, Text, told

NAME = "blendin"
"""Of our part of `--additional-config`, of `SamplingParams.extra_args` and of `vllm_xargs`."""

PROMPTS = ("messages", "guide_prompt", "guide_prompt_ids")
EXAMPLE = '{"messages": [{"role": "user", "content": "Hi"}], "policy": "nudge", "threshold": 0.3}'


@dataclass(frozen=True)
class EngineArguments:
    """Our part of `--additional-config`.

    Attributes:
        guide: a hub id, a folder or a GGUF file, or one of the embedded pair.
        guide_dtype: of its weights; "auto" keeps the checkpoint's.
        guide_kwargs: further `from_pretrained` arguments.
        policy: of requests that name none; a name, or `{"name": ..., setting: ...}`.
        max_cached_tokens: tokens in the guide's caches; None: as many as run at once need.
    """

    guide: str
    guide_dtype: str = "auto"
    guide_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Blend)
    max_cached_tokens: int | None = None

    @classmethod
    def of(cls, additional_config: Any) -> Self:
        """From `VllmConfig.additional_config`.

        Raises:
            ValueError: our part is missing, or a value in it is wrong.
        """
        where = f"--additional-config '{{\"{NAME}\": {{...}}}}'"
        told_us = additional_config.get(NAME) if isinstance(additional_config, Mapping) else None
        if not isinstance(told_us, Mapping):
            raise ValueError(f'the guide is missing: add {where} with "guide" in it')
        known = [each.name for each in fields(cls)]
        if unknown := sorted(set(told_us) - set(known)):
            raise ValueError(
                f"{where} has no {unknown[0]!r}: use {', '.join(known)}"
                f"{did_you_mean(unknown[0], known)}"
            )
        given = dict(told_us)
        if not isinstance(given.get("guide"), str) or not given["guide"].strip():
            raise ValueError(
                f'"guide" in {where} is {told(given.get("guide"))}: name a model for the guide'
            )
        if "guide_dtype" in given:
            given["guide_dtype"] = Text()("guide_dtype", given["guide_dtype"])
        if not isinstance(given.get("guide_kwargs", {}), Mapping):
            raise ValueError(
                f'"guide_kwargs" in {where} is {told(given["guide_kwargs"])}: use {{}}'
            )
        bound = Integer(1, none="no bound")
        given["max_cached_tokens"] = bound("max_cached_tokens", given.get("max_cached_tokens"))
        if (policy := given.pop("policy", None)) is not None:
            settings = dict(policy) if isinstance(policy, Mapping) else {"name": policy}
            given["policy"] = named_policy(str(settings.pop("name", "blend")), **settings)
        if isinstance(given.get("policy"), GuideOnly):
            raise ValueError("the policy guide asks the base nothing: serve the guide by itself")
        return cls(**given)


@dataclass(frozen=True)
class RequestArguments:
    """What one request asks of us.

    Attributes:
        guide_prompt: the guide's whole prompt; None where messages are given.
        guide_prompt_ids: or its tokens.
        messages: or a conversation, for the guide's chat template.
        chat_template_kwargs: settings for that.
        policy: what to do at a step; None: the engine's. Its settings stand beside its name;
            without a name they are Blend's.
        id: what the caller knows the request by, to fetch its report; None for no report.
        trace: whether the report has every step; a number: with so many candidates each.
        key: of this request alone, for the engine tells us none.
    """

    guide_prompt: str | None = None
    guide_prompt_ids: tuple[int, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy | None = None
    id: str | None = None
    trace: bool | int = False
    key: str = ""

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self | None:
        """From `SamplingParams.extra_args`; None where the request does not ask for us.

        Raises:
            ValueError: for what is misspelt or wrong.
        """
        given = _mapping(extra_args)
        if given is None:
            return None
        settings = all_parameters()
        names = [each.name for each in fields(cls)]
        known = [*names, *settings]
        if unknown := sorted(map(str, given.keys() - set(known))):
            raise ValueError(
                f"{NAME} has no {unknown[0]!r}: use {', '.join(known)}"
                f"{did_you_mean(unknown[0], known)}"
            )
        own = {name: given[name] for name in names if given.get(name) is not None}
        of_policy = {name: given[name] for name in settings if name in given}
        refuse_paths(of_policy)
        if "policy" in own or of_policy:
            name = Text()("policy", own.get("policy", "blend"))
            own["policy"] = named_policy(str(name), **of_policy)
        if isinstance(own.get("policy"), GuideOnly):
            raise ValueError("the policy guide asks the base nothing: serve the guide by itself")
        sources = [each for each in PROMPTS if each in own]
        if len(sources) > 1:
            raise ValueError(f"{NAME} has {' and '.join(sources)}: give one of them")
        if not sources and ("policy" not in own or own["policy"].reads_guide):
            raise ValueError(f"the guide has nothing to read: give one of {', '.join(PROMPTS)}")
        if "messages" in own:
            own["messages"] = tuple(as_messages(own["messages"], None))
        return cls(**{name: KINDS[name](name, value) for name, value in own.items()})


def validated(params: Any) -> None:
    """Checks a request's `SamplingParams`, and gives it a key of its own.

    Raises:
        ValueError: naming what to change.
    """
    if RequestArguments.of(params.extra_args) is None:
        return
    if params.n != 1:
        raise ValueError(f"n is {params.n}: with {NAME} each text is a request of its own")
    for name in ("presence_penalty", "frequency_penalty", "min_p"):
        if getattr(params, name, 0) != 0:
            raise ValueError(f"{name} has no part in a blend: leave it out beside {NAME}")
    if params.seed is None and params.temperature > 0:
        params.seed = secrets.randbits(63)  # every rank draws alike
    given = _mapping(params.extra_args) or {}
    params.extra_args = {**params.extra_args, NAME: {**given, "key": secrets.token_hex(8)}}


def _mapping(extra_args: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Our part of a request's arguments.

    Raises:
        ValueError: it is no mapping.
    """
    given = (extra_args or {}).get(NAME)
    if isinstance(given, str):  # values of `vllm_xargs` are texts, numbers or lists of them
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{NAME} in vllm_xargs is no JSON: {error}") from error
    if given is None or given is False:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(f"{NAME} is {told(given)}: give a mapping, such as {EXAMPLE}")
    return given


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} is {told(value)}: give a list of token ids")
    return tuple(Integer(0)(name, id) for id in value)  # type: ignore[misc]


def _trace(name: str, value: Any) -> bool | int:
    if isinstance(value, bool):
        return value
    return Integer(0)(name, value)  # type: ignore[return-value]


def _as_it_is(name: str, value: Any) -> Any:
    return value


KINDS: Mapping[str, Kind] = {
    "guide_prompt": Text(),
    "guide_prompt_ids": _token_ids,
    "messages": _as_it_is,
    "chat_template_kwargs": lambda _, value: checked_template_kwargs(value),
    "policy": _as_it_is,
    "id": Text(),
    "trace": _trace,
    "key": Text(),
}
