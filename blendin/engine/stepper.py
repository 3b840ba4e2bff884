"""The moves of a decoding step on many sequences: ask a model, take a symbol, write it down."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable
from collections.abc import Sequence as ListLike
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..decision.dense import SymbolTables, blend
from ..decision.top_logprobs import Rows, consult, gate, some
from ..models.context import Context
from ..models.protocol import Model
from ..policy import Blend
from .pair import Pair
from .sequence import Sequence
from .turn import Nudged, OwnView, Turn, check_finite, source

logger = logging.getLogger("blendin")

ROWS_AT_ONCE = 8
"""Eager blends take so many rows at once: a row is megabytes, as wide as both vocabularies."""


class Read(NamedTuple):
    """What a step waits for: a model's word on what follows each of some contexts."""

    model: Model
    contexts: list[Context]


class Stepper:
    """The moves of a step on some sequences.

    Those that ask a model are generators: they yield `Read`s and are sent the rows, so that whoever
    runs a step may let others go on while it waits.

    What the host needs of a decision it fetches in one transfer, since on a GPU each one waits.
    """

    def __init__(self, pair: Pair, sequences: ListLike[Sequence]) -> None:
        self.pair = pair
        for sequence in sequences:
            sequence.start()

    def ask_base(self, sequences: ListLike[Sequence]) -> Generator[Read, Rows, list[Turn]]:
        """The base's view of each, in one forward; without those that ended or must wait."""
        turns = [Turn(sequence) for sequence in sequences]
        turns, rows = yield from self._read(turns, self.pair.base, lambda sequence: sequence.base)
        if rows is None:
            return []
        views = self.own_views(rows, self.pair.tables, turns)  # waits for the device
        return self._checked(zip(turns, views, strict=True), self.pair.base)

    def ask_guide(
        self, turns: ListLike[Turn]
    ) -> Generator[Read, Rows, tuple[list[Turn], Rows | None]]:
        """M rows for the turns that are left; None where none is."""
        left, rows = yield from self._read(turns, self.pair.guide, lambda sequence: sequence.guide)
        for row, turn in enumerate(left):
            turn.guide_row = row
        return left, rows

    def own_views(self, rows: Rows, tables: SymbolTables, turns: ListLike[Turn]) -> list[OwnView]:
        """Of N rows, one for each turn."""
        view = gate(rows, tables)
        numbers = torch.stack([view.top_prob, view.choice.float()], dim=1).tolist()
        return [
            OwnView(rows, view, row, top_prob, int(choice))
            for row, (top_prob, choice) in enumerate(numbers)
        ]

    def emit_base(self, turn: Turn) -> None:
        """The base is confident, or goes on alone."""
        sequence, base = turn.sequence, turn.base
        assert sequence.base is not None and base is not None
        id, is_end = self._own_choice(base, sequence, sequence.base, self.pair.base)
        sequence.base_wrote(id)
        sequence.record(
            b"" if is_end else self.pair.alignment.data(id),
            source="base",
            intervened=False,
            base_top_prob=base.top_prob,
            token_ids=(id,),
            is_end=is_end,
        )

    def emit_blends(self, turns: ListLike[Turn], guide_rows: Rows) -> None:
        """Interventions under `Blend`."""
        by_policy: dict[Any, list[Turn]] = {}
        for turn in turns:
            by_policy.setdefault(turn.sequence.rule, []).append(turn)
        for policy, group in by_policy.items():
            for begin in range(0, len(group), ROWS_AT_ONCE):
                self._emit_blends(group[begin : begin + ROWS_AT_ONCE], guide_rows, policy)

    def _emit_blends(self, turns: ListLike[Turn], guide_rows: Rows, policy: Blend) -> None:
        guide = consult(some(guide_rows, [t.guide_row for t in turns]), self.pair.tables)
        base = _gate_of(turns)
        views = [turn.base for turn in turns if turn.base is not None]
        blended = blend(
            base,
            guide,
            self.pair.tables,
            agreement_bonus=policy.agreement_bonus,
            top_k=policy.top_k,
            alpha=policy.alpha,
        )
        chosen = self._take(turns, blended.choice, lambda: blended.probs)
        of_base, of_guide = blended.weights(chosen)
        numbers = torch.stack(
            [
                chosen.float(),  # float32 holds any symbol exactly
                of_base,
                of_guide,
                guide.top_prob,
                blended.alpha,
                blended.agreement,
                base.rank_of(guide.choice, self.pair.tables).float(),
            ],
            dim=1,
        ).tolist()
        for row, (turn, view) in enumerate(zip(turns, views, strict=True)):
            symbol, of_base, of_guide, guide_top_prob, alpha, agreed, rank = numbers[row]
            if turn.sequence.done:  # its draw failed
                continue
            with turn.sequence.failing_alone():
                check_finite(guide_top_prob, self.pair.guide, turn.sequence)
                self.emit(
                    turn.sequence,
                    int(symbol),
                    partial(
                        self._end_id,
                        partial(base.log_prob_at, row),
                        partial(guide.prob_at, row),
                        alpha,
                    ),
                    source=source(of_base > 0, of_guide > 0),
                    base_top_prob=view.top_prob,
                    guide_top_prob=guide_top_prob,
                    alpha=alpha,
                    agreement=agreed,
                    agreement_rank=int(rank) or None,
                )

    def nudges(self, turns: ListLike[Turn], guide_rows: Rows) -> Iterable[tuple[Turn, Nudged]]:
        """The guide's choice for each sequence under `Nudge`."""
        if not turns:
            return []
        tables = self.pair.tables
        guide = consult(some(guide_rows, [turn.guide_row for turn in turns]), tables)
        chosen = self._take(
            turns, guide.choice, lambda: guide.candidates(tables, None).dense(tables.end)
        )
        agreed = torch.zeros(len(turns), 2, device=guide.top_prob.device)
        asked = [row for row, turn in enumerate(turns) if turn.base is not None]
        if asked:
            base, choice = _gate_of(turns), guide.choice[asked]
            agreed[asked, 0] = base.prob_of(choice, tables)
            agreed[asked, 1] = base.rank_of(choice, tables).float()
        numbers = torch.cat([chosen[:, None].float(), guide.top_prob[:, None], agreed], 1).tolist()
        nudged = [
            Nudged(
                guide,
                row,
                int(symbol),
                top_prob,
                agreed if turn.base is not None else None,
                int(rank) or None,
            )
            for row, (turn, (symbol, top_prob, agreed, rank)) in enumerate(
                zip(turns, numbers, strict=True)
            )
        ]
        return [
            (turn, each)
            for turn, each in zip(turns, nudged, strict=True)
            if self._is_finite(each.top_prob, self.pair.guide, turn.sequence)
        ]

    def emit_guide(self, turn: Turn, nudged: Nudged) -> None:
        """An intervention under `Nudge`."""
        base = turn.base
        self.emit(
            turn.sequence,
            nudged.symbol,
            partial(
                self._end_id,
                None if base is None else partial(base.gate.log_prob_at, base.row),
                partial(nudged.guide.prob_at, nudged.row),
                1.0,
            ),
            source="guide",
            base_top_prob=None if base is None else base.top_prob,
            guide_top_prob=nudged.top_prob,
            alpha=1.0,
            agreement=nudged.agreement,
            agreement_rank=nudged.agreement_rank,
        )

    def emit_alone(self, turns: ListLike[Turn], guide_rows: Rows) -> None:
        """Steps of `GuideOnly`: the guide's own choice, as its `generate` would make it."""
        if not turns:
            return
        rows = some(guide_rows, [turn.guide_row for turn in turns])
        tables = self.pair.tables._replace(base_ends=self.pair.tables.guide_ends)
        views = self.own_views(rows, tables, turns)
        vocabulary = self.pair.guide.vocabulary
        for turn in self._checked(zip(turns, views, strict=True), self.pair.guide):
            sequence, own = turn.sequence, turn.base
            assert sequence.guide is not None and own is not None
            with sequence.failing_alone():
                id, is_end = self._own_choice(own, sequence, sequence.guide, self.pair.guide)
                sequence.guide.ids.append(id)
                sequence.record(
                    b"" if is_end else vocabulary.tokens[id] or b"",
                    source="guide",
                    intervened=True,
                    guide_top_prob=own.top_prob,
                    alpha=1.0,
                    token_ids=(id,),
                    is_end=is_end,
                )

    def emit(
        self, sequence: Sequence, symbol: int, end_id: Callable[[], int], **fields: Any
    ) -> None:
        """Writes down the symbol of an intervention; `end_id` names END's in the base's ids."""
        is_end = symbol == self.pair.tables.end
        token_ids = [end_id()] if is_end else sequence.both_wrote(symbol)
        sequence.record(
            self.pair.alignment.data(symbol),
            intervened=True,
            token_ids=tuple(token_ids),
            is_end=is_end,
            **fields,
        )

    def _read(
        self,
        turns: ListLike[Turn],
        model: Model,
        context_of: Callable[[Sequence], Context | None],
    ) -> Generator[Read, Rows, tuple[list[Turn], Rows | None]]:
        """N rows on the pair's device, for the sequences that can still be read."""
        left, contexts = [], []
        for turn in turns:
            context = context_of(turn.sequence)
            assert context is not None
            if model.max_length is not None and len(context.ids) > model.max_length:
                logger.warning(
                    "%s has filled its context of %d tokens: the text ends there",
                    model.name,
                    model.max_length,
                )
                turn.sequence.finish("length")
            elif not model.has_room(context):
                turn.sequence.crowded_out = True
            else:
                left.append(turn)
                contexts.append(context)
        if not left:
            return [], None
        rows = yield Read(model, contexts)
        return left, rows.to(self.pair.tables.base_ends.device)

    def _own_choice(
        self, own: OwnView, sequence: Sequence, context: Context, model: Model
    ) -> tuple[int, bool]:
        """What a model alone chooses: (id, whether it is one of its end tokens)."""
        if not sequence.sampling.is_argmax:
            id = sequence.sampling.pick(own.scores, context.ids, sequence.generator)
        elif own.choice == self.pair.tables.end:
            id = max(sorted(model.end_ids), key=own.scores.__getitem__)
        else:
            id = own.choice
        return id, id in model.end_ids

    def _checked(self, views: Iterable[tuple[Turn, OwnView]], model: Model) -> list[Turn]:
        """The turns with their views, without the sequences whose logits are not numbers."""
        turns = []
        for turn, view in views:
            turn.base = view
            if self._is_finite(view.top_prob, model, turn.sequence):
                turns.append(turn)
        return turns

    def _is_finite(self, top_prob: float, model: Model, sequence: Sequence) -> bool:
        with sequence.failing_alone():
            check_finite(top_prob, model, sequence)
        return not sequence.done

    def _take(self, turns: ListLike[Turn], best: Tensor, probs: Callable[[], Tensor]) -> Tensor:
        """`[N]` int64: `best`, or for turns that sample a draw from their row of `probs`."""
        if all(turn.sequence.sampling.is_argmax for turn in turns):
            return best
        chosen, distributions = best.clone(), probs()
        for row, turn in enumerate(turns):
            sequence = turn.sequence
            if sequence.sampling.is_argmax:
                continue
            assert sequence.base is not None and sequence.guide is not None
            width = len(self.pair.alignment.base)
            symbols = self.pair.tables.guide_symbols[sequence.guide.ids].tolist()
            seen = [*sequence.base.ids, *(symbol for symbol in symbols if symbol >= width)]
            with sequence.failing_alone():
                chosen[row] = sequence.sampling.pick(
                    distributions[row].log(), seen, sequence.generator
                )
        return chosen

    def _end_id(
        self,
        base_log_prob: Callable[[int], float] | None,
        guide_prob: Callable[[int], float],
        alpha: float,
    ) -> int:
        """The likeliest of the ids behind END, in the base's vocabulary."""
        same = self.pair.alignment.same
        share = 1 - alpha if same else 1.0
        weights = {
            id: 0.0 if base_log_prob is None else share * math.exp(base_log_prob(id))
            for id in sorted(self.pair.base.end_ids)
        }
        if same:
            for id in sorted(self.pair.guide.end_ids):
                weights[id] = weights.get(id, 0.0) + alpha * guide_prob(id)
        return max(weights, key=weights.__getitem__)


def _gate_of(turns: ListLike[Turn]) -> Any:
    """The base's view of the turns for which it was asked, a row each."""
    views = [turn.base for turn in turns if turn.base is not None]
    rows, gate = [view.row for view in views], views[0].gate
    if rows == list(range(len(gate.top_prob))):
        return gate
    return type(gate)(*(column[rows] for column in gate))
