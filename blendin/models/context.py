"""What one model has read of one sequence; it holds no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .cuda_graphs import Slot
from .kv_pool import Pool, Span
from .lookahead import Guess


@dataclass
class Context:
    """What one model has read of one sequence.

    Attributes:
        ids: every token, the prompt's first. Grows; shrinks only by `LanguageModel.rollback`.
        cached: how many tokens are in `cache`: `ids` as far as they are read, and what was read
            ahead.
        cache: transformers' KV cache, a `captured.Slot` or a `remote.session.Session`; None before
            the first forward.
        expected: how long it is expected to grow, for a cache of fixed size.
        last_logits: `[1, V]`, the logits after `ids[:cached]`.
        pool: where it lies among other sequences, if it does; its cache is then a span of it.
        span: its place there. A model that reads no ragged batches only counts by it.
        hint: gives the tokens that are likely to follow `ids`, asked at the next forward.
        guess: what was read ahead.
        most_ahead: how many tokens a server may be asked for beyond the next; None: as many as pay.
        sure: a server need not go on where no token is as likely as this.
        forwards: how many forwards, or requests to a server, it took part in.
    """

    ids: list[int]
    cached: int = 0
    cache: Any = None
    expected: int = 0
    last_logits: Tensor | None = field(default=None, repr=False)
    pool: Pool | None = field(default=None, repr=False)
    span: Span | None = field(default=None, repr=False)
    hint: Callable[[], list[int]] | None = field(default=None, repr=False)
    guess: Guess | None = field(default=None, repr=False)
    most_ahead: int | None = None
    sure: float = 0.0
    forwards: int = 0


def forget(context: Context, length: int) -> None:
    """Cuts a context's cache back to `length` tokens, or drops it where it cannot be cut."""
    context.last_logits = None
    if context.span is not None and context.cache is None:
        del context.span.ids[length:]
        context.cached = length
    elif can_crop(context.cache):
        if not isinstance(context.cache, Slot):  # which is told its length at every forward
            context.cache.crop(length - context.cached)
        context.cached = length
    else:
        context.cache, context.cached = None, 0


def can_crop(cache: Any) -> bool:
    """Whether tokens can be taken out of a cache at its end."""
    if isinstance(cache, Slot):
        return True
    if not hasattr(cache, "layers") or not getattr(cache, "is_croppable", True):
        return False
    return all(
        not getattr(layer, "is_sliding", False) or layer.get_seq_length() < layer.sliding_window
        for layer in cache.layers
    )
