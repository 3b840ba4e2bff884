"""Varlen forwards as CUDA graphs: one launch for a step of many sequences, or of one.

What varies from step to step (ids, positions, places in the pool, how much of it each sequence has)
lies in buffers. Attention is `varlen_attn`, which reads what there is of each sequence and no more,
without a mask. The number of sequences and of each one's new tokens are padded to powers of two:
sequences by the first one once more, which writes the same keys to the same places, and tokens by
such as lie beyond their sequence's end, where the next step writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..decision.gated import Gate, Scored, tensors_of, with_tensors
from .attention_route import no_mask, routed
from .devices import input_device, sent
from .forward_mode import forward_mode
from .graph_capture import (
    CannotCapture,
    GraphContents,
    Refusals,
    check_alike,
    read_by,
    record,
    spoil,
)
from .kv_pool import KVSegment, Pool
from .varlen_batch import VarlenBatch

MAX_CAPTURED_TOKENS = 256
"""Of one forward, padding included; in more, the launches no longer take the time."""

WORTH_CAPTURING = 4
"""How often a shape is read plainly first: a capture takes as long as some forwards."""

Rows = Sequence[tuple[KVSegment, Sequence[int]]]
Shape = tuple[int, int]
"""How many sequences, and how many tokens of each."""


class StaticBatch(VarlenBatch):
    """A batch of a fixed shape in one pool, in buffers that are filled anew for each forward."""

    def __init__(
        self, pool: Pool, shape: Shape, device: torch.device, attend_packed: Callable[..., Tensor]
    ) -> None:
        """Makes the buffers; `fill` says what is in them."""
        count, width = shape
        tokens = count * width
        self.pool, self.shape, self.attend_packed = pool, shape, attend_packed
        self._long = torch.zeros(3 * tokens, dtype=torch.int64, device=device)
        ids, positions, places = self._long.split(tokens)
        self.ids, self.positions, self._places = ids[None], positions[None], places
        ends = torch.arange(0, tokens + 1, width, dtype=torch.int32)
        self._int = torch.zeros(2 * count + 1, dtype=torch.int32, device=device)
        begins, used = self._int.split([count + 1, count])
        self._bounds = {device: (ends.to(device), begins, used)}
        self.windows = {}
        self.longest_new, self.longest = width, pool.size

    def fill(self, rows: Rows, behind: int = 0) -> None:
        """Takes new tokens in.

        Args:
            rows: each sequence's segment, with room for the padding, and its new tokens.
            behind: by how many tokens less than there are positions and lengths are told; the
                places of the new tokens stay. For captures.
        """
        count, width = self.shape
        rows = [*rows, *[rows[0]] * (count - len(rows))]
        held = [max(0, segment.length - behind) for segment, _ in rows]
        parts = (
            chain.from_iterable([*new, *[0] * (width - len(new))] for _, new in rows),
            chain.from_iterable(range(first, first + width) for first in held),
            chain.from_iterable(
                range(segment.start + segment.length, segment.start + segment.length + width)
                for segment, _ in rows
            ),
        )
        device = self.ids.device
        self._long.copy_(sent(torch.tensor([*chain(*parts)], dtype=torch.int64), device))
        begins = [*(segment.start for segment, _ in rows), self.pool.size]
        used = [first + width for first in held]
        self._int.copy_(sent(torch.tensor([*begins, *used], dtype=torch.int32), device))

    def places_of(self, rows: Rows, score: Sequence[int]) -> list[int]:
        """Where the last `score` new tokens of each sequence are in a row of all tokens."""
        width = self.shape[1]
        return [
            row * width + place
            for row, ((_, new), count) in enumerate(zip(rows, score, strict=True))
            for place in range(len(new) - count, len(new))
        ]


@dataclass
class _Forward:
    """A captured forward.

    Attributes:
        batch: what it reads.
        scored: `[tokens, V]` logits, which it writes, and what the gate kept of them.
        replay: runs it.
    """

    batch: StaticBatch
    scored: Scored
    replay: Callable[[], None]


@dataclass
class _OverPool:
    """The forwards over the tensors that a pool had at one time."""

    version: int
    forwards: dict[Shape, _Forward] = field(default_factory=dict)
    asked: Counter[Shape] = field(default_factory=Counter)


class CapturedVarlen:
    """The captured forwards of a model over any pools; of one thread at a time.

    Attributes:
        refusals: why some are not.
        layers: the same model with compiled layers; None where none were asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        attend_packed: Callable[..., Tensor],
        name: str,
        contents: GraphContents,
    ) -> None:
        """Captures nothing yet.

        Args:
            model: on one device.
            attend_packed: torch's `varlen_attn`, which the model was tried with.
            name: for messages.
            contents: of the model's captured forwards.
        """
        self.model, self.attend_packed, self._contents = model, attend_packed, contents
        self.refusals = Refusals(f"{name} reads batches")
        self._device = input_device(model)
        self._mask = no_mask(model.dtype, self._device)
        self._pools: WeakKeyDictionary[Pool, _OverPool] = WeakKeyDictionary()

    def read(self, rows: Rows, score: Sequence[int], plain: Callable[[], Tensor]) -> Scored | None:
        """Reads each sequence's new tokens, where that is worth a graph.

        Args:
            rows: each sequence's segment, all of one pool, and its new tokens.
            score: the number of each sequence's last new tokens after which logits are wanted.
            plain: the same forward uncaptured, which may be made any number of times.

        Returns:
            `[sum(score), V]` logits and what the gate kept of them, the caller's own; None: read
            them plainly.
        """
        if self.refusals.is_final or (shape := shape_of(rows)) is None:
            return None
        pool = rows[0][0].pool
        over = self._pools.get(pool)
        if over is None or over.version != pool.version:
            self._pools[pool] = over = _OverPool(pool.version)
        over.asked[shape] += 1
        if over.asked[shape] <= WORTH_CAPTURING:
            return None
        try:
            if shape not in over.forwards:
                over.forwards[shape] = self._contents.captured(
                    self.model, partial(self._captured, rows, shape, score, plain)
                )
            return self._replayed(over.forwards[shape], rows, score)
        except (CannotCapture, RuntimeError) as error:
            self._give_up(over, error)
            return None

    def _replayed(self, forward: _Forward, rows: Rows, score: Sequence[int]) -> Scored:
        forward.batch.fill(rows)
        forward.replay()
        places = torch.tensor(forward.batch.places_of(rows, score), dtype=torch.int64)
        places = sent(places, self._device)
        made = tensors_of(forward.scored)
        return with_tensors(forward.scored, [each.index_select(0, places) for each in made])

    def _captured(
        self,
        rows: Rows,
        shape: Shape,
        score: Sequence[int],
        plain: Callable[[], Tensor],
        model: Callable[..., Any],
        gate: Gate | None,
    ) -> _Forward:
        """Captures a forward and replays it beside the plain one."""
        batch = StaticBatch(rows[0][0].pool, shape, self._device, self.attend_packed)
        # At other positions and lengths than the replay's, or such as were baked in would pass.
        batch.fill(rows, behind=1)
        recorded = record(lambda: read_by(gate, self._run(batch, model)), self._device)
        forward = _Forward(batch, *recorded)
        spoil(forward.scored)
        check_alike(self._replayed(forward, rows, score), plain())
        return forward

    def _run(self, batch: StaticBatch, model: Callable[..., Any]) -> Tensor:
        with forward_mode(self.model), routed(batch):
            output = model(
                input_ids=batch.ids,
                position_ids=batch.positions,
                attention_mask=self._mask,
                use_cache=False,
                return_dict=True,
            )
        logits: Tensor = output.logits[0]
        return logits

    def _give_up(self, over: _OverPool, reason: Exception) -> None:
        """Reads plainly: from now on, or where memory was short this time alone."""
        self.refusals.failed(reason)
        over.forwards.clear()
        over.asked.clear()
        if self.refusals.is_final:
            self._pools.clear()
        self.refusals.free_memory()


def shape_of(rows: Rows) -> Shape | None:
    """The captured shape that new tokens fit into; None where there is none, or no room for it."""
    longest = max(len(new) for _, new in rows)
    count, width = (1 << (size - 1).bit_length() for size in (len(rows), longest))
    if count * width > MAX_CAPTURED_TOKENS:
        return None
    for segment, _ in rows:
        # What is read first is a prompt: another kind of forward, and seldom of a length again.
        if segment.length == 0 or segment.length + width > segment.capacity:
            return None
    return count, width
