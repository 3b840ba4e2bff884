"""What clients call a pair, and the policies that a model's name may ask for: `pair:nudge`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..policy import POLICY_NAMES
from ..values import shown, told

DEFAULT_NAME = "pair"


def served_name(name: str, value: Any) -> str:
    """The kind of a name to be served under.

    Raises:
        ValueError: it is none, or has a colon.
    """
    if not isinstance(value, str) or not value.strip() or ":" in value:
        raise ValueError(
            f"{shown(name)} is {told(value)}; use a name without a colon, which parts it from a "
            "policy's"
        )
    return value


def split_name(model: str) -> tuple[str, str | None]:
    """A model's name and the policy that it asks for; None where it names none."""
    served, _, policy = model.rpartition(":")
    return (served, policy) if served and policy in POLICY_NAMES else (model, None)


def names_of(served: str, policies: Iterable[str] = POLICY_NAMES) -> list[str]:
    """All that a pair answers to: its name, then that with each policy."""
    return [served, *(f"{served}:{policy}" for policy in policies)]
