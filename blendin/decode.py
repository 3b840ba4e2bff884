"""The paired decoding loop: BlendIn's Algorithm 1 and its relatives, one sequence at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .alignment import Alignment
from .decision import Gate, GuideView, agreement, blend, candidate_probs, consult, gate
from .model import Context, LanguageModel
from .policy import BaseOnly, Blend, InterventionCap, Nudge
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


def decode(
    pair: Pair,
    sequence: Sequence,
    policy: Blend | Nudge | BaseOnly | InterventionCap,
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Decodes a sequence step by step; the guide runs at interventions alone.

    Cost: one base forward a step, and at each intervention one guide forward over what it missed.
    """
    step = _Stepper(pair, sequence, sampling, generator)
    cap = policy if isinstance(policy, InterventionCap) else None
    policy = cap.policy if cap else policy
    threshold = 0.0 if isinstance(policy, BaseOnly) else policy.threshold
    while not sequence.done:
        base = step.ask_base()
        if base is None:
            return
        confident = step.top_prob(base.top_prob, pair.base) >= threshold
        capped = cap and not cap.allows(sequence.interventions, len(sequence.output.steps))
        if confident or capped or not sequence.guide_catches_up():
            yield step.emit_base(base)
            continue
        guide = step.ask_guide()
        if guide is None:
            return
        if isinstance(policy, Blend):
            yield step.emit_blend(base, guide, policy)
            continue
        yield step.emit_guide(guide, base)
        while policy.unit == "word" and not sequence.done:
            guide = step.ask_guide()
            if guide is None:
                return
            symbol = step.guide_symbol(guide)
            if _begins_word(pair.alignment.data(symbol)):
                break
            yield step.emit_guide(guide, symbol=symbol)


def decode_guide_alone(
    pair: Pair, sequence: Sequence, sampling: Sampling, generator: torch.Generator
) -> Iterator[Step]:
    """Decodes with the guide as the only model, as its own `generate` would."""
    context, vocabulary = sequence.guide, pair.guide.vocabulary
    assert context is not None
    step = _Stepper(pair, sequence, sampling, generator)
    tables = pair.tables._replace(base_ends=pair.tables.guide_ends)
    while not sequence.done:
        logits = step.read(pair.guide, context)
        if logits is None:
            return
        view = gate(logits, tables)
        id, is_end = step.own_choice(view, context, pair.guide)
        context.ids.append(id)
        yield sequence.record(
            b"" if is_end else vocabulary.tokens[id] or b"",
            source="guide",
            intervened=True,
            guide_top_prob=step.top_prob(view.top_prob, pair.guide),
            alpha=1.0,
            token_ids=(id,),
            is_end=is_end,
        )


class _Stepper:
    """The moves of a step on one sequence: ask a model, take a symbol, write it down."""

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

    def ask_base(self) -> Gate | None:
        assert self.sequence.base is not None
        logits = self.read(self.pair.base, self.sequence.base)
        return None if logits is None else gate(logits, self.pair.tables)

    def ask_guide(self) -> GuideView | None:
        assert self.sequence.guide is not None
        logits = self.read(self.pair.guide, self.sequence.guide)
        if logits is None:
            return None
        guide = consult(logits, self.pair.tables)
        self.top_prob(guide.top_prob, self.pair.guide)
        return guide

    def top_prob(self, top_prob: Tensor, model: LanguageModel) -> float:
        """The row's number, or an error: NaN would compare as uncertain and blend into nothing."""
        value = float(top_prob[0])
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{model.name} gave logits that are not numbers at step "
                f"{len(self.sequence.output.steps)}; try dtype=torch.float32 or bfloat16"
            )
        return value

    def own_choice(self, view: Gate, context: Context, model: LanguageModel) -> tuple[int, bool]:
        """What a model alone chooses: (id, whether it is one of its end tokens)."""
        if self.sampling.is_argmax:
            id = int(view.choice[0])
            if id == self.pair.tables.end:
                id = max(sorted(model.end_ids), key=lambda end: float(view.logits[0, end]))
        else:
            id = self.sampling.pick(view.logits[0], context.ids, self.generator)
        return id, id in model.end_ids

    def emit_base(self, base: Gate) -> Step:
        """The base is confident, or goes on alone."""
        assert self.sequence.base is not None
        id, is_end = self.own_choice(base, self.sequence.base, self.pair.base)
        self.sequence.base_wrote(id)
        return self.sequence.record(
            b"" if is_end else self.pair.alignment.data(id),
            source="base",
            intervened=False,
            base_top_prob=float(base.top_prob[0]),
            token_ids=(id,),
            is_end=is_end,
        )

    def emit_blend(self, base: Gate, guide: GuideView, policy: Blend) -> Step:
        """An intervention under `Blend`."""
        blended = blend(
            base,
            guide,
            self.pair.tables,
            agreement_bonus=policy.agreement_bonus,
            top_k=policy.top_k,
            alpha=policy.alpha,
        )
        symbol = self._take(blended.probs)
        weights = (float(blended.base[0, symbol]) > 0, float(blended.guide[0, symbol]) > 0)
        return self._emit(
            symbol,
            base.probs,
            guide,
            source={(True, False): "base", (False, True): "guide"}.get(weights, "both"),
            base_top_prob=float(base.top_prob[0]),
            alpha=float(blended.alpha[0]),
            agreement=float(blended.agreement[0]),
        )

    def guide_symbol(self, guide: GuideView) -> int:
        """The guide's own choice among the candidates."""
        if self.sampling.is_argmax:
            return int(guide.choice[0])
        tables = self.pair.tables
        return self._take(
            candidate_probs(
                guide.probs,
                tables.guide_candidates,
                tables.guide_ends,
                tables.guide_symbols,
                tables.end,
                k=None,
            )
        )

    def emit_guide(
        self, guide: GuideView, base: Gate | None = None, symbol: int | None = None
    ) -> Step:
        """An intervention under `Nudge`; `base` is None inside a word, where it is not asked."""
        numbers: dict[str, Any] = {}
        if base is not None:
            numbers = {
                "base_top_prob": float(base.top_prob[0]),
                "agreement": float(agreement(base.probs, guide.choice, self.pair.tables)[0]),
            }
        return self._emit(
            self.guide_symbol(guide) if symbol is None else symbol,
            None if base is None else base.probs,
            guide,
            source="guide",
            alpha=1.0,
            **numbers,
        )

    def _take(self, probs: Tensor) -> int:
        """One symbol of a `[1, S]` distribution over the joint space."""
        if self.sampling.is_argmax:
            return int(probs.argmax(dim=-1)[0])
        assert self.sequence.base is not None and self.sequence.guide is not None
        width = len(self.pair.alignment.base)
        symbols = self.pair.tables.guide_symbols[self.sequence.guide.ids].tolist()
        seen = [*self.sequence.base.ids, *(symbol for symbol in symbols if symbol >= width)]
        return self.sampling.pick(probs[0].log(), seen, self.generator)

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
            guide_top_prob=float(guide.top_prob[0]),
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


def _begins_word(data: bytes) -> bool:
    return data.decode("utf-8", "ignore")[:1].isspace()
