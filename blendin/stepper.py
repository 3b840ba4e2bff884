"""The moves of a decoding step on one sequence: ask a model, take a symbol, write it down."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .alignment import Alignment
from .decision import Gate, GuideView, agreement, blend, candidate_probs, consult, gate
from .model import Context, LanguageModel
from .policy import Blend
from .sampling import Sampling
from .sequence import Sequence
from .trace import Step

logger = logging.getLogger("blendin")


class Pair:
    """A base and a guide with their vocabularies aligned.

    Attributes:
        tables: the alignment on the device of the base's logits, where steps are decided.
    """

    def __init__(self, base: LanguageModel, guide: LanguageModel) -> None:
        self.base, self.guide = base, guide
        self.alignment = Alignment(base.vocabulary, guide.vocabulary, base.end_ids, guide.end_ids)
        self.tables = self.alignment.tables.to(base.device)


class OwnView(NamedTuple):
    """What a model alone says of a step: the tensors, and what the host needs of them."""

    gate: Gate
    top_prob: float
    choice: int


class Nudged(NamedTuple):
    """What the guide alone says at an intervention, on the host."""

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
        return self.own_view(gate(logits, self.pair.tables), self.pair.base)

    def ask_guide(self) -> GuideView | None:
        assert self.sequence.guide is not None
        logits = self.read(self.pair.guide, self.sequence.guide)
        return None if logits is None else consult(logits, self.pair.tables)

    def own_view(self, view: Gate, model: LanguageModel) -> OwnView:
        top_prob, choice = _fetch(view.top_prob, view.choice)
        return OwnView(view, self._checked(top_prob, model), int(choice))

    def own_choice(self, own: OwnView, context: Context, model: LanguageModel) -> tuple[int, bool]:
        """What a model alone chooses: (id, whether it is one of its end tokens)."""
        logits = own.gate.logits[0]
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

    def emit_blend(self, base: OwnView, guide: GuideView, policy: Blend) -> Step:
        """An intervention under `Blend`."""
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
        self._checked(guide_top_prob, self.pair.guide)
        sources = {(True, False): "base", (False, True): "guide"}
        return self._emit(
            int(symbol),
            base.gate.probs,
            guide,
            source=sources.get((of_base > 0, of_guide > 0), "both"),
            base_top_prob=base.top_prob,
            guide_top_prob=guide_top_prob,
            alpha=alpha,
            agreement=agreed,
        )

    def nudge(self, guide: GuideView, base: OwnView | None = None) -> Nudged:
        """The guide's choice; `base` is None inside a word, where it is not asked."""
        tables = self.pair.tables
        chosen = guide.choice
        if not self.sampling.is_argmax:
            chosen = self._take(
                candidate_probs(
                    guide.probs,
                    tables.guide_candidates,
                    tables.guide_ends,
                    tables.guide_symbols,
                    tables.end,
                    k=None,
                )
            )
        agreed = () if base is None else (agreement(base.gate.probs, guide.choice, tables),)
        symbol, top_prob, *agreed_prob = _fetch(chosen, guide.top_prob, *agreed)
        self._checked(top_prob, self.pair.guide)
        return Nudged(int(symbol), top_prob, agreed_prob[0] if agreed_prob else None)

    def emit_guide(self, guide: GuideView, nudged: Nudged, base: OwnView | None = None) -> Step:
        """An intervention under `Nudge`."""
        return self._emit(
            nudged.symbol,
            None if base is None else base.gate.probs,
            guide,
            source="guide",
            base_top_prob=None if base is None else base.top_prob,
            guide_top_prob=nudged.top_prob,
            alpha=1.0,
            agreement=nudged.agreement,
        )

    def _checked(self, top_prob: float, model: LanguageModel) -> float:
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

    def _emit(
        self, symbol: int, base_probs: Tensor | None, guide: GuideView, **fields: Any
    ) -> Step:
        is_end = symbol == self.pair.tables.end
        if is_end:
            token_ids = [self._end_id(base_probs, guide.probs, fields["alpha"])]
        else:
            token_ids = self.sequence.both_wrote(symbol)
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


def _fetch(*values: Tensor) -> list[float]:
    """One number each, to the host at once; float32 holds any symbol exactly."""
    return torch.cat([value.reshape(1).float() for value in values]).tolist()
