"""The decoding loop: BlendIn's Algorithm 1 and its relatives, one step of many sequences.

For one sequence under `Blend(threshold=τ, agreement_bonus=λ, top_k=k)`:

    P_B = base(its context);  p_b = max P_B
    if p_b >= τ:  emit argmax P_B                                      # the base is confident
    else:                                                              # an intervention
        P_G = guide(its context);  p_g = max P_G;  t_g = argmax P_G
        α = clip(p_g / (p_b + p_g) + λ · P_B(t_g), 0, 1)
        emit argmax of α · P_G + (1 - α) · P_B over both models' top k

`Policy.intervenes` is the gate (p_b < τ), `Policy.mix` the blend with its α, and `choose` takes a
symbol of it, for every policy. Sequences are decided together, grouped by policy.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..decision.gated import Scored, logits_of
from ..decision.predict import NextTokens, rows_of
from ..decision.prediction import Prediction
from ..decision.told import told
from ..models.context import Context
from ..models.devices import fetched
from ..models.protocol import Model
from ..policy import Policy
from .candidates import Listed, likeliest, mixed_candidates
from .emission import check_finite, choose, emit_mixed, emit_own
from .pair import Pair
from .sequence import Role, SequenceState

logger = logging.getLogger("blendin")

ROWS_AT_ONCE = 8
"""Rows that a CPU mixes at once: each is megabytes, as wide as both vocabularies."""


class Read(NamedTuple):
    """What a step waits for: what a model says after each of some contexts."""

    role: Role
    model: Model
    contexts: list[Context]


class Answer(NamedTuple):
    """What a model said.

    Attributes:
        returned: a row for each context that could be read, in their order; None where there is
            none.
        failed: what went wrong with the others, by their place.
        dropped: the places of those that were taken out meanwhile; they have no row either.
    """

    returned: NextTokens | None
    failed: Mapping[int, Exception] = {}
    dropped: Collection[int] = ()


PendingStep = Generator[Read, Answer, None]
"""A step that has begun: it yields what it waits for, and is sent the answer."""


def read(model: Model, contexts: Sequence[Context]) -> Answer:
    """A forward of all contexts; where it fails one of each, so that a fault stays with its own."""
    try:
        return Answer(model.forward_batch(contexts))
    except Exception as error:
        if len(contexts) == 1 or model.is_async:
            return Answer(None, dict.fromkeys(range(len(contexts)), error))
        logger.warning("a forward of %d sequences failed (%s): each alone", len(contexts), error)
    alone = [read(model, [context]) for context in contexts]
    failed = {place: each.failed[0] for place, each in enumerate(alone) if each.failed}
    rows = [logits_of(each.returned) for each in alone if isinstance(each.returned, Scored)]
    return Answer(torch.cat(rows) if rows else None, failed)


class Asked(NamedTuple):
    """A sequence whose step needs the guide.

    Attributes:
        sequence: it.
        base: what the base says of some sequences; None where it was not asked.
        row: this sequence's among them.
        base_top_prob: p_b.
        likeliest: the base's likeliest symbols, where it asks for them.
    """

    sequence: SequenceState
    base: Prediction | None = None
    row: int = 0
    base_top_prob: float | None = None
    likeliest: Listed = ()


def advance(pair: Pair, sequences: Sequence[SequenceState]) -> None:
    """Takes every sequence one step further, all of them together."""
    if pair.driver is not None:
        pair.driver.advance([each for each in sequences if each.policy.reads_base])
        sequences = [each for each in sequences if not each.policy.reads_base]
        if not sequences:
            return
    verifications = pair.speculation.before_step(sequences)
    began = time.perf_counter()
    base_seconds: float | None = None

    def answer(asked: Read) -> Answer:
        nonlocal base_seconds
        if asked.role == "guide":
            base_seconds = time.perf_counter() - began
        return read(asked.model, asked.contexts)

    drive(step(pair, sequences), answer)
    seconds = time.perf_counter() - began
    pair.speculation.after_step(
        verifications, seconds if base_seconds is None else base_seconds, seconds
    )


def drive(waiting: PendingStep, answer: Callable[[Read], Answer]) -> None:
    """Takes a step to its end, each read answered at once."""
    told: Answer | None = None
    while True:
        try:
            asked = waiting.send(told)  # type: ignore[arg-type]
        except StopIteration:
            return
        told = answer(asked)


def step(pair: Pair, sequences: Sequence[SequenceState]) -> PendingStep:
    """One step of every sequence, each by its own policy and settings.

    Yields what it waits for: one read of the base for the sequences that ask it, and one of the
    guide for those that intervene, over all that each has missed. A sequence that finds no room
    for its caches makes no step (`preempted`); neither does one whose guide has finished its word.
    """
    for sequence in sequences:
        sequence.start()
    asked = [Asked(sequence) for sequence in sequences if not sequence.asks_base]
    base_first = [sequence for sequence in sequences if sequence.asks_base]
    left, returned = yield from _read(pair, "base", base_first)
    if left:
        everything = pair.predict_base(returned)
        for policy, greedy, rows in _by_policy(left):
            base = everything.rows(rows)
            intervenes = policy.intervenes(base, greedy)  # p_b < τ
            p_b = base.top_prob_at(policy.temperatures.base)
            numbers = _on_host(_side_by_side(p_b, base.choice, intervenes))
            lists = likeliest(pair, base, [left[row] for row in rows])
            for row, (sure, choice, is_intervention) in enumerate(numbers):
                sequence = left[rows[row]]
                with sequence.failing_alone():
                    check_finite(sure, pair.base, sequence)
                    if is_intervention and sequence.may_intervene() and sequence.guide_catches_up():
                        asked.append(Asked(sequence, base, row, sure, lists[row]))
                    else:
                        emit_own(pair, sequence, "base", base, row, int(choice), sure, lists[row])
    left, returned = yield from _read(pair, "guide", [each.sequence for each in asked])
    if left:
        _intervene(pair, [each for each in asked if each.sequence in left], returned)


def _intervene(pair: Pair, asked: Sequence[Asked], returned: NextTokens) -> None:
    """Emits a symbol of each sequence's mixture, or the guide's own where it decodes alone."""
    sequences = [each.sequence for each in asked]
    for policy, greedy, rows in _by_policy(sequences, [each.base is None for each in asked]):
        alone = not policy.reads_base
        everything = pair.predict_guide(rows_of(returned, rows), candidates_only=not alone)
        if alone:
            numbers = _on_host(_side_by_side(everything.top_prob, everything.choice))
            lists = likeliest(pair, everything, [sequences[row] for row in rows])
            for row, (p_g, choice) in enumerate(numbers):
                with (sequence := sequences[rows[row]]).failing_alone():
                    check_finite(p_g, pair.guide, sequence)
                    emit_own(pair, sequence, "guide", everything, row, int(choice), p_g, lists[row])
            continue
        at_once = ROWS_AT_ONCE if pair.device.type == "cpu" else len(rows)
        for begin in range(0, len(rows), at_once):
            some = [asked[row] for row in rows[begin : begin + at_once]]
            guide = everything.rows(list(range(begin, begin + len(some))))
            base = some[0].base and some[0].base.rows([each.row for each in some])
            _mix(pair, policy, greedy, some, base, guide)


def _mix(
    pair: Pair,
    policy: Policy,
    greedy: bool,
    asked: Sequence[Asked],
    base: Prediction | None,
    guide: Prediction,
) -> None:
    """α, the blend and the choice, for sequences of one policy."""
    sequences = [each.sequence for each in asked]
    mixture = policy.mix(base, guide, greedy)
    symbols = choose(pair, mixture, guide, sequences, greedy)
    lists, whole = [each.likeliest for each in asked], None if greedy else mixture
    candidates = mixed_candidates(pair, policy, sequences, base, lists, guide, whole, symbols)
    numbers = _on_host(told(mixture, symbols, base, guide, policy.temperatures.guide))
    for row, (each, values) in enumerate(zip(asked, numbers, strict=True)):
        if each.sequence.done:  # its draw failed
            continue
        with each.sequence.failing_alone():
            symbol, of_base, of_guide, sure, alpha, agreement, rank = values
            check_finite(sure, pair.guide, each.sequence)
            emit_mixed(
                pair,
                each.sequence,
                int(symbol),
                (of_base, of_guide),
                base,
                guide,
                row,
                base_top_prob=each.base_top_prob,
                guide_top_prob=sure,
                alpha=alpha,
                agreement=None if math.isnan(agreement) else agreement,
                agreement_rank=None if math.isnan(rank) else int(rank) or None,
                candidates=candidates[row],
            )


def _read(
    pair: Pair, role: Role, sequences: Sequence[SequenceState]
) -> Generator[Read, Answer, tuple[list[SequenceState], Any]]:
    """What a model says, N rows, and the N sequences that could be read."""
    model = pair.model(role)
    left = [sequence for sequence in sequences if sequence.can_be_read(model, role)]
    if not left:
        return [], None
    answer = yield Read(role, model, [sequence.context(role) for sequence in left])
    for place, error in answer.failed.items():
        left[place].fail(error)
    gone = {*answer.failed, *answer.dropped}
    return [each for place, each in enumerate(left) if place not in gone], answer.returned


def _by_policy(
    sequences: Sequence[SequenceState], kinds: Sequence[bool] | None = None
) -> Iterator[tuple[Policy, bool, list[int]]]:
    """Groups rows that are decided together: (policy, whether it is greedy, the rows)."""
    groups: list[tuple[tuple[Policy, bool, bool], list[int]]] = []
    for row, sequence in enumerate(sequences):
        kind = False if kinds is None else kinds[row]
        key = (sequence.policy, sequence.sampling.is_argmax, kind)
        for known, rows in groups:
            if known == key:
                rows.append(row)
                break
        else:
            groups.append((key, [row]))
    for (policy, greedy, _), rows in groups:
        yield policy, greedy, rows


def _on_host(numbers: Tensor) -> list[list[float]]:
    """`[N, C]` numbers as one list a row, in one transfer: on a GPU each one waits."""
    return fetched(numbers).tolist()


def _side_by_side(*columns: Tensor) -> Tensor:
    """`[N]` tensors as `[N, C]` float32, which holds every symbol exactly."""
    return torch.stack([column.float() for column in columns], dim=1)
