"""A model that another engine runs: its logits are brought here before each step is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..prompts import prompt_ids
from ..vocab.vocabulary import Vocabulary
from .context import Context
from .kv_pool import Pool


class Host(Protocol):
    """An engine that can be driven from here: it runs forwards of the texts that it was given."""

    def submit(self, context: Context) -> None:
        """Begins to run forwards after a context, from its tokens as they are now."""
        ...

    def withdraw(self, context: Context) -> None:
        """Ends what `submit` began, if it has not ended."""
        ...

    def step(self) -> list[Context]:
        """One forward of whatever the engine has room for; the contexts that it cannot go on with.

        The logits are handed to the decisions of the steps meanwhile.
        """
        ...


class HostedModel:
    """A model whose forwards another engine makes; a `Model`.

    Attributes:
        host: the engine, where it is driven from here; None where it drives us.
    """

    is_async, can_draft, reads_whole_texts = False, False, False

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        size: int,
        end_ids: frozenset[int],
        max_length: int,
        device: torch.device,
        precision: str,
        host: Host | None = None,
    ) -> None:
        """Describes the model.

        Args:
            name: for messages and traces.
            tokenizer: the model's own.
            size: of its vocabulary: the width of its logits.
            end_ids: the tokens that end a sequence.
            max_length: the longest context after which the engine tells logits.
            device: where its logits are.
            precision: the name of its weights' dtype.
            host: the engine, where it is driven from here.
        """
        self.name, self.tokenizer, self.end_ids = name, tokenizer, end_ids
        self.vocabulary = Vocabulary(tokenizer, size=size)
        self.max_length: int | None = max_length
        self.device, self.precision, self.host = device, precision, host
        self.forwards = 0
        self._contexts: list[Context] = []
        self._logits: Tensor | None = None

    def offer(self, contexts: Sequence[Context], logits: Tensor) -> None:
        """What the engine computed: `[len(contexts), V]` logits after each context."""
        self._contexts, self._logits = list(contexts), logits
        self.forwards += 1
        for context in contexts:
            context.forwards += 1

    def forward(self, context: Context, positions: int = 1) -> Tensor:
        """Predictions after a context, as they were offered."""
        return self.score_batch([context], [positions])[0]

    def forward_batch(self, contexts: Sequence[Context]) -> Tensor:
        """`[len(contexts), V]` logits after each context, as they were offered."""
        assert self._logits is not None
        places = [self._contexts.index(context) for context in contexts]
        if places == list(range(len(self._contexts))):
            return self._logits
        return self._logits[places]

    def score_batch(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Tensor]:
        """As `forward_batch`; an engine that decodes tells of last positions alone.

        Raises:
            NotImplementedError: for more than one position.
        """
        if any(count != 1 for count in positions):
            raise NotImplementedError(
                f"{self.name} is decoded by another engine, which tells nothing of given texts"
            )
        return list(self.forward_batch(contexts).split(1))

    def ask(self, context: Context) -> None:
        """Nothing to wait for."""

    def prefetch(self, context: Context) -> None:
        """Nothing: the engine decides what it reads."""

    def draft(self, context: Context, pending: list[int], count: int) -> list[int]:
        """None: the engine drafts for itself."""
        return []

    def join(self, context: Context, pool: Pool) -> bool:
        """True: the engine has caches of its own."""
        return True

    def leave(self, context: Context) -> None:
        """Withdraws the context from the engine."""
        if self.host is not None:
            self.host.withdraw(context)

    def has_room(self, context: Context) -> bool:
        """True: the engine sees to that."""
        return True

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt; see `prompts.prompt_ids`."""
        return prompt_ids(text, self.tokenizer)
