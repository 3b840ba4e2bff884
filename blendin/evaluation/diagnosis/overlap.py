"""How alike two models are: the top symbols that they share over a run's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...policy import DEFAULT_THRESHOLD
from ..records import Record
from ..statistics import Interval, pooled_mean, pooled_rate

if TYPE_CHECKING:
    from ...decision.predict import NextTokens
    from ...decision.prediction import Prediction
    from ...engine.pair import Pair
    from ...generator import BlendInGenerator
    from ...models.protocol import Model
    from ...prompts import Prompt
    from ...vocab.vocabulary import Vocabulary

POSITIONS_AT_ONCE = 64  # logits: one position of a large vocabulary is a megabyte


class Shared(NamedTuple):
    """How alike the two models' top k symbols are, over some positions of some items.

    Attributes:
        items, positions: how many there are.
        jaccard: symbols in both lists over symbols in either, a mean over the positions.
        in_both: number of symbols in both lists, also a mean.
        same_choice: the share of positions at which the two lists begin with the same symbol.
    """

    items: int
    positions: int
    jaccard: Interval
    in_both: Interval
    same_choice: Interval


class Overlap(NamedTuple):
    """How alike base and guide are.

    Attributes:
        k: length of the lists that are compared.
        threshold: τ.
        everywhere: at all positions; `first` at the answers' first, `confident` where p_b >= τ,
            `uncertain` where not; None where there is no such position.
        partnered: how many of the guide's candidate tokens the base's vocabulary has too.
        candidates: how many candidate tokens the guide has.
    """

    k: int
    threshold: float
    everywhere: Shared
    first: Shared
    confident: Shared | None
    uncertain: Shared | None
    partnered: int
    candidates: int


class _Top(NamedTuple):
    """One model's view of a position: its top k symbols, the likeliest first, and its p."""

    symbols: list[int]
    top_prob: float


def top_overlap(
    gen: BlendInGenerator,
    records: Sequence[Record],
    prompts: Sequence[Prompt],
    *,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    temperature: float = 1.0,
    k: int = 50,
    items: int = 20,
    positions: int = 128,
) -> Overlap:
    """How many of their top k symbols base and guide share, over the answers of a run.

    Both read the same answers, each in its own tokens, and are compared before the answer and
    wherever a token of both ends at the same byte; END is a symbol like any other. The text is
    tokenized anew, so that p_b may differ a little from the record's.

    Args:
        gen: the pair.
        records: of a run; some of those without an error are read.
        prompts: theirs, in their order, as they were given to `generate`.
        system: the system text that they were given with.
        chat_template_kwargs: likewise, of the guide's chat template.
        threshold: τ, which divides the positions into confident and uncertain ones.
        temperature: at which the gate reads p_b (`Policy.temperatures`).
        k: length of the lists.
        items: answers read at most.
        positions: tokens of the base read of each at most.

    Raises:
        ValueError: not one prompt per record, no answer, or a k larger than a vocabulary.
    """
    if len(prompts) != len(records):
        raise ValueError(f"there are {len(prompts)} prompts for {len(records)} records: give each")
    if positions < 1 or items < 1:
        raise ValueError(f"items is {items} and positions {positions}: use 1 or more of each")
    base, guide = gen.pair.tables.base, gen.pair.tables.guide
    most = int(min(base.candidates.sum(), guide.candidates.sum()))
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}; use 1 to {most}, which is what the smaller vocabulary has")
    usable = [each for each in zip(records, prompts, strict=True) if each[0].error is None]
    if not usable:
        raise ValueError("no record has an answer to compare the models on: run items that succeed")
    # Spread over all of them: records stand in the order in which they ended, short answers first.
    places = np.linspace(0, len(usable) - 1, min(items, len(usable))).astype(int).tolist()
    reading = _Reading(gen.pair, k, temperature)
    settings = {"system": system, "chat_template_kwargs": chat_template_kwargs}
    everywhere = [  # of each answer, the first position first
        list(reading.both(record, prompt, settings, positions).values())
        for record, prompt in map(usable.__getitem__, places)
    ]
    first, whole = _shared([read[:1] for read in everywhere], k), _shared(everywhere, k)
    assert first is not None and whole is not None
    return Overlap(
        k=k,
        threshold=threshold,
        everywhere=whole,
        first=first,
        confident=_shared([[p for p in i if p[0].top_prob >= threshold] for i in everywhere], k),
        uncertain=_shared([[p for p in i if p[0].top_prob < threshold] for i in everywhere], k),
        partnered=int((guide.candidates & (guide.symbols < len(base.symbols))).sum()),
        candidates=int(guide.candidates.sum()),
    )


def _shared(items: list[list[tuple[_Top, _Top]]], k: int) -> Shared | None:
    items = [each for each in items if each]
    if not items:
        return None
    counts = [[len({*b.symbols} & {*g.symbols}) for b, g in each] for each in items]
    totals = [len(each) for each in items]
    jaccard = pooled_mean([sum(n / (2 * k - n) for n in each) for each in counts], totals)
    in_both = pooled_mean([sum(each) / k for each in counts], totals)
    same = [sum(b.symbols[0] == g.symbols[0] for b, g in each) for each in items]
    return Shared(
        len(items),
        sum(totals),
        jaccard,
        Interval(*(k * value for value in in_both)),
        pooled_rate(same, totals),
    )


class _Reading(NamedTuple):
    """Answers read by the models of a pair, which are compared by their top k symbols."""

    pair: Pair
    k: int
    temperature: float

    def both(
        self, record: Record, prompt: Prompt, settings: Mapping[str, Any], positions: int
    ) -> dict[int, tuple[_Top, _Top]]:
        """What base and guide say of one answer, by the byte offsets where both have a token."""
        import torch

        from ...engine.request import Request
        from ...policy import Blend

        pair, text = self.pair, record.text.encode()
        asked = Request.of(prompt, None, None, default_policy=Blend(), **settings).read(pair)
        assert asked.base is not None and asked.guide is not None
        with torch.inference_mode():
            base = self._tops(
                pair.base,
                asked.base.ids,
                text,
                pair.predict_base,
                self.temperature,
                max_tokens=positions,
            )
            guide = self._tops(
                pair.guide, asked.guide.ids, text, pair.predict_guide, last_offset=max(base)
            )
        return {at: (base[at], guide[at]) for at in base if at in guide}

    def _tops(
        self,
        model: Model,
        prompt: list[int],
        text: bytes,
        predict: Callable[[NextTokens], Prediction],
        temperature: float = 1.0,
        *,
        max_tokens: int | None = None,
        last_offset: int | None = None,
    ) -> dict[int, _Top]:
        """What a model says before each of its tokens of a text, by byte offset; 0 is the first.

        It reads no more than `max_tokens`, nothing beyond `last_offset`, and no more than its
        context holds.
        """
        from ...models.context import Context

        room = None if model.max_length is None else model.max_length - len(prompt) + 1
        tokens, offsets = _own_tokens(model.vocabulary, text)
        bounds = (max_tokens, room, len(offsets))
        offsets = offsets[: min(bound for bound in bounds if bound is not None)]
        offsets = [at for at in offsets if last_offset is None or at <= last_offset]
        context = Context(list(prompt), expected=len(prompt) + len(offsets))
        found: dict[int, _Top] = {}
        for begin in range(0, len(offsets), POSITIONS_AT_ONCE):
            some = offsets[begin : begin + POSITIONS_AT_ONCE]
            context.ids += tokens[len(context.ids) - len(prompt) : begin + len(some) - 1]
            prediction = predict(model.forward(context, len(some)))
            found |= zip(some, _listed(prediction, self.k, temperature), strict=True)
        return found


def _own_tokens(vocabulary: Vocabulary, text: bytes) -> tuple[list[int], list[int]]:
    """A text's tokens and the byte offset before each; one offset, 0, of an empty text.

    They end where the tokens' bytes are not the text's (a vocabulary that cannot spell it).
    """
    tokens, offsets, offset = [], [0], 0
    for id in vocabulary.encode_bytes(text) or ():
        data = vocabulary.tokens[id] or b""
        if not data or not text.startswith(data, offset):
            break
        tokens.append(id)
        offset += len(data)
        offsets.append(offset)
    return tokens, offsets[:-1] or [0]


def _listed(prediction: Prediction, k: int, temperature: float) -> list[_Top]:
    """The k likeliest of the candidates, among which END stands beside k others."""
    candidates = prediction.top(k)
    best = candidates.probs.topk(k, dim=-1).indices
    symbols = candidates.symbols.gather(-1, best).tolist()
    p_b = prediction.top_prob_at(temperature).tolist()
    return [_Top(*row) for row in zip(symbols, p_b, strict=True)]
