"""A decided symbol becomes a step: the ids that enter the contexts, the bytes, the record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..decision.choice import draw
from ..decision.mixture import Mixture
from ..decision.prediction import Prediction
from ..models.protocol import Model
from ..trace import Source
from .candidates import Listed, own_candidates
from .pair import Pair
from .sequence import Role, SequenceState


def choose(
    pair: Pair,
    mixture: Mixture,
    guide: Prediction,
    sequences: Sequence[SequenceState],
    greedy: bool,
) -> Tensor:
    """A symbol of each row: the argmax, or a draw from the sequence's own generator; `[N]`."""
    symbols = mixture.choice
    if greedy:
        return symbols
    lists, drawn = mixture.on_host(), symbols.tolist()
    for row, (sequence, p_g) in enumerate(zip(sequences, guide.top_prob.tolist(), strict=True)):
        with sequence.failing_alone():
            check_finite(p_g, pair.guide, sequence)
            drawn[row] = int(
                draw(lists, row, sequence.sampling, _seen(pair, sequence), sequence.generator)
            )
    return torch.tensor(drawn, device=symbols.device)


def _seen(pair: Pair, sequence: SequenceState) -> set[int]:
    """The symbols in a sequence's contexts, where the repetition penalty asks for them."""
    if sequence.sampling.repetition_penalty == 1:
        return set()
    assert sequence.base is not None and sequence.guide is not None
    of_base, of_guide = (
        sequence.sampling.penalized(context.ids, model.vocabulary.tokens)
        for context, model in ((sequence.base, pair.base), (sequence.guide, pair.guide))
    )
    of_guide = pair.tables.guide_symbols[list(of_guide)].tolist()
    width = len(pair.alignment.base)
    return {*of_base, *(symbol for symbol in of_guide if symbol >= width)}


def emit_own(
    pair: Pair,
    sequence: SequenceState,
    role: Role,
    prediction: Prediction,
    row: int,
    choice: int,
    top_prob: float,
    likeliest: Listed,
) -> None:
    """A model alone: the base where it is confident or goes on, the guide under `GuideOnly`."""
    model, context = pair.model(role), sequence.context(role)
    if not sequence.sampling.is_argmax:
        seen = sequence.sampling.penalized(context.ids, model.vocabulary.tokens)
        id = sequence.sampling.pick(prediction.scores(row), seen, sequence.generator)
    elif choice == pair.tables.end:
        scores = prediction.end_log_probs(row)
        id = sorted(model.end_ids)[scores.index(max(scores))]
    else:
        id = pair.alignment.token(role, choice)
    is_end = id in model.end_ids
    data = b"" if is_end else model.vocabulary.tokens[id] or b""
    fields: dict[str, Any] = {"token_ids": (id,), "is_end": is_end}
    if role == "base":
        sequence.append_base(id)
        fields |= {"intervened": False, "base_top_prob": top_prob}
    else:
        context.ids.append(id)
        fields |= {"intervened": True, "guide_top_prob": top_prob, "alpha": 1.0}
    if sequence.trace_top:
        symbol = pair.tables.end if is_end else pair.alignment.symbol(role, id)
        is_raw = role == "guide" or sequence.policy.temperatures.base == 1
        prob = top_prob if sequence.sampling.is_argmax and is_raw else None
        fields["candidates"] = own_candidates(pair, role, prediction, row, likeliest, symbol, prob)
    sequence.record(data, source=role, **fields)


def emit_mixed(
    pair: Pair,
    sequence: SequenceState,
    symbol: int,
    shares: tuple[float, float],
    base: Prediction | None,
    guide: Prediction,
    row: int,
    **fields: Any,
) -> None:
    """A symbol of an intervention's mixture, unless the policy's memory does not accept it.

    Args:
        pair: the models.
        sequence: whose step it is.
        symbol: the one chosen.
        shares: the base's and the guide's part of its weight.
        base: what the base said; None where it was not asked.
        guide: what the guide said.
        row: the sequence's in both.
        **fields: of the trace.

    Raises:
        FloatingPointError: where no candidate has a weight.
    """
    if not sum(shares) > 0:
        raise FloatingPointError("neither model gave any candidate a probability")
    data = pair.alignment.data(symbol)
    if not sequence.memory.accepts(data):
        return
    is_end = symbol == pair.tables.end
    if is_end:
        token_ids = [_end_token(pair, shares, base, guide, row)]
    else:
        token_ids = sequence.append_both(symbol)
    sequence.record(
        data,
        intervened=True,
        source=_source(*shares),
        token_ids=tuple(token_ids),
        is_end=is_end,
        **fields,
    )


def _end_token(
    pair: Pair,
    shares: tuple[float, float],
    base: Prediction | None,
    guide: Prediction,
    row: int,
) -> int:
    """The likeliest of the ids behind END, in the base's vocabulary."""
    weights = dict.fromkeys(sorted(pair.base.end_ids), 0.0)
    same = pair.alignment.same
    sides = [(base, pair.base, shares[0] if same else 1.0)]
    if same:
        sides.append((guide, pair.guide, shares[1]))
    for prediction, model, share in sides:
        if prediction is not None:
            probs = [math.exp(log_prob) for log_prob in prediction.end_log_probs(row)]
            for id, prob in zip(sorted(model.end_ids), probs, strict=True):
                weights[id] = weights.get(id, 0.0) + share * prob / (sum(probs) or 1.0)
    return max(weights, key=weights.__getitem__)


def _source(of_base: float, of_guide: float) -> Source:
    """Which models gave the chosen symbol weight."""
    if of_base > 0 and of_guide > 0:
        return "both"
    return "base" if of_base > 0 else "guide"


def check_finite(top_prob: float, model: Model, sequence: SequenceState) -> None:
    """An error for NaN, which would compare as uncertain and blend into nothing.

    0 is what a server's list gives in which no token may be emitted.
    """
    step = len(sequence.output.steps)
    if top_prob == 0:
        raise ValueError(
            f"none of the tokens that {model.name} lists at step {step} may be emitted: have it "
            "list more (top_logprobs)"
        )
    if not math.isfinite(top_prob):
        raise FloatingPointError(
            f"{model.name} gave logits that are not numbers at step {step}; try "
            "dtype=torch.float32 or bfloat16"
        )
