"""Guesses beside the loop: what comes next is read before it is decided, and decided as ever.

The policy's own decision is taken at every token (gate, blend, draw and all), so a guess changes
what a step costs and never what it emits: a token that comes as it was guessed finds its logits
computed, and one that does not is read as without a guess. For greedy decoding this is verification
as in speculative decoding (Leviathan et al., arXiv 2211.17192); with sampling a guessed token is
kept with the probability that the policy gives it, which is what speculative sampling does with
a guess that is certain of itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as ListLike
from dataclasses import replace
from typing import Literal

from ..engine import loop as decode
from ..engine.pair import Pair
from ..engine.sequence import SequenceState as Sequence
from ..models.context import Context
from ..models.kv_pool import Pool, agreeing
from ..models.local import LanguageModel, Model
from ..models.lookahead import MOST
from ..models.remote.model import RemoteModel
from .drafters import Draft, Lookup, guide_draft

Speculate = Literal["auto", "off", "guide", "lookup"] | int
MODES = ("auto", "off", "guide", "lookup")


def check(speculate: Speculate) -> Speculate:
    """The setting, if it is one.

    Raises:
        ValueError: it is not.
    """
    is_count = isinstance(speculate, int) and not isinstance(speculate, bool)
    if speculate not in MODES and not (is_count and 1 <= int(speculate) <= MOST):
        raise ValueError(
            f"speculate is {speculate!r}; use one of {', '.join(MODES)} or a number of tokens from "
            f"1 to {MOST}"
        )
    return speculate


def tokens_ahead(speculate: Speculate) -> int | None:
    """How many tokens a server may be asked for beyond the next; None: as many as pay.

    Raises:
        ValueError: a way of guessing that servers do not know.
    """
    if isinstance(speculate, int):
        return speculate
    if speculate not in ("auto", "off"):
        raise ValueError(
            f"speculate={speculate!r} reads guesses with a model that runs here, and a server "
            "writes its own: use auto, off or a number of tokens"
        )
    return None if speculate == "auto" else 0


def advance(pair: Pair, sequences: ListLike[Sequence]) -> None:
    """`decode.advance`, with guesses where they are asked for and promise to pay.

    "auto" guesses for a sequence alone: in company the forwards are full as they are, and a guess
    that is wrong costs every other sequence its time.
    """
    guessing = [
        (sequence, *_lead(pair, sequence))
        for sequence in sequences
        if sequence.guesses is not None
        and not sequence.done
        and not (sequence.guesses.speculate == "auto" and len(sequences) > 1)
    ]
    rounds = [
        Round(pair, sequence, model, context)
        for sequence, model, context in guessing
        if isinstance(model, LanguageModel)  # servers are asked for windows
    ]
    alone = rounds[0] if len(sequences) == 1 and rounds else None
    if len(sequences) == 1:
        _ask_guide_early(pair, sequences[0])
    began, base_before = time.perf_counter(), pair.base_seconds
    decode.advance(pair, sequences)
    if alone is not None:
        alone.count(time.perf_counter() - began, pair.base_seconds - base_before)
    for each in rounds:
        each.settle()


class Guesses:
    """One sequence's guesses.

    Attributes:
        speculate: as the caller set it.
        draft: the guess that is being tried; None where there is none.
        start: how long the context was that it follows.
        lookup: the sequence's own n-grams.
    """

    def __init__(self, speculate: Speculate) -> None:
        self.speculate = speculate
        self.draft: Draft | None = None
        self.start = 0
        self.lookup = Lookup()

    def make(self, pair: Pair, sequence: Sequence, context: Context) -> Draft | None:
        """A new guess, of as many tokens as are worth reading."""
        pace, mode = pair.pace, self.speculate
        left = sequence.limits.max_new_tokens - len(sequence.output.steps) - 1
        most = min(MOST, left)
        if isinstance(mode, int):
            most = min(most, mode)
            found = self.lookup.draft(context.ids, most)
            return found or self._by_guide(pair, sequence, most)
        if mode in ("auto", "lookup"):
            found = self.lookup.draft(context.ids, most)
            count = pace.length(found.kind, most) if found is not None else 0
            if found is not None and count:
                return Draft(found.kind, found.tokens[:count])
        if mode in ("auto", "guide"):
            return self._by_guide(pair, sequence, pace.length("guide", most, guide_steps=True))
        return None

    def _by_guide(self, pair: Pair, sequence: Sequence, count: int) -> Draft | None:
        if count < 1 or (not sequence.policy.reads_base):
            return None
        return guide_draft(pair, sequence, count)


class Round:
    """One step of one sequence, from its guess to what became of it."""

    def __init__(
        self, pair: Pair, sequence: Sequence, model: LanguageModel, context: Context
    ) -> None:
        assert sequence.guesses is not None
        self.pair, self.sequence, self.context = pair, sequence, context
        self.guesses, self.seconds = sequence.guesses, 0.0
        self.length, self.steps = len(context.ids), len(sequence.output.steps)
        self.forwards = context.forwards
        guide = sequence.guide
        self.guide_forwards = 0 if guide is None else guide.forwards
        _keep_states(model, context)
        if guide is not None and guide is not context and isinstance(pair.guide, LanguageModel):
            _keep_states(pair.guide, guide)
        self.cached = context.cached
        if context.guess is not None:
            new = context.ids[context.guess.start :]
            self.cached = context.guess.start + agreeing(new, context.guess.tokens)
        context.hint = None
        if self.guesses.draft is None and sequence.asks_target:
            began = time.perf_counter()
            draft = self.guesses.make(pair, sequence, context)
            self.seconds = time.perf_counter() - began
            if draft is not None:
                context.hint = lambda: draft.tokens
                self.guesses.draft, self.guesses.start = draft, self.length

    def count(self, seconds: float, base_seconds: float) -> None:
        """Tells the pair's pace what the step took."""
        pace, guide = self.pair.pace, self.sequence.guide
        asked = guide is not None and guide is not self.context
        if self.context is guide:
            base_seconds = seconds
        elif asked and guide is not None and guide.forwards > self.guide_forwards:
            pace.guide_took(seconds - base_seconds)
        read = 0
        if self.context.forwards > self.forwards:
            guess = self.context.guess
            ahead = len(guess.tokens) if guess is not None and guess.start == self.length else 0
            read = self.length - self.cached + ahead
        if read <= MOST + 1:
            tokens = len(self.sequence.output.steps) - self.steps
            pace.base_took(base_seconds + self.seconds, read, tokens)

    def settle(self) -> None:
        """Notes in the trace whether the step came as guessed, and when a guess is over."""
        guesses, context, steps = self.guesses, self.context, self.sequence.output.steps
        context.hint = None
        if guesses.draft is None:
            return
        if guesses.start == self.length:  # it was made for this step; some of it was read
            guess = context.guess
            read = guess is not None and guess.start == self.length
            tokens = guess.tokens if guess is not None and read else []
            guesses.draft = Draft(guesses.draft.kind, tokens) if tokens else None
            if guesses.draft is None:
                return
        place, tokens = self.length - guesses.start, guesses.draft.tokens
        for index in range(self.steps, len(steps)):
            emitted = list(steps[index].token_ids)
            expected = tokens[place : place + len(emitted)]
            if place >= len(tokens):
                break
            steps[index] = replace(
                steps[index], draft="accepted" if emitted == expected else "rejected"
            )
            place += len(emitted)
        new = context.ids[guesses.start :]
        right = agreeing(new, tokens)
        if right < len(new) or right == len(tokens) or self.sequence.done:
            known = right + 1 if right < len(new) else right
            self.pair.pace.guess_was(guesses.draft.kind, right, min(known, len(tokens)))
            guesses.draft = None


def _ask_guide_early(pair: Pair, sequence: Sequence) -> None:
    """After an intervention asks a guide's server along with the base's.

    Two in five interventions are followed by another, and a server's time is free for one who is
    alone; the guide's answer takes about as long as the base's.
    """
    guide, steps = sequence.guide, sequence.output.steps
    if guide is None or not isinstance(pair.guide, RemoteModel) or sequence.base is None:
        return
    if steps and steps[-1].intervened and not sequence.pending_bytes and guide.most_ahead != 0:
        pair.guide.ask_early(guide)


def _lead(pair: Pair, sequence: Sequence) -> tuple[Model, Context]:
    """The model that reads first, and what it has read."""
    alone = not sequence.policy.reads_base
    context = sequence.guide if alone else sequence.base
    assert context is not None
    return (pair.guide if alone else pair.base), context


def _keep_states(model: LanguageModel, context: Context) -> None:
    """Gives a sequence that will outgrow a sliding window a cache that drops nothing."""
    fresh = context.cache is None and context.span is None and context.cached == 0
    if fresh and model.window is not None and context.expected >= model.window and model.ragged:
        model.join(context, Pool())
