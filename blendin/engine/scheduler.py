"""Many sequences in flight: waiting ones are admitted as others end, within a bound of memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ..models.context import Context
from ..models.kv_pool import Pool
from ..models.protocol import Model
from ..settings import checked
from .async_steps import AsyncSteps
from .loop import advance
from .overlapped_steps import OverlappedSteps
from .pair import Pair
from .sequence import Role, SequenceState


class Scheduler:
    """Decodes sequences, a bounded number at a time, and yields each as it ends.

    First come, first served. A sequence is admitted once both models' caches have room for all of
    it; one that outgrows its room where there is none left goes back to the head of the queue, and
    reads its text again later.

    Attributes:
        running: the sequences in flight.
        steps: made so far, by all sequences.
        interventions: among them.
    """

    def __init__(
        self,
        pair: Pair,
        waiting: Iterable[SequenceState | None],
        *,
        max_batch_size: int = 32,
        max_cached_tokens: int | None = None,
    ) -> None:
        """Takes over the sequences; `waiting` is drawn from as room appears.

        Args:
            pair: the models.
            waiting: sequences, ended ones among them where they failed before they began; None
                where there is none for now.
            max_batch_size: sequences in flight at most.
            max_cached_tokens: tokens in each model's cache at most, reserved room included; None is
                unbounded.

        Raises:
            ValueError: for a bound below 1.
        """
        given = {"max_batch_size": max_batch_size, "max_cached_tokens": max_cached_tokens}
        max_batch_size, max_cached_tokens = checked(given).values()
        self.pair, self.running = pair, list[SequenceState]()
        self.steps = self.interventions = 0
        self._waiting, self._preempted = iter(waiting), deque[SequenceState]()
        self._size, self._limit = max_batch_size, max_cached_tokens
        self._pools = Pool(max_cached_tokens), Pool(max_cached_tokens)
        self._own_steps: AsyncSteps | OverlappedSteps | None = None
        if pair.is_async:
            self._own_steps = AsyncSteps(pair)
        elif pair.overlaps:
            self._own_steps = OverlappedSteps(pair)

    def run(self, after_step: Callable[[], None] = lambda: None) -> Iterator[SequenceState]:
        """Decodes until none is left; closing the iterator frees the caches.

        Args:
            after_step: called after every step of the batch, to show progress.
        """
        try:
            while True:
                yield from self._admit()
                if not self.running:
                    return
                yield from self._step(after_step)
        finally:
            self.close()

    def turn(self) -> Iterator[SequenceState]:
        """Admits what waits and decodes one step of all; yields those that ended."""
        yield from self._admit()
        if self.running:
            yield from self._step()

    def remove(self, sequence: SequenceState) -> None:
        """Takes one out that is not to go on, between two steps; it keeps what it has."""
        for those in (self.running, self._preempted):
            if sequence in those:
                those.remove(sequence)
                self._leave(sequence)
                sequence.finish(None)

    def wake(self) -> None:
        """Lets a step end that waits for servers, or for the guide's thread; from any thread."""
        if self._own_steps is not None:
            self._own_steps.wake()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self.running and not self._preempted

    @property
    def pools(self) -> dict[Role, Pool]:
        """What both models' caches lie in."""
        return {"base": self._pools[0], "guide": self._pools[1]}

    def close(self) -> None:
        """Frees everything; the sequences keep what they have.

        A cache that the guide's thread is reading is freed once it is read, by that thread.
        """
        left = [*self.running, *self._preempted]

        def free() -> None:
            for sequence in left:
                self.pair.leave(sequence.base, sequence.guide)
            for pool in self._pools:
                pool.clear()

        if self._own_steps is None:
            free()
        else:
            self._own_steps.close(free)
        for sequence in left:
            sequence.finish(sequence.output.stop_reason)

    def _admit(self) -> Iterator[SequenceState]:
        """Fills the free slots; yields the sequences that cannot run at all."""
        while len(self.running) < self._size:
            sequence = self._preempted.popleft() if self._preempted else next(self._waiting, None)
            if sequence is None:
                return
            if not sequence.done and not self._join(sequence):
                if self.running:
                    self._preempted.appendleft(sequence)
                    return
                sequence.fail(self._refusal(sequence))  # not even alone
            if sequence.done:
                yield sequence
            else:
                self.running.append(sequence)

    def _join(self, sequence: SequenceState) -> bool:
        """Reserves room for a sequence in both caches, or in neither."""
        for model, context, pool in self._places(sequence):
            if self._limit is not None and len(context.ids) <= self._limit:
                context.expected = min(context.expected, self._limit)
            if not model.join(context, pool):
                self._leave(sequence)
                return False
        return True

    def _leave(self, sequence: SequenceState) -> None:
        if self._own_steps is not None:
            self._own_steps.forget(sequence)
        self.pair.leave(sequence.base, sequence.guide)

    def _step(self, after_step: Callable[[], None] = lambda: None) -> Iterator[SequenceState]:
        before = [len(sequence.output.steps) for sequence in self.running]
        self._advance()
        self._count(before)
        after_step()
        yield from self._ended()
        self._preempt()

    def _advance(self) -> None:
        """One step of all, or of those that need not wait for a server or the guide's thread."""
        if self._own_steps is None:
            advance(self.pair, self.running)
        else:
            self._own_steps.advance(self.running)

    def _ended(self) -> Iterator[SequenceState]:
        ended = [sequence for sequence in self.running if sequence.done]
        self.running = [sequence for sequence in self.running if not sequence.done]
        for sequence in ended:
            self._leave(sequence)
        yield from ended

    def _preempt(self) -> None:
        """Takes out the sequences that found no room for their next step."""
        preempted = [sequence for sequence in self.running if sequence.preempted]
        for sequence in reversed(preempted):
            sequence.preempted = False
            self.running.remove(sequence)
            self._leave(sequence)
            self._preempted.appendleft(sequence)

    def check_fits(self, sequence: SequenceState) -> None:
        """Refuses what does not fit even alone.

        Raises:
            ValueError: it is longer than `max_cached_tokens`.
        """
        if self._limit is not None and _longest(sequence) > self._limit:
            raise self._refusal(sequence)

    def _refusal(self, sequence: SequenceState) -> ValueError:
        return ValueError(
            f"the sequence has {_longest(sequence)} tokens and max_cached_tokens is {self._limit}: "
            "raise it, or shorten the prompt or max_new_tokens"
        )

    def _count(self, before: list[int]) -> None:
        for sequence, count in zip(self.running, before, strict=True):
            made = sequence.output.steps[count:]
            self.steps += len(made)
            self.interventions += sum(step.intervened for step in made)

    def _places(self, sequence: SequenceState) -> Iterator[tuple[Model, Context, Pool]]:
        models = self.pair.base, self.pair.guide
        contexts = sequence.base, sequence.guide
        for model, context, pool in zip(models, contexts, self._pools, strict=True):
            if context is not None:
                yield model, context, pool


def _longest(sequence: SequenceState) -> int:
    """The tokens of its longer context."""
    contexts = sequence.base, sequence.guide
    return max(len(context.ids) for context in contexts if context is not None)
