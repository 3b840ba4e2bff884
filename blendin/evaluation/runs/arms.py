"""What is compared: policies by the names under which results are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policy import POLICY_NAMES, Policy, calibration_of, named_policy, parameters

FIXED, FIXED_ALPHA = "blend-fixed", 0.5
NAMES = ("base", "guide", "nudge", "blend", FIXED, "cap")


def arms(
    names: tuple[str, ...] = NAMES, *, alpha: float | None = None, **settings: Any
) -> dict[str, Policy]:
    """Policies by name, each with those of the settings that it takes.

    Args:
        names: some of `NAMES`, or another name of a policy.
        alpha: α of "blend-fixed" alone, 0.5 by default; "blend" and "cap" adapt it.
        **settings: as `policy.named_policy` takes them: `threshold` is τ of every arm that has one.

    Raises:
        ValueError: for an unknown or repeated name, no name, or a setting out of range.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"the arms are {', '.join(names) or 'none'}: name each of them once")
    known = [*POLICY_NAMES, FIXED]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"arm {unknown[0]!r} is unknown; use some of {', '.join(known)}")
    made = {name: _arm(name, alpha, settings) for name in names}
    if settings.get("calibration") is not None and not any(map(calibration_of, made.values())):
        raise ValueError(
            f"a calibration has no part in {', '.join(made)}: leave it out, or add an arm of Blend"
        )
    return made


def without_calibration(policies: Mapping[str, Policy]) -> list[str]:
    """The arms that decide without one, where others have one."""
    having = {name for name, each in policies.items() if calibration_of(each) is not None}
    return [name for name in policies if having and name not in having]


def _arm(name: str, alpha: float | None, settings: dict[str, Any]) -> Policy:
    policy = "blend" if name == FIXED else name
    own = {key: value for key, value in settings.items() if key in parameters(policy)}
    if name == FIXED:
        own["alpha"] = FIXED_ALPHA if alpha is None else alpha
    return named_policy(policy, **own)
