"""A thread that reads with the guide while another one steps the base."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from statistics import median
from threading import Event

import torch

from ..decision.gated import Scored, tensors_of
from ..decision.predict import rows_of
from ..forks import Lock
from ..models.context import Context
from ..models.protocol import Model
from ..models.streams import ReadingStream
from .loop import Answer, PendingStep, read
from .sequence import SequenceState


@dataclass(eq=False)
class Reading:
    """What the guide is to read for a step.

    Attributes:
        step: it goes on with the answer.
        sequences: of whom.
        contexts: the guide's, of each.
        mark: what had been launched when it was asked for, on a CUDA device.
        dropped: the places of sequences that were taken out.
        is_over: set once none of it is being read any more.
    """

    step: PendingStep
    sequences: list[SequenceState]
    contexts: list[Context]
    mark: torch.cuda.Event | None = None
    dropped: set[int] = field(default_factory=set)
    is_over: Event = field(default_factory=Event)


@dataclass(eq=False)
class Flight:
    """One read of all that was asked for when it began.

    Attributes:
        readings: that it answers.
        places: which (reading, place) each of its contexts is.
        began: by `time.perf_counter`.
        answer: to all of them.
        error: what broke the thread's work off, in the place of an answer.
        then: what is to be done once it is over.
    """

    readings: list[Reading]
    places: list[tuple[Reading, int]]
    began: float
    answer: Answer | None = None
    error: BaseException | None = None
    then: Callable[[], None] | None = None

    def answers(self) -> Iterator[tuple[Reading, Answer]]:
        """What each step gets: rows of those sequences that are still there.

        Raises:
            BaseException: what broke the thread's work off.
        """
        if self.error is not None:
            raise self.error
        rows: dict[Reading, list[int]] = {reading: [] for reading in self.readings}
        failed: dict[Reading, dict[int, Exception]] = {reading: {} for reading in self.readings}
        answer, row = self.answer or Answer(None), 0
        wrong, returned = answer.failed, answer.returned
        for index, (reading, place) in enumerate(self.places):
            if index not in wrong:
                row += 1
            if place in reading.dropped:
                continue
            if index in wrong:
                failed[reading][place] = wrong[index]
            else:
                rows[reading].append(row - 1)
        for reading in self.readings:
            own = None
            if returned is not None and rows[reading]:
                own = rows_of(returned, rows[reading])
            yield reading, Answer(own, failed[reading], reading.dropped)


class GuideThread:
    """Reads what is asked for in a thread of its own; what gathers meanwhile is read together next.

    The thread begins with the first question and ends with `close`, or with this object, once what
    it is reading is read. One thread asks.
    """

    def __init__(self, guide: Model) -> None:
        """Starts nothing yet."""
        self._guide, self._lock = guide, Lock()
        self._stream = ReadingStream(guide.device)
        self._executor: ThreadPoolExecutor | None = None
        self._asked: list[Reading] = []
        self._flight: Flight | None = None
        self._finished: SimpleQueue[Flight | None] = SimpleQueue()
        self._seconds: deque[float] = deque(maxlen=15)

    def ask(self, reading: Reading) -> None:
        """Has it read as soon as the thread is free."""
        reading.mark = self._stream.mark()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="blendin-guide")
        with self._lock:
            self._asked.append(reading)
        self._executor.submit(self._read)

    def finished(self, timeout: float | None) -> list[Flight]:
        """The reads that are over; waits for one for so many seconds, or for `wake` (None)."""
        found = []
        try:
            found.append(self._finished.get(timeout is None or timeout > 0, timeout))
            while True:
                found.append(self._finished.get_nowait())
        except Empty:
            pass
        flights = [flight for flight in found if flight is not None]
        for flight in flights:
            if flight.answer is not None and isinstance(flight.answer.returned, Scored):
                for each in tensors_of(flight.answer.returned):
                    self._stream.taken(each)
        return flights

    def wake(self) -> None:
        """Lets `finished` wait no longer; from any thread."""
        self._finished.put(None)

    def drop(self, reading: Reading, place: int) -> None:
        """Takes a sequence out; where it is being read, once that is over."""
        with self._lock:
            reading.dropped.add(place)
            is_read = self._flight is not None and reading in self._flight.readings
        if is_read:
            reading.is_over.wait()

    def expected(self) -> tuple[int, float] | None:
        """How many sequences are being read, and in how many seconds that should be over.

        None where nothing is known. Negative: it should be over already.
        """
        with self._lock:
            if not self._seconds:
                return None
            usual, flight = median(self._seconds), self._flight
            if flight is None:
                return sum(len(each.contexts) - len(each.dropped) for each in self._asked), usual
            return len(flight.places), usual - (time.perf_counter() - flight.began)

    def close(self, then: Callable[[], None]) -> None:
        """Ends the thread.

        Args:
            then: what frees the caches. Where one is being read, the thread does it afterwards:
                nobody waits here, for the garbage collector may be who calls, in the midst of
                anything.
        """
        with self._lock:
            self._asked = []
            if (flight := self._flight) is not None:
                flight.then = then
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        if flight is None:
            then()

    def _read(self) -> None:
        """In the thread: everything that is asked for now."""
        with self._lock:
            asked, self._asked = self._asked, []
            if not asked:
                return  # it was read with what was asked for before
            places = [
                (reading, place)
                for reading in asked
                for place in range(len(reading.contexts))
                if place not in reading.dropped
            ]
            self._flight = flight = Flight(asked, places, time.perf_counter())
        try:
            if places:
                with self._stream.reading(asked[-1].mark):
                    contexts = [reading.contexts[place] for reading, place in places]
                    flight.answer = read(self._guide, contexts)
        except BaseException as error:
            flight.error = error
        with self._lock:
            if places:
                self._seconds.append(time.perf_counter() - flight.began)
            self._flight = None
            then, flight.then = flight.then, None
        for reading in asked:
            reading.is_over.set()
        self._finished.put(flight)
        if then is not None:
            then()
