"""What a stress test finds, once everything is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import plain
from .decomposition import Decomposition, chain_rows, decompose, step_rows
from .mitigations import ACCEPTED_WRONG, MITIGATIONS, OF_STEPS, Verdicts, judged
from .run import Scores
from .suite import Suite
from .trust import Trust, measure

ORIGINAL = "original"


@dataclass(frozen=True)
class Results:
    """Everything that is told.

    Attributes:
        suite: the chains.
        chains: over chains, by scorer and then by transformation with its strength.
        steps: over steps, likewise.
        verdicts: of each mitigation, by scorer and then by transformation, "original" for none.
        trust: of each policy, by transformation.
        settings: what it was made with, for JSON.
    """

    suite: Suite
    chains: Mapping[str, Mapping[str, Decomposition]]
    steps: Mapping[str, Mapping[str, Decomposition]]
    verdicts: Mapping[str, Mapping[str, Sequence[Verdicts]]]
    trust: Mapping[str, Mapping[str, Trust]]
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what has no value is None."""
        found: dict[str, Any] = plain(
            {
                "confidence": 0.95,
                "accepted_wrong": ACCEPTED_WRONG,
                "minimum_of_steps": OF_STEPS,
                "chains": self.suite.counts(),
                "decomposition": {"chains": self.chains, "steps": self.steps},
                "mitigations": self.verdicts,
                "trust": self.trust,
                "settings": self.settings,
            }
        )
        return found


def analyse(suite: Suite, scored: Sequence[Scores], settings: Mapping[str, Any]) -> Results:
    """Decomposes, judges and measures.

    Args:
        suite: the chains, all of them scored.
        scored: of each scorer its scores; those of a policy have traces.
        settings: what the report says of how it was made.
    """
    kinds = {titled(name, strength): own for (name, strength), own in suite.variants.items()}
    kinds = {title: own for title, own in kinds.items() if own}
    chains, steps, verdicts, trust = {}, {}, {}, {}
    for scores in scored:
        over_chains = {k: decompose(chain_rows(own, scores), suite.seed) for k, own in kinds.items()}
        over_steps = {k: decompose(step_rows(own, scores), suite.seed) for k, own in kinds.items()}
        chains[scores.name] = {k: each for k, each in over_chains.items() if each is not None}
        steps[scores.name] = {k: each for k, each in over_steps.items() if each is not None}
        verdicts[scores.name] = {}
        for title, own in {ORIGINAL: suite.originals, **kinds}.items():
            each = [judged(way, suite.originals, own, scores, suite.seed) for way in MITIGATIONS]
            if found := [verdict for verdict in each if verdict is not None]:
                verdicts[scores.name][title] = found
        moves = {k: measure(k.split()[0], own, scores) for k, own in kinds.items()}
        if kept := {k: each for k, each in moves.items() if each is not None}:
            trust[scores.name] = kept
    return Results(suite, chains, steps, verdicts, trust, settings)


def titled(name: str, strength: float) -> str:
    """A transformation with its strength, unless that is full."""
    return name if strength == 1 else f"{name} {strength:g}"
