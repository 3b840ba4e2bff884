"""The moves of a decoding step on one sequence: ask a model, take a symbol, write it down."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .alignment import Alignment
from .decision import GuideView, SymbolTables, blend, consult, gate, guide_candidate_probs, prob_of
from .fused import checked_kernel_tables
from .model import Context, LanguageModel
from .policy import Blend
from .sampling import Sampling
from .sequence import Sequence
from .trace import Source, Step

logger = logging.getLogger("blendin")


class Pair:
    """A base and a guide with their vocabularies aligned.

    Attributes:
        tables: the alignment on the device of the base's logits, where steps are decided.
        fused: the same for the Triton kernels; None where they do not run.
    """

    def __init__(
        self, base: LanguageModel, guide: LanguageModel, fused: bool | None = None
    ) -> None:
        """Aligns two models.

        Args:
            base: the base.
            guide: the guide.
            fused: whether the kernels decide greedy blends; by default on CUDA devices.
        """
        self.base, self.guide = base, guide
        self.alignment = Alignment(base.vocabulary, guide.vocabulary, base.end_ids, guide.end_ids)
        self.tables = self.alignment.tables.to(base.device)
        fused = base.device.type == "cuda" if fused is None else fused
        self.fused = checked_kernel_tables(self.tables, self.alignment.same) if fused else None


class OwnView(NamedTuple):
    """What a model alone says of a step, and what the host needs of it.

    Attributes:
        logits: `[1, V]`.
        gate: `decision.Gate`, or the kernels' `Gated`.
        top_prob: p_b (or the guide's, where it decodes alone).
        choice: its argmax symbol.
    """

    logits: Tensor
    gate: Any
    top_prob: float
    choice: int


class Nudged(NamedTuple):
    """What the guide alone says at an intervention; the numbers on the host."""

    guide: GuideView
    symbol: int
    top_prob: float
    agreement: float | None


class Stepper:
    """The moves of a step on one sequence.

    What the host needs of a decision it fetches in one transfer, since on a GPU each one waits.
    """

    def __init__(
        self, pair: Pair, sequence: Sequence, sampling: Sampling, generator: torch.Generator
    ) -> None:
        self.pair, self.sequence = pair, sequence
        self.sampling, self.generator = sampling, generator
        sequence.start()

    def read(self, model: LanguageModel, context: Context) -> Tensor | None:
        """`[1, V]` logits on the pair's device; None (the sequence ended) where it is full."""
        if model.max_length is not None and len(context.ids) > model.max_length:
            logger.warning(
                "%s has filled its context of %d tokens: the text ends there",
                model.name,
                model.max_length,
            )
            self.sequence.finish("length")
            return None
        return model.forward(context).to(self.pair.tables.base_ends.device)

    def ask_base(self) -> OwnView | None:
        assert self.sequence.base is not None
        logits = self.read(self.pair.base, self.sequence.base)
        if logits is None:
            return None
        return self.own_view(logits, self.pair.tables, self.pair.base)

    def ask_guide(self) -> Tensor | None:
        assert self.sequence.guide is not None
        return self.read(self.pair.guide, self.sequence.guide)

    def own_view(self, logits: Tensor, tables: SymbolTables, model: LanguageModel) -> OwnView:
        view = gate(logits, tables)
        top_prob, choice = _fetch(view.top_prob, view.choice)
        return OwnView(logits, view, self.checked(top_prob, model), int(choice))

    def own_choice(self, own: OwnView, context: Context, model: LanguageModel) -> tuple[int, bool]:
        """What a model alone chooses: (id, whether it is one of its end tokens)."""
        logits = own.logits[0]
        if not self.sampling.is_argmax:
            id = self.sampling.pick(logits, context.ids, self.generator)
        elif own.choice == self.pair.tables.end:
            id = max(sorted(model.end_ids), key=lambda end: float(logits[end]))
        else:
            id = own.choice
        return id, id in model.end_ids

    def emit_base(self, base: OwnView) -> Step:
        """The base is confident, or goes on alone."""
        assert self.sequence.base is not None
        id, is_end = self.own_choice(base, self.sequence.base, self.pair.base)
        self.sequence.base_wrote(id)
        return self.sequence.record(
            b"" if is_end else self.pair.alignment.data(id),
            source="base",
            intervened=False,
            base_top_prob=base.top_prob,
            token_ids=(id,),
            is_end=is_end,
        )

    def emit_blend(self, base: OwnView, guide_logits: Tensor, policy: Blend) -> Step:
        """An intervention under `Blend`."""
        guide = consult(guide_logits, self.pair.tables)
        blended = blend(
            base.gate,
            guide,
            self.pair.tables,
            agreement_bonus=policy.agreement_bonus,
            top_k=policy.top_k,
            alpha=policy.alpha,
        )
        chosen = self._take(blended.probs)
        symbol, of_base, of_guide, guide_top_prob, alpha, agreed = _fetch(
            chosen,
            blended.base[0, chosen],
            blended.guide[0, chosen],
            guide.top_prob,
            blended.alpha,
            blended.agreement,
        )
        self.checked(guide_top_prob, self.pair.guide)
        return self.emit(
            int(symbol),
            lambda: self._end_id(base.gate.probs, guide.probs, alpha),
            source=source(of_base > 0, of_guide > 0),
            base_top_prob=base.top_prob,
            guide_top_prob=guide_top_prob,
            alpha=alpha,
            agreement=agreed,
        )

    def nudge(self, guide_logits: Tensor, base: OwnView | None = None) -> Nudged:
        """The guide's choice; `base` is None inside a word, where it is not asked."""
        tables = self.pair.tables
        guide = consult(guide_logits, tables)
        chosen = guide.choice
        if not self.sampling.is_argmax:
            chosen = self._take(guide_candidate_probs(guide, tables, k=None))
        agreed = () if base is None else (prob_of(base.gate.probs, guide.choice, tables),)
        symbol, top_prob, *agreed_prob = _fetch(chosen, guide.top_prob, *agreed)
        self.checked(top_prob, self.pair.guide)
        return Nudged(guide, int(symbol), top_prob, agreed_prob[0] if agreed_prob else None)

    def emit_guide(self, nudged: Nudged, base: OwnView | None = None) -> Step:
        """An intervention under `Nudge`."""
        base_probs = None if base is None else base.gate.probs
        return self.emit(
            nudged.symbol,
            lambda: self._end_id(base_probs, nudged.guide.probs, alpha=1.0),
            source="guide",
            base_top_prob=None if base is None else base.top_prob,
            guide_top_prob=nudged.top_prob,
            alpha=1.0,
            agreement=nudged.agreement,
        )

    def checked(self, top_prob: float, model: LanguageModel) -> float:
        """An error for NaN, which would compare as uncertain and blend into nothing."""
        if not math.isfinite(top_prob):
            raise FloatingPointError(
                f"{model.name} gave logits that are not numbers at step "
                f"{len(self.sequence.output.steps)}; try dtype=torch.float32 or bfloat16"
            )
        return top_prob

    def _take(self, probs: Tensor) -> Tensor:
        """`[1]` int64: one symbol of a `[1, S]` distribution over the joint space."""
        if self.sampling.is_argmax:
            return probs.argmax(dim=-1)
        assert self.sequence.base is not None and self.sequence.guide is not None
        width = len(self.pair.alignment.base)
        symbols = self.pair.tables.guide_symbols[self.sequence.guide.ids].tolist()
        seen = [*self.sequence.base.ids, *(symbol for symbol in symbols if symbol >= width)]
        return torch.tensor(
            [self.sampling.pick(probs[0].log(), seen, self.generator)], device=probs.device
        )

    def emit(self, symbol: int, end_id: Callable[[], int], **fields: Any) -> Step:
        """Writes down the symbol of an intervention; `end_id` names END's in the base's ids."""
        is_end = symbol == self.pair.tables.end
        token_ids = [end_id()] if is_end else self.sequence.both_wrote(symbol)
        return self.sequence.record(
            self.pair.alignment.data(symbol),
            intervened=True,
            token_ids=tuple(token_ids),
            is_end=is_end,
            **fields,
        )

    def _end_id(self, base_probs: Tensor | None, guide_probs: Tensor, alpha: float) -> int:
        """The likeliest of the ids behind END, in the base's vocabulary."""
        same = self.pair.alignment.same
        share = 1 - alpha if same else 1.0
        weights = {
            id: 0.0 if base_probs is None else share * float(base_probs[0, id])
            for id in sorted(self.pair.base.end_ids)
        }
        if same:
            for id in sorted(self.pair.guide.end_ids):
                weights[id] = weights.get(id, 0.0) + alpha * float(guide_probs[0, id])
        return max(weights, key=weights.__getitem__)


def source(from_base: bool, from_guide: bool) -> Source:
    """The trace's word for which models gave the chosen symbol weight."""
    if from_base and from_guide:
        return "both"
    return "base" if from_base else "guide"


def _fetch(*values: Tensor) -> list[float]:
    """One number each, to the host at once; float32 holds any symbol exactly."""
    return torch.cat([value.reshape(1).float() for value in values]).tolist()
