"""One sequence at a server: its window, its home replica, and what happens when a request fails.

Runs in the client's event loop alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from .answers import Row
from .errors import PassingError, ServerError
from .replicas import Replica, Replicas
from .window import AcceptanceEstimate, Standing, Window

Ask = Callable[[str, Sequence[int], int], AsyncGenerator[Row, None]]
"""Streams rows from a URL: for a prompt, up to a number of tokens."""


class Session:
    """What one context has at a server.

    Attributes:
        home: the replica that holds its prefix.
        window: the latest; None before the first.
        acceptance: how often its windows hold.
        requests: made so far, those included that failed.
        asked_tokens: how many the latest one asked for.
    """

    def __init__(
        self, replicas: Replicas, ask: Ask, acceptance: AcceptanceEstimate, patience: float
    ) -> None:
        self._replicas, self._ask, self._patience = replicas, ask, patience
        self.acceptance = AcceptanceEstimate(acceptance)
        self.home: Replica | None = None
        self.window: Window | None = None
        self.requests = self.asked_tokens = 0
        self._task: asyncio.Task[None] | None = None
        self._wanted: Sequence[int] = ()
        self._closed = False

    async def row(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        length: int | None = None,
        min_top_prob: float = 0.0,
    ) -> Row:
        """What follows `ids`, asked for where it is not there.

        Args:
            ids: the whole context.
            max_tokens: of a window, however well windows hold.
            length: of a new window; None: by how well windows hold.
            min_top_prob: a window ends where no token is as likely as this.

        Raises:
            ServerError: no server gave it, for as long as patience lasts.
        """
        since, failures = time.monotonic(), 0
        self._wanted = ids
        while not self._closed:
            if self._wanted != ids:
                raise ServerError("asked early, and overtaken by what was decided")
            window = self.window
            standing = Standing.BROKEN if window is None else window.standing(ids)
            if window is not None and standing is Standing.HOLDS:
                return window.rows[len(ids) - window.start]
            if window is not None and standing is Standing.COMING:
                window.changed.clear()
                await window.changed.wait()
                continue
            if window is not None and window.error is not None:
                failures += 1
                self.window = None  # the error's traceback leads to the context that it is of
                self._check_patience(window.error, since, failures)
                since = since if not window.rows else time.monotonic()
            self._open(ids, min(max_tokens, length or self.acceptance.length), min_top_prob)
        raise ServerError("the sequence was ended while it waited for a server")

    def ready(self, ids: Sequence[int]) -> Row | None:
        """The row after `ids` where it is there already, from any thread.

        Notes whether the window held, so ask once for each `ids`.
        """
        window = self.window
        if window is None:
            return None
        standing, new = window.standing(ids), len(ids) - window.start
        if new > 0:
            # A window that ran out before some of the new tokens would not have held for them all.
            held = standing is not Standing.BROKEN and new <= max(1, len(window.rows))
            self.acceptance.count(held)
        return window.row_after(ids) if standing is Standing.HOLDS else None

    async def finish(self) -> list[Row]:
        """All rows of the latest window."""
        assert self.window is not None and self._task is not None
        await self._task
        if self.window.error is not None:
            raise self.window.error
        return self.window.rows

    def forget(self) -> None:
        """Drops the window, so that what failed is asked again."""
        self._end()
        self.window = None

    def close(self) -> None:
        """Ends the request that runs, if there is one, and whoever waits for it."""
        self._closed = True
        self._end()
        self.window = None
        if self.home is not None:
            self.home.homed.discard(self)
            self.home = None

    def _end(self) -> None:
        """Breaks off a running request; one that has all its rows frees its own connection."""
        if self._task is not None and self.window is not None and not self.window.over:
            self._task.cancel()

    def _open(self, ids: Sequence[int], length: int, min_top_prob: float) -> None:
        self._end()
        self.window = Window(len(ids))
        self.requests += 1
        self.asked_tokens = length
        filling = self._fill(self.window, ids, length, min_top_prob)
        self._task = asyncio.get_running_loop().create_task(filling)

    async def _fill(
        self, window: Window, ids: Sequence[int], length: int, min_top_prob: float
    ) -> None:
        home = None
        try:
            while (home := self._replicas.home(self, self.home)) is None:
                self._check_rest(0.0)
                await asyncio.sleep(self._replicas.next_awake + random.uniform(0, 0.05))
            self.home = home
            async with aclosing(self._ask(home.url, ids, length)) as rows:
                async for row in rows:
                    if not window.rows:
                        home.answered()
                    window.add(row)
                    is_unsure = row.top_prob < min_top_prob
                    window.over = is_unsure or len(window.rows) == length
                    window.changed.set()
                    if is_unsure and len(window.rows) < length:
                        break  # what the server would write next would most likely be dropped
            if not window.rows:
                raise PassingError(f"{home.url} gives no token")
        except PassingError as error:
            if home is not None:
                home.failed(error)
            window.error = error
        except Exception as error:
            window.error = error
        finally:
            window.over = True
            window.changed.set()

    def _check_patience(self, error: Exception, since: float, failures: int) -> None:
        """Raises where another try is pointless, or patience has run out."""
        if not isinstance(error, PassingError):
            raise error
        if error.tries is not None and failures >= error.tries:
            raise ServerError(f"{error} ({failures} times in a row)") from error
        waited = time.monotonic() - since
        if waited >= self._patience:
            raise ServerError(
                f"no answer from {self._replicas.urls} for {waited:.0f} s and {failures} tries: "
                f"{error}. Start the server again, or raise `patience`"
            ) from error
        self._check_rest(waited)

    def _check_rest(self, waited: float) -> None:
        """Raises where the servers ask to be left alone for longer than patience lasts."""
        if waited + (rest := self._replicas.asked_rest) > self._patience:
            raise ServerError(
                f"{self._replicas.urls} asks to be left alone for {rest:.0f} s (Retry-After), more "
                f"than `patience` has left of {self._patience:g} s: raise it, or try later"
            )
