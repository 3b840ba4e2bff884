"""The paired decoding loop: BlendIn's Algorithm 1 and its relatives, one sequence at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .fused_stepper import stepper
from .policy import BaseOnly, Blend, InterventionCap, Nudge
from .sampling import Sampling
from .sequence import Sequence
from .stepper import Pair, Stepper
from .trace import Step


def decode(
    pair: Pair,
    sequence: Sequence,
    policy: Blend | Nudge | BaseOnly | InterventionCap,
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Decodes a sequence step by step; the guide runs at interventions alone.

    Cost: one base forward a step, and at each intervention one guide forward over what it missed.
    """
    cap = policy if isinstance(policy, InterventionCap) else None
    rule = policy.policy if isinstance(policy, InterventionCap) else policy
    step = stepper(pair, sequence, rule, sampling, generator)
    threshold = 0.0 if isinstance(rule, BaseOnly) else rule.threshold
    while not sequence.done:
        base = step.ask_base()
        if base is None:
            return
        made = sequence.output
        capped = cap and not cap.allows(made.interventions, len(made.steps))
        if base.top_prob >= threshold or capped or not sequence.guide_catches_up():
            yield step.emit_base(base)
            continue
        guide = step.ask_guide()
        if guide is None:
            return
        if isinstance(rule, Blend):
            yield step.emit_blend(base, guide, rule)
            continue
        nudged = step.nudge(guide, base)
        yield step.emit_guide(nudged, base)
        while isinstance(rule, Nudge) and rule.unit == "word" and not sequence.done:
            guide = step.ask_guide()
            if guide is None:
                return
            nudged = step.nudge(guide)
            if _begins_word(pair.alignment.data(nudged.symbol)):
                break
            yield step.emit_guide(nudged)


def decode_guide_alone(
    pair: Pair, sequence: Sequence, sampling: Sampling, generator: torch.Generator
) -> Iterator[Step]:
    """Decodes with the guide as the only model, as its own `generate` would."""
    context, vocabulary = sequence.guide, pair.guide.vocabulary
    assert context is not None
    step = Stepper(pair, sequence, sampling, generator)
    tables = pair.tables._replace(base_ends=pair.tables.guide_ends)
    while not sequence.done:
        logits = step.read(pair.guide, context)
        if logits is None:
            return
        own = step.own_view(logits, tables, pair.guide)
        id, is_end = step.own_choice(own, context, pair.guide)
        context.ids.append(id)
        yield sequence.record(
            b"" if is_end else vocabulary.tokens[id] or b"",
            source="guide",
            intervened=True,
            guide_top_prob=own.top_prob,
            alpha=1.0,
            token_ids=(id,),
            is_end=is_end,
        )


def _begins_word(data: bytes) -> bool:
    return data.decode("utf-8", "ignore")[:1].isspace()
