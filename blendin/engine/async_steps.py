"""Steps of many sequences whose models lie behind servers: each goes on when its answer is there.

A step (`decode.step`) yields what it waits for. Here a step that waits for a server is put aside
and others go on, so that thousands of sequences wait at once and none for another. Reads of a model
that runs here are gathered and made together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue

from ..decision.predict import NextTokens, rows_of
from ..forks import generation
from ..models.context import Context
from ..models.protocol import Model
from .loop import Answer, PendingStep, read, step
from .pair import Pair
from .sequence import SequenceState

Answered = tuple[SequenceState, PendingStep, Future[NextTokens]]


class AsyncSteps:
    """Steps that have begun, each of one sequence."""

    def __init__(self, pair: Pair) -> None:
        self._pair, self._generation = pair, generation()
        self._steps: dict[SequenceState, PendingStep] = {}
        self._answered: SimpleQueue[Answered | None] = SimpleQueue()
        self._local: dict[Model, list[tuple[SequenceState, PendingStep, Context]]] = {}

    def advance(self, sequences: Sequence[SequenceState]) -> None:
        """Takes some of the sequences further, those whose answers are there; waits for one."""
        self._begin_again_after_fork()
        for sequence in sequences:
            if sequence not in self._steps:
                self._steps[sequence] = begun = step(self._pair, [sequence])
                self._resume(sequence, begun, None)
        if not self._read_here() and all(each in self._steps for each in sequences):
            self._take_answer()
        while not self._answered.empty():
            self._take_answer()

    def wake(self) -> None:
        """Lets `advance` wait no longer; from any thread."""
        self._answered.put(None)

    def forget(self, sequence: SequenceState) -> None:
        """Ends a sequence's step, if it is in one."""
        if (begun := self._steps.pop(sequence, None)) is not None:
            begun.close()

    def close(self, free: Callable[[], None]) -> None:
        """Ends all steps, and frees the caches."""
        for sequence in list(self._steps):
            self.forget(sequence)
        free()

    def _begin_again_after_fork(self) -> None:
        """What was asked in the parent process is answered there alone."""
        if self._generation != (now := generation()):
            self._generation, self._answered, self._local = now, SimpleQueue(), {}
            for sequence in list(self._steps):
                self.forget(sequence)

    def _resume(self, sequence: SequenceState, begun: PendingStep, answer: Answer | None) -> None:
        """Runs a step until it has to wait, or is over."""
        try:
            _, model, contexts = begun.send(answer)  # type: ignore[arg-type]
        except StopIteration:
            self._steps.pop(sequence, None)
            return
        (context,) = contexts
        if (asked := model.ask(context)) is None:
            self._local.setdefault(model, []).append((sequence, begun, context))
        elif asked.done():
            self._take(sequence, begun, asked)
        else:
            asked.add_done_callback(partial(self._put, sequence, begun))

    def _take_answer(self) -> None:
        if (answered := self._answered.get()) is not None:
            self._take(*answered)

    def _put(self, sequence: SequenceState, begun: PendingStep, asked: Future[NextTokens]) -> None:
        self._answered.put((sequence, begun, asked))

    def _take(self, sequence: SequenceState, begun: PendingStep, asked: Future[NextTokens]) -> None:
        """Goes on with a step whose answer is there, unless it was ended meanwhile."""
        if self._steps.get(sequence) is not begun:
            return
        try:
            returned = asked.result()
        except Exception as error:
            self.forget(sequence)
            sequence.fail(error)
        else:
            self._resume(sequence, begun, Answer(returned))

    def _read_here(self) -> bool:
        """Makes the reads of models that run here; whether there were any."""
        local, self._local = self._local, {}
        for model, waiting in local.items():
            waiting = [each for each in waiting if self._steps.get(each[0]) is each[1]]
            if not waiting:
                continue
            answer, row = read(model, [context for _, _, context in waiting]), 0
            for place, (sequence, begun, _) in enumerate(waiting):
                if place in answer.failed:
                    self.forget(sequence)
                    sequence.fail(answer.failed[place])
                    continue
                assert answer.returned is not None
                self._resume(sequence, begun, Answer(rows_of(answer.returned, [row])))
                row += 1
        return bool(local)
