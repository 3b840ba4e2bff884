"""How alike two models are: the top symbols that they share over answers that were written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..policy import DEFAULT_THRESHOLD
from .records import Record
from .statistics import Interval, pooled_rate

if TYPE_CHECKING:
    from torch import Tensor

    from ..decision.dense import Candidates
    from ..generator import BlendInGenerator
    from ..models.local import LanguageModel
    from ..prompts import Prompt
    from ..vocab.vocabulary import Vocabulary

POSITIONS_AT_ONCE = 64  # logits: one position of a large vocabulary is a megabyte


class Shared(NamedTuple):
    """How alike the two models' top k symbols are, over some positions of some items.

    Attributes:
        items, positions: so many.
        jaccard: symbols in both lists over symbols in either, a mean over the positions.
        in_both: symbols in both lists, likewise.
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
        candidates: of so many.
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
    threshold: float = DEFAULT_THRESHOLD,
    k: int = 50,
    items: int = 20,
    positions: int = 128,
) -> Overlap:
    """How many of their top k symbols base and guide share, over answers that were written.

    Both read the same answers, each in its own tokens, and are compared before the answer and
    wherever a token of both ends at the same byte; END is a symbol like others. The text is
    tokenized anew, so that p_b may differ a little from the record's.

    Args:
        gen: the pair.
        records: of a run; some of those without an error are read.
        prompts: theirs, in their order, as they were given to `generate`.
        system: likewise.
        threshold: τ, which divides the positions into confident and uncertain ones.
        k: length of the lists.
        items: answers read at most.
        positions: tokens of the base read of each at most.

    Raises:
        ValueError: prompts that are not as many, no answer, or a k that a vocabulary has not.
    """
    import torch

    from ..decision.top_logprobs import consult, gate
    from ..engine.request import Request
    from ..policy import Blend

    pair = gen.pair
    tables = pair.tables
    if len(prompts) != len(records):
        raise ValueError(f"there are {len(prompts)} prompts for {len(records)} records: give each")
    most = int(min(tables.base_candidates.sum(), tables.guide_candidates.sum()))
    if positions < 1 or items < 1:
        raise ValueError(f"items is {items} and positions {positions}: use 1 or more of each")
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}; use 1 to {most}, which is what the smaller vocabulary has")
    usable = [each for each in zip(records, prompts, strict=True) if each[0].error is None]
    # Spread over all of them: records stand in the order in which they ended, short answers first.
    places = np.linspace(0, len(usable) - 1, min(items, len(usable))).astype(int).tolist()
    if not usable:
        raise ValueError("no record has an answer to compare the models on: run items that succeed")

    def of_base(logits: Tensor) -> list[_Top]:
        view = gate(logits.to(tables.base_ends.device), tables)
        return _listed(view.candidates(tables, k), view.top_prob, k)

    def of_guide(logits: Tensor) -> list[_Top]:
        view = consult(logits.to(tables.base_ends.device), tables)
        return _listed(view.candidates(tables, k), view.top_prob, k)

    compared = []
    for record, prompt in (usable[place] for place in places):
        asked = Request.of(prompt, None, None, default_policy=Blend(), system=system).read(pair)
        assert asked.base is not None and asked.guide is not None
        text = record.text.encode()
        with torch.inference_mode():
            ours = _tops(gen.base, asked.base.ids, text, of_base, most=positions)
            theirs = _tops(gen.guide, asked.guide.ids, text, of_guide, last=max(ours))
        compared.append({at: (ours[at], theirs[at]) for at in ours if at in theirs})
    everywhere = [list(item.values()) for item in compared]
    first = _shared([[item[0]] for item in compared], k)
    whole = _shared(everywhere, k)
    assert first is not None and whole is not None
    has_partner = tables.guide_candidates & (tables.guide_symbols < len(tables.base_candidates))
    return Overlap(
        k=k,
        threshold=threshold,
        everywhere=whole,
        first=first,
        confident=_shared([[p for p in i if p[0].top_prob >= threshold] for i in everywhere], k),
        uncertain=_shared([[p for p in i if p[0].top_prob < threshold] for i in everywhere], k),
        partnered=int(has_partner.sum()),
        candidates=int(tables.guide_candidates.sum()),
    )


def _shared(items: list[list[tuple[_Top, _Top]]], k: int) -> Shared | None:
    items = [each for each in items if each]
    if not items:
        return None
    counts = [[len({*b.symbols} & {*g.symbols}) for b, g in each] for each in items]
    totals = [len(each) for each in items]
    jaccard = pooled_rate([sum(n / (2 * k - n) for n in each) for each in counts], totals)
    in_both = pooled_rate([sum(each) / k for each in counts], totals)
    same = [sum(b.symbols[0] == g.symbols[0] for b, g in each) for each in items]
    return Shared(
        len(items),
        sum(totals),
        jaccard,
        Interval(*(k * value for value in in_both)),
        pooled_rate(same, totals),
    )


def _tops(
    model: LanguageModel,
    prompt: list[int],
    text: bytes,
    top: Callable[[Tensor], list[_Top]],
    *,
    most: int | None = None,
    last: int | None = None,
) -> dict[int, _Top]:
    """What a model says before each of its tokens of a text, by their byte offsets; 0 is in it.

    Of `most` tokens at most, none beyond the offset `last`, and no more than its context holds.
    """
    from ..models.context import Context

    room = None if model.max_length is None else model.max_length - len(prompt) + 1
    tokens, offsets = _own_tokens(model.vocabulary, text)
    offsets = offsets[: min(limit for limit in (most, room, len(offsets)) if limit is not None)]
    offsets = [offset for offset in offsets if last is None or offset <= last]
    context = Context(list(prompt), expected=len(prompt) + len(offsets))
    found: dict[int, _Top] = {}
    for begin in range(0, len(offsets), POSITIONS_AT_ONCE):
        some = offsets[begin : begin + POSITIONS_AT_ONCE]
        context.ids += tokens[len(context.ids) - len(prompt) : begin + len(some) - 1]
        views = top(model.forward(context, len(some)))
        found |= zip(some, views, strict=True)
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


def _listed(candidates: Candidates, top_prob: Tensor, k: int) -> list[_Top]:
    """The k likeliest of the candidates, among which END stands beside k others."""
    best = candidates.probs.topk(k, dim=-1).indices
    symbols = candidates.symbols.gather(-1, best).tolist()
    return [_Top(*row) for row in zip(symbols, top_prob.tolist(), strict=True)]
