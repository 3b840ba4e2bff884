"""Results as they come: the steps of one sequence, or the sequences of a list."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from typing import Self

from tqdm.auto import tqdm

from ..models.remote.completions import ServerError
from ..trace import Generation, Step
from .loop import advance
from .pair import Pair
from .request import Request
from .scheduler import Scheduler
from .sequence import SequenceState

logger = logging.getLogger("blendin")


class Stream(Iterator[Step]):
    """The steps of one sequence, as they are decided.

    Attributes:
        output: the generation so far; whole once the stream is exhausted, and kept if it is not.
    """

    def __init__(self, pair: Pair, sequence: SequenceState) -> None:
        self._pair, self._sequence = pair, sequence
        self.output = sequence.output

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        steps = self.output.steps
        made = len(steps)
        while len(steps) == made:
            if self._sequence.done:
                raise StopIteration
            with self._sequence.failing_alone():  # what there is stays in `output`
                advance(self._pair, [self._sequence])
            if (error := self._sequence.error) is not None:
                if isinstance(error, ServerError):
                    error.output = self.output
                raise error
        if self._sequence.done:
            self._pair.leave(self._sequence.base, self._sequence.guide)
        return steps[-1]


class Batch(Iterator[tuple[int, Generation]]):
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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Generation]:
        return next(self._results)

    def close(self) -> None:
        """Ends the work and frees the caches."""
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
    """Ctrl-C during `generate` of a list; what there is so far is in `outputs`.

    Attributes:
        outputs: a `Generation` for each prompt; those not finished have no `stop_reason`.
    """

    def __init__(self, outputs: list[Generation]) -> None:
        finished = sum(output.stop_reason is not None for output in outputs)
        super().__init__(f"{finished} of {len(outputs)} prompts are finished, see `outputs`")
        self.outputs = outputs
