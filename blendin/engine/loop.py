"""The paired decoding loop: BlendIn's Algorithm 1 and its relatives, a step of many sequences."""

from __future__ import annotations

import time
from collections.abc import Generator
from collections.abc import Sequence as ListLike

from ..decision.top_logprobs import Rows
from ..policy import Blend, GuideOnly, Nudge
from .fused_stepper import stepper
from .pair import Pair
from .sequence import Sequence
from .stepper import Read, Stepper
from .turn import Turn


def advance(pair: Pair, sequences: ListLike[Sequence]) -> None:
    """Takes every sequence one step further, all of them together."""
    verifications = pair.speculation.before_step(sequences)
    bases = {sequence.base for sequence in sequences}
    began, base_seconds = time.perf_counter(), 0.0
    waiting = step(pair, sequences)
    rows: Rows | None = None
    asks_base = False
    while True:
        try:
            model, contexts = waiting.send(rows)  # type: ignore[arg-type]
        except StopIteration:
            break
        finally:
            if asks_base:
                base_seconds = time.perf_counter() - began
        asks_base = contexts[0] in bases
        rows = model.forward_batch(contexts)
    pair.speculation.after_step(verifications, base_seconds, time.perf_counter() - began)


def step(pair: Pair, sequences: ListLike[Sequence]) -> Generator[Read, Rows, None]:
    """One step of every sequence, each by its own policy and settings.

    Yields what it waits for: one read of the base for the sequences that ask it, and one of the
    guide for those that intervene, over what each has missed. A sequence inside a nudged word asks
    the guide alone, and makes no step where it finds the word ended; one that finds no room for its
    caches makes none either (`crowded_out`).
    """
    moves = stepper(pair, sequences)
    uncertain: list[Turn] = []
    turns = yield from moves.ask_base([sequence for sequence in sequences if sequence.asks_base])
    for turn in turns:
        sequence, base = turn.sequence, turn.base
        assert base is not None
        with sequence.failing_alone():
            certain = base.top_prob >= sequence.threshold
            if certain or not sequence.may_intervene() or not sequence.guide_catches_up():
                moves.emit_base(turn)
            else:
                uncertain.append(turn)
    uncertain += [Turn(s) for s in sequences if not s.asks_base and not s.done]
    if not uncertain:
        return
    turns, guide = yield from moves.ask_guide(uncertain)
    if guide is None:
        return
    moves.emit_blends([t for t in turns if isinstance(t.sequence.rule, Blend)], guide)
    _nudge(moves, [t for t in turns if isinstance(t.sequence.rule, Nudge)], guide)
    moves.emit_alone([t for t in turns if isinstance(t.sequence.rule, GuideOnly)], guide)


def _nudge(moves: Stepper, turns: ListLike[Turn], guide: Rows) -> None:
    """NUDGING: the guide's token stands, and with unit "word" those that follow in its word."""
    for turn, nudged in moves.nudges(turns, guide):
        sequence = turn.sequence
        with sequence.failing_alone():
            data = moves.pair.alignment.data(nudged.symbol)
            if sequence.in_word and data.decode("utf-8", "ignore")[:1].isspace():
                sequence.in_word = False  # a new word: the base is asked again
                continue
            moves.emit_guide(turn, nudged)
            assert isinstance(sequence.rule, Nudge)
            sequence.in_word = sequence.rule.unit == "word"
