"""Prompts as chat messages, and the plain transcript of them that a base reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Prompt = str | Message | Sequence[Message]

BASE_STOP = "\nQuestion:"
"""What a base writes when it runs on after its answer, under the default base prompt."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXT_PARTS = ("text", "input_text", "output_text")
TOOL_KEYS = ("tool_calls", "tool_call_id", "function_call")


def as_messages(prompt: Prompt, system: str | None) -> list[dict[str, Any]]:
    """A prompt as chat messages: the system's if there is one, then user and assistant in turns.

    They end with a user's turn, or with an assistant's, which is then the beginning of the answer.

    Args:
        prompt: a text, a message, or messages. A message has a role ("developer" is "system") and a
            content, a text or a list of text parts. Further keys, such as `name`, are for the
            guide's chat template; the base's transcript leaves them out.
        system: the system's text, where the messages have none.

    Raises:
        ValueError: for an empty prompt, roles out of order, two system messages, or what is no
            text: images, tool calls.
    """
    if isinstance(prompt, str):
        prompt = {"role": "user", "content": prompt}
    given = [prompt] if isinstance(prompt, Mapping) else list(prompt)
    messages = [_message(position, message) for position, message in enumerate(given)]
    head: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    if messages and messages[0]["role"] == "system":
        if system:
            raise ValueError("system= is given and the messages begin with a system message too")
        first = messages.pop(0)
        head = [first] if first["content"] else []
    for position, message in enumerate(messages):
        expected = ("user", "assistant")[position % 2]
        if message["role"] != expected:
            raise ValueError(
                f"message {position} has the role {message['role']!r} where {expected!r} is due; "
                "after an optional system message, user and assistant take turns"
            )
    if messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()  # an answer that begins with nothing
    if not messages:
        raise ValueError(
            "the messages must end with a user's turn, which is to be answered, or with the "
            "assistant's beginning of the answer"
        )
    if not all(message["content"].strip() for message in messages[::2]):
        raise ValueError("the prompt is empty: pass a text with something in it")
    return head + messages


def base_text(messages: Sequence[Message]) -> str:
    """The plain transcript that the base continues; an answer that is begun is its end."""
    heading = {"system": "{}\n", "user": "Question: {}\nAnswer:", "assistant": " {}\n"}
    last = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    text = "".join(
        heading[message["role"]].format(
            message["content"].strip() if message["role"] == "assistant" else message["content"]
        )
        for message in (messages[:-1] if last else messages)
    )
    return text + (last if last[:1].isspace() or not last else f" {last}")


def _message(position: int, message: Any) -> dict[str, Any]:
    """One message, checked, its content one text."""
    where = f"message {position}"
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise ValueError(
            f"{where}, {message!r}, is not of the form "
            '{"role": "system" | "user" | "assistant", "content": "text"}'
        )
    role = message["role"]
    if role not in ROLES:
        raise ValueError(
            f"{where} has the role {role!r}: use one of {', '.join(ROLES)}; blendin runs no tools, "
            "so put what a tool has answered into a user's turn"
        )
    if used := [key for key in TOOL_KEYS if message.get(key)]:
        raise ValueError(
            f"{where} has {', '.join(used)}, and blendin runs no tools: write calls and answers "
            "into the contents, or pass base_prompt= and guide_prompt="
        )
    further = {
        key: value
        for key, value in message.items()
        if key not in ("role", "content", *TOOL_KEYS) and value is not None
    }
    return {"role": ROLES[role], "content": _text(where, message["content"]), **further}


def _text(where: str, content: Any) -> str:
    """A content as one text; its parts follow each other as they are, as in chat templates."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise ValueError(
            f'{where} has the content {content!r}, and is not of the form "text" or '
            '[{"type": "text", "text": "..."}]'
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) and kind in TEXT_PARTS else part
        if not isinstance(text, str):
            raise ValueError(
                f"{where} has a part of type {kind!r}: blendin reads text alone, so leave out "
                "everything but parts such as {'type': 'text', 'text': '...'}"
            )
        texts.append(text)
    return "".join(texts)
