"""Where benchmark data comes from, and the fixed subset of it.

A folder (`--data DIR`, else `$BLENDIN_DATA`) holds the files as their authors publish them;
without one the rows are loaded from the Hugging Face hub and given the shape of the files. The
hub's TruthfulQA is the edition of 2021 (817 questions), the authors' files that of 2025 (790):
scores on the two are not comparable.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...values import Integer
from ..csv_files import read_csv

T = TypeVar("T")
Row = dict[str, Any]

FOLDER_VARIABLE = "BLENDIN_DATA"
SUBSET_SEED = 2606
"""The seed of every subset unless another is given; print it beside a result."""


@dataclass(frozen=True, slots=True)
class Source:
    """One data set: its file, where the hub has it, and the columns that must be there.

    `as_in_file` gives a row of the hub the shape of the file's.
    """

    file: str
    columns: frozenset[str]
    hub: tuple[str, str | None, str]  # repository, configuration, split
    as_in_file: Callable[[Mapping[str, Any]], Row] = dict


def _choices_as_in_file(row: Mapping[str, Any]) -> Row:
    def targets(name: str) -> dict[str, int]:
        return dict(zip(row[name]["choices"], row[name]["labels"], strict=True))

    return {
        "question": row["question"],
        "mc1_targets": targets("mc1_targets"),
        "mc2_targets": targets("mc2_targets"),
    }


SOURCES = {
    "gsm8k": Source(
        "gsm8k_test.jsonl",
        frozenset({"question", "answer"}),
        ("openai/gsm8k", "main", "test"),
    ),
    "truthfulqa_mc": Source(
        "truthfulqa_mc.json",
        frozenset({"question", "mc1_targets", "mc2_targets"}),
        ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
        _choices_as_in_file,
    ),
    # The authors' own repository: the well-known copies lack the label or ask for an account.
    "xstest": Source(
        "xstest_prompts.csv",
        frozenset({"id", "prompt", "type", "label"}),
        ("Paul/XSTest", None, "train"),
    ),
}


def rows(name: str, folder: str | Path | None = None) -> list[Row]:
    """All rows of one of `SOURCES`, in the file's order and with the file's column names.

    Args:
        name: "gsm8k", "truthfulqa_mc" or "xstest".
        folder: where the files are; None for `$BLENDIN_DATA`, and without that the hub.

    Raises:
        ValueError: the data cannot be loaded or lacks a column; the message says what to do.
    """
    source = SOURCES[name]
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = Path(os.path.expanduser(folder)) / source.file
        if not path.is_file():
            raise ValueError(
                f"there is no file {path}; --data DIR and ${FOLDER_VARIABLE} name a folder with "
                + ", ".join(each.file for each in SOURCES.values())
            )
        where, found = str(path), read_rows(path)
    else:
        where = "/".join(part for part in source.hub if part)
        found = [source.as_in_file(row) for row in _load(source)]
    if not found:
        raise ValueError(f"{where} has no rows")
    for place, row in enumerate(found):
        if missing := source.columns.difference(row):
            raise ValueError(f"row {place} of {where} lacks {', '.join(sorted(missing))}")
    return found


def read_rows(path: Path) -> list[Row]:
    """The rows of a .csv, .jsonl or .json file.

    Raises:
        ValueError: the content is not what the suffix says; names the file.
        OSError: the file cannot be read.
    """
    if path.suffix == ".csv":
        return list(read_csv(path))
    text = read_text(path)
    if path.suffix == ".jsonl":  # nothing but a newline ends a line: JSON has others in its texts
        lines = [line for line in enumerate(text.split("\n"), start=1) if line[1].strip()]
        found = [_parsed(line, f"{path}, line {number}") for number, line in lines]
    else:
        found = _parsed(text, str(path))
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{path} is no list of rows: use JSON objects with the columns as names")
    return found


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark.

    Raises:
        ValueError: it is not UTF-8; names the file.
        OSError: it cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON ({error}): correct it") from error


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
