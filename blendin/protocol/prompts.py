"""What a request gives to be read: a conversation, or prompts that are to be continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..values import encodable, told
from .errors import refused
from .ours import checked_messages, token_ids

Tokens = list[int]


def read_messages(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a chat, as it is rendered.

    Raises:
        ApiError: naming what to change.
        ValueError: likewise, of a message.
    """
    read = checked_messages(given.get("messages"))
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


def read_prompts(given: Mapping[str, Any], tokens: Sequence[bytes | None]) -> list[str | Tokens]:
    """The prompts of a completion, each a text or tokens.

    Args:
        given: the request.
        tokens: the bytes of each token of the base.

    Raises:
        ApiError: there are none.
        ValueError: naming what is wrong with one.
    """
    prompt = given.get("prompt")
    if isinstance(prompt, str):
        prompts: list[Any] = [prompt]
    elif not isinstance(prompt, list) or not prompt:
        raise refused(
            f"prompt is {told(prompt)}: give a text, texts, token ids, or lists of them", "prompt"
        )
    else:
        prompts = [prompt] if isinstance(prompt[0], int) else prompt
    read = [
        encodable("prompt", each)
        if isinstance(each, str)
        else token_ids("prompt", each, len(tokens))
        for each in prompts
    ]
    if not all(text_of(each, tokens).strip() for each in read):
        raise refused("prompt is empty: give a text with something in it", "prompt")
    return read


def text_of(prompt: str | Tokens, tokens: Sequence[bytes | None]) -> str:
    """A prompt as a text, which half a character of its tokens is not: U+FFFD stands for it.

    Args:
        prompt: as `read_prompts` gives it.
        tokens: likewise.
    """
    if isinstance(prompt, str):
        return prompt
    return b"".join(tokens[id] or b"" for id in prompt).decode("utf-8", "replace")


def as_turn(text: str) -> list[dict[str, Any]]:
    """The conversation that a guide reads where a request has but a prompt: a user says it."""
    return [{"role": "user", "content": text}]
