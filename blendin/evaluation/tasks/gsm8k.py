"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school problems whose answer is a number.

Protocol: zero-shot. The user's turn is the question as it is (`prompt`), the system text is
`SYSTEM`, NUDGING's chain-of-thought instruction; nothing asks for a format. An answer is correct if
its final number equals the reference's, as exact fractions: 18, 18.00 and 36/2 are one number.

The final number of a text (`final_number`) is, from the first of these that gives one:

1. what follows the last "####": the first number, no word between;
2. what follows the last "answer is" (in the same sentence), "answer:" (no word between) or stands
   in \\boxed{}, whichever comes last in the text: the first number;
3. the last number of the text.

Where an equation or a range begins at the number of 1 or 2, it is read to its end: "the answer is
9 * 2 = 18" ends in 18, "#### 10-12" in 12.

How numbers are read: "," groups thousands; currency signs, percent signs and units are passed
over, so 18% is 18; 1/2 and 1 1/2 are fractions, so are ½ and \\frac. A hyphen that touches the
number is a minus unless something that it could join stands before it: "10-12" ends in 12,
"3-year-old" in 3. A clock's h:mm is a number of hours: 5:00 is 5 and 3:30 is 7/2, but never 30.
Digits within a word or in an exponent (CO2, m^2) do not count. Not read: numbers in words, 1e6,
and 1.000,50 for 1,000.50.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .data import rows

SYSTEM = "Answer the question by walking through the reasoning steps."
"""NUDGING's system prompt for GSM8K (github.com/fywalter/nudging, dataset_utils.py)."""

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_PLAIN = rf"{_INTEGER}(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+"
_NUMBER = re.compile(
    # Not within a word, an exponent or an index; USD18 and Rs500 are money.
    r"(?:(?<![A-Za-z0-9^])(?<![A-Za-z0-9)]_)(?<![\^_]\{)|(?<=USD)|(?<=Rs))"
    r"(?:(?P<hours>[0-9]{1,2}):(?P<minutes>[0-5][0-9])(?![0-9]|:[0-9])"
    rf"|(?P<whole>{_INTEGER}) (?P<part>[0-9]+/0*[1-9][0-9]*)(?![.,/]?[0-9])"
    rf"|(?P<over>{_PLAIN})(?:/(?P<under>{_PLAIN}))?)"
)
_MINUS = re.compile(r"(?:^|[^\w)\]}%.$€£¥–—-]|(?:^|[^0-9\s])\s*[$€£¥]\s?)-(?:[$€£¥] ?)?$")
_HALVES = "[¼-¾⅐-⅞]"
_HASHES = re.compile(r"#{4,}")
_MARKER = re.compile(
    r"\banswer[*_\s]*(?:(?P<open>is)\b(?!\s*[*_]*:)|is\s*[*_]*:|[:=])|(?P<box>\\boxed\s*\{)",
    re.IGNORECASE,
)
# From a number to the next side of its equation: no word, no other sentence, no remark in brackets.
_EQUALS = re.compile(r"(?!\s*\()(?:[^A-Za-z\n=;?!.]|\.(?!\s))*=[^A-Za-z0-9\n=]*?(?=[0-9]|\.[0-9])")
_RANGE = re.compile(r"[%$€£]?[-–][$€£¥]?(?=[0-9])")
_OPERATOR = re.compile(r"\s*[-+*/×÷^]\s*[$(]?[0-9]")
_MOST_DIGITS = 1000  # a model stuck on a digit; int() refuses more than 4,300


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and the number that answers it."""

    question: str
    answer: Fraction


def read(folder: str | Path | None = None) -> list[Problem]:
    """The 1,319 problems of the test split, from where `data.rows` finds them.

    Raises:
        ValueError: as `data.rows`, and where a reference has no number after "####".
    """
    problems = []
    for place, row in enumerate(rows("gsm8k", folder)):
        _, mark, final = row["answer"].rpartition("####")
        answer = final_number(final)
        if not mark or answer is None:
            raise ValueError(f'row {place} of GSM8K has no number after "####"')
        problems.append(Problem(row["question"].strip(), answer))
    return problems


def prompt(problem: Problem) -> str:
    """The user's turn: the question and nothing else. `SYSTEM` is the system text."""
    return problem.question


def is_correct(text: str, answer: Fraction) -> bool:
    """Whether the text's final number is the answer; a text without a number is wrong."""
    return final_number(text) == answer


def final_number(text: str) -> Fraction | None:
    """The number that a text ends in, by the rules above; None where it has none."""
    text = _in_plain_signs(text)
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    for candidates in (_after_hashes(text, numbers), _after_markers(text, numbers)):
        for found in candidates:
            return _value(found, text)
    return _value(numbers[-1], text)


def _in_plain_signs(text: str) -> str:
    """The text with LaTeX's and Unicode's spellings of numbers in plain characters."""
    text = text.replace("−", "-").replace("{,}", ",").replace("\\!", "")
    text = re.sub(r"\\([$%#])", r"\1", text)
    text = re.sub(r"(?<=[0-9])(?:\\,|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ",", text)
    text = re.sub(rf"(?<=[0-9])\s*(?=\\[dt]?frac\b|{_HALVES})", " ", text)
    text = re.sub(_HALVES, lambda each: unicodedata.normalize("NFKC", each[0]), text)
    text = re.sub(r"\\[dt]?frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}", r"\1/\2", text)
    return re.sub(r"\\(?:times|cdot|div)\b", "*", text).replace("⁄", "/")


def _after_hashes(text: str, numbers: list[re.Match[str]]) -> Iterator[re.Match[str]]:
    """Numbers after "####", the last mark's first; a Markdown heading's number does not count."""
    for mark in reversed(list(_HASHES.finditer(text))):
        found = _first_from(mark.end(), numbers)
        if (
            found
            and not _has_word(text[mark.end() : found.start()])
            and not re.match(r"[.)] +[A-Za-z]", text[found.end() :])
        ):
            yield _end_of_expression(found, text, len(text))


def _after_markers(text: str, numbers: list[re.Match[str]]) -> Iterator[re.Match[str]]:
    """Numbers after "answer is", "answer:" and in \\boxed{}, the last marker's first."""
    for mark in reversed(list(_MARKER.finditer(text))):
        end = _closing_brace(text, mark.end()) if mark["box"] else len(text)
        found = _first_from(mark.end(), numbers)
        if not found or found.end() > end:
            continue
        between = text[mark.end() : found.start()]
        same_sentence = mark["open"] and not re.search(r"[.!?]\s|\n", between)
        if mark["box"] or same_sentence or not _has_word(between):
            yield _end_of_expression(found, text, end)


def _first_from(place: int, numbers: list[re.Match[str]]) -> re.Match[str] | None:
    at = bisect_left(numbers, place, key=lambda number: number.start())
    return numbers[at] if at < len(numbers) else None


def _has_word(text: str) -> bool:
    return re.search(r"(?<!\\)\b(?!USD\b|Rs\b)[A-Za-z]+", text) is not None


def _closing_brace(text: str, start: int) -> int:
    """Where the brace that was opened before `start` closes; the end if it never does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place
    return len(text)


def _end_of_expression(found: re.Match[str], text: str, end: int) -> re.Match[str]:
    """The number that an equation or a range beginning at a number comes to, else that number."""
    result = found
    while joint := _EQUALS.match(text, found.end(), end) or _RANGE.match(text, found.end(), end):
        right = _NUMBER.match(text, joint.end(), end)
        if right is None:
            break
        found = right
        if not _OPERATOR.match(text, found.end(), end):
            result = found
    return result


def _value(found: re.Match[str], text: str) -> Fraction | None:
    if len(found[0]) > _MOST_DIGITS:
        return None
    if found["hours"]:
        value = int(found["hours"]) + Fraction(int(found["minutes"]), 60)
    elif found["whole"]:
        value = int(found["whole"].replace(",", "")) + Fraction(found["part"])
    else:
        value = Fraction(found["over"].replace(",", ""))
        under = Fraction((found["under"] or "1").replace(",", ""))
        if not under:
            return None
        value /= under
    # The sign is one to four characters before the number, what it may join just before that.
    negative = _MINUS.search(text[max(0, found.start() - 8) : found.start()])
    return -value if negative else value
