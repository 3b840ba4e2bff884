"""The settings that a caller gives for one generation, or for each of a list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from .policy import Policy
from .sampling import Sampling

Speculate = Literal["auto", "off", "guide", "lookup"] | int

Function = TypeVar("Function", bound=Callable[..., Any])


class ScoreSettings(TypedDict, total=False):
    """For `BlendInGenerator.score`; each one for all texts, or a list with one each."""

    system: str | Sequence[str | None] | None
    policy: Policy | str | Sequence[Policy | str] | None
    chat_template_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None


class GenerationSettings(TypedDict, total=False):
    """For one prompt: `BlendInGenerator.stream`, and `generate` of one."""

    system: str | None
    policy: Policy | str | None
    chat_template_kwargs: Mapping[str, Any] | None
    max_new_tokens: int
    stop: str | Sequence[str] | None
    speculate: Speculate
    do_sample: bool
    temperature: float
    top_p: float
    sampling_top_k: int | None
    repetition_penalty: float
    seed: int | None


class BatchSettings(TypedDict, total=False):
    """For a list of prompts: each setting one for all, or a list with one for each prompt."""

    system: str | Sequence[str | None] | None
    policy: Policy | str | Sequence[Policy | str] | None
    chat_template_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    max_new_tokens: int | Sequence[int]
    stop: str | Sequence[str] | Sequence[Sequence[str]] | None
    speculate: Speculate | Sequence[Speculate]
    do_sample: bool | Sequence[bool]
    temperature: float | Sequence[float]
    top_p: float | Sequence[float]
    sampling_top_k: int | Sequence[int | None] | None
    repetition_penalty: float | Sequence[float]
    seed: int | Sequence[int | None] | None


class SchedulingSettings(BatchSettings, total=False):
    """For `generate` of a list: a `BatchSettings`, and how the list is decoded."""

    max_batch_size: int
    max_cached_tokens: int | None
    progress: bool | None


DEFAULTS: dict[str, Any] = {
    "system": None,
    "policy": None,
    "chat_template_kwargs": None,
    "max_new_tokens": 256,
    "stop": (),
    "speculate": "auto",
    **{field.name: field.default for field in fields(Sampling)},
    "max_batch_size": 32,
    "max_cached_tokens": None,
    "progress": None,
}
"""Of every setting."""


def shows_settings(settings: type) -> Callable[[Function], Function]:
    """Spells a method's `**settings` out in its signature, with defaults: help() shows them."""

    def spelled_out(method: Function) -> Function:
        signature = inspect.signature(method)
        own = [each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD]
        taken = {each.name for each in own}
        spelled = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=kind
            )
            for name, kind in get_type_hints(settings).items()
            if name not in taken
        ]
        vars(method)["__signature__"] = signature.replace(parameters=[*own, *spelled])
        return method

    return spelled_out
