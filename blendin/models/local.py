"""One language model: feed tokens, give logits, roll back.

A `LanguageModel` holds weights and tables and no sequence.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..decision.predict import NextTokens as Rows
from ..prompts import prompt_ids
from ..vocab.end_tokens import end_ids
from ..vocab.vocabulary import Vocabulary
from .context import Context, can_crop, forget
from .cuda_graphs import CannotCapture, Slot, Slots, weight_device
from .kv_pool import Pool
from .lookahead import MOST, Guess, recall, take_back
from .varlen import RaggedForward
from .varlen_batch import CannotPack

logger = logging.getLogger("blendin")


class Model(Protocol):
    """What the loop asks of a model, wherever that runs; `LanguageModel` says what each means."""

    is_remote: bool
    name: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    end_ids: frozenset[int]
    max_length: int | None
    forwards: int

    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> str: ...
    def forward(self, context: Context, positions: int = 1) -> Rows: ...
    def forward_batch(self, contexts: Sequence[Context]) -> Rows: ...
    def score_batch(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Any]: ...
    def join(self, context: Context, pool: Pool) -> bool: ...
    def leave(self, context: Context) -> None: ...
    def has_room(self, context: Context) -> bool: ...
    def encode_prompt(self, text: str) -> list[int]: ...


class LanguageModel:
    """A transformers causal language model with its tokenizer and vocabulary.

    Attributes:
        name: for messages and traces.
        vocabulary: the bytes of each of its tokens.
        end_ids: the tokens that end a sequence.
        max_length: how many tokens its context holds; None where it is not bounded.
        window: how many tokens its sliding layers keep; None where it has none.
        forwards: how many forwards it has run.
        is_remote: False.
    """

    is_remote = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        capture: bool | None = None,
    ) -> None:
        """Wraps a loaded model.

        Args:
            model: with its weights where they are to stay.
            tokenizer: its own.
            name: for messages and traces.
            capture: whether to decode through `captured.Slots`; by default on CUDA devices.

        Raises:
            ValueError: where the tokenizer cannot be aligned or no end token is known.
        """
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        text_config = model.config.get_text_config()
        self.vocabulary = Vocabulary(tokenizer, size=text_config.vocab_size)
        self.max_length: int | None = getattr(text_config, "max_position_embeddings", None)
        self.window = sliding_window(text_config)
        configured = getattr(model.generation_config, "eos_token_id", None)
        self.end_ids = end_ids(configured, tokenizer, size=text_config.vocab_size)
        if not self.end_ids:
            raise ValueError(
                f"{name!r} has no end token, so nothing would stop it; set tokenizer.eos_token or "
                "model.generation_config.eos_token_id"
            )
        self.forwards = 0
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        capture = self.device.type == "cuda" if capture is None else capture
        self._slots = Slots(model, name) if capture and self._keeps_logits else None

    @property
    def device(self) -> torch.device:
        """Where its logits are."""
        output = self.model.get_output_embeddings()
        return weight_device(output) if output is not None else self.model.device

    @property
    def precision(self) -> str:
        """The name of its weights' dtype."""
        return str(self.model.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def forward(self, context: Context, positions: int = 1) -> Tensor:
        """Reads what the context has gained since the last forward, in one go.

        Args:
            context: of this model; its new tokens enter its cache.
            positions: how many of the last positions to score, at most as many as are new (or 1,
                which costs nothing where nothing is new).

        Returns:
            `[positions, V]` logits in the model's dtype: row i scores the token that follows
            `context.ids[: len(ids) - positions + 1 + i]`.
        """
        if positions == 1 and (row := recall(context)) is not None:
            return row
        if context.guess is not None:
            take_back(context, context.guess.start)
        if context.cached == len(context.ids) and positions == 1:
            if context.last_logits is not None:
                return context.last_logits
            forget(context, len(context.ids) - 1)
        new = len(context.ids) - context.cached
        if not 1 <= positions <= new:
            raise ValueError(f"{positions} positions asked for, {new} tokens are new")
        self.forwards += 1
        context.forwards += 1
        logits = self._captured(context, positions)
        if logits is None:
            logits = self._plain(context, positions)
        context.cached, context.last_logits = len(context.ids), logits[-1:]
        return logits

    def _plain(self, context: Context, positions: int) -> Tensor:
        """A forward over transformers' own growing cache."""
        device = weight_device(self.model.get_input_embeddings())
        new = torch.tensor([context.ids[context.cached :]], device=device)
        output = self.model(
            input_ids=new,
            past_key_values=context.cache,
            use_cache=True,
            return_dict=True,
            **({"logits_to_keep": positions} if self._keeps_logits else {}),
        )
        context.cache = output.past_key_values
        return output.logits[0, -positions:]

    def _captured(self, context: Context, positions: int) -> Tensor | None:
        """A forward through a slot; None where there is none or it is outgrown."""
        if self._slots is None:
            return None
        if context.cache is None:
            context.cache = self._slots.take(max(context.expected, len(context.ids)))
            if context.cache is not None:
                weakref.finalize(context, self._slots.give_back, context.cache)
        if not isinstance(context.cache, Slot):
            return None
        if context.cache.fits(len(context.ids)):
            try:
                new = context.ids[context.cached :]
                return context.cache.read(new, context.cached, positions)
            except (CannotCapture, RuntimeError) as error:
                self._slots.give_up(error)
        context.cache, context.cached = None, 0
        return None

    @cached_property
    def ragged(self) -> RaggedForward | None:
        """Reads many sequences in one forward; None, with a reason logged, where none can."""
        try:
            return RaggedForward(self.model)
        except CannotPack as reason:
            logger.warning("%s reads a batch's sequences one by one: %s", self.name, reason)
            return None

    def join(self, context: Context, pool: Pool) -> bool:
        """Reserves a context's place among others; whether there is room."""
        span = pool.reserve(context.ids, context.expected)
        if span is None:
            return False
        context.pool, context.span, context.cached = pool, span, len(span.ids)
        return True

    def leave(self, context: Context) -> None:
        """Gives a context's place back; what it has read it would have to read again."""
        if context.pool is not None and context.span is not None:
            context.pool.release(context.span)
        context.pool = context.span = context.cache = context.last_logits = context.guess = None
        context.cached = 0

    def has_room(self, context: Context) -> bool:
        """Whether all of a context's tokens can be read, its place enlarged if need be."""
        if context.pool is None or context.span is None:
            return True
        length = len(context.ids)
        if length > context.span.capacity:
            context.expected = max(context.expected, length + length // 4)
            enlarged = context.pool.resize(context.span, context.expected)
            return enlarged or context.pool.resize(context.span, length)
        return True

    @torch.inference_mode()
    def forward_batch(self, contexts: Sequence[Context]) -> Tensor:
        """Reads what each context has gained, all of them together where the model can.

        Args:
            contexts: of this model, no two the same; with room (`has_room`).

        Returns:
            `[len(contexts), V]` logits in the model's dtype, after each context's last token.
        """
        recalled = [recall(context) for context in contexts]
        unread = [
            c
            for c, row in zip(contexts, recalled, strict=True)
            if row is None and (c.cached < len(c.ids) or c.last_logits is None)
        ]
        hints = [[] if c.hint is None else self.ahead(c, c.hint()) for c in unread]
        if any(hints):
            self._read_ahead(unread, hints)
        elif any(context.span is None for context in unread) or self.ragged is None:
            for context in unread:
                self.forward(context)
        elif unread:
            read = self._read_together(unread, [1] * len(unread))
            if len(read) == 1 and len(unread) == len(contexts):
                return read[0][1]  # a copy would take as long as a decision
        rows = [
            c.last_logits if row is None else row for c, row in zip(contexts, recalled, strict=True)
        ]
        return torch.cat([row for row in rows if row is not None])

    def ahead(self, context: Context, tokens: list[int]) -> list[int]:
        """As many of the tokens as can be read after the context and taken back again.

        A sliding window that moves on drops states for good; spans of a pool keep them.
        """
        length = len(context.ids)
        bounds = [MOST] if self.max_length is None else [MOST, self.max_length - length]
        if context.span is not None:
            bounds.append(context.span.capacity - length)
        if context.span is None or self.ragged is None:
            if self.window is not None:
                bounds.append(self.window - 1 - length)
            if context.cache is not None and not can_crop(context.cache):
                return []
        return tokens[: max(0, min(bounds))]

    def _read_ahead(self, contexts: Sequence[Context], hints: Sequence[list[int]]) -> None:
        for context, hint in zip(contexts, hints, strict=True):
            if context.cached == len(context.ids):  # its last logits were not kept
                forget(context, context.cached - 1)
            context.ids += hint
        try:
            scored = self.score_batch(contexts, [1 + len(hint) for hint in hints])
        finally:
            for context, hint in zip(contexts, hints, strict=True):
                del context.ids[len(context.ids) - len(hint) :]
        for context, hint, logits in zip(contexts, hints, scored, strict=True):
            rows = logits.split(1)
            context.last_logits = rows[0]
            if hint:
                context.guess = Guess(len(context.ids), hint, list(rows))

    @torch.inference_mode()
    def score_batch(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Tensor]:
        """As `forward_batch`, with more positions.

        Args:
            contexts: likewise.
            positions: how many of each context's last positions to score.

        Returns:
            For each context `[positions, V]` logits, as `forward` gives them.
        """
        if any(context.span is None for context in contexts) or self.ragged is None:
            return [self.forward(c, n) for c, n in zip(contexts, positions, strict=True)]
        logits = {
            index: rows
            for whole, scored in self._read_together(contexts, positions)
            for index, rows in zip(whole, scored.split([positions[i] for i in whole]), strict=True)
        }
        return [logits[index] for index in range(len(contexts))]

    def _read_together(
        self, contexts: Sequence[Context], positions: Sequence[int]
    ) -> list[tuple[list[int], Tensor]]:
        assert self.ragged is not None
        before = self.ragged.forwards
        for context in contexts:
            context.forwards += 1
        logits = self.ragged.read_contexts(contexts, positions)
        self.forwards += self.ragged.forwards - before
        return logits

    def rollback(self, context: Context, count: int) -> None:
        """Takes the last `count` tokens out of a context, read or not.

        Where the cache cannot give back what it dropped (a sliding window that has moved on),
        the whole context is read again at the next forward.
        """
        if context.guess is not None:
            take_back(context, context.guess.start)
        if not 0 <= count < len(context.ids):
            raise ValueError(f"cannot take {count} of {len(context.ids)} tokens out of a context")
        if count == 0:
            return
        del context.ids[-count:]
        if context.cached > len(context.ids):
            forget(context, len(context.ids))

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt; see `prompts.prompt_ids`."""
        return prompt_ids(text, self.tokenizer)


def sliding_window(config: Any) -> int | None:
    """Of a model's sliding layers, where it has any."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    slides = types is None or any("sliding" in kind for kind in types)
    return window if slides and isinstance(window, int) else None
