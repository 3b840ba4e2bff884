"""The settings that a caller gives for one generation, or for each of a list, and their kinds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from .models.lookahead import MAX_DRAFT_TOKENS
from .policy import Policy, as_policy
from .prompts import checked_template_kwargs
from .sampling import Sampling
from .values import Flag, Integer, Kind, SettingTypeError, Text, encodable, plain, shown, told

Speculate = Literal["auto", "off", "guide", "lookup"] | int

Function = TypeVar("Function", bound=Callable[..., Any])


class ScoreSettings(TypedDict, total=False):
    """For `BlendInGenerator.score`; each one for all texts, or a list with one each."""

    system: str | Iterable[str | None] | None
    policy: Policy | str | Iterable[Policy | str] | None
    chat_template_kwargs: Mapping[str, Any] | Iterable[Mapping[str, Any] | None] | None


class GenerationSettings(TypedDict, total=False):
    """For one prompt: `BlendInGenerator.stream`, and `generate` of one."""

    system: str | None
    policy: Policy | str | None
    chat_template_kwargs: Mapping[str, Any] | None
    max_new_tokens: int
    stop: str | Iterable[str] | None
    speculate: Speculate
    trace_top: int
    do_sample: bool
    temperature: float
    top_p: float
    min_p: float
    sampling_top_k: int | None
    repetition_penalty: float
    repetition_penalty_range: int | None
    penalize_nl: bool
    seed: int | None


class BatchSettings(TypedDict, total=False):
    """For a list of prompts: each setting one for all, or a list with one for each prompt."""

    system: str | Iterable[str | None] | None
    policy: Policy | str | Iterable[Policy | str] | None
    chat_template_kwargs: Mapping[str, Any] | Iterable[Mapping[str, Any] | None] | None
    max_new_tokens: int | Iterable[int]
    stop: str | Iterable[str] | Iterable[Iterable[str]] | None
    speculate: Speculate | Iterable[Speculate]
    trace_top: int | Iterable[int]
    do_sample: bool | Iterable[bool]
    temperature: float | Iterable[float]
    top_p: float | Iterable[float]
    min_p: float | Iterable[float]
    sampling_top_k: int | Iterable[int | None] | None
    repetition_penalty: float | Iterable[float]
    repetition_penalty_range: int | Iterable[int | None] | None
    penalize_nl: bool | Iterable[bool]
    seed: int | Iterable[int | None] | None


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
    "stop": None,
    "speculate": "auto",
    "trace_top": 0,
    **{field.name: field.default for field in fields(Sampling)},
    "max_batch_size": 32,
    "max_cached_tokens": None,
    "progress": None,
}
"""Of every setting."""


SPECULATION_MODES = ("auto", "off", "guide", "lookup")


def _policy(name: str, value: Any) -> Policy | None:
    return None if value is None else as_policy(value)


def _template_settings(name: str, value: Any) -> dict[str, Any] | None:
    return None if value is None else checked_template_kwargs(value)


def stop_texts(name: str, value: Any) -> tuple[str, ...] | None:
    """The kind of `stop`: a text or several, `()` for none; None is the default."""
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, (bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        raise SettingTypeError(f"{shown(name)} is {told(value)}; use a text or a list of texts")
    texts = list(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(
            f"{shown(name)} is {told(texts)}; use texts with something in them, or () for none"
        )
    return tuple(encodable(name, text) for text in texts)


def speculation(name: str, value: Any) -> Speculate:
    """The kind of `speculate`: a mode, or a number of tokens."""
    value = plain(value)
    if isinstance(value, str) and value in SPECULATION_MODES:
        return str.__str__(value)  # type: ignore[return-value]
    try:
        count: int = Integer(1, MAX_DRAFT_TOKENS)(name, value)  # type: ignore[assignment]
    except ValueError as error:
        raise type(error)(
            f"{shown(name)} is {told(value)}; use one of {', '.join(SPECULATION_MODES)} or a "
            f"number of tokens from 1 to {MAX_DRAFT_TOKENS}"
        ) from None
    return count


KINDS: dict[str, Kind] = {
    "system": Text(none=True),
    "policy": _policy,
    "chat_template_kwargs": _template_settings,
    "max_new_tokens": Integer(1),
    "stop": stop_texts,
    "speculate": speculation,
    "trace_top": Integer(0),
    **{field.name: field.metadata["kind"] for field in fields(Sampling)},
    "max_batch_size": Integer(1),
    "max_cached_tokens": Integer(1, none="no bound"),
    "progress": Flag(none="a bar where stderr is a terminal"),
}
"""Of every setting: what its values may be."""


def checked(given: Mapping[str, Any], *, together: bool = True) -> dict[str, Any]:
    """Settings as plain values.

    Args:
        given: by name; all of them settings that there are.
        together: whether those of sampling have to fit together, too.

    Raises:
        ValueError: for the first that is of the wrong type or out of range.
    """
    values = {name: KINDS[name](name, value) for name, value in given.items()}
    if together:
        Sampling(
            **{each.name: values[each.name] for each in fields(Sampling) if each.name in values}
        )
    return values


def refuse_ignored(method: str, given: Iterable[str], settings: type) -> None:
    """Checks that a method has a use for the settings it is given.

    Args:
        method: its name.
        given: the settings' names, all of which there are.
        settings: those that it has a use for.

    Raises:
        SettingTypeError: it has none for one of them.
    """
    taken = get_type_hints(settings)
    if ignored := [name for name in given if name not in taken]:
        raise SettingTypeError(
            f"{', '.join(map(shown, ignored))}: {method} has no use for it, leave it out; it takes "
            f"{', '.join(map(shown, taken))}"
        )


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
