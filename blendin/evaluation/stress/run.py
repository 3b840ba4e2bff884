"""Scores all chains of a suite, question by question, and keeps each as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from .chains import LeftOut
from .scorers import Scored, StepScorer
from .store import ScoreStore, key_of
from .suite import Suite, Variant

AT_ONCE = 8
"""Chains of one question that are scored together, and kept together."""


def run(
    suite: Suite, scorers: Sequence[StepScorer], store: ScoreStore, progress: bool | None = None
) -> None:
    """Scores what the store has not yet, question by question.

    Args:
        suite: the chains.
        scorers: all that are asked of each.
        store: where the scores are kept.
        progress: whether to show a bar on stderr; None: where that is a terminal.

    Raises:
        ValueError: another process writes there. A chain that cannot be scored is kept with its
            error; see `kept`.
        OSError: the store cannot be written; what is scored is kept.
    """
    needed = suite.needed()
    wanted = [
        (question, scorer, chain)
        for question in needed
        for scorer in scorers
        for chain in needed[question]
    ]
    left = [each for each in wanted if key_of(each[1], each[0], each[2]) not in store]
    done = len(wanted) - len(left)
    hidden = None if progress is None else not progress
    with (
        store.writing() as writer,
        tqdm(total=len(wanted), initial=done, unit="chain", disable=hidden) as bar,
    ):
        for question, scorer, chains in _batches(left):
            for chain, scored in zip(chains, _scored(scorer, question, chains), strict=True):
                writer.add(key_of(scorer, question, chain), scored)
                bar.update()


def _scored(scorer: StepScorer, question: str, chains: Sequence[list[str]]) -> list[Scored]:
    """Chains together; each alone where one of them cannot be scored."""
    try:
        return scorer(question, chains)
    except ValueError as error:
        if len(chains) == 1:
            return [Scored({}, error=str(error))]
    return [scored for chain in chains for scored in _scored(scorer, question, [chain])]


def kept(suite: Suite, scorers: Sequence[StepScorer], store: ScoreStore) -> Suite:
    """The suite without the chains that a scorer has no scores for, which are counted.

    Raises:
        ValueError: none is left.
    """

    def fault(variant: Variant) -> str | None:
        texts = [*variant.texts, variant.source.texts]
        keys = (key_of(s, variant.chain.question, steps) for s in scorers for steps in texts)
        return next((error for key in keys if (error := store[key].error) is not None), None)

    faults = [(variant.chain.id, found) for variant in suite.all if (found := fault(variant))]
    if not faults:
        return suite
    originals = [variant for variant in suite.originals if fault(variant) is None]
    if not originals:
        raise ValueError(f"no chain can be scored: {faults[0][1]}")
    variants = {k: [v for v in own if fault(v) is None] for k, own in suite.variants.items()}
    left_out = {**suite.left_out, "scoring": [LeftOut(*each) for each in faults]}
    return replace(suite, originals=originals, variants=variants, left_out=left_out)


def _batches(
    left: Sequence[tuple[str, StepScorer, list[str]]],
) -> Iterator[tuple[str, StepScorer, list[list[str]]]]:
    """Neighbours of one question and scorer, a few at a time."""
    batch: list[list[str]] = []
    for place, (question, scorer, chain) in enumerate(left):
        batch.append(chain)
        following = left[place + 1 : place + 2]
        same = following and following[0][0] == question and following[0][1] is scorer
        if not same or len(batch) == AT_ONCE:
            yield question, scorer, batch
            batch = []


class Scores:
    """The scores of one scorer, by chain.

    Attributes:
        name: one of the scorer's names.
    """

    def __init__(self, name: str, scorer: StepScorer, store: ScoreStore) -> None:
        self.name, self._scorer, self._store = name, scorer, store

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the scores depend on beside the texts."""
        return self._scorer.identity

    def of(self, question: str, steps: Sequence[str]) -> Sequence[float]:
        """Of each step, 0..1.

        Raises:
            KeyError: the chain is not scored.
        """
        return self.scored(question, steps).scores[self.name]

    def scored(self, question: str, steps: Sequence[str]) -> Scored:
        """All that the scorer said of a chain."""
        return self._store[key_of(self._scorer, question, steps)]
