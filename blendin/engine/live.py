"""A queue that requests join and leave while it runs: one thread decodes all that is in it."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Self

from ..forks import generation
from ..settings import KINDS
from ..trace import Step
from .pair import Pair
from .request import Request
from .scheduler import Scheduler
from .sequence import SequenceState

logger = logging.getLogger("blendin")


class Stopped(RuntimeError):
    """The queue takes no requests any more, or ended one before its text did."""


class Live:
    """A request in a queue; its steps as they are decided, by `for` or by `async for`.

    Every step stays in `output`, so that whoever reads slowly holds nobody up. One task or thread
    reads at a time.

    Attributes:
        sequence: the request, read.
        prompt_ids: what the model that writes (the guide under `GuideOnly`) reads before it.
        output: the generation so far.
    """

    def __init__(self, owner: LiveQueue, sequence: SequenceState) -> None:
        self._owner, self.sequence, self.output = owner, sequence, sequence.output
        context = sequence.base or sequence.guide
        self.prompt_ids = () if context is None else tuple(context.ids)
        self._changed = Future[None]()
        self._taken = self._told = 0
        self._is_over = False
        self._error: Exception | None = None

    def take(self) -> list[Step]:
        """The steps decided since the last call; waits for one. Empty: the text has ended.

        Raises:
            Stopped: the queue was stopped, or broke, before the text ended.
            Exception: whatever went wrong with this request. Each has the result so far as its
                `output`.
        """
        while True:
            changed = self._changed  # before looking: what comes after the look changes this one
            if (steps := self._new()) is not None:
                return steps
            self._owner.check_process()
            changed.result()

    async def async_take(self) -> list[Step]:
        """`take` for coroutines; to be cancelled loses nothing."""
        while True:
            changed = self._changed
            if (steps := self._new()) is not None:
                return steps
            self._owner.check_process()
            await asyncio.shield(asyncio.wrap_future(changed))

    def __iter__(self) -> Iterator[Step]:
        while steps := self.take():
            yield from steps

    async def __aiter__(self) -> AsyncIterator[Step]:
        while steps := await self.async_take():
            for step in steps:
                yield step

    def cancel(self) -> None:
        """Ends it before the next step and frees its caches; what there is stays."""
        self._owner.cancel(self)

    @property
    def is_over(self) -> bool:
        """Whether no step will come any more."""
        return self._is_over

    def _new(self) -> list[Step] | None:
        """The steps that were not taken; None where some may come."""
        is_over = self._is_over
        if steps := self.output.steps[self._taken :]:
            self._taken += len(steps)
            return steps
        if not is_over:
            return None
        if self._error is not None:
            self._error.output = self.output  # type: ignore[attr-defined]
            raise self._error
        return []

    def tell(self) -> None:
        """Wakes who waits, where there is a step that was not told of; the queue's thread does."""
        if self._told != len(self.output.steps) or self._is_over:
            self._told = len(self.output.steps)
            changed, self._changed = self._changed, Future()
            with suppress(InvalidStateError):
                changed.set_result(None)

    def end(self, error: Exception | None = None) -> None:
        """No step follows; the queue says so."""
        self._error, self._is_over = error or self.sequence.error, True
        self.tell()


class LiveQueue:
    """Requests of any number of threads, decoded together by one.

    They join the running batch as it has room, first come, first served; what each gets is what
    `BlendInGenerator.generate` gives for it alone.

    Attributes:
        pair: the models.
        capacity: requests in flight and waiting at most.
        error: what broke the loop; None while all is well.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        max_batch_size: int = 32,
        max_cached_tokens: int | None = None,
        max_waiting: int = 128,
    ) -> None:
        """Starts the thread.

        Args:
            pair: the models.
            max_batch_size: requests in flight at most.
            max_cached_tokens: tokens in each model's cache at most; None: unbounded.
            max_waiting: further requests that may wait.

        Raises:
            ValueError: for a bound below 1.
        """
        waiting: int = KINDS["max_batch_size"]("max_waiting", max_waiting)
        self._scheduler = Scheduler(
            pair,
            self._sequences(),
            max_batch_size=max_batch_size,
            max_cached_tokens=max_cached_tokens,
        )
        self.pair, self.capacity = pair, max_batch_size + waiting
        self.error: BaseException | None = None
        self._lock = threading.Condition()
        self._waiting, self._cancelled = deque[Live](), list[Live]()
        self._begun: dict[SequenceState, Live] = {}
        self._is_stopping = self._is_cut = False
        self._generation = generation()
        self._thread = threading.Thread(target=self._run, name="blendin-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, request: Request) -> Live:
        """Adds a request; as `submit_all`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Live]:
        """Adds requests, all or none; their prompts are read here, in the caller's thread.

        Raises:
            queue.Full: too many are waiting.
            ValueError: a prompt is empty or too long, or all of them could never wait at once.
            Stopped: the queue is stopped or broken.
        """
        self.check_process()
        with self._lock:
            self._check_room(len(requests))
        sequences = [request.read(self.pair) for request in requests]
        for sequence in sequences:
            self._scheduler.check_fits(sequence)
        added = [Live(self, sequence) for sequence in sequences]
        with self._lock:
            self._check_room(len(added))
            self._waiting += added
            self._lock.notify()
        self._scheduler.wake()
        return added

    def cancel(self, live: Live) -> None:
        """Ends a request before its next step; nothing where it is over."""
        self.check_process()
        with self._lock:
            if live in self._waiting:
                self._waiting.remove(live)
                live.sequence.finish(None)
                live.end()
                return
            if live.is_over:
                return
            self._cancelled.append(live)
            self._lock.notify()
        self._scheduler.wake()

    def stop(self, patience: float = 0.0) -> None:
        """Takes no more requests, lets those that it has go on for a while, and ends the thread.

        Those that have not ended by then raise `Stopped`, with what they have.

        Args:
            patience: seconds to wait for them.
        """
        self.check_process()
        with self._lock:
            self._is_stopping = True
            self._lock.notify()
        self._scheduler.wake()
        self._thread.join(patience)
        with self._lock:
            self._is_cut = True
            self._lock.notify()
        self._scheduler.wake()
        self._thread.join()

    @property
    def running(self) -> int:
        """How many requests are in flight."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """How many are to begin, or to go on when there is room again."""
        return max(0, len(self._waiting) + len(self._begun) - self.running)

    @property
    def scheduler(self) -> Scheduler:
        """Its counts and pools, to be looked at."""
        return self._scheduler

    def check_process(self) -> None:
        """Refuses a child of `os.fork`, in which there is no thread.

        Raises:
            RuntimeError: this is one.
        """
        if self._generation != generation():
            raise RuntimeError(
                "the queue's thread is in the process that made it, and this one was forked: make "
                "a queue here"
            )

    def check_open(self) -> None:
        """Refuses where no request is taken.

        Raises:
            Stopped: saying why.
        """
        self.check_process()
        if self.error is not None:
            reason = f"{type(self.error).__name__}: {self.error}"
            raise Stopped(f"decoding has broken off ({reason}): start it anew") from self.error
        if self._is_stopping:
            raise Stopped("the queue is being stopped and takes no requests")

    def _check_room(self, count: int) -> None:
        self.check_open()
        if count > self.capacity:
            raise ValueError(
                f"{count} texts are asked for at once and {self.capacity} may be in flight or "
                "wait: ask for fewer"
            )
        if len(self._waiting) + len(self._begun) + count > self.capacity:
            raise queue.Full(f"{self.capacity} requests are in flight or waiting: ask again later")

    def _sequences(self) -> Iterator[SequenceState | None]:
        """What waits, as the scheduler has room."""
        while True:
            yield self._next()

    def _next(self) -> SequenceState | None:
        """Begins what has waited longest; apart from `_sequences`, which would hold on to it."""
        with self._lock:
            if not self._waiting:
                return None
            live = self._waiting.popleft()
            self._begun[live.sequence] = live
            return live.sequence

    def _run(self) -> None:
        try:
            while self._has_work():
                self._turn()
        except BaseException as error:
            logger.exception("decoding has broken off")
            self.error = error
        finally:
            self._close()

    def _has_work(self) -> bool:
        """Waits until there is something to do; False: no more."""
        with self._lock:
            while not (self._waiting or self._begun or self._is_stopping):
                self._cancelled.clear()  # what was cancelled while it ended
                self._lock.wait()
            return bool(self._waiting or self._begun) and not self._is_cut

    def _turn(self) -> None:
        """One step of all that runs."""
        with self._lock:
            cancelled, self._cancelled = self._cancelled, []
        for live in cancelled:
            if self._begun.pop(live.sequence, None) is not None:
                self._scheduler.remove(live.sequence)
                live.end()
        for sequence in self._scheduler.turn():
            self._begun.pop(sequence).end()
        for live in self._begun.values():
            live.tell()

    def _close(self) -> None:
        """Hands back what has not ended."""
        with self._lock:
            self._is_stopping = True
            left = [*self._begun.values(), *self._waiting]
            self._waiting.clear()
        with suppress(Exception):
            self._scheduler.close()
        self._begun.clear()
        for live in left:
            try:
                self.check_open()
            except Stopped as stopped:
                live.end(stopped)
        with self._lock:
            self._cancelled.clear()  # after the last end: what is over is not added any more
