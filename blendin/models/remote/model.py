"""One language model behind completions servers: token ids in, its likeliest next tokens out."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from ...decision.predict import NextTokens
from ...decision.top_logprobs import TopLogprobs
from ...forks import generation
from ...prompts import prompt_ids
from ...vocab.vocabulary import Vocabulary
from ..context import Context
from ..identity import tokenizer_digest
from ..kv_pool import Pool
from . import completions
from .answers import Row
from .connection import Access, loop, run
from .dialect import Dialect, Request
from .errors import ContextFullError, PassingError, ServerError
from .replicas import Replicas
from .session import Session
from .transcript import TokenTexts
from .window import MAX_WINDOW_TOKENS, AcceptanceEstimate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

NOTICEABLE = -6.9
"""The log of a probability that no row of padding has, for no model was taught to write it."""


class _Live:
    """What a model has at its servers in one process.

    Attributes:
        generation: of that process (`forks.generation`).
        replicas: the servers.
        client: to ask them with.
        places: for requests at once.
        sessions: of each context.
    """

    def __init__(self, urls: Sequence[str], access: Access) -> None:
        self.generation = generation()
        self.replicas, self.client = Replicas(urls), access.client()
        self.places = asyncio.Semaphore(access.connections)
        self.sessions: weakref.WeakKeyDictionary[Context, Session] = weakref.WeakKeyDictionary()


class RemoteModel:
    """A model that servers run; a `Model`.

    It returns `TopLogprobs`: the `top` likeliest tokens of each position. It asks for several
    tokens at once and streams them, so that most steps find their row there (`window`).

    Attributes:
        top: how many tokens of each position are listed.
        dialect: how their engine is asked.
        requests: made so far.
        described: what its servers say of it and answered at loading, for `identity`.
    """

    is_async, can_draft, writes_ahead, reads_whole_texts = True, False, True, True

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        size: int,
        end_ids: frozenset[int],
        max_length: int | None,
        top: int = 100,
        dialect: Dialect = completions,
        access: Access | None = None,
        patience: float = 600.0,
    ) -> None:
        """Wraps servers; `remote.loading.load` finds out what they have.

        Args:
            urls: one for each replica, up to and including /v1.
            name: what the servers call the model.
            tokenizer: the model's own.
            size: of its vocabulary.
            end_ids: the tokens that end a sequence.
            max_length: how many tokens of a context a server can continue; None: not bounded.
            top: tokens to list of each position.
            dialect: of their engine.
            access: how they are asked.
            patience: seconds without any token for a sequence after which it fails.
        """
        self.tokenizer, self.name, self.top = tokenizer, name, top
        self.dialect = dialect
        self.vocabulary = Vocabulary(tokenizer, size=size)
        self.end_ids, self.max_length = end_ids, max_length
        self.requests = 0
        self.described: dict[str, Any] = {"id": name, "max_length": max_length}
        self._urls, self._access = tuple(urls), access or Access()
        self._acceptance, self._patience = AcceptanceEstimate(), patience
        self._texts = TokenTexts(self.vocabulary, tokenizer)
        self._lives = [_Live(self._urls, self._access)]

    @property
    def _live(self) -> _Live:
        """Its connections in this process: after a fork, new ones.

        The old ones are kept as they are: to end them would end the parent's.
        """
        live = self._lives[-1]
        if live.generation != generation():
            live = _Live(self._urls, self._access)
            self._lives.append(live)
        return live

    @property
    def replicas(self) -> Replicas:
        """The servers."""
        return self._live.replicas

    @property
    def forwards(self) -> int:
        """Requests, which are what a forward is here."""
        return self.requests

    @property
    def device(self) -> torch.device:
        """Where its rows are."""
        return torch.device("cpu")

    @property
    def precision(self) -> str:
        """Only the servers know their weights' dtype."""
        return "as served"

    @property
    def identity(self) -> dict[str, Any]:
        """What the servers say of the model and answered at loading, and its tokenizer.

        Weights cannot be seen from here: a model that answers nearly alike passes for the same.
        """
        return {
            **self.described,
            "tokenizer": tokenizer_digest(self.tokenizer),
            "end_ids": sorted(self.end_ids),
            "top_logprobs": self.top,
        }

    def ask(self, context: Context) -> Future[NextTokens]:
        """What follows a context, when it arrives: one row."""
        answer: Future[NextTokens] = Future()

        def arrived(asked: Future[Row]) -> None:
            try:
                answer.set_result(self.listed([asked.result()]))
            except BaseException as error:  # of the request, or cancelled with it
                answer.set_exception(error)

        self._ask(context).add_done_callback(arrived)
        return answer

    def prefetch(self, context: Context) -> None:
        """Asks for what follows a context, unless windows are turned off for it."""
        if context.max_draft_tokens != 0:
            session, ids = self._session(context), list(context.ids)
            run(self._row(context, session, ids))

    def draft(self, context: Context, pending: list[int], count: int) -> list[int]:
        """Nothing: a draft would cost a request."""
        return []

    def listed(self, rows: Sequence[Row]) -> TopLogprobs:
        """Rows as tensors, `[N, top + 1]`.

        Raises:
            ServerError: a token of noticeable probability is none of the tokenizer's.
        """
        width = max(self.top + 1, max(len(row.tokens) for row in rows))
        tokens = torch.full((len(rows), width), -1, dtype=torch.long)
        log_probs = torch.full((len(rows), width), -torch.inf)
        for place, row in enumerate(rows):
            tokens[place, : len(row.tokens)] = torch.tensor(row.tokens)
            log_probs[place, : len(row.tokens)] = torch.tensor(row.log_probs)
        foreign = tokens >= len(self.vocabulary)  # padding, which no tokenizer has
        likeliest = log_probs.amax(dim=-1, keepdim=True)
        if bool((foreign & ((log_probs == likeliest) | (log_probs > NOTICEABLE))).any()):
            raise ServerError(
                f"{self.replicas.urls} writes token {int(tokens.max())} and the tokenizer of "
                f"{self.name} has {len(self.vocabulary)}: pass the model's own as tokenizer="
            )
        tokens, log_probs = (
            tokens.masked_fill(foreign, -1),
            log_probs.masked_fill(foreign, -torch.inf),
        )
        return TopLogprobs(tokens, log_probs, len(self.vocabulary))

    def forward_batch(self, contexts: Sequence[Context]) -> TopLogprobs:
        """What follows each of some contexts, asked for all at once where it is not there.

        Raises:
            ServerError: a server refuses, or none answers.
        """
        return self.listed([asked.result() for asked in [self._ask(c) for c in contexts]])

    def forward(self, context: Context, positions: int = 1) -> TopLogprobs:
        """What follows a context at its last positions; as `LanguageModel.forward`."""
        if positions == 1:
            return self.forward_batch([context])
        return self.score_batch([context], [positions])[0]

    def score_batch(
        self, contexts: Sequence[Context], positions: Sequence[int]
    ) -> list[TopLogprobs]:
        """As `LanguageModel.score_batch`: one request for each context, which reads all of it.

        Each position's row also lists the token that stands there, whatever its rank.
        """
        asked = [
            run(self._echo(context, count))
            for context, count in zip(contexts, positions, strict=True)
        ]
        return [self.listed(each.result()) for each in asked]

    def join(self, context: Context, pool: Pool) -> bool:
        """There is always room: servers make their own."""
        return True

    def leave(self, context: Context) -> None:
        """Ends what is still asked for a context."""
        live = self._live
        if (session := live.sessions.pop(context, None)) is not None:
            _close(session, live.generation)

    def has_room(self, context: Context) -> bool:
        """As `join`."""
        return True

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a whole prompt; see `prompts.prompt_ids`."""
        return prompt_ids(text, self.tokenizer)

    def _ask(self, context: Context) -> Future[Row]:
        session, ids = self._session(context), list(context.ids)
        row = session.ready(ids)
        if row is None:
            return run(self._row(context, session, ids))
        known: Future[Row] = Future()
        known.set_result(row)
        return known

    def _session(self, context: Context) -> Session:
        live = self._live
        session = live.sessions.get(context)
        if session is None:
            session = Session(live.replicas, self._stream, self._acceptance, self._patience)
            live.sessions[context] = session
            # Where a context is dropped half-way.
            weakref.finalize(context, _close, session, live.generation)
        return session

    async def _row(self, context: Context, session: Session, ids: list[int]) -> Row:
        left = min(max(1, context.expected - len(ids)), MAX_WINDOW_TOKENS)
        drafts = context.max_draft_tokens
        while True:
            if self.max_length is not None:
                left = min(left, self.max_length + 1 - len(ids))
            try:
                return await session.row(
                    ids,
                    max_tokens=left,
                    length=None if drafts is None else 1 + drafts,
                    min_top_prob=context.min_top_prob,
                )
            except ContextFullError as error:
                # The server had not said how much it holds, or another replica holds less.
                left = self._shorter(error, len(ids), min(left, session.asked_tokens))
                if left < 1:
                    raise
                session.forget()
            finally:
                context.forwards = session.requests

    def _shorter(self, error: ContextFullError, length: int, asked: int) -> int:
        """How many tokens to ask for where a server has no room; 0 where there is none at all.

        Args:
            error: what the server says.
            length: of the context.
            asked: how many tokens it was asked for.
        """
        limit = error.limit
        if limit is None or not 0 < limit < length + asked:
            limit = length if asked <= 1 else None
        if limit is None:
            return asked // 2
        self.max_length = min(limit - 1, self.max_length or limit - 1)
        return max(0, min(asked - 1, limit - length))

    async def _stream(self, url: str, ids: Sequence[int], length: int) -> AsyncGenerator[Row, None]:
        live, request = self._live, Request(self.name, ids, length, self.top)
        self.requests += 1
        async with (
            live.places,
            aclosing(self.dialect.stream(live.client, url, request, self._texts)) as rows,
        ):
            while True:
                try:
                    async with asyncio.timeout(self._patience):  # bytes may come for ever
                        row = await anext(rows)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise PassingError(f"{url} gives no token, and does not end") from None
                yield row

    async def _echo(self, context: Context, positions: int) -> list[Row]:
        """What follows a context at its last positions."""
        live = self._live
        request = Request(self.name, context.ids, 1, self.top)

        async def ask(url: str, ids: Sequence[int], length: int) -> AsyncGenerator[Row, None]:
            self.requests += 1
            async with live.places:
                rows = await self.dialect.read(live.client, url, request, self._texts, positions)
            for row in rows:
                yield row

        session = Session(live.replicas, ask, self._acceptance, self._patience)
        try:
            await session.row(context.ids, max_tokens=positions, length=positions)
            return await session.finish()
        finally:
            context.forwards += session.requests
            session.close()

    async def probe(self, url: str, ids: Sequence[int], length: int) -> list[Row]:
        """The rows of one request to one of the servers, made as all are.

        Raises:
            ServerError: as `Dialect.stream`.
        """
        request = Request(self.name, ids, length, self.top)
        async with aclosing(
            self.dialect.stream(self._live.client, url, request, self._texts)
        ) as rows:
            return [row async for row in rows]


def _close(session: Session, of: int) -> None:
    if of == generation():  # else it is the parent's
        loop().call_soon_threadsafe(session.close)
