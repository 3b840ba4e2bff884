"""Prompts with given answers, and which of them a calibration is fitted, chosen and tested on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .. import tables
from ..tasks import gsm8k, truthfulqa
from ..tasks.data import SUBSET_SEED, permutation, rows, subset

DATA = ("gsm8k", "truthfulqa")

SHARES = {"fit": 0.4, "select": 0.2, "test": 0.4}
"""Of the prompts. The test has as many as the fit: a verdict needs them more than three numbers."""

FEWEST = 15
"""Prompts without which a split has parts too small to fit, select and test on."""

ANNOTATION = re.compile(r"<<[^<>]*>>")
KIND = "kind"


@dataclass(frozen=True)
class Answer:
    """A prompt and what is to be answered to it.

    Attributes:
        prompt: the user's turn.
        text: the answer as the base continues its prompt, with the space before it.
        system: text for both models.
        kind: what sort of prompt it is, where the file says so ("harmless").
    """

    prompt: str
    text: str
    system: str | None = None
    kind: str | None = None


class Split(NamedTuple):
    """Places of answers in their list; those of one prompt are in one part."""

    fit: list[int]
    select: list[int]
    test: list[int]


def read(
    data: str,
    folder: Path | None = None,
    limit: int | None = None,
    seed: int = SUBSET_SEED,
    delimiter: str | None = None,
) -> list[Answer]:
    """The answers of a benchmark or of a file.

    GSM8K's are its solutions, without the calculator's annotations and without the line "####";
    TruthfulQA's the true choice of each question.

    Args:
        data: "gsm8k", "truthfulqa", or a file with the columns "prompt" and "answer", and perhaps
            "kind" (.jsonl, .json, .csv or .tsv).
        folder: where the benchmarks' files are, as `tasks.data.rows`.
        limit: how many prompts, a fixed subset; None for all.
        seed: of the subset.
        delimiter: of a .csv.

    Raises:
        ValueError: it is neither, cannot be read, or has too few prompts.
    """
    if data == "gsm8k":
        found = [
            Answer(row["question"].strip(), _solution(row["answer"]), gsm8k.SYSTEM)
            for row in rows("gsm8k", folder)
        ]
    elif data == "truthfulqa":
        found = [
            Answer(each.question, " " + each.mc1.texts[each.mc1.labels.index(True)])
            for each in truthfulqa.read(folder)
        ]
    else:
        found = _of_file(Path(data), delimiter)
    prompts = list(dict.fromkeys(each.prompt for each in found))
    chosen = set(subset(prompts, limit, seed))
    found = [each for each in found if each.prompt in chosen]
    if len(chosen) < FEWEST:
        raise ValueError(
            f"{data} has {len(chosen)} prompts with an answer, and fitting, selecting and testing "
            f"take {FEWEST} or more: give more, or a larger --limit"
        )
    return found


def split(answers: Sequence[Answer], seed: int = SUBSET_SEED) -> Split:
    """Divides the prompts at random into `SHARES`; the same for the same prompts and seed."""
    prompts = list(dict.fromkeys(each.prompt for each in answers))
    order = permutation(len(prompts), f"calibrate {seed}")
    first = round(SHARES["fit"] * len(prompts))
    second = first + round(SHARES["select"] * len(prompts))
    part_of = {
        prompts[at]: 0 if rank < first else 1 if rank < second else 2
        for rank, at in enumerate(order)
    }
    places: tuple[list[int], ...] = [], [], []
    for at, each in enumerate(answers):
        places[part_of[each.prompt]].append(at)
    return Split(*places)


def _solution(answer: str) -> str:
    text = ANNOTATION.sub("", answer.rpartition("####")[0] or answer)
    return " " + text.strip()


def _of_file(path: Path, delimiter: str | None) -> list[Answer]:
    if not path.exists():
        raise ValueError(
            f"{path} is neither a file nor one of {', '.join(DATA)}: give one of these, or a file "
            'with the columns "prompt" and "answer"'
        )
    table = tables.read(path, ("prompt", "answer"), (KIND,), delimiter=delimiter)
    found = []
    for number, row in enumerate(table.rows, start=1):
        for name in ("prompt", "answer"):
            if not row[name].strip():
                raise ValueError(f"{path}, row {number}: the {name} is empty: give a text")
        text = row["answer"]
        found.append(
            Answer(
                row["prompt"],
                text if text[0].isspace() else f" {text}",
                kind=row.get(KIND) or None,
            )
        )
    return found
