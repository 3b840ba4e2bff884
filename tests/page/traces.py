"""Traces that tests show on the page."""

from __future__ import annotations

from typing import Any

from blendin import Generation, Step
from blendin.candidates import Candidate, StepCandidates


def step(text: str, **given: Any) -> Step:
    """A confident step with this text, unless more is given."""
    told = {"text": text, "token_bytes": text.encode("utf-8", "replace"), "source": "base"}
    return Step(**told | {"intervened": given.get("source", "base") != "base"} | given)


def trace(*steps: Step, name: str = "Blend", threshold: float = 0.4, **given: Any) -> Generation:
    """What a policy has written."""
    settings = {"policy": {"name": name, "threshold": threshold}} | given.pop("settings", {})
    text = "".join(each.text for each in steps)
    return Generation(text, list(steps), "length", settings=settings, **given)


def candidate(text: str, prob: float, **given: Any) -> Candidate:
    return Candidate(text, text.encode("utf-8", "replace"), prob, **given)


CANDIDATES = StepCandidates(
    chosen=candidate(" two", 0.5, base_id=7),
    base_prob=0.25,
    guide_prob=0.75,
    base=(candidate(" one", 0.3, base_id=6), candidate(" two", 0.25, base_id=7)),
    guide=(candidate(" two", 0.75, base_id=7), candidate(" three", 0.125)),
    emitted=(candidate(" two", 0.5, base_id=7), candidate(" one", 0.15, base_id=6)),
)

SAMPLE = trace(
    step("One", base_top_prob=0.9),
    step(" two", source="both", base_top_prob=0.3, guide_top_prob=0.75, alpha=0.5,
         agreement=0.25, agreement_rank=2, token_ids=(7,), candidates=CANDIDATES),
    step(" three\n", base_top_prob=0.55),
    step("", token_bytes=b"", base_top_prob=0.5, token_ids=(3,)),
    step("four", source="guide", base_top_prob=0.1, guide_top_prob=0.8, alpha=1.0),
    step(" five", base_top_prob=0.45),
    step("", token_bytes=b"", source="guide", base_top_prob=0.2, alpha=0.9, is_end=True),
)  # fmt: skip
