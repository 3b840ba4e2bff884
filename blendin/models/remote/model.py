"""One language model behind completions servers: token ids in, its likeliest next tokens out."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from ...decision.predict import NextTokens
from ...decision.top_logprobs import TopLogprobs
from ...prompts import prompt_ids
from ...vocab.vocabulary import Vocabulary
from ..context import Context
from ..kv_pool import Pool
from . import completions
from .completions import Row, ServerError
from .replicas import Replicas
from .session import Session
from .window import MAX_WINDOW_TOKENS, AcceptanceEstimate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx

T = TypeVar("T")


class RemoteModel:
    """A model that servers run; a `Model`.

    It returns `TopLogprobs`: the `top` likeliest tokens of each position. It asks for several
    tokens at once and streams them, so that most steps find their row there (`window`).

    Attributes:
        replicas: the servers.
        top: how many tokens of each position are listed.
        requests: made so far.
    """

    is_async, can_draft, reads_whole_texts = True, False, True

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
        headers: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        patience: float = 600.0,
        max_connections: int = 1000,
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
            headers: of every request.
            timeout: seconds without a byte from a server after which a request is given up.
            patience: seconds without any token for a sequence after which it fails.
            max_connections: requests at once.
        """
        self.tokenizer, self.name, self.top = tokenizer, name, top
        self.vocabulary = Vocabulary(tokenizer, size=size)
        self.end_ids, self.max_length = end_ids, max_length
        self.replicas, self.requests = Replicas(urls), 0
        self._acceptance, self._patience = AcceptanceEstimate(), patience
        self._sessions: weakref.WeakKeyDictionary[Context, Session] = weakref.WeakKeyDictionary()
        self._client = client(dict(headers or {}), timeout, max_connections)
        self._places: asyncio.Semaphore = asyncio.Semaphore(max_connections)

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
            ServerError: the likeliest token is none of the tokenizer's.
        """
        width = max(self.top + 1, max(len(row.tokens) for row in rows))
        tokens = torch.full((len(rows), width), -1, dtype=torch.long)
        log_probs = torch.full((len(rows), width), -torch.inf)
        for place, row in enumerate(rows):
            tokens[place, : len(row.tokens)] = torch.tensor(row.tokens)
            log_probs[place, : len(row.tokens)] = torch.tensor(row.log_probs)
        foreign = tokens >= len(self.vocabulary)  # padding, which no tokenizer has
        if bool((foreign & (log_probs == log_probs.amax(dim=-1, keepdim=True))).any()):
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
        asked = [run(self._echo(context)) for context in contexts]
        return [
            self.listed(each.result()[-count:])
            for each, count in zip(asked, positions, strict=True)
        ]

    def join(self, context: Context, pool: Pool) -> bool:
        """There is always room: servers make their own."""
        return True

    def leave(self, context: Context) -> None:
        """Ends what is still asked for a context."""
        if (session := self._sessions.pop(context, None)) is not None:
            _close(session)

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
        session = self._sessions.get(context)
        if session is None:
            session = Session(self.replicas, self._stream, self._acceptance, self._patience)
            self._sessions[context] = session
            weakref.finalize(context, _close, session)  # where a context is dropped half-way
        return session

    async def _row(self, context: Context, session: Session, ids: list[int]) -> Row:
        left = max(1, context.expected - len(ids))
        if self.max_length is not None:
            left = min(left, self.max_length + 1 - len(ids))
        drafts = context.max_draft_tokens
        try:
            return await session.row(
                ids,
                max_tokens=min(left, MAX_WINDOW_TOKENS),
                length=None if drafts is None else 1 + drafts,
                min_top_prob=context.min_top_prob,
            )
        finally:
            context.forwards = session.requests

    async def _stream(self, url: str, ids: Sequence[int], length: int) -> AsyncGenerator[Row, None]:
        request = completions.body(self.name, ids, length, self.top)
        self.requests += 1
        async with self._places, aclosing(completions.stream(self._client, url, request)) as rows:
            async for row in rows:
                yield row

    async def _echo(self, context: Context) -> list[Row]:
        """A row for each token of a context but the first, and what follows it."""
        request = {**completions.body(self.name, context.ids, 1, self.top), "echo": True}

        async def ask(url: str, ids: Sequence[int], length: int) -> AsyncGenerator[Row, None]:
            self.requests += 1
            async with self._places:
                rows = await completions.read(self._client, url, request)
            for row in rows[1:]:
                if row is None:
                    raise ServerError(f"{url} gives no log-probabilities of prompts (echo)")
                yield row

        session = Session(self.replicas, ask, self._acceptance, self._patience)
        try:
            count = len(context.ids)  # a row for each, and none for the first
            await session.row(context.ids, max_tokens=count, length=count)
            return await session.finish()
        finally:
            context.forwards += session.requests
            session.close()


def _close(session: Session) -> None:
    loop().call_soon_threadsafe(session.close)


def run(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts work in the client's event loop."""
    return asyncio.run_coroutine_threadsafe(work, loop())


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all requests, in a thread of its own."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="blendin-requests", daemon=True).start()
    return made


def client(headers: dict[str, str], timeout: float, connections: int) -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(timeout, connect=10.0, pool=None),
        limits=httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=2.0,  # servers close idle connections, uvicorn's after five seconds
        ),
        follow_redirects=False,  # a key goes to the server that was named, and nowhere else
        trust_env=False,
    )
