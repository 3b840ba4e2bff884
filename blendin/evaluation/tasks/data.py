"""Where benchmark data comes from, and the fixed subset of it.

A folder (`--data DIR`, else `$BLENDIN_DATA`) holds the files as their authors publish them;
without one the rows are loaded from the Hugging Face hub and given the shape of the files. The
hub's TruthfulQA is the edition of 2021 (817 questions), the authors' files that of 2025 (790):
scores on the two are not comparable.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...values import Integer
from .. import tables

logger = logging.getLogger("blendin")

T = TypeVar("T")
Row = dict[str, Any]

FOLDER_VARIABLE = "BLENDIN_DATA"
SUBSET_SEED = 2606
"""The seed of every subset unless another is given; print it beside a result."""


@dataclass(frozen=True, slots=True)
class Source:
    """One data set: its file, where the hub has it, and the columns that must be there.

    `as_in_file` gives a row of the hub the shape of the file's; `structured` are columns that hold
    more than a text.
    """

    file: str
    columns: tuple[str, ...]
    hub: tuple[str, str | None, str]  # repository, configuration, split
    as_in_file: Callable[[Mapping[str, Any]], Row] = dict
    structured: tuple[str, ...] = ()


def _choices_as_in_file(row: Mapping[str, Any]) -> Row:
    def targets(name: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for text, label in zip(row[name]["choices"], row[name]["labels"], strict=True):
            if found.setdefault(text, label) != label:
                raise ValueError(f"{row['question']!r} has the choice {text!r} as true and false")
        if repeats := len(row[name]["choices"]) - len(found):
            logger.warning("%r: choices that stand there again, left out: %d (%s)",
                           row["question"], repeats, name)  # fmt: skip
        return found

    return {
        "question": row["question"],
        "mc1_targets": targets("mc1_targets"),
        "mc2_targets": targets("mc2_targets"),
    }


SOURCES = {
    "gsm8k": Source(
        "gsm8k_test.jsonl",
        ("question", "answer"),
        ("openai/gsm8k", "main", "test"),
    ),
    "truthfulqa_mc": Source(
        "truthfulqa_mc.json",
        ("question", "mc1_targets", "mc2_targets"),
        ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
        _choices_as_in_file,
        ("mc1_targets", "mc2_targets"),
    ),
    # The authors' own repository: the well-known copies lack the label or ask for an account.
    "xstest": Source(
        "xstest_prompts.csv",
        ("id", "prompt", "type", "label"),
        ("Paul/XSTest", None, "train"),
    ),
}


def rows(name: str, folder: str | Path | None = None) -> list[Row]:
    """All rows of one of `SOURCES`, in the file's order, with its columns and no others.

    Args:
        name: "gsm8k", "truthfulqa_mc" or "xstest".
        folder: where the files are; None for `$BLENDIN_DATA`, and without that the hub.

    Raises:
        ValueError: the data cannot be loaded, lacks a column or has an empty question; the message
            says what to do.
    """
    source = SOURCES[name]
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = _file_in(Path(os.path.expanduser(folder)), source.file)
        if not path.is_file():
            raise ValueError(
                f"there is no file {path}; --data DIR and ${FOLDER_VARIABLE} name a folder with "
                + ", ".join(each.file for each in SOURCES.values())
            )
        where = str(path)
        found = list(tables.read(path, source.columns, structured=source.structured).rows)
    else:
        where = "/".join(part for part in source.hub if part)
        found = [
            _of_hub(source, row, f"{where}, row {number}")
            for number, row in enumerate(_load(source), start=1)
        ]
    if not found:
        raise ValueError(f"{where} has no rows")
    asked = "prompt" if "prompt" in source.columns else "question"
    for number, row in enumerate(found, start=1):
        if not row[asked].strip():
            raise ValueError(f"{where}, row {number}: the column {asked!r} is empty: give a text")
    tables.warn_of_repeats(
        where, f"{asked}s", [row[asked] for row in found], "each is an item of its own"
    )
    return found


def _of_hub(source: Source, row: Mapping[str, Any], place: str) -> Row:
    """A row of the hub as `tables.read` gives one of the file."""
    found = source.as_in_file(row)
    if missing := set(source.columns).difference(found):
        raise ValueError(f"{place} lacks {', '.join(sorted(missing))}")
    return {
        name: found[name] if name in source.structured else tables.as_text(found[name], place, name)
        for name in source.columns
    }


def _file_in(folder: Path, name: str) -> Path:
    """The folder's file of that name, in any case."""
    path = folder / name
    if path.is_file() or not folder.is_dir():
        return path
    return next((each for each in folder.iterdir() if each.name.lower() == name), path)


def _load(source: Source) -> Sequence[Mapping[str, Any]]:
    repository, configuration, split = source.hub
    try:
        from datasets import load_dataset

        return list(load_dataset(repository, configuration, split=split))
    # Offline, gated, missing, not installed: each of the libraries below raises its own exception.
    except Exception as error:
        raise ValueError(
            f"{repository} could not be loaded from the Hugging Face hub "
            f"({type(error).__name__}: {error}). Either `pip install blendin[eval]` and go online, "
            f"or pass --data DIR (or set ${FOLDER_VARIABLE}) with {source.file} in that folder"
        ) from error


def permutation(length: int, seed: int | str) -> list[int]:
    """The places 0 to `length` − 1 in a seeded random order, the same everywhere.

    Python promises that `random()` alone stays the same from version to version, hence the sort by
    random keys in place of `sample` or `shuffle`.
    """
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(length)]
    return sorted(range(length), key=keys.__getitem__)


def subset(items: Sequence[T], limit: int | None, seed: int = SUBSET_SEED) -> list[T]:
    """`limit` items drawn without replacement, in the items' own order; None takes all.

    A smaller limit's items are among a larger one's.

    Raises:
        ValueError: for a limit below 1.
    """
    limit = Integer(1, none="all")("limit", limit)
    if limit is None:
        return list(items)
    return [items[place] for place in sorted(permutation(len(items), seed)[:limit])]
