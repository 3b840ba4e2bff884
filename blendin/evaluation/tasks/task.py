"""A benchmark as data: what is asked, how long an answer may be, and how it is scored.

A task either has answers written, which a scorer reads, or has given texts scored by their
likelihood under the policy. The protocols are described in the modules of the data sets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..records import Record, plain
from ..statistics import Interval

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    Attributes:
        id: its place in the data set, from 0; the same in every subset.
        prompt: the user's turn.
        facts: what the scorer compares with.
        texts: given texts to be scored as answers; empty where an answer is to be written.
    """

    id: str
    prompt: str
    facts: Any
    texts: tuple[str, ...] = ()


def _every(item: Item) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Measure:
    """A score by which arms are compared.

    Attributes:
        name: as the task's figures have it.
        metric: of a record's metrics; None: the one of that name.
        of: the items that it is a score of.
        lower_is_better: whether it is.
    """

    name: str
    metric: str | None = None
    of: Callable[[Item], bool] = _every
    lower_is_better: bool = False

    @property
    def key(self) -> str:
        """Its name among a record's metrics."""
        return self.name if self.metric is None else self.metric

    @property
    def title(self) -> str:
        """Its name, and which way is better where that is down."""
        return f"{self.name} (lower is better)" if self.lower_is_better else self.name


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: one of `NAMES`.
        title: for display.
        items: the questions, in the data set's order.
        score: an item and its answer, or the log-likelihoods of its texts, to numbers by name.
        figures: all items with their records, to the table's rates and means, by name.
        compared: the scores by which arms are compared.
        headline: of the figures, the one that stands for the task; "" where nothing is scored.
        system: the system's text for both models.
        max_new_tokens: the limit of an answer where the run sets no other.
        scorer: the version of `score`; a new one wherever the same answer may score otherwise.
        score_when_cut: scores that are others where the answer was cut off at its limit.
        continues: whether the base goes on with a prompt as it is, without its template; the guide
            reads it in a user's turn.
        note: with what the figures compare, and with what not.
    """

    name: str
    title: str
    items: Sequence[Item]
    score: Callable[[Item, Any], Metrics]
    figures: Callable[[Sequence[tuple[Item, Record]]], dict[str, Interval]]
    compared: tuple[Measure, ...]
    headline: str = ""
    system: str | None = None
    max_new_tokens: int = 0
    scorer: str = "1"
    score_when_cut: Callable[[Item, str], Metrics] | None = None
    continues: bool = False
    note: str = ""

    def score_answer(self, item: Item, text: str, stop_reason: str | None) -> Metrics:
        """The scores of a written answer, which "length" says was cut off at its limit."""
        metrics = self.score(item, text)
        if stop_reason == "length" and self.score_when_cut is not None:
            metrics = metrics | self.score_when_cut(item, text)
        return metrics

    @property
    def writes(self) -> bool:
        """Whether answers are written, rather than given texts scored."""
        return self.max_new_tokens > 0


def answered(task: Task, max_new_tokens: int = 128) -> Task:
    """The task with its questions answered, unscored where it scores given texts."""
    if task.writes:
        return task
    return replace(
        task,
        score=unscored,
        score_when_cut=None,
        note="",
        figures=lambda _: {},
        compared=(),
        headline="",
        max_new_tokens=max_new_tokens,
    )


def unscored(item: Item, answer: Any) -> Metrics:
    return {}


def origin(task: Task, limit: int | None, seed: int) -> dict[str, Any]:
    """What identifies the items of a run and what they are scored by, for its manifest."""
    return {
        "limit": limit,
        "seed": seed,
        "items_sha256": digest_of([[each.id, each.prompt, each.texts] for each in task.items]),
        "facts_sha256": digest_of([[each.id, plain(each.facts)] for each in task.items]),
    }


def digest_of(value: Any) -> str:
    """The SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
