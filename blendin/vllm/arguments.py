"""What reaches the processor from outside: the engine's configuration, and each request's own.

Neither torch nor vLLM is imported here: vLLM's frontend checks requests with it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..policy import BaseOnly, Blend, GuideOnly, Policy, named_policy
from ..protocol.errors import ApiError
from ..protocol.ours import EXAMPLE, GUIDE_READS, NAME, Ours, PolicyChoice, read_ours
from ..protocol.sampling import CHAT_TOKENS
from ..spelling import did_you_mean
from ..values import Integer, Text, told

# NAME is also that of our part of `--additional-config`, `SamplingParams.extra_args` and
# `vllm_xargs`.

GUIDE_ALONE = "the policy guide asks the base nothing: serve the guide by itself"


@dataclass(frozen=True)
class EngineArguments:
    """Our part of `--additional-config`.

    Attributes:
        guide: a hub id, a folder or a GGUF file, or one of the embedded pair.
        guide_dtype: of its weights; "auto" keeps the checkpoint's.
        guide_kwargs: further `from_pretrained` arguments.
        policy: of requests that name none; a name, or `{"name": ..., setting: ...}`.
        max_cached_tokens: tokens in the guide's caches; None: as many as run at once need.
        default_max_tokens: of chats that name no limit.
    """

    guide: str
    guide_dtype: str = "auto"
    guide_kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Blend)
    max_cached_tokens: int | None = None
    default_max_tokens: int = CHAT_TOKENS

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
        if "default_max_tokens" in given:
            given["default_max_tokens"] = Integer(1)(
                "default_max_tokens", given["default_max_tokens"]
            )
        if (policy := given.pop("policy", None)) is not None:
            settings = dict(policy) if isinstance(policy, Mapping) else {"name": policy}
            given["policy"] = named_policy(str(settings.pop("name", "blend")), **settings)
        if isinstance(given.get("policy"), GuideOnly):
            raise ValueError(GUIDE_ALONE)
        return cls(**given)


@dataclass(frozen=True)
class RequestArguments:
    """What one request asks of us.

    Attributes:
        ours: the policy, what the guide reads, and whether there is to be a trace.
        id: what the caller knows the request by, to fetch its report; None for no report.
        key: of this request alone, for the engine tells us none.
        error: what is wrong with it, found when it had begun.
    """

    ours: Ours
    id: str | None = None
    key: str = ""
    error: ValueError | None = None

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None, default: Policy) -> Self | None:
        """From `SamplingParams.extra_args`; None where the request does not ask for us.

        Args:
            extra_args: these.
            default: the engine's policy.

        Raises:
            ValueError: for what is misspelt or wrong.
        """
        given = _mapping(extra_args)
        if given is None:
            return None
        own = {name: value for name, value in given.items() if name not in ("id", "key")}
        try:
            ours = read_ours({NAME: own}, default)
        except ApiError as error:
            raise ValueError(str(error)) from error
        if isinstance(ours.policy, GuideOnly):
            raise ValueError(GUIDE_ALONE)
        if ours.policy.reads_guide and not ours.reads:
            raise ValueError(f"the guide has nothing to read: give one of {', '.join(GUIDE_READS)}")
        return cls(ours, **_names(given))

    @classmethod
    def begun(cls, extra_args: Mapping[str, Any] | None, default: Policy) -> Self | None:
        """As `of`, of a request that runs: what does not go with `default` is its error."""
        try:
            return cls.of(extra_args, default)
        except ValueError as error:
            given = _mapping(extra_args) or {}
            return cls(Ours(PolicyChoice(), BaseOnly(), {}, {}), **_names(given), error=error)


def validated(params: Any) -> None:
    """Checks a request's `SamplingParams`, and gives it a key of its own.

    The engine's policy is not known here: settings without a policy's name are checked for one that
    has them.

    Raises:
        ValueError: naming what to change.
    """
    given = _mapping(params.extra_args)
    if given is None:
        return
    RequestArguments.of(params.extra_args, PolicyChoice.of(given, None).some_policy())
    if params.n != 1:
        raise ValueError(f"n is {params.n}: with {NAME} each text is a request of its own")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(params, name, 0) != 0:
            raise ValueError(f"{name} has no part in a blend: leave it out beside {NAME}")
    if params.seed is None and params.temperature > 0:
        params.seed = secrets.randbits(63)  # every rank draws alike
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


def _names(given: Mapping[str, Any]) -> dict[str, Any]:
    """By what a request is known."""
    return {
        name: Text()(name, given[name]) for name in ("id", "key") if given.get(name) is not None
    }
