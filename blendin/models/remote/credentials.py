"""Keys and further headers of requests, checked before a library meets one that it would quote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...values import shown
from .address import is_url

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NOT_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
"""Headers that belong to the request as it is made."""


def api_key(variables: Iterable[str]) -> str | None:
    """The key in the first of some environment variables that is set, trimmed; None for none.

    Raises:
        ValueError: it has a character that no header may hold; the message does not show it.
    """
    for variable in variables:
        if (value := os.environ.get(variable)) is not None:
            key = value.strip()
            if not all("!" <= character <= "~" for character in key):
                raise ValueError(f"${variable} is no API key: use printable ASCII without spaces")
            return key or None
    return None


def headers_from_environment(option: str, given: Iterable[str]) -> dict[str, str]:
    """Headers by name, from texts NAME=VARIABLE that name the variables which hold the values.

    Args:
        option: what gives them, for messages.
        given: the texts.

    Raises:
        ValueError: with nothing of the text in it, which may be a value itself.
    """
    made: dict[str, str] = {}
    for place, text in enumerate(given, start=1):
        name, _, variable = text.partition("=")
        value = os.environ.get(variable) if variable else None
        if not NAME.fullmatch(name) or not value:
            raise ValueError(
                f"{option} number {place} is no NAME=VARIABLE of a header and an environment "
                "variable that is set: write X-Team-Token=TEAM_TOKEN, without $ (the value itself "
                "would stand in the list of processes)"
            )
        if name.lower() in map(str.lower, made):
            raise ValueError(f"{option} number {place} is a header that is given before: give one")
        made[name] = value
    return made


def options_of(
    role: str, sources: Iterable[str], header: Iterable[str] | None, verify: str | None
) -> dict[str, Any]:
    """`headers` and `verify` as `loading.load` takes them, from texts.

    Args:
        role: "base" or "guide".
        sources: the model's, or those of all guides.
        header: as `headers_from_environment`, or None.
        verify: a path, "off" or None.

    Raises:
        ValueError: for what would have no effect, and as `headers_from_environment`.
    """
    names = {"header": f"{role}_header", "verify": f"{role}_verify"}
    given = [names[each] for each, value in (("header", header), ("verify", verify)) if value]
    if given and not any(map(is_url, sources)):
        raise ValueError(
            f"{shown(given[0])} has no effect where the {role} is no server's URL: leave it out"
        )
    options: dict[str, Any] = {}
    if header:
        options["headers"] = headers_from_environment(shown(names["header"]), header)
    if verify is not None:
        options["verify"] = verify != "off" and verify
    return options


def headers(role: str, given: Any) -> dict[str, str]:
    """The headers of a model's requests: its key's, and what the caller adds or puts instead.

    Args:
        role: "base" or "guide".
        given: names and values, or None.

    Raises:
        ValueError: naming the variable or the header, and never its value.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            f"headers of the {role} is a {type(given).__name__}; use a mapping of names to texts"
        )
    made: dict[str, str] = {}
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.lower() in NOT_OURS:
            raise ValueError(
                f"headers of the {role} has the name {name!r}: use a header's name of letters, "
                "digits and dashes that the request does not make itself"
            )
        text = value.strip() if isinstance(value, str) else None
        if text is None or not all(" " <= character <= "~" for character in text):
            raise ValueError(
                f"headers of the {role}: the value of {name!r} is not printable ASCII text"
            )
        made[name] = text
    if not any(name.lower() == "authorization" for name in made):
        key = api_key((f"BLENDIN_{role.upper()}_API_KEY", "BLENDIN_API_KEY"))
        if key is not None:
            made["Authorization"] = f"Bearer {key}"
    return made
