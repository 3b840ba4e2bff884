"""What to do at a step: the policies.

A policy is plain data with two decisions: where to intervene, and what to emit there. It sees
`Prediction`s (what a model says of N next tokens) and returns a `Mixture`; it holds nothing of a
sequence but what `memory` gives it. To add one, subclass `Policy`; for a name on the command line
and in `policy="..."` add it to `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args, get_type_hints

from .calibration import Calibration, as_calibration
from .spelling import did_you_mean
from .values import (
    Choice,
    Integer,
    Kind,
    Real,
    SettingTypeError,
    check_fields,
    for_json,
    plain,
    shown,
    told,
)

if TYPE_CHECKING:
    from torch import Tensor

    from .decision.mixture import Mixture
    from .decision.prediction import Prediction

__all__ = [
    "BaseOnly",
    "Blend",
    "Defer",
    "GuideOnly",
    "InterventionCap",
    "Memory",
    "Nudge",
    "Policy",
]

DEFAULT_THRESHOLD = 0.4
MAX_THRESHOLD = 2.0


class Temperatures(NamedTuple):
    """At which a policy's gate and α read a model's probabilities."""

    base: float = 1.0
    guide: float = 1.0


class Memory:
    """What a policy keeps of one sequence; this one keeps nothing."""

    asks_base: bool = True
    """Whether the next step begins with the base; otherwise the guide is run at once."""

    def allows(self, steps: int, interventions: int) -> bool:
        """Whether the next step may be an intervention, given how many there were so far."""
        return True

    def accepts(self, data: bytes) -> bool:
        """Whether a symbol chosen at an intervention is emitted; if not, the base is asked."""
        return True


class Policy:
    """Where to intervene, and what to emit there. Subclasses are frozen dataclasses.

    Attributes:
        reads_base: whether the base is run at all.
        reads_guide: whether the guide may be run.
    """

    reads_base: ClassVar[bool] = True
    reads_guide: ClassVar[bool] = True

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        """Which steps are interventions, `[N]` bool; the guide is run for these alone.

        Args:
            base: what the base says, N rows.
            greedy: the mixture's argmax will be emitted, not a draw from it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where it intervenes")

    def mix(self, base: Prediction | None, guide: Prediction, greedy: bool = True) -> Mixture:
        """The distribution that interventions emit from.

        Args:
            base: what the base says, N rows; None where `Memory.asks_base` is False.
            guide: what the guide says, the same rows.
            greedy: only the mixture's argmax is needed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it emits")

    def memory(self) -> Memory:
        """What it keeps of a new sequence."""
        return Memory()

    @property
    def scoring(self) -> Policy:
        """The policy by which given texts are scored, where unlikely tokens need a probability."""
        return self

    @property
    def uncertain_below(self) -> float:
        """The guide may be asked where p_b is below this, and mostly decides otherwise there."""
        return 0.0

    @property
    def temperatures(self) -> Temperatures:
        """Those at which it reads p_b and p_g; the trace shows them as they were read."""
        return Temperatures()


def parameter(default: Any, help: str, kind: Kind | None = None) -> Any:
    """A dataclass field of a policy, with its line for the command line's help.

    Args:
        default: where it is left out.
        help: one line.
        kind: of its values (`blendin.values`); `check_fields` in `__post_init__` checks them.
    """
    return field(default=default, metadata={"help": help, "kind": kind})


THRESHOLD = Real(
    0,
    MAX_THRESHOLD,
    symbol="τ",
    advice=(
        "it is compared with a probability: use 0 (never intervene) to 1, or a little more than 1 "
        "to intervene at every step"
    ),
)


@dataclass(frozen=True)
class Blend(Policy):
    """BlendIn: where the base is unsure, choose from both models' distributions, blended.

    Source: BlendIn (arXiv 2606.11201), Algorithm 1.

    Attributes:
        threshold: τ, the base is unsure where its top probability p_b is below this; None is the
            calibration's, or 0.4 where that has none.
        agreement_bonus: λ in α = clip(p_g / (p_b + p_g) + λ · P_B(t_g), 0, 1).
        top_k: k, how many symbols of each model are candidates; None: the whole vocabulary.
        alpha: fixes the guide's weight α in [0, 1], the calibration's too; None adapts it at each
            step.
        calibration: a `Calibration`, or the path of its file: gate and α read probabilities at its
            temperatures, and α is its own where it fits one, which has no λ. The distributions
            that are blended stay raw. A temperature other than 1 needs the whole softmax, which a
            served model does not tell.
    """

    threshold: float = parameter(
        None,
        f"τ: the guide steps in where the base is less sure; {DEFAULT_THRESHOLD} by default, or "
        "the calibration's.",
        THRESHOLD,
    )
    agreement_bonus: float = parameter(0.1, "λ, added to α on agreement.", Real(0, symbol="λ"))
    top_k: int | None = parameter(
        100,
        "Candidates of each model; 0: the whole vocabulary.",
        Integer(1, none="the whole vocabulary"),
    )
    alpha: float | None = parameter(
        None,
        "Fixes the guide's weight α, which otherwise adapts.",
        Real(0, 1, symbol="α", none="one that adapts"),
    )
    calibration: Calibration | None = field(
        default=None,
        metadata={
            "help": "File of `blendin calibrate`: what the gate and α go by.",
            "kind": as_calibration,
        },
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "calibration", as_calibration("calibration", self.calibration))
        if self.threshold is None:
            fitted = self.calibration and self.calibration.threshold
            threshold = DEFAULT_THRESHOLD if fitted is None else fitted
            object.__setattr__(self, "threshold", threshold)
        check_fields(self)

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        return base.top_prob_at(self.temperatures.base) < self.threshold

    def mix(self, base: Prediction | None, guide: Prediction, greedy: bool = True) -> Mixture:
        from .decision.blend import blend  # here, or `blendin --help` would import torch

        assert base is not None
        return blend(
            base,
            guide,
            top_k=self.top_k,
            alpha=self.alpha,
            agreement_bonus=self.agreement_bonus,
            calibration=self.calibration,
            greedy=greedy,
        )

    @property
    def scoring(self) -> Policy:
        return replace(self, top_k=None)

    @property
    def uncertain_below(self) -> float:
        return self.threshold

    @property
    def temperatures(self) -> Temperatures:
        fitted = self.calibration
        if fitted is None:
            return Temperatures()
        return Temperatures(fitted.base_temperature, fitted.guide_temperature)


@dataclass(frozen=True)
class Nudge(Policy):
    """NUDGING: where the base is unsure, accept the guide's word (or token) as it is.

    Source: NUDGING (arXiv 2410.09300).

    Attributes:
        threshold: τ.
        unit: "word" accepts guide tokens up to the first one that begins a new word, as in the
            paper; "token" accepts one.
    """

    threshold: float = parameter(
        DEFAULT_THRESHOLD, "τ: the guide steps in where the base is less sure.", THRESHOLD
    )
    unit: Literal["word", "token"] = parameter(
        "word", "What is accepted: a word or a token.", Choice(("word", "token"))
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        return base.top_prob < self.threshold

    def mix(self, base: Prediction | None, guide: Prediction, greedy: bool = True) -> Mixture:
        from .decision.mixture import Mixture  # here, or `blendin --help` would import torch

        agreement = None if base is None else base.prob_of(guide.choice)
        if greedy:
            return Mixture.of_guide(guide.choice[:, None], guide.top_prob[:, None], agreement)
        candidates = guide.top(None)
        return Mixture.of_guide(candidates.symbols, candidates.probs, agreement)

    def memory(self) -> Memory:
        return WordMemory() if self.unit == "word" else Memory()

    @property
    def scoring(self) -> Policy:
        return replace(self, unit="token")

    @property
    def uncertain_below(self) -> float:
        return self.threshold


class WordMemory(Memory):
    """Whether the guide is inside a word that it was given; the base is not asked there."""

    inside = False

    @property
    def asks_base(self) -> bool:  # type: ignore[override]
        return not self.inside

    def accepts(self, data: bytes) -> bool:
        begins_word = data.decode("utf-8", "ignore")[:1].isspace()
        self.inside, was_inside = not (self.inside and begins_word), self.inside
        return not (was_inside and begins_word)


@dataclass(frozen=True)
class Defer(Policy):
    """The base hands the probability of its doubtful tokens to the guide.

    With a mask d over the base's symbols and m = Σ d(v)·P_B(v), the next symbol comes from
    P(v) = (1 − d(v))·P_B(v) + m·P_G(v). There is no gate: the guide is run where it can change
    what is emitted. α of the trace is m.

    Source: KAD (arXiv 2510.27017), rules "token" and "budget"; the confidence bet
    (arXiv 2604.16146), rule "bet".

    Attributes:
        threshold: θ of the rule.
        rule: "token" defers symbols with P_B(v) < θ; "budget" the least likely ones, as long as
            their summed P_B stays within θ; "bet" those with P_B(v) < p_g − θ.
    """

    threshold: float = parameter(
        DEFAULT_THRESHOLD,
        "θ of the rule.",
        Real(0, MAX_THRESHOLD, symbol="θ", advice="use a number from 0 to 1, or a little more"),
    )
    rule: Literal["token", "budget", "bet"] = parameter(
        "token",
        "Which of its tokens the base defers to the guide: token, budget or bet.",
        Choice(("token", "budget", "bet")),
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        is_symbol = (base.top(1).symbols == base.choice[:, None]).any(dim=-1)
        kept_from = 1 - self.threshold if self.rule == "bet" else self.threshold
        # More than half that is kept: nothing that the others and the guide add up to exceeds it.
        settled = is_symbol & (base.top_prob > max(0.5, kept_from)) & greedy
        open_rows = (~settled).nonzero()[:, 0].tolist()
        if open_rows:
            settled[open_rows] = ~self._can_change(base.rows(open_rows), greedy)
        return ~settled

    def mix(self, base: Prediction | None, guide: Prediction, greedy: bool = True) -> Mixture:
        assert base is not None
        of_base = base.top(None)
        deferred = self._deferred(of_base.probs, guide.top_prob)
        mass = (of_base.probs * deferred).sum(dim=-1) + of_base.unlisted
        kept = of_base._replace(
            probs=of_base.probs.masked_fill(deferred, 0), unlisted=0 * of_base.unlisted
        )
        return kept.mixed_with(
            guide.top(None),
            mass.clamp(0, 1),
            base.prob_of(guide.choice),
            base_weight=mass.new_ones(mass.shape),
        )

    def _can_change(self, base: Prediction, greedy: bool) -> Tensor:
        """Whether some distribution of the guide's changes what is emitted, `[N]` bool."""
        symbols, probs, unlisted, _ = base.top(None)
        # "bet" defers the most, and changes the most, where the guide is certain.
        most = self._deferred(probs, probs.new_ones(len(probs)))
        mass = (probs * most).sum(dim=-1) + unlisted
        if not greedy:
            return mass > 0
        own = symbols == base.choice[:, None]  # nowhere, if the choice is a special token
        own_prob = (probs * own).sum(dim=-1)
        stays = own_prob > (probs * most * own).sum(dim=-1)
        # The best rival is what the guide gives all of m: a symbol that was kept, or any other.
        kept = probs * ~most * (base.is_shared(symbols) & ~own)
        return (mass > 0) & (~stays | (kept.amax(dim=-1) + mass >= own_prob))

    def _deferred(self, probs: Tensor, guide_top_prob: Tensor) -> Tensor:
        """The mask d, `[N, C]` bool, of the base's `[N, C]` probabilities."""
        if self.rule == "token":
            return probs < self.threshold
        if self.rule == "bet":
            return probs < (guide_top_prob - self.threshold)[:, None]
        total = probs.double().sum(dim=-1, keepdim=True)
        for count in (min(512, probs.shape[1]), probs.shape[1]):
            top, places = probs.topk(count, dim=-1)
            likelier = top.double().cumsum(dim=-1) - top
            # Kept: what, with everything less likely, exceeds the budget.
            kept = total - likelier > self.threshold
            if not bool(kept[:, -1].any()):
                break
        return probs.new_ones(probs.shape).bool().scatter(-1, places, ~kept)


@dataclass(frozen=True)
class BaseOnly(Policy):
    """The base alone (τ = 0)."""

    reads_guide: ClassVar[bool] = False

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        return base.top_prob < 0


@dataclass(frozen=True)
class GuideOnly(Policy):
    """The guide alone, from its own prompt: each step is its own choice."""

    reads_base: ClassVar[bool] = False


@dataclass(frozen=True)
class InterventionCap(Policy):
    """The paper's negative baseline: another policy whose intervention rate is held down.

    After `grace_steps` steps, the base goes on alone where one more intervention would lift the
    intervention rate of the text so far above `max_rate`.

    Attributes:
        policy: what to do at the interventions that are let through; a policy or its name.
        max_rate: in [0, 1].
        grace_steps: the number of steps before the cap applies.
    """

    policy: Policy = field(default_factory=Blend)
    max_rate: float = parameter(0.2, "The highest intervention rate that is allowed.", Real(0, 1))
    grace_steps: int = parameter(20, "Steps before the cap applies.", Integer(0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", as_policy(self.policy))
        check_fields(self)
        capped = self.policy
        has_interventions = (
            capped.reads_base and capped.reads_guide and not isinstance(capped, InterventionCap)
        )
        if not has_interventions:
            raise ValueError(
                f"InterventionCap caps {self.policy!r}, which has no interventions to cap; "
                "use Blend(...), Nudge(...) or Defer(...)"
            )

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        return self.policy.intervenes(base, greedy)

    def mix(self, base: Prediction | None, guide: Prediction, greedy: bool = True) -> Mixture:
        return self.policy.mix(base, guide, greedy)

    def allows(self, interventions: int, steps: int) -> bool:
        """Whether a further intervention is let through after this many of each."""
        return steps < self.grace_steps or interventions + 1 <= self.max_rate * (steps + 1)

    def memory(self) -> Memory:
        return CapMemory(self, self.policy.memory())

    @property
    def scoring(self) -> Policy:
        return replace(self, policy=self.policy.scoring)

    @property
    def uncertain_below(self) -> float:
        return self.policy.uncertain_below

    @property
    def temperatures(self) -> Temperatures:
        return self.policy.temperatures


class CapMemory(Memory):
    """The capped policy's own memory, and the cap."""

    def __init__(self, cap: InterventionCap, inner: Memory) -> None:
        self._cap, self._inner = cap, inner

    @property
    def asks_base(self) -> bool:  # type: ignore[override]
        return self._inner.asks_base

    def allows(self, steps: int, interventions: int) -> bool:
        through = self._cap.allows(interventions, steps)
        return through and self._inner.allows(steps, interventions)

    def accepts(self, data: bytes) -> bool:
        return self._inner.accepts(data)


def calibration_of(policy: Policy) -> Calibration | None:
    """The calibration by which a policy decides; a capped one's is that of what it caps."""
    decides = policy.policy if isinstance(policy, InterventionCap) else policy
    return decides.calibration if isinstance(decides, Blend) else None


def described(policy: Policy) -> dict[str, Any]:
    """A policy's name and settings, for JSON; a calibration only where there is one, so that what
    was described before there were any is the same policy."""
    settings: dict[str, Any] = for_json(asdict(policy)) if is_dataclass(policy) else {}
    capped = settings.get("policy")
    for each in (settings, capped if isinstance(capped, dict) else {}):
        if each.get("calibration", "") is None:
            del each["calibration"]
    return {"name": type(policy).__name__, **settings}


def _capped_blend(
    max_rate: float = InterventionCap.max_rate,
    grace_steps: int = InterventionCap.grace_steps,
    **settings: Any,
) -> InterventionCap:
    return InterventionCap(Blend(**settings), max_rate, grace_steps)


POLICIES: Mapping[str, tuple[Callable[..., Policy], tuple[type[Policy], ...], tuple[str, ...]]] = {
    "blend": (Blend, (Blend,), ()),
    "nudge": (Nudge, (Nudge,), ("unit",)),
    "nudge-token": (partial(Nudge, unit="token"), (Nudge,), ("unit",)),
    "defer": (Defer, (Defer,), ()),
    "base": (BaseOnly, (), ()),
    "guide": (GuideOnly, (), ()),
    "cap": (_capped_blend, (Blend, InterventionCap), ("policy",)),
}
"""By name: how it is made, whose parameters it takes, and which of them the name settles."""

POLICY_NAMES = tuple(POLICIES)


class Parameter(NamedTuple):
    """A setting of one or more policies.

    Attributes:
        type: of its values; `str` for a word or the path of a file.
        default: where it is left out.
        help: one line.
    """

    type: Any
    default: Any
    help: str


def parameters(name: str) -> dict[str, Parameter]:
    """The settings of a named policy, which are written down once: in its class."""
    _, classes, settled = POLICIES[name]
    found = {}
    for owner in classes:
        hints = get_type_hints(owner)
        for each in fields(owner):  # type: ignore[arg-type]
            if each.name in settled or "help" not in each.metadata:
                continue
            of_values = get_args(hints[each.name]) or (hints[each.name],)
            kind = next(kind for kind in of_values if kind is not type(None))
            found[each.name] = Parameter(
                kind if kind in (int, float) else str, each.default, each.metadata["help"]
            )
    return found


def all_parameters() -> dict[str, Parameter]:
    """Those of every policy, for a command line that takes any."""
    found: dict[str, Parameter] = {}
    for name in POLICIES:
        for key, value in parameters(name).items():
            found.setdefault(key, value)
    return found


def named_policy(name: str, **settings: Any) -> Policy:
    """A policy from its name and those of its settings that are given.

    Args:
        name: one of `POLICY_NAMES`; "cap" is `InterventionCap(Blend(...))`.
        **settings: as its class takes them, None where left out; `top_k=0` is the whole
            vocabulary.

    Raises:
        ValueError: for an unknown name, a value out of range or a setting the policy lacks.
    """
    if name not in POLICIES:
        raise ValueError(
            f"policy {name!r} is unknown; use one of {', '.join(POLICIES)}"
            f"{did_you_mean(name, POLICIES)}"
        )
    given = {key: value for key, value in settings.items() if value is not None}
    if foreign := sorted(given.keys() - parameters(name).keys()):
        meant = did_you_mean(foreign[0], parameters(name))
        raise ValueError(
            f"the policy {name!r} has no setting {', '.join(foreign)}: leave it out{meant}"
        )
    if "top_k" in given and Integer(0)("top_k", given["top_k"]) == 0:
        given["top_k"] = None
    return POLICIES[name][0](**given)


def as_policy(policy: Policy | str) -> Policy:
    """A policy, given itself or by its name.

    Raises:
        ValueError: for an unknown name, or something else (a `TypeError`, too).
    """
    policy = plain(policy)
    if isinstance(policy, str):
        return named_policy(str.__str__(policy))
    if not isinstance(policy, Policy):
        is_class = isinstance(policy, type) and issubclass(policy, Policy)
        remedy = f"{policy.__name__}(...)" if is_class else "Blend(...)"
        raise SettingTypeError(
            f"{shown('policy')} is {told(policy)}; use a Policy such as {remedy}, or one of "
            f"{', '.join(POLICIES)}"
        )
    return policy
