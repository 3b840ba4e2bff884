"""What to do at a step: the policies, as plain data.

`decode` reads them; they hold no state, so one policy serves any number of sequences.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

DEFAULT_THRESHOLD = 0.4


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(
            f"threshold (τ) is {threshold!r}; it is compared with a probability: use 0 (never "
            "intervene) to 1, or more than 1 to intervene at every step"
        )


def _check_unit_interval(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; use a number from 0 to 1")


@dataclass(frozen=True)
class Blend:
    """BlendIn: where the base is unsure, choose from both models' distributions, blended.

    Attributes:
        threshold: τ, the base is unsure where its top probability p_b is below this.
        agreement_bonus: λ in α = clip(p_g / (p_b + p_g) + λ · P_B(t_g), 0, 1).
        top_k: k, how many symbols of each model are candidates; None: the whole vocabulary.
        alpha: fixes the guide's weight α in [0, 1]; None adapts it at each step.
    """

    threshold: float = DEFAULT_THRESHOLD
    agreement_bonus: float = 0.1
    top_k: int | None = 100
    alpha: float | None = None

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        if not 0 <= self.agreement_bonus < float("inf"):
            raise ValueError(
                f"agreement_bonus (λ) is {self.agreement_bonus!r}; use a finite number from 0 up"
            )
        if self.top_k is not None and (self.top_k != int(self.top_k) or self.top_k < 1):
            raise ValueError(
                f"top_k is {self.top_k!r}; use an integer from 1 up, or None for the whole "
                "vocabulary"
            )
        if self.alpha is not None:
            _check_unit_interval("alpha (α)", self.alpha)


@dataclass(frozen=True)
class Nudge:
    """NUDGING: where the base is unsure, accept the guide's word (or token) as it is.

    Attributes:
        threshold: τ.
        unit: "word" accepts guide tokens up to the first one that begins a new word, as in the
            paper; "token" accepts one.
    """

    threshold: float = DEFAULT_THRESHOLD
    unit: Literal["word", "token"] = "word"

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        if self.unit not in ("word", "token"):
            raise ValueError(f'unit is {self.unit!r}; use "word" or "token"')


@dataclass(frozen=True)
class BaseOnly:
    """The base alone (τ = 0)."""


@dataclass(frozen=True)
class GuideOnly:
    """The guide alone, from its own prompt."""


@dataclass(frozen=True)
class InterventionCap:
    """The paper's negative baseline: another policy whose intervention rate is held down.

    Once `grace_steps` steps are made, the base goes on alone where one more intervention would
    lift the rate over the steps so far above `max_rate`.

    Attributes:
        policy: what to do at the interventions that are let through.
        max_rate: in [0, 1].
        grace_steps: the cap is not applied before so many steps.
    """

    policy: Blend | Nudge = field(default_factory=Blend)
    max_rate: float = 0.2
    grace_steps: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Blend | Nudge):
            raise ValueError(
                f"InterventionCap caps {self.policy!r}, which has no interventions to cap; "
                "use Blend(...) or Nudge(...)"
            )
        _check_unit_interval("max_rate", self.max_rate)
        if self.grace_steps < 0:
            raise ValueError(f"grace_steps is {self.grace_steps!r}; use an integer from 0 up")

    def allows(self, interventions: int, steps: int) -> bool:
        """Whether a further intervention is let through after so many steps."""
        return steps < self.grace_steps or interventions + 1 <= self.max_rate * (steps + 1)


Policy = Blend | Nudge | BaseOnly | GuideOnly | InterventionCap


def described(policy: Policy) -> dict[str, Any]:
    """A policy's name and settings, for JSON."""
    return {"name": type(policy).__name__, **asdict(policy)}


POLICY_NAMES = ("blend", "nudge", "nudge-token", "base", "guide", "cap")


def named_policy(
    name: str,
    *,
    threshold: float | None = None,
    alpha: float | None = None,
    agreement_bonus: float | None = None,
    top_k: int | None = None,
    max_rate: float | None = None,
) -> Policy:
    """A policy from its name and those of its settings that are given (the CLI's way).

    Args:
        name: one of `POLICY_NAMES`; "cap" is `InterventionCap(Blend(...))`.
        threshold: τ.
        alpha: α, fixed.
        agreement_bonus: λ.
        top_k: k; 0 is the whole vocabulary.
        max_rate: of the cap.

    Raises:
        ValueError: for an unknown name, a value out of range or a setting the policy has not.
    """
    if name not in POLICY_NAMES:
        raise ValueError(f"policy {name!r} is unknown; use one of {', '.join(POLICY_NAMES)}")
    given = {
        "threshold": threshold,
        "alpha": alpha,
        "agreement_bonus": agreement_bonus,
        "top_k": top_k,
        "max_rate": max_rate,
    }
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    blend_settings = {"threshold", "alpha", "agreement_bonus", "top_k"}
    understood = {
        "blend": blend_settings,
        "cap": blend_settings | {"max_rate"},
        "nudge": {"threshold"},
        "nudge-token": {"threshold"},
    }.get(name, set())
    if foreign := sorted(settings.keys() - understood):
        raise ValueError(f"the policy {name!r} has no setting {', '.join(foreign)}: leave it out")
    if settings.get("top_k") == 0:
        settings["top_k"] = None
    if name == "base":
        return BaseOnly()
    if name == "guide":
        return GuideOnly()
    if name in ("nudge", "nudge-token"):
        return Nudge(unit="token" if name == "nudge-token" else "word", **settings)
    cap = {"max_rate": settings.pop("max_rate")} if "max_rate" in settings else {}
    return InterventionCap(Blend(**settings), **cap) if name == "cap" else Blend(**settings)
