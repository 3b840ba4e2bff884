"""What a stress test finds, once everything is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..records import plain
from .decomposition import Decomposition, Row, chain_rows, decompose, step_rows
from .mitigations import ACCEPTED_WRONG, MITIGATIONS, OF_STEPS, Verdicts, judged
from .run import Scores
from .scorers import BASE
from .suite import Suite, Variant, titled
from .trust import Trust, measure

T = TypeVar("T")
_ByScorer = Mapping[str, Mapping[str, T]]

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
    everything = {ORIGINAL: suite.originals, **kinds}

    def over(rows: Callable[[Sequence[Variant], Scores], list[Row]]) -> _ByScorer[Decomposition]:
        return {
            scores.name: _kept(
                {k: decompose(rows(v, scores), suite.seed) for k, v in kinds.items()}
            )
            for scores in scored
        }

    def verdicts(variants: Sequence[Variant], scores: Scores) -> list[Verdicts] | None:
        each = [judged(way, suite.originals, variants, scores, suite.seed) for way in MITIGATIONS]
        return [verdict for verdict in each if verdict is not None] or None

    trust = {
        scores.name: _kept({k: measure(k.split()[0], v, scores) for k, v in kinds.items()})
        for scores in scored
        if scores.name != BASE  # it comes of a policy's pass, whose trace it has
    }
    return Results(
        suite,
        over(chain_rows),
        over(step_rows),
        {s.name: _kept({k: verdicts(v, s) for k, v in everything.items()}) for s in scored},
        {name: own for name, own in trust.items() if own},
        settings,
    )


def _kept(found: Mapping[str, T | None]) -> dict[str, T]:
    return {key: value for key, value in found.items() if value is not None}
