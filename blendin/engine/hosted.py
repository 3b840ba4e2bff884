"""Sequences whose base another engine runs: it brings a row of logits and takes a token.

Engines such as vLLM show the logits of every row to a processor before a token is sampled. Here
each row becomes a step of its sequence, by the loop's own `step`, so that what is emitted is what
the local engine emits. A symbol that the base lacks takes several of its tokens: the first is the
answer, the others are the answers to the next rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.context import Context
from ..models.hosted import HostedModel
from ..models.kv_pool import Pool
from .loop import Answer, Read, drive, read, step
from .pair import Pair
from .sequence import Checkpoint, SequenceState


class HostedSequence:
    """A sequence and the tokens that its engine was told so far.

    Attributes:
        sequence: it.
        is_constrained: the engine masks tokens, of a grammar for example, as the text goes on. A
            symbol of several tokens cannot be known to be allowed, and is none of the candidates.
        stop_ids: the tokens at which the engine ends the text by itself.
        never_ends: END is not to be emitted: the engine counts tokens instead.
        tokens: of the base, decided so far; `tokens[i]` is the answer to the engine's position i.
    """

    def __init__(
        self,
        sequence: SequenceState,
        *,
        is_constrained: bool = False,
        stop_ids: frozenset[int] = frozenset(),
        never_ends: bool = False,
    ) -> None:
        self.sequence, self.is_constrained, self.stop_ids = sequence, is_constrained, stop_ids
        self.never_ends = never_ends
        self.tokens: list[int] = []
        self._steps = len(sequence.output.steps)
        self._checkpoint: Checkpoint | None = None
        self._decided = 0
        self._is_fresh = self._is_resumed = True

    @property
    def context(self) -> Context:
        """What the base has read."""
        return self.sequence.context("base")

    def resumed(self) -> None:
        """The engine has taken it into its batch, where it will read what it has not cached.

        While it does it shows rows of logits from the middle of the text, which look like any other
        and whose tokens it throws away.
        """
        self._is_fresh = self._is_resumed = True

    def reached(self, position: int) -> None:
        """The engine has so many tokens of it.

        Where that is the position of the last decision, the token was thrown away: the row was one
        from the middle of the text, and the decision is taken back.
        """
        if self._checkpoint is not None and position == self._decided:
            self.sequence.restore(self._checkpoint)
            self._checkpoint = None
            del self.tokens[position:]
            self._steps = len(self.sequence.output.steps)
        elif self._checkpoint is not None and position > self._decided:
            self._checkpoint, self._is_fresh = None, self._is_resumed

    def left(self) -> None:
        """The engine has done with it: nothing is taken back any more."""
        self._checkpoint = None

    def known(self, position: int) -> int | None:
        """The token at a position, where it is decided.

        Raises:
            RuntimeError: the engine has tokens that were not decided here.
        """
        self.reached(position)
        if position < len(self.tokens):
            return self.tokens[position]
        if self.sequence.error is not None:
            return None
        if position > len(self.tokens):
            raise RuntimeError(
                f"the engine has {position} tokens of a text and {len(self.tokens)} were decided: "
                "something else chooses tokens too"
            )
        return self._end_token() if self.sequence.done else None

    def will_decide(self) -> None:
        """Keeps what a decision that may be taken back would have to restore."""
        self._decided, self._is_resumed = len(self.tokens), False
        self._checkpoint = self.sequence.checkpoint() if self._is_fresh else None

    def decided(self) -> int | None:
        """The first token of what was decided; None where nothing was."""
        steps = self.sequence.output.steps
        position = len(self.tokens)
        for each in steps[self._steps :]:
            ids = each.token_ids
            if each.is_end and not self.stop_ids.isdisjoint(self._ends):
                ids = tuple(id if id in self.stop_ids else self._end_token() for id in ids)
            self.tokens += ids
        self._steps = len(steps)
        if position == len(self.tokens):
            return self._end_token() if self.sequence.done else None
        return self.tokens[position]

    @property
    def _ends(self) -> list[int]:
        return self.sequence.alignment.tables.base_ends.tolist()

    def _end_token(self) -> int:
        """An end token at which the engine stops, if it stops at any."""
        ends = self._ends
        return next((id for id in ends if id in self.stop_ids), ends[0])


class Row(NamedTuple):
    """A row of logits.

    Attributes:
        hosted: whose next token it is about.
        position: how many tokens the engine has of it beyond its prompt.
        row: its place among the rows.
    """

    hosted: HostedSequence
    position: int
    row: int


class HostedRows:
    """Decides rows of logits.

    Attributes:
        pair: the base is a `HostedModel`.
        seconds: that decisions have taken so far, the guide's forwards included.
        guide_seconds: that the guide's forwards have taken.
    """

    def __init__(self, pair: Pair, max_cached_tokens: int | None = None) -> None:
        """Takes a pair.

        Args:
            pair: its base is a `HostedModel`.
            max_cached_tokens: tokens in the guide's caches beyond which those that were longest
                not needed are forgotten after a step; None: unbounded.
        """
        assert isinstance(pair.base, HostedModel)
        self.pair, self._base = pair, pair.base
        self._limit, self._pool = max_cached_tokens, Pool()
        self.seconds = self.guide_seconds = 0.0
        self._cached: dict[Context, None] = {}  # the longest not needed first

    @property
    def cached_tokens(self) -> int:
        """Tokens that the guide's caches have room for."""
        return sum(0 if each.room is None else each.room.capacity for each in self._cached)

    @property
    def cache_bytes(self) -> int:
        """The size of the guide's caches."""
        return self._pool.bytes

    @torch.inference_mode()
    def decide(self, rows: Sequence[Row], logits: Tensor) -> list[int | None]:
        """The next token of each row; None where the base's own choice is to stand.

        That is so where the sequence has failed: `sequence.error` says how.

        Args:
            rows: no two of one sequence.
            logits: `[*, V]` of the base; a token with -inf is never emitted.
        """
        answers: list[int | None] = []
        undecided: list[int] = []
        for place, (hosted, position, _) in enumerate(rows):
            known = None
            try:
                known = hosted.known(position)
            except RuntimeError as error:
                hosted.sequence.fail(error)
            if known is None and hosted.sequence.error is None:
                undecided.append(place)
            answers.append(known)
        if undecided:
            began = time.perf_counter()
            some = [rows[place] for place in undecided]
            indices = [each.row for each in some]
            whole = indices == list(range(len(logits)))
            self._decide([each.hosted for each in some], logits if whole else logits[indices])
            for place in undecided:
                answers[place] = rows[place].hosted.decided()
            self._forget_oldest()
            self.seconds += time.perf_counter() - began
        return answers

    def suspend(self, hosted: HostedSequence) -> None:
        """Frees the guide's cache of a sequence, which reads its text again if it goes on."""
        guide = hosted.sequence.guide
        if guide is not None and guide in self._cached:
            del self._cached[guide]
            self.pair.guide.leave(guide)
            if not self._cached:
                self._pool.clear()

    def _decide(self, hosted: list[HostedSequence], logits: Tensor) -> None:
        for each in hosted:
            each.will_decide()
        while hosted:
            made = [len(each.sequence.output.steps) for each in hosted]
            masks = {
                place: self._mask(each, logits[place])
                for place, each in enumerate(hosted)
                if each.is_constrained
            }
            for place, mask in masks.items():
                hosted[place].sequence.guide_is_silent = not self._may_speak(mask)
            self._step(hosted, logits, masks)
            left = [
                place
                for place, each in enumerate(hosted)
                if len(each.sequence.output.steps) == made[place]
                and not (each.sequence.done or each.sequence.preempted)
            ]
            hosted, logits = [hosted[place] for place in left], logits[left]

    def _step(
        self, hosted: Sequence[HostedSequence], logits: Tensor, masks: Mapping[int, Tensor]
    ) -> None:
        """The loop's step, the guide's words held to what the engine allows.

        Args:
            hosted: whose step it is.
            logits: `[len(hosted), V]` of the base.
            masks: `_mask` of those that are constrained, by their place.
        """
        self._base.offer([each.context for each in hosted], logits)
        places = {each.sequence.guide: place for place, each in enumerate(hosted)}

        def answer(asked: Read) -> Answer:
            role, model, contexts = asked
            if role == "base":
                return read(model, contexts)
            self._make_room(contexts)
            began = time.perf_counter()
            told = read(model, contexts)
            self.guide_seconds += time.perf_counter() - began
            heard = [
                places[each] for place, each in enumerate(contexts) if place not in told.failed
            ]
            is_masked = torch.isneginf(logits[heard]).any(dim=1).tolist()
            of_rows = {
                row: masks[place] if place in masks else self._mask(hosted[place], logits[place])
                for row, place in enumerate(heard)
                if place in masks or is_masked[row]
            }
            if not of_rows:
                return told
            assert isinstance(told.returned, Tensor)
            return told._replace(returned=_masked(told.returned, of_rows))

        drive(step(self.pair, [each.sequence for each in hosted]), answer)

    def _mask(self, hosted: HostedSequence, logits: Tensor) -> Tensor:
        """`[V_g]` bool, the guide's tokens that the engine does not allow.

        Args:
            hosted: whose row it is.
            logits: `[V]` of the base.
        """
        blocked, tables = torch.isneginf(logits), self.pair.tables
        symbols, width = tables.guide_symbols, len(blocked)
        of_base = blocked[symbols.clamp(max=width - 1)]
        mask = of_base & (symbols < width) | (symbols >= width) & hosted.is_constrained
        mask[tables.guide_ends] = blocked[tables.base_ends].all()
        return mask

    def _may_speak(self, mask: Tensor) -> bool:
        """Whether the guide has a candidate left."""
        candidates = self.pair.tables.guide_candidates.clone()
        candidates[self.pair.tables.guide_ends] = True
        return bool((candidates & ~mask).any())

    def _make_room(self, contexts: Sequence[Context]) -> None:
        """A place in the pool for each guide's context that has none."""
        for context in contexts:
            if context.room is None and context.cache is None:
                self.pair.guide.join(context, self._pool)
                self._cached[context] = None
            elif context in self._cached:
                self._cached[context] = self._cached.pop(context)

    def _forget_oldest(self) -> None:
        while self._limit is not None and self.cached_tokens > self._limit and self._cached:
            context = next(iter(self._cached))
            del self._cached[context]
            self.pair.guide.leave(context)


def _masked(returned: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    """Rows of logits, -inf where a row's `[V]` mask says so; what models keep stays."""
    masked = returned.clone()
    for row, mask in masks.items():
        masked[row].masked_fill_(mask.to(masked.device), -torch.inf)
    return masked
