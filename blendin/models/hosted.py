"""A model that another engine runs: its logits are brought here before each step is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..prompts import prompt_ids
from ..vocab.end_tokens import end_ids
from ..vocab.vocabulary import Vocabulary
from .context import Context
from .identity import tokenizer_digest
from .kv_pool import Pool
from .tokenizer import load_tokenizer


class Progress(NamedTuple):
    """How far a text has come.

    Attributes:
        key: under which it was submitted.
        tokens: that it has beyond what was submitted.
        is_full: the engine cannot go on with it.
    """

    key: str
    tokens: int
    is_full: bool


class Engine(Protocol):
    """An engine that is driven from here.

    Attributes:
        decisions: what decides its rows of logits.
    """

    decisions: Any

    @property
    def identity(self) -> dict[str, Any]:
        """Of its weights and configuration, as `Model.identity`."""
        ...

    def submit(self, key: str, ids: Sequence[int]) -> None:
        """Begins to run forwards after a text; each of its rows is asked for under the key."""
        ...

    def withdraw(self, keys: Sequence[str]) -> None:
        """Ends what was submitted, if it has not ended."""
        ...

    def step(self) -> list[Progress]:
        """One forward of whatever there is room for; of the texts that gained a token, how far."""
        ...


class Driver(Protocol):
    """What drives it, for all sequences of the process."""

    def read(self, contexts: Sequence[Context], positions: Sequence[int]) -> list[Tensor]:
        """For each context `[positions, V]` logits after each of its last tokens."""
        ...

    def leave(self, context: Context) -> None:
        """A sequence has ended, or waits."""
        ...


class HostedModel:
    """A model whose forwards another engine makes; a `Model`.

    Attributes:
        engine: where it is driven from here; None where it drives us.
        driver: what drives it; set by the engine room.
    """

    top: int | None = None
    engine: Engine | None = None
    driver: Driver | None = None

    is_async, can_draft, writes_ahead, reads_whole_texts = False, False, False, False

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
        """
        self.name, self.tokenizer, self.end_ids = name, tokenizer, end_ids
        self.vocabulary = Vocabulary(tokenizer, size=size)
        self.max_length: int | None = max_length
        self.device, self.precision = device, precision
        self.forwards = 0
        self._contexts: list[Context] = []
        self._logits: Tensor | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Its weights where the engine runs here, its tokenizer and what ends a text."""
        return {
            **({} if self.engine is None else self.engine.identity),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "end_ids": sorted(self.end_ids),
            "max_length": self.max_length,
        }

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
        """As `forward_batch`, with more positions; for an engine that is driven from here."""
        if self.driver is not None:
            return self.driver.read(contexts, positions)
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
        if self.driver is not None:
            self.driver.leave(context)

    def has_room(self, context: Context) -> bool:
        """True: the engine sees to that."""
        return True

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt; see `prompts.prompt_ids`."""
        return prompt_ids(text, self.tokenizer)


def model_of_vllm(vllm_config: Any, device: torch.device, name: str | None = None) -> HostedModel:
    """The model of a vLLM engine.

    Args:
        vllm_config: its `VllmConfig`.
        device: where its logits are.
        name: for messages and traces; None: what vLLM calls it.

    Raises:
        ValueError: its tokenizer cannot be read, or no end token is known.
    """
    config = vllm_config.model_config
    if config.tokenizer_mode not in ("auto", "hf", "slow"):
        raise ValueError(
            f"tokenizer_mode is {config.tokenizer_mode!r}, whose tokens' bytes are not known: use "
            "auto, with a checkpoint that has a tokenizer of transformers"
        )
    tokenizer = load_tokenizer(
        config.tokenizer,
        {"revision": config.tokenizer_revision, "trust_remote_code": config.trust_remote_code},
    )
    size = config.get_vocab_size()
    configured = config.try_get_generation_config().get("eos_token_id")
    if configured is None:
        configured = getattr(config.hf_text_config, "eos_token_id", None)
    ends = end_ids(configured, tokenizer, size, config.model)
    if not ends:
        raise ValueError(f"{config.model!r} has no end token, so nothing would stop it")
    return HostedModel(
        name or (served if isinstance(served := config.served_model_name, str) else config.model),
        tokenizer,
        size=size,
        end_ids=ends,
        max_length=config.max_model_len - 1,  # at that length vLLM ends the text by itself
        device=device,
        precision=str(config.dtype).removeprefix("torch."),
    )
