"""What was done: one record a step, and the result of a generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Source = Literal["base", "guide", "both"]
StopReason = Literal["end", "length", "stop"]
DraftOutcome = Literal["accepted", "rejected"]

RATE_LIMIT = 0.2
"""The paper's line: pairs that intervene more often than this tend to fail."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decided symbol.

    Attributes:
        text: what became certain with this step; the joined texts are the generation's text. Half
            a character, and what may become a stop text, appear with the step that decides.
        token_bytes: the bytes of the symbol; empty for END and for special tokens.
        source: which models gave the symbol weight: "base" alone (every confident step), the
            "guide" alone, or "both" (a blend).
        intervened: whether the guide was consulted.
        base_top_prob: p_b, the base's highest probability.
        guide_top_prob: p_g, the guide's highest probability among the candidates.
        alpha: α, the guide's weight; 1 where its word is accepted as it is.
        agreement: P_B(t_g), the base's probability of the guide's choice.
        agreement_rank: 1 and how many of the base's tokens are likelier than the guide's choice;
            None where the base's vocabulary lacks it.
        token_ids: what entered the base's context (the guide's under `GuideOnly`).
        is_end: whether the symbol is END.
        draft: whether the draft token for this place, if there was one, was this one. Drafts
            depend on measured times, so equal steps may differ in it.

    Numbers are None where they were not computed.
    """

    text: str
    token_bytes: bytes
    source: Source
    intervened: bool
    base_top_prob: float | None = None
    guide_top_prob: float | None = None
    alpha: float | None = None
    agreement: float | None = None
    agreement_rank: int | None = None
    token_ids: tuple[int, ...] = ()
    is_end: bool = False
    draft: DraftOutcome | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the bytes in hexadecimal."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {
            "token_bytes": self.token_bytes.hex(),
            "token_ids": list(self.token_ids),
        }


@dataclass
class Generation:
    """The result of decoding one prompt; grows while it is being decoded.

    Attributes:
        text: the steps' bytes decoded, cut before a `stop` string.
        steps: one record a step, the one that emitted END included.
        stop_reason: "end", "length" or "stop"; None while decoding, or where it was interrupted
            or failed.
        error: of a sequence that failed among others, what went wrong; else None.
        seconds: wall-clock time from the first forward to the last step, prompts included.
        base_forwards: that the base made for it, alone or with others.
        guide_forwards: likewise.
        settings: models, policy, sampling and prompts, as they were.
    """

    text: str = ""
    steps: list[Step] = field(default_factory=list)
    stop_reason: StopReason | None = None
    error: str | None = None
    seconds: float = 0.0
    base_forwards: int = 0
    guide_forwards: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def token_ids(self) -> list[int]:
        """The ids generated, the end token's included, in the base's vocabulary.

        Under `GuideOnly`, in the guide's.
        """
        return [id for step in self.steps for id in step.token_ids]

    @property
    def interventions(self) -> int:
        return sum(step.intervened for step in self.steps)

    @property
    def intervention_rate(self) -> float:
        """Interventions over steps; 0 where there is no step yet."""
        return self.interventions / len(self.steps) if self.steps else 0.0

    @property
    def mean_alpha(self) -> float | None:
        """The mean of α over the interventions."""
        alphas = [step.alpha for step in self.steps if step.alpha is not None]
        return sum(alphas) / len(alphas) if alphas else None

    @property
    def tokens_per_second(self) -> float:
        """Steps over seconds."""
        return len(self.steps) / self.seconds if self.seconds else 0.0

    @property
    def stats(self) -> dict[str, Any]:
        """What it took: tokens, forwards of each model, and the acceptance of drafts.

        `acceptance_rate` is the share of accepted draft tokens among those that were decided; None
        where nothing was drafted.
        """
        drafted = [step.draft for step in self.steps if step.draft is not None]
        accepted = drafted.count("accepted")
        return {
            "tokens": len(self.steps),
            "tokens_per_second": self.tokens_per_second,
            "base_forwards": self.base_forwards,
            "guide_forwards": self.guide_forwards,
            "drafted": len(drafted),
            "accepted": accepted,
            "acceptance_rate": accepted / len(drafted) if drafted else None,
        }

    def summary(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "stop_reason": self.stop_reason,
            "error": self.error,
            "intervention_rate": self.intervention_rate,
            "interventions": self.interventions,
            "mean_alpha": self.mean_alpha,
            "seconds": self.seconds,
            **self.stats,
            "token_ids": self.token_ids,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON: the summary, the settings and the steps."""
        return {
            **self.summary(),
            "settings": dict(self.settings),
            "steps": [step.to_dict() for step in self.steps],
        }

    def write_jsonl(self, path: str | Path) -> None:
        """One line a step, in order."""
        lines = [json.dumps(step.to_dict(), ensure_ascii=False) + "\n" for step in self.steps]
        Path(path).write_text("".join(lines), "utf-8")
