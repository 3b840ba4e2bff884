"""The paired decoding loop: BlendIn's Algorithm 1 and its relatives, a step of many sequences."""

from __future__ import annotations

from collections.abc import Sequence as ListLike

from torch import Tensor

from .fused_stepper import stepper
from .pair import Pair
from .policy import Blend, GuideOnly, Nudge
from .sequence import Sequence
from .stepper import Stepper
from .turn import Turn


def advance(pair: Pair, sequences: ListLike[Sequence]) -> None:
    """Takes every sequence one step further, each by its own policy and settings.

    Costs one base forward for the sequences that ask the base, and one guide forward for those that
    intervene, over what each has missed. A sequence inside a nudged word asks the guide alone, and
    makes no step where it finds the word ended; one that finds no room for its caches makes none
    either (`crowded_out`).
    """
    step = stepper(pair, sequences)
    uncertain: list[Turn] = []
    for turn in step.ask_base([sequence for sequence in sequences if sequence.asks_base]):
        sequence, base = turn.sequence, turn.base
        assert base is not None
        with sequence.failing_alone():
            certain = base.top_prob >= sequence.threshold
            if certain or not sequence.may_intervene() or not sequence.guide_catches_up():
                step.emit_base(turn)
            else:
                uncertain.append(turn)
    uncertain += [Turn(s) for s in sequences if not s.asks_base and not s.done]
    if not uncertain:
        return
    turns, guide_logits = step.ask_guide(uncertain)
    if guide_logits is None:
        return
    step.emit_blends([t for t in turns if isinstance(t.sequence.rule, Blend)], guide_logits)
    _nudge(step, [t for t in turns if isinstance(t.sequence.rule, Nudge)], guide_logits)
    step.emit_alone([t for t in turns if isinstance(t.sequence.rule, GuideOnly)], guide_logits)


def _nudge(step: Stepper, turns: ListLike[Turn], guide_logits: Tensor) -> None:
    """NUDGING: the guide's token stands, and with unit "word" those that follow in its word."""
    for turn, nudged in step.nudges(turns, guide_logits):
        sequence = turn.sequence
        with sequence.failing_alone():
            data = step.pair.alignment.data(nudged.symbol)
            if sequence.in_word and data.decode("utf-8", "ignore")[:1].isspace():
                sequence.in_word = False  # a new word: the base is asked again
                continue
            step.emit_guide(turn, nudged)
            assert isinstance(sequence.rule, Nudge)
            sequence.in_word = sequence.rule.unit == "word"
