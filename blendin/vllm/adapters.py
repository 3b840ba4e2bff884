"""The batch as vLLM's two interfaces tell of it, each thinly adapted to `Requests`.

V1's runner tells of rows that are added, removed and moved, each with a live list of its output
tokens. V2's keeps a request in one slot, shows where each row stands in its text, and may show
several rows of a request at once, one for each draft token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.hosted import HostedSequence, Row
from .arguments import NAME
from .worker import Requests


class V1Rows:
    """The batch as V1's runner tells of it."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._rows: dict[int, tuple[HostedSequence, Sequence[int]]] = {}

    def update(self, update: Any) -> None:
        """Takes over what has changed: removed, then added, then moved, as vLLM asks."""
        if update is None:
            return
        for index in update.removed:
            self._leave(index)
        for index, params, prompt, outputs in update.added:
            self._leave(index)
            hosted = self._requests.begin(params, prompt or ())
            if hosted is not None:
                self._rows[index] = hosted, outputs
        for one, other, direction in update.moved:
            moved, replaced = self._rows.pop(one, None), self._rows.pop(other, None)
            if moved is not None:
                self._rows[other] = moved
            if replaced is not None and direction.name == "SWAP":
                self._rows[one] = replaced
            elif replaced is not None:
                self._suspend(*replaced)

    def apply(self, logits: Tensor) -> None:
        """Decides the rows that are ours."""
        rows = [
            Row(hosted, len(outputs), index)
            for index, (hosted, outputs) in sorted(self._rows.items())
        ]
        if rows:
            self._requests.decide(rows, logits)

    def _leave(self, index: int) -> None:
        if (left := self._rows.pop(index, None)) is not None:
            self._suspend(*left)

    def _suspend(self, hosted: HostedSequence, outputs: Sequence[int]) -> None:
        hosted.reached(len(outputs))
        self._requests.suspend(hosted)


class _Place(NamedTuple):
    """A row of logits, where it stands in its text, and the token that was fed there."""

    row: int
    position: int
    fed: int


class V2Rows:
    """The batch as V2's runner tells of it.

    It does not say when a request has ended: what is not in a step's batch has its caches freed,
    and reads its text again should it come back.
    """

    def __init__(self, requests: Requests, states: Any) -> None:
        self._requests, self._states = requests, states
        self._params: dict[int, Any] = {}
        self._slots: dict[int, HostedSequence] = {}
        self._running: set[int] = set()

    def add(self, slot: int, params: Any) -> bool:
        """A request enters a slot, whose former one has left."""
        self._leave(slot)
        self._params.pop(slot, None)
        is_ours = bool((params.extra_args or {}).get(NAME))
        if is_ours:
            self._params[slot] = params
        return is_ours

    def apply(self, logits: Tensor, ctx: Any) -> None:
        """Decides the rows that are ours.

        A request's rows stand one after the other, the first after its last token and each further
        one after a draft token: that counts where the row before was decided for just that token.
        """
        columns = ctx.expanded_idx_mapping, ctx.pos, ctx.input_ids
        told = torch.stack([column.long() for column in columns], dim=1).tolist()
        places: dict[int, list[_Place]] = {}
        for row, (slot, position, fed) in enumerate(told):
            if slot in self._params:
                places.setdefault(slot, []).append(_Place(row, position, fed))
        for slot in self._running - places.keys():
            self._leave(slot)
        states = self._states
        # The rows of a text that is still being read are thrown away.
        read = {
            slot: sorted(rows, key=lambda place: place.position)
            for slot, rows in places.items()
            if rows[-1].position + 1 >= int(states.prefill_len.np[slot])
        }
        while read:
            rows = []
            for slot, (place, *_) in read.items():
                length = int(states.prompt_len.np[slot])
                hosted = self._slots.get(slot)
                if hosted is None:
                    prompt = states.all_token_ids.gpu[slot, :length].tolist()
                    hosted = self._requests.begin(self._params[slot], prompt)
                    assert hosted is not None
                    self._slots[slot] = hosted
                self._running.add(slot)
                rows.append(Row(hosted, place.position + 1 - length, place.row))
            self._requests.decide(rows, logits)
            chosen = logits[[each.row for each in rows]].argmax(dim=-1).tolist()
            read = {
                slot: rest
                for (slot, (_, *rest)), token in zip(read.items(), chosen, strict=True)
                if rest and rest[0].fed == token
            }

    def _leave(self, slot: int) -> None:
        self._running.discard(slot)
        if (left := self._slots.pop(slot, None)) is not None:
            self._requests.suspend(left)
