"""The guide's chat template: how it takes a conversation, found out by rendering marked ones.

Templates are programs, held to bounds of time and size (`templating`). Some know no system role
and raise, or leave its text out without a word; some read contents as lists of parts alone; some
open no assistant's turn. For each form of conversation (its roles, its settings) a marked one is
rendered in every way that there is to give it, and the first that shows all contents is the layout
of all conversations of that form.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedTokenizerBase

from ..templating import TemplateLimitError, render
from ..vocab.control_tokens import control_tokens
from .layout import Layout, as_given, layouts, marked_message
from .messages import Message
from .spelling import Spellings, unused
from .template_kwargs import TEXT_SETTINGS

logger = logging.getLogger("blendin")

Settings = Mapping[str, Any]

PARTS_AS_TEXT = re.compile(r"""['"]type['"]: ?['"]text['"]""")
LAYOUTS_KEPT = 512

TRICKY = 'Blendin <Mark & "er"> \\ é'
"""What a template that escapes or changes contents would not show as it is."""


def guide_text(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> str:
    """The guide's chat template over messages, an assistant's turn opened or continued.

    Args:
        messages: as `as_messages` returns them.
        tokenizer: the guide's.
        **settings: for the template.

    Raises:
        ValueError: where there is no chat template, or none that shows all messages.
    """
    return ChatTemplate(tokenizer).text(messages, settings)


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> None:
        """Takes the template that the tokenizer has whenever it is used.

        Args:
            tokenizer: the guide's.
            name: of the guide, for messages.
        """
        self.tokenizer = tokenizer
        self.name = name or tokenizer.name_or_path or type(tokenizer).__name__
        self._layouts: dict[str, Layout] = {}
        self._unread: set[str] = set()
        self._changes = False

    @property
    def exists(self) -> bool:
        return bool(self.tokenizer.chat_template or self._processors)

    def log_faults(self) -> None:
        """Warns of what this template cannot do, with what to do about it."""
        if not self.exists:
            return
        system, user, assistant = (
            {"role": role, "content": "x"} for role in ("system", "user", "assistant")
        )
        alone = self._log_layout("a question", [user])
        if alone.missing or alone.error:
            return
        self._log_layout("a system text", [system, user])
        self._log_layout("a conversation of several turns", [user, assistant, user])
        if alone.opening:
            logger.warning(
                "the chat template of %s does not open the assistant's turn (it ignores "
                "add_generation_prompt): %r is added to its prompts",
                self.name,
                alone.opening,
            )
        try:
            shown = self._render([{"role": "user", "content": TRICKY}], alone, {})
        except Exception as error:
            shown = str(error)
        self._log_change([{"role": "user", "content": TRICKY}], shown)

    def text(self, messages: Sequence[Message], settings: Settings | None = None) -> str:
        """A conversation, an assistant's turn opened or continued at its end.

        Raises:
            ValueError: where there is no chat template, or none that shows all messages.
        """
        settings = dict(settings or {})
        layout = self.layout(messages, settings)
        if layout.error is not None:
            raise ValueError(
                f"the chat template of {self.name} cannot render this conversation "
                f"({layout.error}): pass guide_prompt=, set tokenizer.chat_template, or choose "
                "another guide"
            )
        if layout.missing:
            raise ValueError(
                f"the chat template of {self.name} leaves out {', '.join(layout.missing)}: pass "
                "guide_prompt=, set tokenizer.chat_template, or choose another guide"
            )
        self._log_unread(settings)
        try:
            text = self._render(messages, layout, settings)
        except Exception as error:  # a template is a program, which may fail in any way
            raise self._refusal(error) from error
        self._log_change(messages, text)
        return text

    def layout(self, messages: Sequence[Message], settings: Settings) -> Layout:
        """How conversations of this form are rendered, found out once for each.

        Raises:
            ValueError: where there is no chat template, or none of the name in the settings.
        """
        marked = [marked_message(place, message) for place, message in enumerate(messages)]
        neutral = self._hidden_in_settings(settings, "x")
        key = json.dumps([self._source(settings), marked, neutral], default=repr)
        if (known := self._layouts.get(key)) is None:  # another thread may clear them
            if len(self._layouts) >= LAYOUTS_KEPT:
                self._layouts.clear()
            try:
                known = self._found(marked, neutral)
            except TemplateLimitError as error:
                known = Layout(error=str(error))
            self._layouts[key] = known
        return known

    def content_positions(
        self, text: str, messages: Sequence[Message], settings: Settings
    ) -> set[int]:
        """Where in a rendered conversation delimiters of control tokens come from its contents.

        The conversation is rendered again with stand-ins for them; where these stand, and all else
        is as it was, contents stand. A content whose delimiters the template looks at itself (it
        cuts a text at </think>) has no such rendering and is tried token by token.
        """
        layout = self.layout(messages, settings)
        given = json.dumps([list(messages), dict(settings)], ensure_ascii=False, default=str)
        stand_in = unused(text + given)
        found: set[int] = set()
        whole = [*messages, settings]

        def positions(changed: Sequence[Any]) -> set[int] | None:
            *contents, kwargs = changed
            try:
                other = self._render(contents, layout, kwargs)
            except TemplateLimitError as error:
                raise self._refusal(error) from error
            except Exception:
                return None
            if len(other) != len(text):
                return None
            places = {place for place, char in enumerate(other) if char == stand_in}
            same = all(
                mine == theirs or theirs == stand_in
                for mine, theirs in zip(text, other, strict=True)
            )
            return places if same else None

        hidden = [
            {**self._spelled.hidden(message, stand_in), "role": message["role"]}
            for message in messages
        ]
        hidden.append(self._hidden_in_settings(settings, stand_in))
        at_once = positions(hidden)
        if at_once is not None:
            return at_once
        for place, own in enumerate(hidden):
            alone = positions([*whole[:place], own, *whole[place + 1 :]])
            if alone is not None:
                found |= alone
                continue
            for single in self._each_hidden(whole[place], stand_in):
                found |= positions([*whole[:place], single, *whole[place + 1 :]]) or set()
        return found

    def _refusal(self, error: Exception) -> ValueError:
        return ValueError(f"the chat template of {self.name} refuses this conversation: {error}")

    def _hidden_in_settings(self, settings: Settings, stand_in: str) -> dict[str, Any]:
        """Settings with stand-ins for the delimiters in those that are contents."""
        return {
            name: self._spelled.hidden(value, stand_in) if name in TEXT_SETTINGS else value
            for name, value in settings.items()
        }

    def _each_hidden(self, message: Mapping[str, Any], stand_in: str) -> Iterator[dict[str, Any]]:
        """The same with one token's spelling replaced, for each of those in its content."""
        content = message.get("content")
        if not isinstance(content, str):
            return
        for start, end in self._spelled.spans(content):
            hidden = content[:start] + stand_in * (end - start) + content[end:]
            yield {**message, "content": hidden}

    @cached_property
    def _spelled(self) -> Spellings:
        return Spellings(control_tokens(self.tokenizer).values())

    @cached_property
    def _processors(self) -> str | None:
        """A template that lies beside the tokenizer, in the file of a processor."""
        place = self.tokenizer.name_or_path
        if not place:
            return None
        try:
            found: Any = Path(place, "chat_template.json")
            if not found.is_file():
                found = try_to_load_from_cache(place, "chat_template.json")
            if not isinstance(found, str | Path):
                return None
            return str(json.loads(Path(found).read_text("utf-8"))["chat_template"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _source(self, settings: Settings) -> str:
        """The template's text; of several the one that is named, or the default."""
        given: Any = self.tokenizer.chat_template or self._processors
        if isinstance(given, list | tuple):  # as tokenizer_config.json has them
            given = {each["name"]: each["template"] for each in given}
        named: Any = settings.get("chat_template")
        if isinstance(named, str) and ("{" in named or not given):
            return named
        if not given:
            raise ValueError(
                f"the guide's tokenizer ({self.name}) has no chat template; choose an "
                "instruction-tuned guide, set tokenizer.chat_template, or pass guide_prompt="
            )
        if isinstance(given, str) and named is None:
            return given
        names = list(given) if isinstance(given, Mapping) else []
        if named is None:
            tools = "tool_use" if settings.get("tools") and "tool_use" in names else None
            named = tools or (names[0] if len(names) == 1 else "default")
        if named not in names:
            raise ValueError(
                f"the guide's tokenizer ({self.name}) has the chat templates "
                f"{', '.join(names) or 'default'} and none named {named!r}: name one, "
                'chat_template_kwargs={"chat_template": ...}'
            )
        return str(given[named])

    def _log_layout(self, what: str, messages: Sequence[Message]) -> Layout:
        """Warns if conversations of a form cannot be rendered."""
        try:
            layout = self.layout(messages, {})
        except ValueError as error:
            layout = Layout(error=str(error))
        fault = layout.error
        if fault is None and layout.missing:
            fault = f"it leaves out {', '.join(layout.missing)}"
        if fault is not None:
            logger.warning(
                "the chat template of %s cannot render %s (%s): pass guide_prompt=, or set "
                "tokenizer.chat_template",
                self.name,
                what,
                fault,
            )
        return layout

    def _log_unread(self, settings: Settings) -> None:
        """Warns, once each, of settings that the template does not read."""
        source = self._source(settings)
        for name in set(settings) - {"chat_template", *TEXT_SETTINGS} - self._unread:
            if not re.search(rf"\b{re.escape(name)}\b", source):
                self._unread.add(name)
                logger.warning(
                    "the chat template of %s has no setting %r: it changes nothing", self.name, name
                )

    def _log_change(self, messages: Sequence[Message], text: str) -> None:
        """Warns, once, of contents that are not written as they are; answers may be shortened."""
        for message in messages:
            content = message["content"].strip()
            if message["role"] != "assistant" and content not in text and not self._changes:
                self._changes = True
                logger.warning(
                    "the chat template of %s changes what is put into it (it writes %r as %r): the "
                    "guide reads other texts than the base; pass guide_prompt=, or set "
                    "tokenizer.chat_template",
                    self.name,
                    shorten(content, 200),
                    shorten(text, 400),
                )

    def _found(self, marked: list[dict[str, Any]], settings: Settings) -> Layout:
        """The layout that shows all of a marked conversation, else the one that shows most."""
        best = self._best(marked, settings)
        if marked[-1]["role"] == "assistant" and (best.error is not None or best.missing):
            before = self._found(marked[:-1], settings)
            if before.error is None and not before.missing:
                begun = marked[-1]["content"]
                return replace(before, appended=True, text=before.text + begun)
        if marked[-1]["role"] == "user" and best.error is None:
            best = replace(best, opening=self._opening(marked, best, settings))
        return replace(best, text=best.text + best.opening) if best.opening else best

    def _best(self, marked: list[dict[str, Any]], settings: Settings) -> Layout:
        best = Layout(error="it renders nothing")
        reason = None
        for layout in layouts(marked):
            try:
                text = self._render(marked, layout, settings)
            except TemplateLimitError:
                raise
            except Exception as error:
                reason = reason or f"{type(error).__name__}: {error}"
                continue
            if layout.parts and PARTS_AS_TEXT.search(text):
                continue  # it shows the list itself
            folded = text.casefold()
            missing = tuple(
                "the system text"
                if message["role"] == "system"
                else f"message {place} ({message['role']})"
                for place, message in enumerate(marked)
                if message["content"].casefold() not in folded
            )
            found = replace(layout, text=text, missing=missing)
            if not missing:
                return found
            if best.error is not None or len(missing) < len(best.missing):
                best = found
        return best if best.error is None or reason is None else replace(best, error=reason)

    def _opening(self, marked: list[dict[str, Any]], layout: Layout, settings: Settings) -> str:
        """What is to open the assistant's turn, where the template pays no heed to our asking."""
        given = as_given(marked, layout)
        answer = marked_message(len(marked), {"role": "assistant", "content": "x"})
        try:
            closed = self._apply(given, settings, open_turn=False)
            if closed != layout.text:
                return ""
            answered = as_given([*marked, answer], layout)
            before, shown, _ = self._apply(answered, settings, open_turn=False).partition(
                answer["content"]
            )
        except TemplateLimitError:
            raise
        except Exception:
            return ""
        opening = before.removeprefix(closed)
        if not shown or opening == before or not opening.strip():
            return ""
        return opening

    def _render(self, messages: Sequence[Message], layout: Layout, settings: Settings) -> str:
        last = messages[-1]
        if last["role"] != "assistant":
            text = self._apply(as_given(messages, layout), settings, open_turn=True)
            return text + layout.opening
        if layout.appended:
            before = replace(layout, appended=False)
            return self._render(messages[:-1], before, settings) + str(last["content"])
        # So that the text ends where the answer does, white space and all.
        end = unused(json.dumps(list(messages), ensure_ascii=False, default=str))
        ended = [*messages[:-1], {**last, "content": f"{last['content']}{end}"}]
        text = self._apply(as_given(ended, layout), settings, open_turn=False)
        before_end, shown, _ = text.rpartition(end)
        if not shown:
            raise ValueError("it leaves out the end of an answer that is begun")
        return before_end

    def _apply(self, messages: list[dict[str, Any]], settings: Settings, open_turn: bool) -> str:
        further = {name: value for name, value in settings.items() if name != "chat_template"}
        source = self._source(settings)
        return render(self.tokenizer, messages, source, add_generation_prompt=open_turn, **further)
