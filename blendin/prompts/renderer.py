"""Both models' prompts for one conversation."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..vocab.vocabulary import Vocabulary
from .chat_template import ChatTemplate
from .encoding import EncodedText, RenderedPrompt, text_prompt
from .layout import Layout
from .messages import Message, base_text

logger = logging.getLogger("blendin")

Reader = tuple[PreTrainedTokenizerBase, Vocabulary]


class PromptRenderer:
    """From messages to what base and guide read, in tokens.

    What users, systems and models have written is text: a control token that is spelled in it is
    read as its characters. The only control tokens are those of the chat template itself, and those
    with which the base's tokenizer begins any text. A prompt that spells none has the tokens of
    `apply_chat_template(tokenize=True)`.

    Attributes:
        chat_template: the guide's.
    """

    def __init__(self, base: Reader, guide: Reader, name: str) -> None:
        """Takes both models' tokenizers.

        Args:
            base: the base's tokenizer and vocabulary.
            guide: the guide's.
            name: the guide's, for messages.
        """
        self._base, self._guide = base, guide
        self.chat_template = ChatTemplate(guide[0], name)
        self._own_controls: dict[Layout, list[int]] = {}
        self._read_out: set[str] = set()

    def base(self, messages: Sequence[Message]) -> RenderedPrompt:
        """The plain transcript that the base continues."""
        return self.base_text(base_text(messages))

    def base_text(self, text: str) -> RenderedPrompt:
        """A text for the base with nothing in it but text."""
        return text_prompt(text, *self._base)

    def guide(
        self, messages: Sequence[Message], settings: Mapping[str, Any] | None = None
    ) -> RenderedPrompt:
        """The guide's chat template over messages, the assistant's turn opened or continued.

        Args:
            messages: as `as_messages` returns them.
            settings: `chat_template_kwargs`.

        Raises:
            ValueError: where there is no chat template, or none that shows all messages, or where
                the template itself makes a special token of what a content spells.
        """
        settings = dict(settings or {})
        text = self.chat_template.text(messages, settings)
        encoded = EncodedText(text, *self._guide)
        own = self._controls_of(self.chat_template.layout(messages, settings))
        if [control.id for control in encoded.controls] == own:
            return RenderedPrompt(text, encoded.ids)
        contents = self.chat_template.content_positions(text, messages, settings)
        spelled = {
            control.place
            for control in encoded.controls
            if not contents.isdisjoint(range(control.start, control.end))
        }
        if _others(encoded, spelled) - Counter(own):
            # The template looks at a content before it writes it, as it is.
            written = spelled | _written(encoded, messages)
            if not Counter(own) - _others(encoded, written):
                spelled = written
        self._check(_others(encoded, spelled) - Counter(own))
        return RenderedPrompt(text, encoded.ids_with_text(spelled))

    def _controls_of(self, layout: Layout) -> list[int]:
        """The control tokens that the template itself writes in conversations of a form."""
        if (known := self._own_controls.get(layout)) is None:  # another thread may clear them
            if len(self._own_controls) >= 512:
                self._own_controls.clear()
            marked = EncodedText(layout.text, *self._guide)
            known = self._own_controls[layout] = [control.id for control in marked.controls]
        return known

    def _check(self, unexplained: Counter[int]) -> None:
        """Refuses special tokens that contents have brought about; warns once of markup."""
        tokenizer, vocabulary = self._guide
        for id in unexplained:
            name = str(tokenizer.convert_ids_to_tokens(id))
            if id not in vocabulary.markup:
                raise ValueError(
                    f"the chat template of {self.chat_template.name} makes the special token "
                    f"{name!r} of what a content spells (it changes contents, or reads them): take "
                    "it out of the text, or pass guide_prompt="
                )
            if name not in self._read_out:
                self._read_out.add(name)
                logger.warning(
                    "the chat template of %s reads %r in contents and writes it as markup",
                    self.chat_template.name,
                    name,
                )


def _others(encoded: EncodedText, spelled: set[int]) -> Counter[int]:
    """The control tokens but for those that are only spelled."""
    return Counter(each.id for each in encoded.controls if each.place not in spelled)


def _written(encoded: EncodedText, messages: Sequence[Message]) -> set[int]:
    """The places of control tokens in what stands in a text as it stands in a message."""
    spans = [
        match.span()
        for content in {message["content"].strip() for message in messages} - {""}
        for match in re.finditer(re.escape(content), encoded.text)
    ]
    return {
        control.place
        for control in encoded.controls
        if any(start < control.end and control.start < end for start, end in spans)
    }
