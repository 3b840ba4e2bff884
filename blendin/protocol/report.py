"""`blendin` of an answer: what was done for its text."""

from __future__ import annotations

from typing import Any

from ..policy import Policy, described
from ..trace import Generation


def report(output: Generation, tells_steps: bool) -> dict[str, Any]:
    """What was done for a text.

    Args:
        output: what there is of it.
        tells_steps: whether its settings and steps are told, too.
    """
    told: dict[str, Any] = {
        "policy": output.settings.get("policy"),
        "intervention_rate": output.intervention_rate,
        "interventions": output.interventions,
        "steps": len(output.steps),
        "mean_alpha": output.mean_alpha,
        "guide_forwards": output.guide_forwards,
        "base_forwards": output.base_forwards,
    }
    if output.error is not None:
        told["error"] = output.error
    if tells_steps:
        told["settings"] = dict(output.settings)
        told["trace"] = [step.to_dict() for step in output.steps]
    return told


def report_of_base(policy: Policy) -> dict[str, Any]:
    """Of a text that its engine's base made alone, with nobody to count the steps."""
    return {
        "policy": described(policy), "intervention_rate": 0.0, "interventions": 0,
        "mean_alpha": None, "guide_forwards": 0,
    }  # fmt: skip
