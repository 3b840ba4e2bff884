"""Chains of reasoning: steps, what each rests on, and which are right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

ANNOTATION = re.compile(r"<<(?P<expression>[^<>=]*)=(?P<result>[^<>=]*)>>")
ANY_ANNOTATION = re.compile(r"<<[^<>]*>>")

Role = Literal["own", "restatement", "part"]


class Equation(NamedTuple):
    """What an annotation says: `<<48/2=24>>`."""

    expression: str
    result: str


class LeftOut(NamedTuple):
    """A chain that is not there, and why; reasons are few, and counted."""

    id: str
    reason: str


@dataclass(frozen=True)
class Step:
    """One line of reasoning.

    Attributes:
        text: with its annotation, where the source has any.
        origin: the place in the source's solution of the step that this is, repeats or prepares.
        role: "own", a "restatement" of its origin, or a "part" of it that is computed before.
        uses: the steps (their origins) whose results are operands of its equation, as the
            annotations tell beyond doubt.
        after: further steps that it may rest on, by its words or by a number that several steps
            or the question have; orders keep it behind them, too.
        correct: whether what it says is true in the problem; None where that is not known.
        marker: the words of confidence that `text` begins with.
    """

    text: str
    origin: int
    role: Role = "own"
    uses: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    correct: bool | None = True
    marker: str = ""

    @property
    def visible(self) -> str:
        """What a model reads: the text without annotations."""
        return ANY_ANNOTATION.sub("", self.text)

    @property
    def equation(self) -> Equation | None:
        """The annotation; None where there is none, or not just one."""
        found = ANNOTATION.findall(self.text)
        return Equation(*found[0]) if len(found) == 1 else None

    @property
    def rests_on(self) -> frozenset[int]:
        """All steps that have to stand before it."""
        return frozenset((*self.uses, *self.after))


@dataclass(frozen=True)
class Chain:
    """A solution, step by step.

    Attributes:
        id: of the source's item; a right chain and the wrong one made of it share it.
        question: the problem.
        steps: in the order in which they stand.
        answer: the problem's right answer as the source writes it; None where it gives none.
        first_wrong: the origin of the first step that is wrong; None for a right chain.
        dependencies: whether `uses` and `after` are known; without them there is no other order.
        transformation: what was done to it; "original" for nothing.
        strength: of that, 0..1.
        seed: of that.
    """

    id: str
    question: str
    steps: tuple[Step, ...]
    answer: str | None = None
    first_wrong: int | None = None
    dependencies: bool = True
    transformation: str = "original"
    strength: float = 0.0
    seed: int = 0

    @property
    def is_right(self) -> bool:
        """Whether no step is wrong."""
        return self.first_wrong is None

    @property
    def text(self) -> str:
        """What a model reads, a step a line."""
        return "\n".join(self.texts)

    @property
    def texts(self) -> list[str]:
        """Of each step, what a model reads."""
        return [step.visible for step in self.steps]

    @property
    def order(self) -> list[int]:
        """The origins of its own steps, as they stand."""
        return [step.origin for step in self.steps if step.role == "own"]

    def in_order(self, order: Sequence[int]) -> Chain:
        """The same steps in another order of their origins; a restatement stays with its own."""
        places = {origin: place for place, origin in enumerate(order)}
        steps = sorted(self.steps, key=lambda step: places[step.origin])
        return replace(self, steps=tuple(steps))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every step with what it rests on; places count from 0, origins too."""
        return {
            "id": self.id,
            "transformation": self.transformation,
            "strength": self.strength,
            "seed": self.seed,
            "question": self.question,
            "right": self.is_right,
            "answer": self.answer,
            "first_wrong": self.first_wrong,
            "first_wrong_place": self.place_of_first_wrong,
            "order": self.order,
            "steps": [
                {
                    "text": step.visible,
                    "annotated": step.text,
                    "origin": step.origin,
                    "role": step.role,
                    "uses": list(step.uses) if self.dependencies else None,
                    "kept_after": list(step.after) if self.dependencies else None,
                    "equation": None if step.equation is None else "=".join(step.equation),
                    "correct": step.correct,
                    "marker": step.marker,
                }
                for step in self.steps
            ],
        }

    @property
    def place_of_first_wrong(self) -> int | None:
        """Where the first wrong step stands now."""
        places = (
            place
            for place, step in enumerate(self.steps)
            if step.role == "own" and step.origin == self.first_wrong
        )
        return next(places, None)


def counted(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """How many are left out for which reason, the most frequent first."""
    counts: dict[str, int] = {}
    for each in left_out:
        counts[each.reason] = counts.get(each.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
