"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school problems whose answer is a number.

Protocol: zero-shot. The user's turn is the question as it is (`prompt`), the system text is
`SYSTEM`, NUDGING's chain-of-thought instruction; nothing asks for a format. An answer is correct if
its final number equals the reference's, as exact fractions: 18, 18.00 and 36/2 are one number.

How the final number of a text is found is described in `final_answer`, how numbers are read in
`numerals`. Thoughts (`thoughts`) are no part of an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .data import rows
from .final_answer import final_number

__all__ = ["SYSTEM", "Problem", "final_number", "is_correct", "prompt", "read"]

SYSTEM = "Answer the question by walking through the reasoning steps."
"""NUDGING's system prompt for GSM8K (github.com/fywalter/nudging, dataset_utils.py)."""


_NUMERALS = re.compile(r"\d+(?:[.,/]\d+)*")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and the number that answers it."""

    question: str
    answer: Fraction


def read(folder: str | Path | None = None) -> list[Problem]:
    """The 1,319 problems of the test split, from where `data.rows` finds them.

    Raises:
        ValueError: as `data.rows`, and where a reference has not one number after "####".
    """
    problems = []
    for number, row in enumerate(rows("gsm8k", folder), start=1):
        _, mark, final = row["answer"].rpartition("####")
        answer = final_number(final)
        if len(_NUMERALS.findall(final)) > 1:
            raise ValueError(
                f'row {number} of GSM8K has several numbers after "####": {final!r}; give one'
            )
        if not mark or answer is None:
            raise ValueError(f'row {number} of GSM8K has no number after "####": give the answer')
        problems.append(Problem(row["question"].strip(), answer))
    return problems


def prompt(problem: Problem) -> str:
    """The user's turn: the question and nothing else. `SYSTEM` is the system text."""
    return problem.question


def is_correct(text: str, answer: Fraction) -> bool:
    """Whether the text's final number is the answer; a text without a number is wrong."""
    return final_number(text) == answer
