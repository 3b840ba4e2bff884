"""Speculation beside the loop: what comes next is read before it is decided, and decided as ever.

The policy's own decision is taken at every token (gate, blend, draw and all), so a draft changes
what a step costs and never what it emits: where a token comes as drafted, the prediction after it
is cached already, and where it does not, that is read as without a draft. For greedy decoding this
is verification as in speculative decoding (Leviathan et al., arXiv 2211.17192); with sampling a
draft token is kept with the probability that the policy gives it, which is what speculative
sampling does with a draft of probability 1.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..models.context import Context
from ..models.lookahead import MAX_DRAFT_TOKENS, common_prefix
from ..models.protocol import Model
from ..settings import Speculate
from ..trace import Generation
from ..vocab.alignment import Alignment
from .cost_model import CostModel
from .drafters import Draft, NgramLookup, guide_draft

logger = logging.getLogger("blendin")


def max_draft_tokens(speculate: Speculate) -> int | None:
    """How many tokens a server may write beyond the next one; None: as many as pay.

    Raises:
        ValueError: a way of drafting that servers do not know.
    """
    if isinstance(speculate, int):
        return speculate
    if speculate not in ("auto", "off"):
        raise ValueError(
            f"speculate={speculate!r} reads drafts with a model that runs here, and a server "
            "writes its own: use auto, off or a number of tokens"
        )
    return None if speculate == "auto" else 0


class HasLength(Protocol):
    """When a sequence ends without END."""

    @property
    def max_new_tokens(self) -> int: ...


class SpeculativeSequence(Protocol):
    """What speculation needs of a sequence.

    Its target model is the base, or the guide where the policy asks that alone and `base` is None.
    """

    @property
    def base(self) -> Context | None: ...
    @property
    def guide(self) -> Context | None: ...
    @property
    def pending_bytes(self) -> bytes | bytearray:
        """Text that the guide's context has yet to gain."""
        ...

    @property
    def output(self) -> Generation: ...
    @property
    def limits(self) -> HasLength: ...
    @property
    def done(self) -> bool: ...
    @property
    def asks_target(self) -> bool:
        """Whether its next step begins with its target model."""
        ...

    @property
    def speculator(self) -> Speculator | None: ...


@dataclass(eq=False)
class Speculator:
    """One sequence's drafts.

    Attributes:
        speculate: as the caller set it; not "off".
        draft: the draft that is being verified; None where there is none.
        start: the length of the target's context when it was made.
        lookup: the sequence's own n-grams.
    """

    speculate: Speculate
    draft: Draft | None = None
    start: int = 0
    lookup: NgramLookup = field(default_factory=NgramLookup)


class Verification:
    """One step of a sequence that speculates: a draft before it, and what the text made of it."""

    def __init__(
        self,
        sequence: SpeculativeSequence,
        speculator: Speculator,
        context: Context,
        is_timed: bool,
    ) -> None:
        self.sequence, self.speculator, self.context = sequence, speculator, context
        self.is_timed = is_timed
        self.length, self.steps = len(context.ids), len(sequence.output.steps)
        self.asks_target, self.drafting = sequence.asks_target, 0.0
        self.held = context.cached
        if context.lookahead is not None:
            self.held = min(self.held, context.lookahead.agreed_end(context.ids))
        self.mark_forwards()

    def mark_forwards(self) -> None:
        """Remembers how many forwards there were before the step itself."""
        guide = self.sequence.guide
        self.forwards, self.guide_forwards = self.context.forwards, guide.forwards if guide else 0

    def settle(self, costs: CostModel) -> None:
        """Notes in the trace whether the step came as drafted, and ends a draft that is judged."""
        speculator, context, steps = self.speculator, self.context, self.sequence.output.steps
        context.draft_tokens = []
        if speculator.draft is None:
            return
        if speculator.start == self.length:  # it was made for this step; some of it was read
            read = context.lookahead
            tokens = read.tokens if read is not None and read.start == self.length else []
            speculator.draft = Draft(speculator.draft.kind, tokens) if tokens else None
            if speculator.draft is None:
                return
        place, tokens = self.length - speculator.start, speculator.draft.tokens
        for index in range(self.steps, len(steps)):
            emitted = list(steps[index].token_ids)
            expected = tokens[place : place + len(emitted)]
            if place >= len(tokens):
                break
            steps[index] = replace(
                steps[index], draft="accepted" if emitted == expected else "rejected"
            )
            place += len(emitted)
        new = context.ids[speculator.start :]
        accepted = common_prefix(new, tokens)
        if accepted < len(new) or accepted == len(tokens) or self.sequence.done:
            judged = accepted + 1 if accepted < len(new) else accepted
            costs.draft_judged(speculator.draft.kind, accepted, min(judged, len(tokens)))
            speculator.draft = None


class Speculation:
    """Drafts for the sequences of one pair.

    Attributes:
        cost_model: what the pair's forwards cost, and how often drafts are right.
    """

    def __init__(self, base_model: Model, guide_model: Model, alignment: Alignment) -> None:
        self.base_model, self.guide_model, self.alignment = base_model, guide_model, alignment
        self.cost_model = CostModel()

    def before_step(
        self, sequences: Sequence[SpeculativeSequence], in_company: bool = False
    ) -> list[Verification]:
        """Gives contexts draft tokens where they are asked for and promise to pay.

        "auto" drafts for a sequence alone: in company the forwards are full as they are, and a
        draft that is wrong costs every other sequence time.

        Args:
            sequences: that make the step.
            in_company: others are in flight that do not.
        """
        alone = len(sequences) == 1 and not in_company
        if alone:
            self._prefetch(sequences[0])
        begun = []
        for sequence in sequences:
            speculator, (model, context) = sequence.speculator, self._target(sequence)
            if speculator is None or sequence.done or not model.can_draft or context is None:
                continue
            if not alone and speculator.speculate == "auto":
                continue
            verification = Verification(sequence, speculator, context, is_timed=alone)
            context.draft_tokens = []
            if speculator.draft is None and verification.asks_target:
                self._propose(verification)
            begun.append(verification)
        return begun

    def after_step(
        self, verifications: Sequence[Verification], base_seconds: float, seconds: float
    ) -> None:
        """Learns from a step, and ends the drafts that it decided.

        Args:
            verifications: of `before_step`.
            base_seconds: what the base's part in the step took, its decisions included.
            seconds: what the whole step took.
        """
        for verification in verifications:
            if verification.is_timed:
                self._measure(verification, base_seconds, seconds)
            verification.settle(self.cost_model)

    def _target(self, sequence: SpeculativeSequence) -> tuple[Model, Context | None]:
        if sequence.base is None:
            return self.guide_model, sequence.guide
        return self.base_model, sequence.base

    def _prefetch(self, sequence: SpeculativeSequence) -> None:
        """After an intervention asks the guide along with the base.

        Two in five interventions are followed by another; an idle server answers both at once.
        """
        guide, steps = sequence.guide, sequence.output.steps
        if guide is None or sequence.base is None or sequence.done:
            return
        if steps and steps[-1].intervened and not sequence.pending_bytes:
            self.guide_model.prefetch(guide)

    def _propose(self, verification: Verification) -> None:
        began = time.perf_counter()
        speculator, context = verification.speculator, verification.context
        draft = self._draft(verification.sequence, speculator, context)
        if draft is not None:
            context.draft_tokens = draft.tokens
            speculator.draft, speculator.start = draft, verification.length
        verification.mark_forwards()
        verification.drafting = time.perf_counter() - began

    def _draft(
        self, sequence: SpeculativeSequence, speculator: Speculator, context: Context
    ) -> Draft | None:
        """A new draft, of as many tokens as are worth reading."""
        mode, costs = speculator.speculate, self.cost_model
        left = sequence.limits.max_new_tokens - len(sequence.output.steps) - 1
        most = min(MAX_DRAFT_TOKENS, left)
        if isinstance(mode, int):
            most = min(most, mode)
            return speculator.lookup.draft(context.ids, most) or self._by_guide(sequence, most)
        if costs.budget <= 0:
            return None
        if mode in ("auto", "lookup"):
            found = speculator.lookup.draft(context.ids, most)
            count = costs.length(found.kind, most) if found is not None else 0
            if found is not None and count:
                return Draft(found.kind, found.tokens[:count])
        if mode in ("auto", "guide"):
            return self._by_guide(sequence, costs.length("guide", most, by_guide=True))
        return None

    def _by_guide(self, sequence: SpeculativeSequence, count: int) -> Draft | None:
        if count < 1 or sequence.base is None or sequence.guide is None:
            return None
        pending = bytes(sequence.pending_bytes)
        try:
            return guide_draft(self.guide_model, sequence.guide, self.alignment, pending, count)
        except Exception as error:  # where it matters it will fail again, in the step itself
            logger.warning("%s could not write a draft: %s", self.guide_model.name, error)
            return None

    def _measure(self, step: Verification, base_seconds: float, seconds: float) -> None:
        context, guide = step.context, step.sequence.guide
        if context is guide:
            base_seconds = seconds
        elif guide is not None and guide.forwards > step.guide_forwards:
            self.cost_model.guide_read(seconds - base_seconds)
        if not step.asks_target:
            return
        tokens = drafted = 0
        if context.forwards > step.forwards:
            tokens = step.length - step.held
            ahead = context.lookahead
            drafted = len(ahead.tokens) if ahead is not None and ahead.start == step.length else 0
        if tokens and not step.held:
            self.cost_model.prompt_read(base_seconds, tokens)
        elif tokens + drafted <= MAX_DRAFT_TOKENS + 1:
            self.cost_model.target_read(base_seconds, tokens, drafted, step.drafting)
