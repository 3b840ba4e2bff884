"""Which tokens end a model's text."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from ..templating import TemplateLimitError, render
from .control_tokens import control_tokens


def end_ids(
    configured: int | list[int] | None,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    name: str | None = None,
) -> frozenset[int]:
    """The union of generation_config's, the tokenizer's and the chat template's end tokens.

    Args:
        configured: `generation_config.eos_token_id`.
        tokenizer: the model's.
        size: of its vocabulary.
        name: the model's, for messages.

    Raises:
        ValueError: the chat template does not end, or takes too much memory.
    """
    if configured is None:
        configured = []
    elif isinstance(configured, int):
        configured = [configured]
    try:
        end_of_turn = end_of_turn_id(tokenizer)
    except TemplateLimitError as error:
        raise ValueError(
            f"the chat template of {name or tokenizer.name_or_path} cannot be used ({error}): set "
            "tokenizer.chat_template to another, or choose another model"
        ) from error
    ids = {*configured, tokenizer.eos_token_id, end_of_turn}
    return frozenset(id for id in ids if id is not None and 0 <= id < size)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The control token with which the chat template closes an assistant's turn, if any."""
    if not tokenizer.chat_template:
        return None
    answer = "blendin-end-of-turn-probe"
    for content in (answer, [{"type": "text", "text": answer}]):  # some read lists of parts alone
        rendered = _answered(tokenizer, content)
        if answer in rendered:
            break
    else:
        return None
    tail = rendered.rpartition(answer)[2].lstrip()
    control = {content.strip(): id for id, content in control_tokens(tokenizer).items()}
    matches = [content for content in control if tail.startswith(content)]
    return control[max(matches, key=len)] if matches else None


def _answered(tokenizer: PreTrainedTokenizerBase, content: Any) -> str:
    question = "x" if isinstance(content, str) else [{"type": "text", "text": "x"}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": content}]
    try:
        return render(tokenizer, turns, tokenizer.get_chat_template())
    except TemplateLimitError:
        raise
    except Exception:  # a template is a program, which may fail in any way
        return ""
