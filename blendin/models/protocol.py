"""What decoding asks of a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from ..decision.predict import NextTokens
from ..vocab.vocabulary import Vocabulary
from .context import Context
from .kv_pool import Pool


class Model(Protocol):
    """A model that runs here (`LanguageModel`) or behind a server (`RemoteModel`).

    Attributes:
        is_async: its answers take a while to arrive; `ask` lets other sequences go on meanwhile.
        can_draft: it reads draft tokens along with a context's own, and writes drafts.
        reads_whole_texts: to score a text it reads all of it, the last token too.
        name: for messages and traces.
        vocabulary: the bytes of each of its tokens.
        end_ids: the tokens that end a sequence.
        max_length: how many tokens its context holds; None where it is not bounded.
        forwards: how many forwards it has run, or requests it has made.
    """

    is_async: bool
    can_draft: bool
    reads_whole_texts: bool
    name: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    end_ids: frozenset[int]
    max_length: int | None

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens it lists at each position; None: all of them."""
        ...

    @property
    def forwards(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where its predictions are."""
        ...

    @property
    def precision(self) -> str:
        """The name of its weights' dtype."""
        ...

    def forward(self, context: Context, positions: int = 1) -> NextTokens:
        """Predictions after each of a context's last `positions` tokens."""
        ...

    def forward_batch(self, contexts: Sequence[Context]) -> NextTokens:
        """The prediction after each context."""
        ...

    def score_batch(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Any]:
        """For each context, the predictions after each of its last `positions` tokens."""
        ...

    def ask(self, context: Context) -> Future[NextTokens] | None:
        """The prediction after a context, when it arrives; None for a model that runs here."""
        ...

    def prefetch(self, context: Context) -> None:
        """Asks early for a prediction that is likely to be needed; nothing where it runs here."""

    def draft(self, context: Context, pending: list[int], count: int) -> list[int]:
        """Its own greedy continuation, up to `count` tokens, of a context and `pending`."""
        ...

    def join(self, context: Context, pool: Pool) -> bool:
        """Reserves a context's place in a pool; False where there is no room."""
        ...

    def leave(self, context: Context) -> None:
        """Frees what a context holds."""

    def has_room(self, context: Context) -> bool:
        """Whether all of a context's tokens can be read, its place enlarged if need be."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt."""
        ...
