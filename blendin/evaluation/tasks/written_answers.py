"""Files of written answers: what each one says, and how many say what is right.

A file (see `tables`) has an answer a row in the column "completion", what is right in "answer"
where that is known, "stop_reason" where a program noted it (one of `CUT` for an answer that was cut
off), and for letters "letters" or "prompt", from which the options' letters are taken.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import tables
from ..cells import key, one_of
from ..statistics import Interval, wilson
from .gsm8k import final_number
from .thoughts import is_unfinished
from .truthfulqa import chosen_letter

MOST_LETTERS = "ABCDEFGHIJKLM"
"""TruthfulQA has up to 13 options; these are meant where a file does not name them."""

CUT = ("length", "max_tokens", "max_length", "max_new_tokens", "limit")
ENDED = (
    *("end", "stop", "eos", "eos_token", "end_of_text", "end_turn", "stop_sequence", "stop_token"),
    *("complete", "content_filter", "safety", "refusal", "error", "abort", "other"),
    *("tool_calls", "function_call", "tool_use"),
)
"""What programs call the end of an answer: cut off at its limit, or otherwise."""


@dataclass(frozen=True, slots=True)
class WrittenAnswers:
    """The answers of a file as they were read.

    Attributes:
        column: the name of what was read, "blendin_number" or "blendin_letter".
        rows: the file's rows, and in each `column`, empty where the answer gives none.
        delimiter: between cells, where a .csv is written.
        right: whether each is what the column "answer" says; None where that is empty or missing.
        unfinished: how many were cut off, at a limit or within a thought.
    """

    column: str
    rows: Sequence[Mapping[str, Any]]
    right: Sequence[bool | None]
    unfinished: int
    delimiter: str = ","

    @property
    def given(self) -> int:
        """How many answers give a number or a letter."""
        return sum(bool(row[self.column]) for row in self.rows)

    @property
    def accuracy(self) -> Interval | None:
        """The share that is right, with its 95 % Wilson interval; None without references."""
        known = [each for each in self.right if each is not None]
        return wilson(sum(known), len(known)) if known else None

    def write(self, destination: str | Path) -> None:
        """The file's columns and the new one, as `tables.write` does."""
        tables.write(destination, self.rows, self.delimiter)


def read_numbers(path: str | Path, delimiter: str | None = None) -> WrittenAnswers:
    """Final numbers of a file's completions, as GSM8K is scored; adds the column "blendin_number".

    Raises:
        ValueError: as `tables.read`; or an "answer" has no number in it, or a "stop_reason" is not
            known; names the file and the row.
    """

    def read(row: Mapping[str, str], place: str, was_cut: bool) -> tuple[str, bool | None]:
        found = final_number(row["completion"], not was_cut)
        reference = row.get("answer", "").strip()
        expected = final_number(reference)
        if reference and expected is None:
            raise ValueError(
                f"{place}: the answer {reference!r} has no number in it: give the number, or leave "
                "the cell empty"
            )
        shown = "" if found is None else decimal(found)
        return shown, (found == expected if reference else None)

    return _read(path, "blendin_number", read, delimiter)


def read_letters(path: str | Path, delimiter: str | None = None) -> WrittenAnswers:
    """Letters that a file's completions choose; adds the column "blendin_letter".

    Raises:
        ValueError: as `tables.read`; or "letters" names none, "answer" is not one of them, or a
            "stop_reason" is not known; names the file and the row.
    """

    def read(row: Mapping[str, str], place: str, was_cut: bool) -> tuple[str, bool | None]:
        letters = _letters(row, place)
        reference = row.get("answer", "").strip().strip("().:").upper()
        if reference and (len(reference) > 1 or reference not in letters):
            raise ValueError(
                f"{place}: the answer {row['answer']!r} is not one of the letters {letters}"
            )
        found = chosen_letter(row["completion"], letters)
        return found or "", (found == reference if reference else None)

    return _read(path, "blendin_letter", read, delimiter)


def _read(
    path: str | Path,
    column: str,
    read: Callable[[Mapping[str, str], str, bool], tuple[str, bool | None]],
    delimiter: str | None,
) -> WrittenAnswers:
    further = ("answer", "stop_reason", "letters", "prompt", "id")
    table = tables.read(path, ("completion",), further, delimiter=delimiter)
    cut = [_was_cut(row, place) for place, row in table.numbered()]
    found = [read(row, place, was) for (place, row), was in zip(table.numbered(), cut, strict=True)]
    if known := {"id", "prompt"} & table.columns:
        said = ["\0".join(key(row.get(name, "")) for name in (*sorted(known), "completion"))
                for row in table.rows]  # fmt: skip
        tables.warn_of_repeats(path, "completions", said, "each is counted")
    return WrittenAnswers(
        column,
        tables.with_columns(table.cells, [{column: shown} for shown, _ in found]),
        [right for _, right in found],
        sum(
            was or is_unfinished(row["completion"])
            for row, was in zip(table.rows, cut, strict=True)
        ),
        table.delimiter,
    )


def _was_cut(row: Mapping[str, str], place: str) -> bool:
    reason = row.get("stop_reason", "").strip()
    further = ", or leave the cell empty"
    return bool(reason) and one_of(reason, CUT + ENDED, place, "stop_reason", further) in CUT


def _letters(row: Mapping[str, str], place: str) -> str:
    """From the column "letters" (ABCD, A-D, "A, B, C"), else from the options in the prompt."""
    if named := row.get("letters", "").strip():
        if span := re.fullmatch(r"([A-Z])\s*(?:[-–]|to)\s*([A-Z])", named, re.IGNORECASE):
            first, last = (string.ascii_uppercase.index(each.upper()) for each in span.groups())
            letters = string.ascii_uppercase[first : last + 1]
        else:
            letters = re.sub(r"[^A-Z]", "", named.upper())
        if not letters or not re.fullmatch(r"[\W_A-Za-z]+", named, re.ASCII | re.IGNORECASE):
            raise ValueError(f"{place}: letters {named!r} name no options: write them as ABCD")
        return letters
    options = re.findall(r"^[ \t]*\(?([A-Z])[).:]\s", row.get("prompt", ""), re.MULTILINE)
    return "".join(dict.fromkeys(options)) if len(options) > 1 else MOST_LETTERS


def decimal(value: Fraction) -> str:
    """An exact number in the shortest usual form: 18, 0.5, and 1/3 where no decimal ends."""
    rest, places = value.denominator, 0
    for factor in (2, 5):
        count = 0
        while rest % factor == 0:
            rest, count = rest // factor, count + 1
        places = max(places, count)
    if rest > 1 or not places:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"
