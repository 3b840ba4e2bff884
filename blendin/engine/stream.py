"""Results as they come: the steps of one sequence, or the sequences of a list."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Self, TypeVar

from tqdm.auto import tqdm

from ..forks import Lock, generation, settle
from ..trace import Generation, Step
from .loop import advance
from .pair import Pair
from .request import Request
from .scheduler import Scheduler
from .sequence import SequenceState

logger = logging.getLogger("blendin")


Item = TypeVar("Item")


class Results(Iterator[Item], Generic[Item]):
    """Results that are made as they are asked for, by `for` or by `async for`.

    With `async for` each is made in a worker thread of its own, so that the event loop goes on.
    Where the task that waits is cancelled, the step in flight is made to its end (a forward cannot
    be broken off) and is the next result, should anyone ask for it. `aclose` waits for it; with
    `contextlib.aclosing` that happens however the loop is left.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # one step at a time, whoever asks
        self._is_making, self._generation = False, generation()
        self._worker: ThreadPoolExecutor | None = None
        self._coming: Future[Item | BaseException] | None = None
        self._is_awaited = False

    @abstractmethod
    def _make(self) -> Item:
        """The next result.

        Raises:
            StopIteration: there is none.
        """

    @abstractmethod
    def _end(self) -> None:
        """Ends the work and frees the caches."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        with self._lock:
            if self._is_making:
                raise RuntimeError(
                    "the next result was being made when this process was forked, by a thread that "
                    "only its parent has: begin anew here"
                )
            settle()
            self._is_making = True
            try:
                return self._make()
            finally:
                self._is_making = False

    def close(self) -> None:
        """Ends the work and frees the caches; what there is stays."""
        with self._lock:
            if not self._is_making:  # else a thread of the parent's has it
                self._end()
        self._dismiss_worker()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._generation != (now := generation()):  # the worker is the parent's
            self._generation, self._is_awaited = now, False
            self._worker = self._coming = None
        if self._is_awaited:
            raise RuntimeError("another task waits for the next result: iterate in one task")
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="blendin")
        if self._coming is None or self._coming.cancelled():
            self._coming = self._worker.submit(self._made)
        self._is_awaited = True
        try:
            made = await asyncio.wrap_future(self._coming)
        finally:
            self._is_awaited = False
        self._coming = None
        if isinstance(made, StopIteration):
            self._dismiss_worker()
            raise StopAsyncIteration
        if isinstance(made, BaseException):
            raise made
        return made

    async def aclose(self) -> None:
        """`close`, once the step in flight is made; the event loop goes on meanwhile."""
        await asyncio.to_thread(self.close)

    def _dismiss_worker(self) -> None:
        if self._worker is not None:
            self._worker.shutdown(wait=False)
        self._worker = self._coming = None

    def _made(self) -> Item | BaseException:
        """The next result, or the error in its place: a future can hold no StopIteration."""
        try:
            return next(self)
        except BaseException as error:
            return error


class Stream(Results[Step]):
    """The steps of one sequence, as they are decided.

    Attributes:
        output: the generation so far; whole once the stream is exhausted, and kept if it is not.
    """

    def __init__(self, pair: Pair, sequence: SequenceState) -> None:
        super().__init__()
        self._pair, self._sequence = pair, sequence
        self._is_closed = False
        self._given = 0
        self.output = sequence.output

    def _make(self) -> Step:
        steps = self.output.steps
        try:
            while len(steps) == self._given:  # an engine may have made some for another's sake
                if self._sequence.done or self._is_closed:
                    raise StopIteration
                with self._sequence.failing_alone():  # what there is stays in `output`
                    advance(self._pair, [self._sequence])
                if (error := self._sequence.error) is not None:
                    error.output = self.output  # type: ignore[attr-defined]
                    raise error
        finally:
            if self._sequence.done:
                self._pair.leave(self._sequence.base, self._sequence.guide)
        self._given += 1
        return steps[self._given - 1]

    def _end(self) -> None:
        if not self._is_closed and not self._sequence.done:
            self._sequence.finish(None)
            self._pair.leave(self._sequence.base, self._sequence.guide)
        self._is_closed = True


class Batch(Results[tuple[int, Generation]]):
    """The results of a list of prompts, as they are finished: (place in the list, result).

    Attributes:
        unfinished: by place, the results of those begun and not finished; kept when it is closed.
    """

    def __init__(
        self,
        pair: Pair,
        asked: Sequence[Request],
        *,
        max_batch_size: int,
        max_cached_tokens: int | None,
        progress: bool | None,
    ) -> None:
        super().__init__()
        self.unfinished: dict[int, Generation] = {}
        self._pair, self._asked = pair, asked
        self._scheduler = Scheduler(
            pair,
            self._sequences(),
            max_batch_size=max_batch_size,
            max_cached_tokens=max_cached_tokens,
        )
        self._results = self._run(hidden=None if progress is None else not progress)

    def __len__(self) -> int:
        return len(self._asked)

    def _make(self) -> tuple[int, Generation]:
        return next(self._results)

    def _end(self) -> None:
        self._results.close()

    def _sequences(self) -> Iterator[SequenceState]:
        """Each prompt is tokenized when there is room for it."""
        for asked in self._asked:
            sequence = asked.read_alone(self._pair)
            self.unfinished[asked.index] = sequence.output
            yield sequence

    def _run(self, hidden: bool | None) -> Generator[tuple[int, Generation]]:
        scheduler = self._scheduler
        with tqdm(total=len(self), unit="prompt", disable=hidden) as bar:

            def show() -> None:
                seconds = max(1e-9, bar.format_dict["elapsed"])
                rate = scheduler.interventions / max(1, scheduler.steps)
                bar.set_postfix_str(
                    f"{scheduler.steps / seconds:.1f} tok/s, intervention rate {rate:.2f}",
                    refresh=False,
                )
                bar.update(0)

            for sequence in scheduler.run(after_step=show):
                bar.update()
                if sequence.error is not None:
                    logger.warning("prompt %d failed: %s", sequence.index, sequence.error)
                yield sequence.index, self.unfinished.pop(sequence.index)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `generate`; what there is so far is in `outputs`.

    Attributes:
        outputs: a `Generation` for each prompt; those not finished have no `stop_reason`.
    """

    def __init__(self, outputs: list[Generation]) -> None:
        finished = sum(output.stop_reason is not None for output in outputs)
        super().__init__(f"{finished} of {len(outputs)} prompts are finished, see `outputs`")
        self.outputs = outputs

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.outputs,), self.__dict__
