"""What is compared: policies by the names under which results are kept."""

from __future__ import annotations

from typing import Any

from ...policy import Policy, named_policy

FIXED = "blend-fixed"
NAMES = ("base", "guide", "nudge", "blend", FIXED, "cap")


def arms(
    names: tuple[str, ...] = NAMES,
    *,
    threshold: float | None = None,
    alpha: float = 0.5,
    agreement_bonus: float | None = None,
    top_k: int | None = None,
    max_rate: float | None = None,
) -> dict[str, Policy]:
    """Policies by name, each with those of the settings that it takes.

    Args:
        names: some of `NAMES`, or "nudge-token".
        threshold: τ.
        alpha: α of "blend-fixed" alone; "blend" and "cap" adapt it.
        agreement_bonus: λ.
        top_k: k; 0 is the whole vocabulary.
        max_rate: of "cap".

    Raises:
        ValueError: for an unknown or repeated name, no name, or a setting out of range.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"the arms are {', '.join(names) or 'none'}: name each of them once")
    blended = {"threshold": threshold, "agreement_bonus": agreement_bonus, "top_k": top_k}
    settings: dict[str, dict[str, Any]] = {
        "base": {},
        "guide": {},
        "nudge": {"threshold": threshold},
        "nudge-token": {"threshold": threshold},
        "blend": blended,
        FIXED: blended | {"alpha": alpha},
        "cap": blended | {"max_rate": max_rate},
    }
    if unknown := [name for name in names if name not in settings]:
        raise ValueError(f"arm {unknown[0]!r} is unknown; use some of {', '.join(settings)}")
    return {
        name: named_policy("blend" if name == FIXED else name, **settings[name]) for name in names
    }
