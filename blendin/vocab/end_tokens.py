"""Which tokens end a model's text."""

from __future__ import annotations

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase


def end_ids(
    configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase, size: int
) -> frozenset[int]:
    """The union of generation_config's, the tokenizer's and the chat template's end tokens.

    Args:
        configured: `generation_config.eos_token_id`.
        tokenizer: the model's.
        size: of its vocabulary.
    """
    if configured is None:
        configured = []
    elif isinstance(configured, int):
        configured = [configured]
    ids = {*configured, tokenizer.eos_token_id, end_of_turn_id(tokenizer)}
    return frozenset(id for id in ids if id is not None and 0 <= id < size)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which the chat template closes an assistant's turn, if any."""
    if not tokenizer.chat_template:
        return None
    answer = "blendin-end-of-turn-probe"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return None
    tail = str(rendered).rpartition(answer)[2].lstrip()
    special = {
        token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    matches = [content for content in special if tail.startswith(content)]
    return special[max(matches, key=len)] if matches else None
