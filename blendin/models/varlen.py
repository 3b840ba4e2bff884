"""Ragged forwards of one model: which sequences read what in which, and whether it can at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..decision.prediction import total_variation
from .context import Context, forget
from .cuda_graphs import weight_device
from .kv_pool import SHARED_AT_LEAST, Pool, Span, shared
from .varlen_batch import ATTENTION, CannotPack, Packed, attend_eager, attend_sdpa

TOKENS_A_FORWARD = 2048
"""A forward reads no more: activations stay small however many prompts come at once."""


class RaggedForward:
    """A model that reads many sequences in one forward.

    Attributes:
        forwards: how many it has run.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Checks that it can, by a trial beside the plain forward.

        Raises:
            CannotPack: where it cannot, with the reason.
        """
        self.model, self._config = model, model.config.get_text_config()
        self.forwards = 0
        if not getattr(model, "_supports_attention_backend", False):
            raise CannotPack("its attention cannot be exchanged")
        kinds = set(getattr(self._config, "layer_types", None) or ())
        if unknown := kinds - {"full_attention", "sliding_attention"}:
            raise CannotPack(f"it has layers of the kind {', '.join(sorted(unknown))}")
        self._attend: Callable[..., Tensor] = attend_sdpa
        if self._config._attn_implementation == "eager":
            self._attend = attend_eager
        try:
            self._try()
        except CannotPack:
            raise
        except Exception as error:  # whatever a model that was not made for it may raise
            raise CannotPack(f"{type(error).__name__}: {error}") from error

    def read(
        self, pool: Pool, rows: Sequence[tuple[Span, Sequence[int]]], score: Sequence[int]
    ) -> Tensor:
        """Reads each sequence's new tokens into its span.

        Args:
            pool: that the spans are of.
            rows: each sequence's span, with room, and its new tokens, at least one.
            score: after how many of a sequence's last new tokens the logits are wanted.

        Returns:
            `[sum(score), V]` logits.
        """
        packed = Packed(pool, rows, weight_device(self.model.get_input_embeddings()), self._attend)
        ends = accumulate(packed.lengths)
        places = [
            place
            for end, count in zip(ends, score, strict=True)
            for place in range(end - count, end)
        ]
        with _attention_of(self._config, ATTENTION):
            output = self.model(
                input_ids=packed.ids,
                position_ids=packed.positions,
                use_cache=False,
                return_dict=True,
                logits_to_keep=torch.tensor(places, dtype=torch.int64, device=packed.last.device),
                blendin_packed=packed,
            )
        self._check_windows(packed.windows)
        for span, new in rows:
            span.ids += new
        return output.logits[0]

    def _check_windows(self, seen: dict[int, int | None]) -> None:
        """Each layer must have told its window: the masks that transformers makes are not used."""
        kinds = getattr(self._config, "layer_types", None) or ()
        for layer, kind in enumerate(kinds):
            window = self._config.sliding_window if kind == "sliding_attention" else None
            if seen.get(layer) != window:
                raise CannotPack(f"layer {layer} attends within {seen.get(layer)}, not {window}")

    @torch.inference_mode()
    def _try(self) -> None:
        """Two short sequences in two ragged forwards, beside each of them read plainly."""
        device = weight_device(self.model.get_input_embeddings())
        generator = torch.Generator().manual_seed(0)
        vocabulary = min(self._config.vocab_size, 1000)
        texts = torch.randint(vocabulary, (2, 9), generator=generator).tolist()
        pool = Pool()
        spans = [pool.reserve(text, len(text)) for text in texts]
        assert spans[0] is not None and spans[1] is not None
        self.read(pool, [(spans[0], texts[0][:5]), (spans[1], texts[1][:8])], [1, 1])
        ours = self.read(pool, [(spans[0], texts[0][5:]), (spans[1], texts[1][8:])], [1, 1])
        for row, text in enumerate(texts):
            ids = torch.tensor([text], device=device)
            plain = self.model(input_ids=ids, use_cache=False, return_dict=True).logits[0, -1]
            apart = float(total_variation(plain, ours[row]))
            if not apart <= (0.05 if plain.dtype.itemsize == 2 else 1e-3):
                raise CannotPack(f"on trial its distribution was off by {apart:.2g}")

    def read_contexts(
        self, contexts: Sequence[Context], positions: Sequence[int]
    ) -> list[tuple[list[int], Tensor]]:
        """Reads what each context has gained, in as few forwards as their sizes allow.

        Args:
            contexts: each with a span, with room in it and new tokens.
            positions: how many of each context's last positions to score, all of them new.

        Returns:
            For each forward, which contexts it read to their end, and the logits of all their
            positions, one context's after the other's.
        """
        logits = []
        waiting = list(range(len(contexts)))
        while waiting:
            turn, waiting = self._turn(waiting, contexts, positions)
            whole = [index for index, length in turn if length == len(contexts[index].ids)]
            scored = self._read_turn(turn, contexts, positions)
            logits.append((whole, scored))
            for index, rows in zip(whole, scored.split([positions[i] for i in whole]), strict=True):
                contexts[index].last_logits = rows[-1:]
        return logits

    def _turn(
        self, waiting: list[int], contexts: Sequence[Context], counts: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """What the next forward reads: (which context, how far), and which read on later.

        A prompt that begins like one of this turn waits for it and takes over what it has read.
        """
        turn: list[tuple[int, int]] = []
        later: list[int] = []
        budget = TOKENS_A_FORWARD
        for index in waiting:
            context, scored = contexts[index], len(contexts[index].ids) - counts[index]
            assert context.pool is not None and context.span is not None
            if context.cached > scored:  # its logits were not kept
                forget(context, scored)
            begins_alike = False
            if len(context.ids) - context.cached >= SHARED_AT_LEAST:
                context.pool.borrow(context.span, context.ids[: scored + 1])
                context.cached = len(context.span.ids)
                begins_alike = any(
                    shared(contexts[other].ids[:length], context.ids[: scored + 1])
                    >= context.cached + SHARED_AT_LEAST
                    for other, length in turn
                )
            length = len(context.ids)
            if context.cached + budget < length:  # all that is scored is read in one forward
                length = min(context.cached + budget, scored)
                if length <= context.cached and not turn:
                    length = len(context.ids)
            if begins_alike or length <= context.cached:
                later.append(index)
                continue
            budget = max(0, budget - (length - context.cached))
            turn.append((index, length))
            if length < len(context.ids):
                later.append(index)
        return turn, later

    def _read_turn(
        self, turn: list[tuple[int, int]], contexts: Sequence[Context], counts: Sequence[int]
    ) -> Tensor:
        """One forward; the logits of those contexts that it has read to their end."""
        read = [(contexts[index], length) for index, length in turn]
        pool = read[0][0].pool
        rows = [(c.span, c.ids[c.cached : length]) for c, length in read if c.span is not None]
        score = [
            counts[index] if length == len(contexts[index].ids) else 0 for index, length in turn
        ]
        assert pool is not None
        self.forwards += 1
        logits = self.read(pool, rows, score)
        for context, length in read:
            context.cached, context.last_logits = length, None
        return logits


@contextmanager
def _attention_of(config: Any, name: str) -> Iterator[None]:
    """A model's attention for one forward; its owner may use it too."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
