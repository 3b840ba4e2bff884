"""`chat_template_kwargs`: what a chat template can be told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

RESERVED = (
    "add_generation_prompt",
    "continue_final_message",
    "conversation",
    "conversations",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
)
"""What blendin itself tells `apply_chat_template`."""

TEXT_SETTINGS = ("documents", "tools")
"""Settings that are further contents."""


def checked_template_kwargs(given: Any) -> dict[str, Any]:
    """Settings for a chat template.

    Raises:
        ValueError: for anything but a mapping of names to what JSON can hold, or for a name that
            is not the caller's to set.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"chat_template_kwargs is {given!r}; use a mapping of names to values, such as "
            '{"enable_thinking": False}'
        )
    if reserved := sorted(set(given) & set(RESERVED)):
        raise ValueError(
            f"chat_template_kwargs has {', '.join(reserved)}, which blendin sets itself: leave it "
            "out"
        )
    try:
        json.dumps(dict(given), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"chat_template_kwargs is {given!r}, which JSON cannot hold ({error}): use texts, "
            "numbers, true and false, lists and mappings of those"
        ) from None
    return dict(given)


def read_template_kwargs(given: str | Iterable[str] | None) -> dict[str, Any]:
    """`chat_template_kwargs` as they are written on a command line.

    Args:
        given: a JSON object, or name=value, or several of these. A value is read as JSON where it
            is some (`false`, `3`), else as a text.

    Raises:
        ValueError: for anything else, and as `checked_template_kwargs`.
    """
    settings: dict[str, Any] = {}
    for text in [given] if isinstance(given, str) else given or ():
        if text.lstrip().startswith("{"):
            try:
                settings |= json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"chat_template_kwargs {text!r} is no JSON: {error}") from None
            continue
        name, is_pair, value = text.partition("=")
        if not is_pair or not name.strip():
            raise ValueError(
                f"chat_template_kwargs {text!r}: use a JSON object such as "
                "'{\"enable_thinking\": false}', or name=value"
            )
        settings[name.strip()] = _value(value.strip())
    return checked_template_kwargs(settings)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
