"""How each side reads a prompt: plain text for the base, its chat template for the guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
Prompt = str | Sequence[Message]

BASE_STOP = "\nQuestion:"
"""What a base writes when it runs on after its answer, under the default base prompt."""


def as_messages(prompt: Prompt, system: str | None) -> list[dict[str, str]]:
    """A prompt as chat messages that end with a user's turn, the system's first if there is one.

    Raises:
        ValueError: for an empty prompt, roles out of order, or two system messages.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    messages = [dict(message) for message in prompt]
    for message in messages:
        if set(message) != {"role", "content"} or not isinstance(message["content"], str):
            raise ValueError(
                f"message {message!r} is not of the form "
                '{"role": "system" | "user" | "assistant", "content": "text"}'
            )
    if messages and messages[0]["role"] == "system":
        if system:
            raise ValueError("system= is given and the messages begin with a system message too")
        system = messages.pop(0)["content"]
    for position, message in enumerate(messages):
        expected = ("user", "assistant")[position % 2]
        if message["role"] != expected:
            raise ValueError(
                f"message {position} has the role {message['role']!r} where {expected!r} is due; "
                "after an optional system message, user and assistant take turns"
            )
    if len(messages) % 2 == 0:
        raise ValueError("the messages must end with a user's turn, which is to be answered")
    if not all(message["content"].strip() for message in messages[::2]):
        raise ValueError("the prompt is empty: pass a text with something in it")
    return ([{"role": "system", "content": system}] if system else []) + messages


def base_text(messages: Sequence[Message]) -> str:
    """The plain transcript that the base continues."""
    heading = {"system": "{}\n", "user": "Question: {}\nAnswer:", "assistant": " {}\n"}
    return "".join(
        heading[message["role"]].format(
            message["content"].strip() if message["role"] == "assistant" else message["content"]
        )
        for message in messages
    )


def guide_text(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """The guide's chat template over the messages, an assistant's turn opened.

    A template that knows no system role gets the system's text at the head of the first user's.

    Raises:
        ValueError: where the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the guide's tokenizer ({tokenizer.name_or_path}) has no chat template; choose an "
            "instruction-tuned guide, set tokenizer.chat_template, or pass guide_prompt="
        )
    try:
        return _render(tokenizer, messages)
    except TemplateError:
        if messages[0]["role"] != "system":
            raise
    system, first, *rest = messages
    merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
    return _render(tokenizer, [merged, *rest])


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a whole prompt, with the special tokens that go before a text.

    A prompt that already begins with the BOS token's text (a rendered chat template does)
    gets no second one, and no end token is appended to it.
    """
    bos = tokenizer.bos_token
    if bos and text.startswith(bos):
        return tokenizer.encode(text, add_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=True)
    plain = tokenizer.encode(text, add_special_tokens=False)
    start = next(
        (i for i in range(len(ids) - len(plain) + 1) if ids[i : i + len(plain)] == plain), 0
    )
    return ids[: start + len(plain)]


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    )
