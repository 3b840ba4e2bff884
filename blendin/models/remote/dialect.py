"""How the servers of an engine are asked; each engine that tells token ids has a dialect.

A module is one: `completions` (vLLM), `sglang`, `llama_cpp`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .answers import Row
from .transcript import TokenTexts

if TYPE_CHECKING:
    import httpx


class Request(NamedTuple):
    """A greedy request.

    Attributes:
        model: what the server calls it.
        prompt: token ids.
        max_tokens: to write.
        top: how many tokens to list of each position.
    """

    model: str
    prompt: Sequence[int]
    max_tokens: int
    top: int


class Dialect(Protocol):
    """How the servers of one engine are asked."""

    NAME: str

    def stream(
        self, client: httpx.AsyncClient, url: str, request: Request, texts: TokenTexts
    ) -> AsyncGenerator[Row, None]:
        """The rows of a request as the server makes them; closing the iterator ends the request.

        There may be fewer than were asked for, and at least one.

        Args:
            client: to ask with.
            url: the server's, up to and including /v1.
            request: what is asked.
            texts: what the model's tokens are as text.

        Raises:
            PassingError: time-out, lost connection, broken answer, a row is missing, 429 or 5xx.
            ServerError: the server refuses the request as it is, or what it says cannot be.
        """

    async def read(
        self,
        client: httpx.AsyncClient,
        url: str,
        request: Request,
        texts: TokenTexts,
        positions: int,
    ) -> list[Row]:
        """What follows a prompt at its last positions, each but the last with the token there.

        Args:
            client: to ask with.
            url: the server's.
            request: for one token; its prompt is the text that is read.
            texts: what the model's tokens are as text.
            positions: how many rows to give; fewer than there are tokens, or as many.

        Raises:
            ServerError: as `stream`.
        """

    async def tokenized(
        self, client: httpx.AsyncClient, url: str, model: str, text: str
    ) -> tuple[list[int] | None, Any]:
        """A text in the server's tokens, and its context's length; None for what it does not say.

        Args:
            client: to ask with.
            url: the server's.
            model: what the server calls it.
            text: to be tokenized, with what the tokenizer adds to a prompt.
        """
