"""What was likely at a step, for its trace: by the base, by the guide, and by their mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Candidate:
    """A symbol and its probability.

    Attributes:
        text: its bytes decoded, with U+FFFD for half a character; the name of a token without bytes
            (`<|im_start|>`); empty for END.
        token_bytes: what it adds to the text; empty for END and for tokens without bytes.
        prob: in (0, 1], at temperature 1.
        base_id: the base's own token for it; None where it has none, and for END.
        guide_id: likewise, the guide's.
        is_end: whether it is END, which stands for all of a model's end tokens together.
        is_special: whether it is a control token, or none at all (a padding row).
    """

    text: str
    token_bytes: bytes
    prob: float
    base_id: int | None = None
    guide_id: int | None = None
    is_end: bool = False
    is_special: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the bytes in hexadecimal."""
        return asdict(self) | {"token_bytes": self.token_bytes.hex()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The candidate that `to_dict` told of.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        own = {name: told[name] for name in cls.__slots__}
        return cls(**own | {"token_bytes": bytes.fromhex(own["token_bytes"])})


@dataclass(frozen=True, slots=True)
class StepCandidates:
    """What was likely at a step.

    The lists are in descending order. Those of the models are over all their tokens, special ones
    included, with their own softmax. What was emitted from is the policy's distribution before
    temperature, top-p and the other sampling settings: the model's own where it decides alone, and
    at an intervention normalised over the candidates. No symbol of probability 0 is listed, and of
    a server no more than it lists.

    Attributes:
        chosen: the symbol that was emitted, with its probability in what was emitted from.
        base_prob: its probability of the base; None where that was not run, or its server does not
            list it.
        guide_prob: likewise, of the guide.
        base: the base's likeliest; empty where it was not run.
        guide: likewise, the guide's.
        emitted: of the distribution that was emitted from.
    """

    chosen: Candidate
    base_prob: float | None = None
    guide_prob: float | None = None
    base: tuple[Candidate, ...] = ()
    guide: tuple[Candidate, ...] = ()
    emitted: tuple[Candidate, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "chosen": self.chosen.to_dict(),
            "base_prob": self.base_prob,
            "guide_prob": self.guide_prob,
            **{name: [each.to_dict() for each in getattr(self, name)] for name in LISTS},
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """What `to_dict` told of.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        lists = {name: tuple(map(Candidate.from_dict, told[name])) for name in LISTS}
        chosen = Candidate.from_dict(told["chosen"])
        return cls(chosen, told["base_prob"], told["guide_prob"], **lists)


LISTS = ("base", "guide", "emitted")
