"""One sequence's part in a step: what each model said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..decision.dense import GuideView
from ..decision.top_logprobs import ListedGuide, Rows, scores_of
from ..models.protocol import Model
from ..trace import Source
from .sequence import Sequence


class OwnView(NamedTuple):
    """What a model alone says of one sequence's step, and what the host needs of it.

    Attributes:
        rows: of all the sequences that were asked at once.
        gate: `decision.Gate`, `listed.ListedGate` or the kernels' `Gated` of them.
        row: this sequence's among them.
        top_prob: p_b (or the guide's, where it decodes alone).
        choice: its argmax symbol.
    """

    rows: Rows
    gate: Any
    row: int
    top_prob: float
    choice: int

    @property
    def scores(self) -> Tensor:
        """`[V]`, to draw from."""
        return scores_of(self.rows, self.row)


class Nudged(NamedTuple):
    """What the guide alone says at an intervention; the numbers on the host.

    `row` is the sequence's in `guide`.
    """

    guide: GuideView | ListedGuide
    row: int
    symbol: int
    top_prob: float
    agreement: float | None
    agreement_rank: int | None


@dataclass(eq=False)
class Turn:
    """One sequence's part in a step.

    Attributes:
        base: what the base said; None where it was not asked.
        guide_row: its row in the guide's logits, once they are there.
    """

    sequence: Sequence
    base: OwnView | None = None
    guide_row: int = -1


def check_finite(top_prob: float, model: Model, sequence: Sequence) -> None:
    """An error for NaN, which would compare as uncertain and blend into nothing.

    0 is what a server's list gives in which no token may be emitted.
    """
    if top_prob == 0:
        raise ValueError(
            f"none of the tokens that {model.name} lists at step {len(sequence.output.steps)} may "
            "be emitted: have it list more (top_logprobs)"
        )
    if not math.isfinite(top_prob):
        raise FloatingPointError(
            f"{model.name} gave logits that are not numbers at step "
            f"{len(sequence.output.steps)}; try dtype=torch.float32 or bfloat16"
        )


def source(from_base: bool, from_guide: bool) -> Source:
    """The trace's word for which models gave the chosen symbol weight."""
    if from_base and from_guide:
        return "both"
    return "base" if from_base else "guide"
