"""A pair being served: it is loaded, decodes what is asked for, and is stopped."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from ..engine.live import Live, LiveQueue, Stopped
from ..engine.pair import Pair
from ..generator import BlendInGenerator
from ..models.remote.errors import ServerError
from ..protocol.errors import ApiError, refusing
from ..trace import Step
from .answers import DONE, FINISH, Answer, Text, as_event
from .logprobs import Token, TokenLog, prompt_tokens
from .metrics import Metrics
from .requests import Asked
from .settings import ServeSettings

logger = logging.getLogger("blendin")

Reader = Callable[[Mapping[str, Any], ServeSettings, Pair], Asked]

LONGEST_WAIT = 60
"""Seconds that `Retry-After` says at most."""


class Service:
    """What the server's routes ask.

    Attributes:
        settings: of the server.
        metrics: what it counts.
        failure: why the pair could not be loaded.
        started: when, in seconds since 1970.
    """

    def __init__(self, settings: ServeSettings, load: Callable[[], BlendInGenerator]) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.failure: BaseException | None = None
        self._load = load
        self._pair: Pair | None = None
        self._queue: LiveQueue | None = None
        self._seconds = 1.0  # that a text takes, lately
        self._is_stopping, self.started = False, int(time.time())

    def start(self, on_failure: Callable[[], None] = lambda: None) -> None:
        """Loads the pair in a thread; until then every answer is 503.

        Args:
            on_failure: called in that thread where it cannot be loaded.
        """
        context = copy_context()  # how errors spell settings
        work = partial(context.run, self._start, on_failure)
        threading.Thread(target=work, name="blendin-load", daemon=True).start()

    def _start(self, on_failure: Callable[[], None]) -> None:
        try:
            pair = self._load().pair
            live = LiveQueue(
                pair,
                max_batch_size=self.settings.max_batch_size,
                max_cached_tokens=self.settings.max_cached_tokens,
                max_waiting=self.settings.max_waiting,
            )
            self._watch(pair, live)
            self._queue = live
            self._pair = pair  # with it, all is there
            if self._is_stopping:  # `stop` came too early to find the queue
                live.stop()
        except BaseException as error:
            self.failure = error
            on_failure()

    def _watch(self, pair: Pair, live: LiveQueue) -> None:
        gauge = self.metrics.gauge
        gauge("running_requests", "Texts in flight.", lambda: live.running)
        gauge("waiting_requests", "Texts that wait.", lambda: live.waiting)
        for role, pool in live.scheduler.pools.items():
            gauge(
                "cached_tokens",
                "Tokens in the cache.",
                partial(getattr, pool, "tokens"),
                model=role,
            )
            gauge("cache_bytes", "Size of the cache.", partial(getattr, pool, "bytes"), model=role)
            forwards = partial(getattr, pair.model(role), "forwards")
            gauge("forwards", "Forwards of a model, of all texts together.", forwards, model=role)

    def stop(self, patience: float) -> None:
        """Takes no more requests, and ends what runs after some seconds; waits for it."""
        self._is_stopping = True
        if self._queue is not None:
            self._queue.stop(patience)

    @property
    def pair(self) -> Pair:
        """The models.

        Raises:
            ApiError: they are not loaded yet.
        """
        if self._pair is None:
            raise ApiError(
                503, "the models are being loaded: ask again later", code="loading",
                headers={"Retry-After": "2"},
            )  # fmt: skip
        return self._pair

    @property
    def queue(self) -> LiveQueue:
        """Where requests wait and run.

        Raises:
            ApiError: none can.
        """
        assert self.pair and self._queue is not None
        try:
            self._queue.check_open()
        except Stopped as error:
            raise ApiError(503, str(error), code="stopped") from error
        return self._queue

    def state(self) -> str:
        """`ok`, as long as requests are taken.

        Raises:
            ApiError: they are not, and why.
        """
        if self._is_stopping:
            raise ApiError(503, "the server is being stopped", code="stopped")
        return "ok" if self.queue else ""

    async def begin(self, body: Mapping[str, Any], read: Reader) -> Answer:
        """Puts what a request asks for into the queue.

        Raises:
            ApiError: it cannot be.
        """
        arrived = time.monotonic()
        try:
            return await asyncio.to_thread(self._begin, body, read, arrived)
        except ApiError:
            self.metrics.refused()
            raise

    def _begin(self, body: Mapping[str, Any], read: Reader, arrived: float) -> Answer:
        live_queue, pair = self.queue, self.pair
        asked = read(body, self.settings, pair)
        lives: Sequence[Live | None] = [None] * len(asked.requests)
        try:
            with refusing():
                if asked.generates:
                    lives = live_queue.submit_all(asked.requests)
                else:
                    begun = [Live(live_queue, each.read(pair)) for each in asked.requests]
        except Stopped as error:
            raise ApiError(503, str(error), code="stopped") from error
        except queue.Full as error:
            raise ApiError(
                429, str(error), code="rate_limit_exceeded",
                headers={"Retry-After": str(self._wait(live_queue))},
            ) from error  # fmt: skip
        prompts = [live.prompt_ids for live in (lives if asked.generates else begun) if live]
        try:
            texts = [
                self._text(asked, index, live, prompt)
                for index, (live, prompt) in enumerate(zip(lives, prompts, strict=True))
            ]
        except BaseException:
            for live in lives:
                if live is not None:
                    live.cancel()
            raise
        each = len(texts) // asked.prompts
        return Answer(asked, texts, sum(map(len, prompts[::each])), arrived)

    def _text(self, asked: Asked, index: int, live: Live | None, prompt: Sequence[int]) -> Text:
        request, echoed = asked.requests[index], asked.echoed[index]
        if live is not None:
            self.metrics.queued(type(request.policy).__name__, len(prompt))
        if asked.logprobs is None:
            return Text(live, index, echoed, None, asked.tells_steps)
        tokens: list[Token] = []
        if asked.echoes_logprobs:
            tokens = prompt_tokens(self.pair, prompt, asked.logprobs)
        log = TokenLog(
            self.pair, asked.logprobs, asked.is_chat, request.limits.stop,
            "base" if request.policy.reads_base else "guide", 0 if tokens else len(echoed),
        )  # fmt: skip
        return Text(live, index, echoed, log, asked.tells_steps, tokens)

    def _wait(self, live_queue: LiveQueue) -> int:
        """Seconds until there is likely to be room."""
        ahead = 1 + live_queue.waiting / self.settings.max_batch_size
        return max(1, min(LONGEST_WAIT, round(self._seconds * ahead)))

    async def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer, when all its texts have ended.

        Raises:
            ApiError: one of them failed; with what there is of all.
        """

        async def finish(text: Text) -> None:
            async for steps in self._steps(answer, text):
                text.add(steps)

        with self._limited(answer):
            ended = await asyncio.gather(*map(finish, answer.texts), return_exceptions=True)
        whole = answer.whole()
        for error in ended:
            if isinstance(error, ApiError):
                error.further["partial"] = whole
            if error is not None:
                raise error
        return whole

    async def events(self, answer: Answer) -> AsyncGenerator[bytes]:
        """The answer as it comes."""
        with self._limited(answer):
            try:
                async with aclosing(merged([self._events(answer, t) for t in answer.texts])) as all:
                    async for event in all:
                        yield event
                if answer.asked.include_usage:
                    yield answer.usage_event()
            except ApiError as error:
                yield as_event(error.body)
            yield DONE

    async def _events(self, answer: Answer, text: Text) -> AsyncGenerator[bytes]:
        if event := answer.first_event(text):
            yield event
        async with aclosing(self._steps(answer, text)) as all:
            async for steps in all:
                # Clients that show alternatives expect a token an event.
                parts = [steps] if text.log is None else [[step] for step in steps]
                for part in parts:
                    if event := answer.event(text, part):
                        yield event
        yield answer.last_event(text)

    async def _steps(self, answer: Answer, text: Text) -> AsyncGenerator[list[Step]]:
        """The steps of a text as they come, counted.

        Raises:
            ApiError: it failed.
        """
        if (live := text.live) is None:
            return
        policy = type(live.sequence.policy).__name__
        is_first, reason = True, "gone"
        try:
            while steps := await live.async_take():
                if is_first:
                    self.metrics.first_step(policy, time.monotonic() - answer.arrived)
                    is_first = False
                yield steps
            reason = FINISH[live.output.stop_reason] if text.cut is None else "cut"
        except Stopped as error:
            reason = "cut"
            if not live.output.steps:
                raise ApiError(503, str(error), code="stopped") from error
            text.cut = str(error)
        except Exception as error:
            reason = "error"
            status = 502 if isinstance(error, ServerError) else 500
            raise ApiError(status, str(error) or type(error).__name__) from error
        finally:
            self._ended(answer, text, reason)

    def _ended(self, answer: Answer, text: Text, reason: str) -> None:
        """Counts a text that has ended, once."""
        if (live := text.live) is None or text.is_counted:
            return
        text.is_counted = True
        live.cancel()
        seconds = time.monotonic() - answer.arrived
        if reason != "gone":
            self._seconds += (seconds - self._seconds) / 8
        self.metrics.ended(type(live.sequence.policy).__name__, reason, live.output, seconds)

    @contextmanager
    def _limited(self, answer: Answer) -> Iterator[None]:
        """Within it the texts are cut when their time is over, and ended when it is left."""

        def cut() -> None:
            for text in answer.texts:
                if text.live is not None and not text.live.is_over:
                    text.cut = f"the server gives a text {self.settings.request_timeout:g} s"
                    text.live.cancel()

        timer = asyncio.get_running_loop().call_later(self.settings.request_timeout, cut)
        try:
            yield
        finally:
            timer.cancel()
            for text in answer.texts:
                self._ended(answer, text, "gone")  # those that nobody has read a step of


async def merged(streams: Sequence[AsyncGenerator[bytes]]) -> AsyncGenerator[bytes]:
    """What several streams give, as it comes; an error of one ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for each in only:
                yield each
        return
    coming = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = coming.pop(task)
                try:
                    yield task.result()
                except StopAsyncIteration:
                    continue
                coming[asyncio.ensure_future(anext(stream))] = stream
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
