"""The log-likelihood of given texts under a policy (docs/contract.md, "Scoring a given text").

Contexts grow as if the loop had emitted the text's tokens, so that the base reads a text in one
forward and the guide all its interventions in another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..decision.predict import NextTokens, rows_of
from ..decision.prediction import Prediction
from ..forks import settle
from ..models.context import Context
from ..models.kv_pool import Pool
from ..models.protocol import Model
from ..prompts import RenderedPrompt
from .loop import ROWS_AT_ONCE
from .pair import Pair
from .sequence import SequenceState

POSITIONS_AT_ONCE = 128
"""Positions whose logits are held at once; one of a large vocabulary is a megabyte."""

TEXTS_AT_ONCE = 8

Place = tuple[int, int, Prediction, int]
"""An intervention: its token, the guide's length before it, the base's prediction, the row."""


class ScoredToken(NamedTuple):
    """What was known at one token of a text; None where it was not computed.

    Attributes:
        base_log_likelihood: log P_B of the token, in nats.
        base_top_prob: p_b, as the gate reads it.
        guide_top_prob: p_g, as α reads it; a number at interventions alone.
        alpha: α.
        agreement: P_B(t_g).
    """

    base_log_likelihood: float | None = None
    base_top_prob: float | None = None
    guide_top_prob: float | None = None
    alpha: float | None = None
    agreement: float | None = None

    @property
    def intervened(self) -> bool:
        """Whether the guide was asked."""
        return self.guide_top_prob is not None


@dataclass(frozen=True)
class Score:
    """How likely a text is after its prompt, under a policy.

    Attributes:
        log_likelihood: of the whole text, in nats; -inf where an intervention cannot emit it.
        token_log_likelihoods: of each token; they sum to it.
        token_ids: the text in the base's tokens (the guide's under `GuideOnly`).
        interventions: tokens at which the guide was asked.
        is_greedy: whether greedy decoding would have emitted just this text.
        tokens: of each token, what the models said there.
    """

    log_likelihood: float
    token_log_likelihoods: tuple[float, ...]
    token_ids: tuple[int, ...]
    interventions: int
    is_greedy: bool
    tokens: tuple[ScoredToken, ...] = ()

    @property
    def intervention_rate(self) -> float:
        """Interventions over tokens."""
        return self.interventions / len(self.token_ids)


class _Reading:
    """One text while it is being scored.

    Attributes:
        sequence: grows as if the text were being emitted; its contexts are never read.
        tokens: of the text, in the vocabulary of the model that reads it first.
        own: what that model reads: the prompt and the text.
        guide: what the guide reads at interventions.
        done: how many tokens are scored.
    """

    def __init__(self, pair: Pair, sequence: SequenceState, text: str) -> None:
        self.sequence, self.policy = sequence, sequence.policy.scoring
        self.alone = not self.policy.reads_base
        first = pair.guide if self.alone else pair.base
        context = sequence.guide if self.alone else sequence.base
        if isinstance(text, RenderedPrompt):
            tokens: list[int] | None = list(text.ids)
        else:
            tokens = first.vocabulary.encode_bytes(text.encode())
        if not tokens:
            raise ValueError("the text to score is empty: pass one with something in it")
        assert context is not None
        _check_length(first, len(context.ids) + len(tokens) - 1 + int(first.reads_whole_texts))
        self.tokens, self.done, self._prompt = tokens, 0, len(context.ids)
        self.own = Context(list(context.ids), expected=len(context.ids) + len(tokens))
        self.guide: Context | None = None
        if not self.alone and sequence.guide is not None:
            length = len(sequence.guide.ids)
            self.guide = Context(list(sequence.guide.ids), expected=length + 2 * len(tokens))
        self.values: list[float] = []
        self.known: list[ScoredToken] = []
        self.is_greedy = True

    def take(self, count: int, beyond: int) -> int:
        """Brings `count` further tokens, or as many as there are, before the reader; how many.

        The last of them is read only where the reader reads `beyond` it.
        """
        count = min(count, len(self.tokens) - self.done)
        end = self.done + count - 1 + beyond
        self.own.ids += self.tokens[len(self.own.ids) - self._prompt : end]
        return count

    def next_tokens(self, count: int) -> Tensor:
        """`[count]` int64, those of the text that are to be scored next."""
        return torch.tensor(self.tokens[self.done : self.done + count])

    def add(self, value: float, is_greedy: bool, known: ScoredToken) -> None:
        self.values.append(value)
        self.known.append(known)
        self.is_greedy &= is_greedy

    def score(self) -> Score:
        return Score(
            math.fsum(self.values) if -math.inf not in self.values else -math.inf,
            tuple(self.values),
            tuple(self.tokens),
            self.sequence.interventions,
            self.is_greedy,
            tuple(self.known),
        )


@torch.inference_mode()
def score(pair: Pair, asked: Sequence[tuple[SequenceState, str]]) -> Iterator[Score]:
    """Scores texts, each after its own prompts and under its own policy, in their order.

    Args:
        pair: the models.
        asked: fresh sequences with the texts that they are to be scored on.

    Raises:
        ValueError: for an empty text, or one that does not fit into a context.
    """
    settle()
    pools = Pool(), Pool()
    readings = [_Reading(pair, sequence, text) for sequence, text in asked]
    for begin in range(0, len(readings), TEXTS_AT_ONCE):
        group = readings[begin : begin + TEXTS_AT_ONCE]
        for reading in group:
            (pair.guide if reading.alone else pair.base).join(reading.own, pools[reading.alone])
            if reading.guide is not None:
                pair.guide.join(reading.guide, pools[1])
        while unfinished := [each for each in group if each.done < len(each.tokens)]:
            share = POSITIONS_AT_ONCE // len(unfinished)
            alone = [each for each in unfinished if each.alone]
            _score_alone(pair, alone, share)
            _score_guided(pair, [each for each in unfinished if not each.alone], share)
        for reading in group:
            (pair.guide if reading.alone else pair.base).leave(reading.own)
            if reading.guide is not None:
                pair.guide.leave(reading.guide)
            yield reading.score()


def _check_length(model: Model, length: int) -> None:
    if model.max_length is not None and length > model.max_length:
        raise ValueError(
            f"prompt and text have {length} tokens and the context of {model.name} holds "
            f"{model.max_length}: shorten them"
        )


def _score_alone(pair: Pair, readings: list[_Reading], share: int) -> None:
    """`GuideOnly`: the guide's own likelihood of the text in its own tokens."""
    for reading, returned in _read(pair.guide, readings, share):
        guide = pair.predict_guide(returned, candidates_only=False)
        tokens = reading.next_tokens(len(guide.choice)).to(pair.device)
        greedy = (guide.choice == pair.tables.guide.symbols[tokens]).tolist()
        columns = guide.log_probs(tokens).tolist(), greedy, guide.top_prob.tolist()
        for value, is_greedy, top_prob in zip(*columns, strict=True):
            reading.add(value, is_greedy, ScoredToken(guide_top_prob=top_prob, alpha=1.0))
            reading.done += 1
            reading.sequence.interventions += 1


def _score_guided(pair: Pair, readings: list[_Reading], share: int) -> None:
    """The base reads on; then the guide reads up to the interventions that this brought."""
    pending: dict[_Reading, list[Place]] = {}
    for reading, returned in _read(pair.base, readings, share):
        base, sequence = pair.predict_base(returned), reading.sequence
        tokens = reading.next_tokens(len(base.choice)).to(pair.device)
        intervenes = reading.policy.intervenes(base, greedy=False)
        top_prob = base.top_prob_at(reading.policy.temperatures.base)
        columns = [base.log_probs(tokens), base.choice == tokens, intervenes, top_prob]
        numbers = torch.stack([column.double() for column in columns], dim=1).tolist()
        for row, (value, is_greedy, is_intervention, p_b) in enumerate(numbers):
            token, known = reading.tokens[reading.done], ScoredToken(value, p_b)
            allowed = sequence.memory.allows(reading.done, sequence.interventions)
            reading.done += 1
            guide = sequence.guide
            if guide and is_intervention and allowed and sequence.guide_catches_up():
                sequence.interventions += 1
                place = len(reading.values), len(guide.ids), base, row
                pending.setdefault(reading, []).append(place)
                reading.add(math.nan, True, known)  # until the guide has read so far
                sequence.append_both(token)
            else:
                reading.add(value, bool(is_greedy), known)
                sequence.append_base(token)
    _score_pending(pair, pending)


def _score_pending(pair: Pair, pending: dict[_Reading, list[Place]]) -> None:
    """Scores the interventions of each text."""
    contexts, positions = [], []
    beyond = int(pair.guide.reads_whole_texts)
    for reading, places in pending.items():
        assert reading.guide is not None and reading.sequence.guide is not None
        known, first, last = len(reading.guide.ids), places[0][1], places[-1][1]
        reading.guide.ids += reading.sequence.guide.ids[known : last + beyond]
        _check_length(pair.guide, len(reading.guide.ids))
        if not pair.guide.has_room(reading.guide):
            raise ValueError("the guide has no room for the text: shorten it")
        contexts.append(reading.guide)
        positions.append(last - first + 1 + beyond)
    if not contexts:
        return
    for (reading, places), returned in zip(
        pending.items(), pair.guide.score_batch(contexts, positions), strict=True
    ):
        assert reading.guide is not None
        del reading.guide.ids[places[-1][1] :]  # what was read beyond, if anything
        for begin in range(0, len(places), ROWS_AT_ONCE):
            group = places[begin : begin + ROWS_AT_ONCE]
            wanted = [place[1] - places[0][1] for place in group]
            _score_mixtures(pair, reading, group, rows_of(returned, wanted))


def _score_mixtures(
    pair: Pair, reading: _Reading, places: list[Place], returned: NextTokens
) -> None:
    """The mixture's word on the tokens at some interventions of one text."""
    guide = pair.predict_guide(returned)
    by_base: dict[int, list[int]] = {}
    for index, (_, _, base, _) in enumerate(places):
        by_base.setdefault(id(base), []).append(index)
    for indices in by_base.values():
        base = places[indices[0]][2].rows([places[index][3] for index in indices])
        mixture = reading.policy.mix(base, guide.rows(indices), greedy=False)
        at = [places[index][0] for index in indices]
        symbols = torch.tensor([reading.tokens[place] for place in at], device=pair.device)
        values = mixture.log_probs(symbols).tolist()
        greedy = (mixture.choice == symbols).tolist()
        p_g = guide.rows(indices).top_prob_at(reading.policy.temperatures.guide)
        columns = [p_g, mixture.alpha]
        if mixture.agreement is not None:
            columns.append(mixture.agreement)
        told = torch.stack([column.double() for column in columns], dim=1).tolist()
        for place, value, is_greedy, known in zip(at, values, greedy, told, strict=True):
            reading.values[place] = value
            reading.known[place] = ScoredToken(*reading.known[place][:2], *known)
            reading.is_greedy &= is_greedy


def _read(
    model: Model, readings: list[_Reading], share: int
) -> Iterator[tuple[_Reading, NextTokens]]:
    """For each text n rows, which score its next n tokens.

    Servers read a text at once, its last token too: they tell of the tokens that stand in it,
    whatever their rank.
    """
    if not readings:
        return
    beyond = int(model.reads_whole_texts)
    longest = max(len(reading.tokens) for reading in readings)
    share = longest if model.reads_whole_texts else max(1, share)
    counts = [reading.take(share, beyond) for reading in readings]
    contexts = [reading.own for reading in readings]
    for context in contexts:
        model.has_room(context)
    found = model.score_batch(contexts, [count + beyond for count in counts])
    for reading, rows, count in zip(readings, found, counts, strict=True):
        yield reading, rows_of(rows, list(range(count)))
