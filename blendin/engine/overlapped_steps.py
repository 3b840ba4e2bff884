"""Steps of many sequences whose models run here side by side: the base need not wait for the guide.

A sequence that intervenes sits out while the guide reads it in a thread of its own; the others make
their next step. A step (`loop.step`) is of all sequences that are free at that moment: it emits for
those that the base decides, and waits for the guide's answer to the rest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median

from ..forks import generation
from ..speculation.speculator import Verification
from .guide_thread import GuideThread, Reading
from .loop import Answer, advance, read, step
from .pair import Pair
from .sequence import SequenceState


class OverlappedSteps:
    """Steps that have begun, and the thread in which the guide reads for them."""

    def __init__(self, pair: Pair) -> None:
        self._pair, self._generation = pair, generation()
        self._waiting: dict[SequenceState, tuple[Reading, int]] = {}
        self._drafted: dict[SequenceState, Verification] = {}
        self._base_seconds: deque[float] = deque(maxlen=15)
        self._thread = GuideThread(pair.guide)

    def advance(self, sequences: Sequence[SequenceState]) -> None:
        """One step of those that the guide is not reading; waits where it reads all of them."""
        self._begin_again_after_fork()
        for flight in self._thread.finished(self.patience(len(sequences))):
            for reading, answer in flight.answers():
                self._go_on(reading, answer)
        if len(sequences) == 1 and not self._waiting and not sequences[0].done:
            advance(self._pair, sequences)  # nobody would go on meanwhile
            return
        free = [each for each in sequences if each not in self._waiting and not each.done]
        if free:
            self._begin(free)

    def wake(self) -> None:
        """Lets `advance` wait no longer; from any thread."""
        self._thread.wake()

    def forget(self, sequence: SequenceState) -> None:
        """Ends a sequence's step, if it is in one; waits where the guide is reading it."""
        self._begin_again_after_fork()
        self._drafted.pop(sequence, None)
        if (waiting := self._waiting.pop(sequence, None)) is not None:
            self._thread.drop(*waiting)

    def close(self, free: Callable[[], None]) -> None:
        """Ends all steps, and the thread; frees the caches once none is being read."""
        self._begin_again_after_fork()
        self._waiting.clear()
        self._thread.close(free)

    def patience(self, count: int) -> float | None:
        """For how many seconds a step of `count` sequences waits for the guide; None: as it takes.

        Those that are free lose the time that is waited, those that the guide reads lose what is
        left of a step that begins without them. So waiting pays while it is shorter than the read
        sequences' share of a base step, as with a guide much smaller than its base. What the guide
        takes is only expected, hence the bound.
        """
        waiting = len(self._waiting)
        if not waiting:
            return 0.0
        if waiting == count:
            return None
        expected = self._thread.expected()
        if expected is None or not self._base_seconds:
            return 0.0
        rows, left = expected
        pays = median(self._base_seconds) * rows / (count - waiting + rows)
        return min(pays, left + pays) if -pays < left < pays else 0.0

    def _begin_again_after_fork(self) -> None:
        """What the guide is asked in the parent process is answered there alone."""
        if self._generation != (now := generation()):
            self._generation, self._thread = now, GuideThread(self._pair.guide)
            self._waiting.clear()

    def _begin(self, sequences: Sequence[SequenceState]) -> None:
        """The base's part of a step of some sequences; the guide is asked for the others."""
        costs = self._pair.speculation
        drafted = costs.before_step(sequences, in_company=True)
        self._drafted |= {each.sequence: each for each in drafted}  # type: ignore[misc]
        begun, told, began = step(self._pair, sequences), None, time.perf_counter()
        asked = None
        with suppress(StopIteration):
            asked = next(begun)
            if asked.role == "base":
                told = read(asked.model, asked.contexts)
                asked = None
                asked = begun.send(told)
        if told is not None:
            self._base_seconds.append(time.perf_counter() - began)
        if asked is None:
            self._settle(sequences)
            return
        owners = {each.guide: each for each in sequences}
        reading = Reading(begun, [owners[context] for context in asked.contexts], asked.contexts)
        asked_for = set(reading.sequences)
        decided = [each for each in sequences if each not in asked_for]
        self._settle(decided)
        if not self._waiting and all(each.done or each.preempted for each in decided):
            self._go_on(reading, read(asked.model, asked.contexts))  # nobody would go on meanwhile
            return
        for place, sequence in enumerate(reading.sequences):
            self._waiting[sequence] = reading, place
        self._thread.ask(reading)

    def _go_on(self, reading: Reading, answer: Answer) -> None:
        """Takes a step to its end."""
        for sequence in reading.sequences:
            self._waiting.pop(sequence, None)
        with suppress(StopIteration):
            reading.step.send(answer)
        self._settle(reading.sequences)

    def _settle(self, sequences: Sequence[SequenceState]) -> None:
        """Ends the drafts of sequences that have made their step."""
        drafted = [self._drafted.pop(each) for each in sequences if each in self._drafted]
        self._pair.speculation.after_step(drafted, 0.0, 0.0)
