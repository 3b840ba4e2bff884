"""The ways to give a conversation to a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .messages import Message
from .spelling import mapped


@dataclass(frozen=True)
class Layout:
    """How conversations of one form are given to a template.

    Attributes:
        merged: the system's text stands at the head of the first user's turn.
        parts: the roles whose contents are given as lists of parts.
        appended: an answer that is begun follows an opened turn, written by us.
        opening: what opens the assistant's turn, where the template does not.
        missing: the messages that the template leaves out.
        text: the marked conversation, rendered.
        error: why no such conversation can be rendered.
    """

    merged: bool = False
    parts: frozenset[str] = frozenset()
    appended: bool = False
    opening: str = ""
    missing: tuple[str, ...] = ()
    text: str = ""
    error: str | None = None


def layouts(messages: Sequence[Message]) -> Iterator[Layout]:
    """The ways to give a conversation to a template, the plainest first."""
    roles = [role for role in ("user", "assistant", "system") if _has(messages, role)]
    choices = [some for size in range(len(roles) + 1) for some in combinations(roles, size)]
    choices.sort(key=lambda some: some not in ((), tuple(roles)))
    for merged in (False, True) if _has(messages, "system") else (False,):
        for some in choices:
            yield Layout(merged=merged, parts=frozenset(some))


def _has(messages: Sequence[Message], role: str) -> bool:
    return any(message["role"] == role for message in messages)


def as_given(messages: Sequence[Message], layout: Layout) -> list[dict[str, Any]]:
    """The messages as a layout gives them to a template."""
    given = [dict(message) for message in messages]
    if layout.merged and given[0]["role"] == "system":
        system, first, *rest = given
        given = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
    for message in given:
        if message["role"] in layout.parts:
            message["content"] = [{"type": "text", "text": message["content"]}]
    return given


def marked_message(place: int, message: Message) -> dict[str, Any]:
    """A message of the same form with a marker for its content."""
    content = f"Blendin{place}Marker" if message["content"].strip() else message["content"]
    further = {name: mapped(value, lambda _: "x") for name, value in message.items()}
    return {**further, "role": message["role"], "content": content}
