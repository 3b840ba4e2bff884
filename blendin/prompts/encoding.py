"""Prompts as token ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..vocab.vocabulary import Vocabulary


class RenderedPrompt(str):
    """A whole prompt with its tokens, in which what is only text is no control token.

    Attributes:
        ids: the tokens, of the model that it was rendered for.
    """

    ids: tuple[int, ...]

    def __new__(cls, text: str, ids: Sequence[int]) -> RenderedPrompt:
        prompt = super().__new__(cls, text)
        prompt.ids = tuple(ids)
        return prompt

    def __getnewargs__(self) -> tuple[str, tuple[int, ...]]:  # type: ignore[override]
        return str(self), self.ids


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a whole prompt, with the special tokens that go before a text.

    Special tokens that are spelled in it are read as such. Those with which the tokenizer begins a
    text are not doubled where the prompt begins with them itself, and no end token is appended.
    """
    if isinstance(text, RenderedPrompt):
        return list(text.ids)
    plain: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return [*_prefix(text, plain, tokenizer), *plain]


class Control(NamedTuple):
    """A control token in a tokenized text: its place among the tokens, and where it was read."""

    place: int
    id: int
    start: int
    end: int


class EncodedText:
    """A text as a tokenizer reads it, its control tokens with their places.

    Attributes:
        text: the text.
        ids: its tokens, nothing added before or after.
        controls: the control tokens among them, in order.
    """

    def __init__(
        self, text: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
    ) -> None:
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        self.text, self._vocabulary = text, vocabulary
        self.ids: list[int] = read["input_ids"]
        self.controls = [
            Control(place, id, start, end)
            for place, (id, (start, end)) in enumerate(
                zip(self.ids, read["offset_mapping"], strict=True)
            )
            if vocabulary.is_control(id, text[start:end])
        ]

    def ids_with_text(self, places: Collection[int]) -> list[int]:
        """The tokens where the control tokens at some places are only spelled.

        Each is read as text together with what follows it up to the next that is one indeed.
        """
        own = [control for control in self.controls if control.place not in places]
        ids, done = list[int](), 0
        for control in self.controls:
            if control.place not in places or control.place < done:
                continue
            following = next((each for each in own if each.place > control.place), None)
            end = len(self.text) if following is None else following.start
            ids += self.ids[done : control.place]
            ids += self._vocabulary.text_ids(self.text[control.start : end])
            done = len(self.ids) if following is None else following.place
        return ids + self.ids[done:]


def text_prompt(
    text: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> RenderedPrompt:
    """A prompt that is text throughout; the tokenizer's own beginning goes before it."""
    encoded = EncodedText(text, tokenizer, vocabulary)
    ids = encoded.ids
    if encoded.controls:
        ids = encoded.ids_with_text({control.place for control in encoded.controls})
    return RenderedPrompt(text, [*_added(text, encoded.ids, tokenizer), *ids])


def _prefix(text: str, plain: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Of the tokens that go before a text, those that it does not begin with itself."""
    added = _added(text, plain, tokenizer)
    if not added:
        return added
    bare = text.lstrip()
    begun = plain if bare == text else tokenizer.encode(bare, add_special_tokens=False)
    if begun[:1] == added[:1]:
        return []
    for missing in range(1, len(added)):
        if begun[: len(added) - missing] == added[missing:]:
            return added[:missing]
    return added


def _added(text: str, plain: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts before a text."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=True)
    for start in range(len(ids) - len(plain) + 1):
        if ids[start : start + len(plain)] == plain:
            return ids[:start]
    return []
