"""Scores all chains of a suite, question by question, and keeps each as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from .scorers import Scored, StepScorer
from .store import ScoreStore, key_of
from .suite import Suite

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
        ValueError: a chain does not fit into a model's context, or another process writes there.
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
            for chain, scored in zip(chains, scorer(question, chains), strict=True):
                writer.add(key_of(scorer, question, chain), scored)
                bar.update()


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
