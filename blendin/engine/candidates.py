"""The candidates of a step, computed for the sequences that ask (`trace_top`), all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..candidates import Candidate, StepCandidates
from ..decision.mixture import Mixture
from ..decision.prediction import Prediction
from ..policy import Policy
from .pair import Pair
from .sequence import Role, SequenceState

Listed = tuple[Candidate, ...]


def likeliest(
    pair: Pair, prediction: Prediction, sequences: Sequence[SequenceState]
) -> list[Listed]:
    """A model's likeliest symbols of each row, as many as its sequence asks for."""
    asking = _asking(sequences)
    found: list[Listed] = [()] * len(sequences)
    if asking:
        counts = [sequences[row].trace_top for row in asking]
        for row, listed in zip(asking, _listed(pair, prediction.rows(asking), counts), strict=True):
            found[row] = listed
    return found


def own_candidates(
    pair: Pair,
    role: Role,
    prediction: Prediction,
    row: int,
    listed: Listed,
    symbol: int,
    prob: float | None,
) -> StepCandidates:
    """Of a step at which a model decides alone.

    Args:
        pair: the models.
        role: which of them.
        prediction: what it says.
        row: the sequence's in it.
        listed: its likeliest.
        symbol: the one emitted.
        prob: its probability, where that is known.
    """
    if prob is None:
        prob = float(prediction.rows([row]).prob_of(torch.tensor([symbol], device=pair.device)))
    chosen = _candidate(pair, symbol, prob)
    if role == "base":
        return StepCandidates(chosen, base_prob=prob, base=listed, emitted=listed)
    return StepCandidates(chosen, guide_prob=prob, guide=listed, emitted=listed)


def mixed_candidates(
    pair: Pair,
    policy: Policy,
    sequences: Sequence[SequenceState],
    base: Prediction | None,
    base_listed: Sequence[Listed],
    guide: Prediction,
    mixture: Mixture | None,
    symbols: Tensor,
) -> list[StepCandidates | None]:
    """Of the interventions of one policy; None for the sequences that do not ask.

    Args:
        pair: the models.
        policy: the one by which they are decided.
        sequences: N of them.
        base: what the base says, N rows; None where it was not asked.
        base_listed: its likeliest, N rows.
        guide: what the guide says, N rows.
        mixture: what is emitted from, N rows; None where only its argmax was made.
        symbols: `[N]` int64, what is emitted.
    """
    asking = _asking(sequences)
    found: list[StepCandidates | None] = [None] * len(sequences)
    if not asking:
        return found
    if mixture is None:
        base, guide, symbols = base and base.rows(asking), guide.rows(asking), symbols[asking]
        mixture, rows = policy.mix(base, guide, greedy=False), asking
    else:
        rows = list(range(len(sequences)))
    counts = [sequences[row].trace_top for row in rows]
    prob = sum(mixture.shares(symbols)) / mixture.total
    of_base = torch.full_like(prob, math.nan) if base is None else _prob(base, symbols)
    numbers = torch.stack([prob, of_base, _prob(guide, symbols)], dim=1).tolist()
    lists = (_listed(pair, each, counts) for each in (guide, mixture))
    for row, symbol, probs, *likely in zip(rows, symbols.tolist(), numbers, *lists, strict=True):
        if sequences[row].trace_top:
            chosen = _candidate(pair, symbol, probs[0])
            p_b, p_g = (None if math.isnan(each) else each for each in probs[1:])
            found[row] = StepCandidates(chosen, p_b, p_g, base_listed[row], *likely)
    return found


def _asking(sequences: Sequence[SequenceState]) -> list[int]:
    return [row for row, sequence in enumerate(sequences) if sequence.trace_top]


def _prob(prediction: Prediction, symbols: Tensor) -> Tensor:
    """The probability of one symbol a row, `[N]` float32; NaN where a server does not list it."""
    return prediction.prob_of(symbols).masked_fill(~prediction.knows(symbols), math.nan)


def _listed(pair: Pair, source: Prediction | Mixture, counts: Sequence[int]) -> list[Listed]:
    """The likeliest symbols of each row, `counts[row]` of them."""
    symbols, probs = (each.tolist() for each in source.likeliest(max(counts)))
    return [
        tuple(
            _candidate(pair, symbol, prob)
            for symbol, prob in zip(symbols[row][:count], probs[row][:count], strict=True)
            if prob > 0
        )
        for row, count in enumerate(counts)
    ]


def _candidate(pair: Pair, symbol: int, prob: float) -> Candidate:
    """A symbol as the trace tells of it."""
    alignment = pair.alignment
    if symbol == alignment.tables.end:
        return Candidate("", b"", prob, is_end=True)
    data, (base_id, guide_id) = alignment.data(symbol), alignment.ids(symbol)
    role, id = ("base", base_id) if base_id is not None else ("guide", guide_id)
    assert id is not None
    model = pair.model(role)
    text = data.decode("utf-8", "replace") if data else model.tokenizer.convert_ids_to_tokens(id)
    is_special = not data or id in model.vocabulary.control
    return Candidate(str(text or ""), data, prob, base_id, guide_id, is_special=is_special)
