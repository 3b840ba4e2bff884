"""What one model has read of one sequence; it holds no weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from .kv_pool import KVSegment
from .lookahead import Lookahead


class Cache(Protocol):
    """Keys and values of a context's first tokens."""

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        ...

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens; none where it cannot undo what came after them."""

    def draft_room(self, length: int) -> int:
        """How many tokens can be read beyond `length` and cropped again."""
        ...


@dataclass(eq=False)
class Context:
    """What one model has read of one sequence.

    Attributes:
        ids: every token, the prompt's first. Grows; shrinks only by `LanguageModel.rollback`.
        expected: the length it is expected to reach, for caches of fixed size.
        cache: None before the first forward, and always where a server reads the text.
        room: its reservation in the pool of a list of sequences; where the model reads varlen
            batches it is the cache too.
        last_logits: `[1, V]`, after the last token in `cache`; None where they were not kept.
        draft_tokens: likely to follow `ids`; the next forward reads them too.
        lookahead: `[1, V]` logits beyond `ids`, None where they were not kept; its tokens are in
            `cache`.
        max_draft_tokens: how many tokens a server may write beyond the next one; None: as many as
            pay.
        min_top_prob: a server stops writing ahead where no token is as likely as this.
        forwards: how many forwards, or requests to a server, it took part in.
    """

    ids: list[int]
    expected: int = 0
    cache: Cache | None = field(default=None, repr=False)
    room: KVSegment | None = field(default=None, repr=False)
    last_logits: Tensor | None = field(default=None, repr=False)
    draft_tokens: list[int] = field(default_factory=list, repr=False)
    lookahead: Lookahead[Tensor | None] | None = field(default=None, repr=False)
    max_draft_tokens: int | None = None
    min_top_prob: float = 0.0
    forwards: int = 0

    @property
    def cached(self) -> int:
        """How many tokens the cache holds."""
        return 0 if self.cache is None else self.cache.length

    @property
    def known_logits(self) -> Tensor | None:
        """`[1, V]` after `ids`, where no forward is needed for them."""
        if self.lookahead is not None:
            return self.lookahead.row_after(self.ids)
        return self.last_logits if self.cached == len(self.ids) else None

    def crop(self, length: int) -> None:
        """Forgets what was read beyond the first `length` tokens."""
        self.lookahead = None
        if self.cache is not None and length < self.cache.length:
            self.last_logits = None
            self.cache.crop(length)
