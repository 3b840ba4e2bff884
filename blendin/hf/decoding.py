"""The rows of a call decoded together, and shown to criteria and streamers token by token.

Criteria and streamers of transformers see `[B, L]` tokens of the base, one column more each time. A
symbol that the base lacks takes several of its tokens at one step. So rows may be ahead of each
other, and a column is shown once every row has its token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.pair import Pair
from ..engine.scheduler import Scheduler
from ..engine.sequence import SequenceState
from ..engine.stream import Interrupted
from ..trace import Generation, StopReason


class Decoded(NamedTuple):
    """The `[B, L]` tokens, prompts included, and a record of each row."""

    tokens: Tensor
    trace: list[Generation]


class Columns:
    """The tokens of all rows as they become known, a column at a time.

    Attributes:
        tokens: `[B, L]`, those that were shown.
        unfinished: the rows that go on.
    """

    def __init__(
        self,
        sequences: Sequence[SequenceState],
        input_ids: Tensor,
        *,
        pad_id: int,
        criteria: Any,
        streamer: Any,
    ) -> None:
        self.tokens, self.unfinished = input_ids, list(range(len(sequences)))
        self._sequences, self._criteria, self._streamer = sequences, criteria, streamer
        self._pad_id, self._shown = pad_id, 0
        self._ids: list[list[int]] = [[] for _ in sequences]
        self._steps = [0] * len(sequences)
        self._kept: list[int | None] = [None] * len(sequences)

    def update(self) -> list[SequenceState]:
        """Shows the columns that are whole now; returns the sequences that criteria end."""
        for row in self.unfinished:
            steps = self._sequences[row].output.steps
            self._ids[row] += [id for step in steps[self._steps[row] :] for id in step.token_ids]
            self._steps[row] = len(steps)
        ended: list[SequenceState] = []
        while True:
            self.unfinished = [row for row in self.unfinished if not self._is_over(row)]
            if not self.unfinished or not all(map(self._is_known, self.unfinished)):
                return ended
            ended += self._show()

    def _is_known(self, row: int) -> bool:
        return len(self._ids[row]) > self._shown

    def _is_over(self, row: int) -> bool:
        """Whether all of a row is shown."""
        return self._kept[row] is not None or (
            self._sequences[row].done and not self._is_known(row)
        )

    def _show(self) -> list[SequenceState]:
        filled = [self._pad_id] * len(self._sequences)
        for row in self.unfinished:
            filled[row] = self._ids[row][self._shown]
        column = torch.tensor(filled, dtype=self.tokens.dtype)
        self.tokens = torch.cat([self.tokens, column.to(self.tokens.device)[:, None]], dim=1)
        self._shown += 1
        if self._streamer is not None:
            self._streamer.put(column)
        stops = self._criteria(self.tokens, None).tolist()
        ended = [row for row in self.unfinished if stops[row]]
        for row in ended:
            self._kept[row] = self._shown
        return [self._sequences[row] for row in ended]

    def record(self, row: int, most: int) -> Generation:
        """A row's record, without the steps that lie beyond where a criterion ended it.

        Args:
            row: which.
            most: tokens that a row may have.
        """
        sequence, kept = self._sequences[row], self._kept[row]
        output = sequence.output
        if kept is None:
            return output
        steps, count = [], 0
        for step in output.steps:
            if count >= kept:
                break
            steps.append(step)
            count += len(step.token_ids)
        if len(steps) == len(output.steps) and count == kept and output.stop_reason is not None:
            return output
        reason: StopReason = "length" if kept >= most else "stop"
        text = "".join(step.text for step in steps)
        return replace(output, steps=steps, text=text, stop_reason=reason)


def decode(
    pair: Pair,
    sequences: Sequence[SequenceState],
    input_ids: Tensor,
    *,
    pad_id: int,
    max_new_tokens: int,
    criteria: Any,
    streamer: Any,
) -> Decoded:
    """Decodes all rows to their ends.

    Args:
        pair: the models.
        sequences: one for each row.
        input_ids: `[B, L]` int64, the base's prompts as the caller has padded them.
        pad_id: fills rows up that ended early.
        max_new_tokens: tokens of the base that a row may gain.
        criteria: transformers' `StoppingCriteriaList`; called after each column, scores None.
        streamer: `put` gets each column, `[B]` on the CPU; None for none.

    Raises:
        Interrupted: at Ctrl-C, with the records so far as its `outputs`.
        Exception: what failed in one row ends the call; it has the records so far, likewise.
    """
    columns = Columns(sequences, input_ids, pad_id=pad_id, criteria=criteria, streamer=streamer)
    scheduler = Scheduler(pair, iter(sequences), max_batch_size=len(sequences))
    try:
        while columns.unfinished:
            for sequence in scheduler.turn():
                if sequence.error is not None:
                    raise sequence.error
            for sequence in columns.update():
                scheduler.remove(sequence)
    except BaseException as error:
        outputs = [sequence.output for sequence in sequences]
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(outputs) from None
        error.outputs = outputs  # type: ignore[attr-defined]
        raise
    finally:
        scheduler.close()
    trace = [columns.record(row, max_new_tokens) for row in range(len(sequences))]
    return Decoded(columns.tokens, trace)
