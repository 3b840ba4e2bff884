"""Where chains come from: GSM8K's solutions, ProcessBench, PRMBench, or a file like one of them.

A file of rows is known by its columns:

- `question` and `answer`: solutions with annotations, as GSM8K has them (arXiv 2110.14168);
- `problem`, `steps` and `label`: ProcessBench (arXiv 2412.06559), `label` the place of the first
  wrong step, −1 for none;
- `original_process`, `modified_process` and `error_steps`: PRMBench (arXiv 2501.03124), a right
  chain and a wrong one, the wrong steps counted from 1.

Only of the first are dependencies known, and only there wrong chains are made; the others have
their own, and no other order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...values import Integer
from .. import tables
from ..tasks.data import SUBSET_SEED, permutation, rows
from ..tasks.gsm8k import SYSTEM
from . import gsm8k_solutions
from .chains import Chain, LeftOut, Step
from .wrong_steps import with_wrong_step

FORMATS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("question", "answer"),
    "processbench": ("problem", "steps", "label"),
    "prmbench": ("original_process", "modified_process", "error_steps"),
}
FURTHER = ("id", "idx", "original_question", "modified_question")
STRUCTURED = ("steps", "original_process", "modified_process", "error_steps")

WITHOUT_STEPS = "it has no steps"


class Source(NamedTuple):
    """A chain, and the right chain of the same item that `checks.check` compares it with."""

    chain: Chain
    right: Chain


class Sources(NamedTuple):
    """What was read.

    Attributes:
        data: a name for it.
        format: one of `FORMATS`.
        items: how many rows there were.
        chains: those that stay, item by item, the right chain of an item first.
        left_out: by what was to be done with them.
        system: the system text under which models read these problems.
    """

    data: str
    format: str
    items: int
    chains: Sequence[Source]
    left_out: Mapping[str, Sequence[LeftOut]]
    system: str = SYSTEM


def read(
    data: str, folder: Path | None = None, limit: int | None = None, seed: int = SUBSET_SEED
) -> Sources:
    """Reads chains; the limit is of items whose chains can be read.

    Args:
        data: "gsm8k" or a file.
        folder: where gsm8k's file is; None as `data.rows`.
        limit: how many items, a fixed subset; None for all.
        seed: of the subset and of the wrong steps.

    Raises:
        ValueError: the file is none of the formats, or a row of it has something else in it than
            its format says; names the row.
        OSError: the file cannot be read.
    """
    if data == "gsm8k":
        given: Sequence[tuple[str, Mapping[str, Any]]] = [
            (f"gsm8k, row {n}", row) for n, row in enumerate(rows("gsm8k", folder), start=1)
        ]
        format = "gsm8k"
    else:
        if not os.path.isfile(data):
            raise ValueError(f"--data {data}: name gsm8k, or a file of chains that is there")
        wanted = tuple(dict.fromkeys(name for names in FORMATS.values() for name in names))
        table = tables.read(data, (), (*wanted, *FURTHER), structured=STRUCTURED)
        format = _format(table)
        given = list(table.numbered())
    made = [_sources(format, place, number, row) for number, (place, row) in enumerate(given, 1)]
    unread = [each for each in made if isinstance(each, LeftOut)]
    readable = [each for each in made if not isinstance(each, LeftOut)]
    count = Integer(1, none="all")("limit", limit)
    # In the order in which they are drawn: what a run has done is what a smaller limit asks for.
    chosen = [readable[place] for place in permutation(len(readable), seed)[:count]]
    if not chosen:
        raise ValueError(f"--data {data} has no chain that can be read: {unread[0].reason}")
    left_out = {"reading": unread}
    chains = [source for sources in chosen for source in sources]
    if format == "gsm8k":
        wrong = [with_wrong_step(source.chain, seed) for source in chains]
        left_out["wrong step"] = [each for each in wrong if isinstance(each, LeftOut)]
        chains = [
            each
            for source, other in zip(chains, wrong, strict=True)
            for each in (
                source,
                other if isinstance(other, LeftOut) else Source(other, source.right),
            )
            if isinstance(each, Source)
        ]
    return Sources(Path(data).name, format, len(given), chains, left_out)


def _format(table: tables.Table) -> str:
    for name, columns in FORMATS.items():
        if set(columns) <= table.columns:
            return name
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in FORMATS.items())
    raise ValueError(f"{table.path} has the columns of no format that is known: {known}")


def _sources(
    format: str, place: str, number: int, row: Mapping[str, Any]
) -> list[Source] | LeftOut:
    """The chains of one row, or why it has none."""
    id = str(row.get("id") or row.get("idx") or number)
    if format == "gsm8k":
        found = gsm8k_solutions.read(id, row["question"], row["answer"])
        return found if isinstance(found, LeftOut) else [Source(found, found)]
    of = _of_processbench if format == "processbench" else _of_prmbench
    chains = list(of(id, place, row))
    if any(len(chain.steps) < 1 for chain in chains):
        return LeftOut(id, WITHOUT_STEPS)
    return [Source(chain, chain) for chain in chains]


def _of_processbench(id: str, place: str, row: Mapping[str, Any]) -> Iterator[Chain]:
    texts = _texts(row, "steps", place)
    label = _whole(row["label"], place, "label")
    if not -1 <= label < max(1, len(texts)):
        raise ValueError(f"{place}: the label is {label}: use a place in the steps from 0, or -1")
    first = None if label == -1 else label
    steps = [
        # What follows the first error has no label there.
        Step(text, n, correct=None if first is not None and n > first else n != first)
        for n, text in enumerate(texts)
    ]
    yield Chain(id, row["problem"], tuple(steps), first_wrong=first, dependencies=False)


def _of_prmbench(id: str, place: str, row: Mapping[str, Any]) -> Iterator[Chain]:
    modified = _texts(row, "modified_process", place)
    errors = row["error_steps"]
    wrong = {
        _whole(each, place, "error_steps") - 1
        for each in (errors if isinstance(errors, list) else [errors])
    }
    if not wrong <= set(range(len(modified))):
        raise ValueError(f"{place}: error_steps names steps that are not there: count from 1")
    original = row.get("original_question") or row.get("question") or ""
    right = [Step(text, n) for n, text in enumerate(_texts(row, "original_process", place))]
    yield Chain(id, original, tuple(right), dependencies=False)
    steps = [Step(text, n, correct=n not in wrong) for n, text in enumerate(modified)]
    asked = row.get("modified_question") or original
    first = min(wrong, default=None)
    yield Chain(id, asked, tuple(steps), first_wrong=first, dependencies=False)


def _texts(row: Mapping[str, Any], column: str, place: str) -> list[str]:
    value = row[column]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{place}: the column {column!r} is no list of texts: give one a step")
    return [text.strip() for text in value if text.strip()]


def _whole(value: Any, place: str, column: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"{place}: {column} has {value!r}: use whole numbers") from None
