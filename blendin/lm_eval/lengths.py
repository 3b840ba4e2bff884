"""Contexts that are too long for a model, as the harness' own models treat them: cut from the left,
and counted; texts that are too long, in windows.

Each model has its own limit and reads as much as fits: the base tokens, the guide's chat template
around what is left of the context. Nothing here needs more of the harness than its windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..engine.pair import Pair
from ..models.protocol import Model
from ..policy import Policy
from ..prompts import RenderedPrompt
from .harness import Asked, logger

MARGIN = 8
"""Tokens that a guide may need beyond those that a text is thought to have in its vocabulary."""


@dataclass(frozen=True)
class Window:
    """What is scored at once: both prompts (no guide's where none is read), and the text."""

    base_prompt: str
    guide_prompt: str
    text: str


class Fitted:
    """Prompts and texts that fit into both models' contexts.

    Attributes:
        cut: how many contexts were cut, by role.
        windowed: how many texts were scored in several windows.
    """

    def __init__(self, pair: Pair, policy: Policy, template_settings: Mapping[str, Any]) -> None:
        self._pair, self._policy, self._settings = pair, policy, template_settings
        self.cut, self.windowed = Counter[str](), 0
        self._told = self.counts

    @property
    def counts(self) -> dict[str, int]:
        """For the harness' results."""
        return {
            "truncated_base_contexts": self.cut["base"],
            "truncated_guide_contexts": self.cut["guide"],
            "windowed_texts": self.windowed,
        }

    def log(self, method: str, count: int) -> None:
        """A warning of what was cut since the last, where anything was."""
        now = self.counts
        if new := [f"{now[name] - self._told[name]} {name}" for name in now
                   if now[name] > self._told[name]]:  # fmt: skip
            told = ", ".join(new).replace("_", " ")
            logger.warning(
                "%s: of %d requests %s: the models hold %s and %s tokens, and what is too long is "
                "cut from the left",
                method,
                count,
                told,
                self._pair.base.max_length,
                self._pair.guide.max_length,
            )
        self._told = now

    def prompts(self, asked: Sequence[Asked], new_tokens: Sequence[int]) -> dict[str, Any]:
        """Both models' prompts, with room for answers of so many tokens."""

        def room(model: Model, answer: int) -> int | None:
            """Half a context where answers would take more: they end where it is full."""
            length = model.max_length
            return None if length is None else max(length - answer, length // 2)

        base, guide, is_read = self._pair.base, self._pair.guide, self._policy.reads_base
        rows = list(zip(asked, new_tokens, strict=True))
        return {
            "base_prompt": [
                self._base(each, room(base, answer) if is_read else None) for each, answer in rows
            ],
            "guide_prompt": [self._guide(each, room(guide, answer)) for each, answer in rows]
            if self._policy.reads_guide
            else None,
        }

    def windows(self, asked: Asked, text: str) -> list[Window]:
        """What is to be scored of a text after a context: one window, or as many as it takes.

        Raises:
            ValueError: where a model's context has no room for anything.
        """
        alone = not self._policy.reads_base
        first = self._pair.guide if alone else self._pair.base
        tokens = first.vocabulary.encode_bytes(text.encode()) or []
        size = self._size(asked, tokens, first, guided=self._policy.reads_guide and not alone)
        if len(tokens) <= size:
            left = None if first.max_length is None else self._most(first) + 1 - len(tokens)
            base = self._base(asked, None if alone else left)
            guide = ""
            if self._policy.reads_guide:
                guide = self._guide(asked, left if alone else self._guide_room(tokens))
            return [Window(base, guide, text)]
        self.windowed += 1
        begin = (self._guide(asked, size) if alone else self._base(asked, size)).ids[-1]
        pairs = map(make_disjoint_window, get_rolling_token_windows(tokens, begin, size, 1))
        return [
            self._window(asked, list(context), list(predicted), alone, is_first=place == 0)
            for place, (context, predicted) in enumerate(pairs)
        ]

    def _window(
        self, asked: Asked, context: list[int], tokens: list[int], alone: bool, is_first: bool
    ) -> Window:
        own, text = RenderedPrompt("window", context), RenderedPrompt("window", tokens)
        if alone or not self._policy.reads_guide:
            return Window(own, own if alone else "", text)
        room = self._guide_room(tokens)
        before = b"".join(self._pair.base.vocabulary.tokens[id] or b"" for id in context)
        ids = self._pair.guide.vocabulary.encode_bytes(before) or []
        if is_first or not ids:
            return Window(own, self._guide(asked if is_first else Asked(""), room), text)
        return Window(own, RenderedPrompt("window", ids if room is None else ids[-room:]), text)

    def _base(self, asked: Asked, room: int | None) -> RenderedPrompt:
        """What the base reads, its last tokens where there are more than `room`."""
        base = self._pair.base
        text = asked.base_prompt(base, self._pair.prompts)
        ids = base.encode_prompt(text)
        if room is not None and len(ids) > room:
            self.cut["base"] += 1
            ids = ids[-room:]
        return RenderedPrompt(text, ids)

    def _guide(self, asked: Asked, room: int | None) -> RenderedPrompt:
        """What the guide reads: its chat template, around the context's end where that is too long.

        Raises:
            ValueError: where the template alone is too long.
        """
        guide, shorter = self._pair.guide, asked
        while True:
            text = shorter.guide_prompt(guide, self._pair.prompts, self._settings)
            ids = guide.encode_prompt(text)
            if room is None or len(ids) <= room:
                break
            shorter = _without_beginning(shorter, len(ids) - room, guide)
        self.cut["guide"] += shorter is not asked
        return RenderedPrompt(text, ids)

    def _most(self, first: Model) -> int:
        """How many tokens the first reader of a text can read; it need not read the last."""
        assert first.max_length is not None
        return first.max_length - int(first.reads_whole_texts)

    def _size(self, asked: Asked, tokens: list[int], first: Model, guided: bool) -> int:
        """How many tokens of a text are scored at once."""
        size = len(tokens) if first.max_length is None else self._most(first)
        limit = self._pair.guide.max_length
        if not guided or limit is None:
            return size
        # Half of a guide's context is for what it is asked, where there is anything.
        most = limit - 1 - MARGIN if asked == Asked("") else limit // 2
        counts = [0, *accumulate(map(self._in_guide, tokens))]
        while size > 1 and any(
            counts[min(end + size, len(tokens))] - counts[end] > most
            for end in range(max(1, len(tokens) - size + 1))
        ):
            size = size * 3 // 4
        return size

    def _guide_room(self, tokens: list[int]) -> int | None:
        """How many tokens a guide can read before those of a text."""
        limit = self._pair.guide.max_length
        if limit is None:
            return None
        margin = 0 if self._pair.alignment.same else MARGIN
        return max(1, limit - margin - sum(map(self._in_guide, tokens)))

    def _in_guide(self, token: int) -> int:
        """How many of the guide's tokens one of the base's is, read alone: together they are fewer,
        but for very few."""
        if self._pair.alignment.same:
            return 1
        if token not in self._lengths:
            data = self._pair.base.vocabulary.tokens[token] or b""
            ids = self._pair.guide.vocabulary.encode_bytes(data)
            self._lengths[token] = len(data if ids is None else ids)
        return self._lengths[token]

    @cached_property
    def _lengths(self) -> dict[int, int]:
        return {}


def _without_beginning(asked: Asked, count: int, model: Model) -> Asked:
    """A context without its first tokens, `count` or more: of a chat its oldest turns.

    Raises:
        ValueError: where nothing would be left.
    """
    chat = asked.chat or ()
    first = int(bool(chat) and chat[0]["role"] != "user")
    if len(chat) > first + 2:
        return replace(asked, chat=(*chat[:first], *chat[first + 2 :]))
    content = chat[-1]["content"] if chat else asked.text
    tokens = model.vocabulary.tokens
    cut = sum(len(tokens[id] or b"") for id in model.vocabulary.text_ids(content)[:count])
    text = content.encode()[max(1, cut) :].decode("utf-8", "ignore")
    if not text.strip():
        raise ValueError(
            f"the context of {model.name}, {model.max_length} tokens, has no room for its chat "
            "template and any of the task's context: choose a model of a longer context"
        )
    if not chat:
        return replace(asked, text=text)
    return replace(asked, chat=(*chat[:-1], {**chat[-1], "content": text}))
