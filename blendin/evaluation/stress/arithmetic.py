"""Exact arithmetic on written numbers: `16-3-4`, `1,200*.05`, `25%`; fractions, no floats."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])\.\d+")
"""A numeral; "3rd", "x2" and the parts of "1.2.3" are none at their letter or second point."""

MOST_DECIMALS = 2
"""Decimal places of a number that has no end."""

OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
NUMBER_WORDS = {word: Fraction(place) for place, word in enumerate(WORDS)}
NUMBER_WORDS |= {
    word: Fraction(10 * place)
    for place, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), start=3)
}
NUMBER_WORDS |= {"hundred": Fraction(100), "thousand": Fraction(1000), "dozen": Fraction(12)}
NUMBER_WORDS |= {"half": Fraction(1, 2), "once": Fraction(1), "thrice": Fraction(3)}
NUMBER_WORDS |= dict.fromkeys(("twice", "double", "both", "pair", "couple"), Fraction(2))
NUMBER_WORDS |= {"triple": Fraction(3), "quarter": Fraction(1, 4)}
_WORD = re.compile(r"[a-z]+")


class Numeral(NamedTuple):
    """A number as it stands in a text.

    Attributes:
        start, end: its characters.
        value: without a percent sign's hundredth.
        is_percent: a percent sign follows.
    """

    start: int
    end: int
    value: Fraction
    is_percent: bool


def value_of(literal: str) -> Fraction:
    """The number that a numeral writes, "1,200.50" for one."""
    return Fraction(literal.replace(",", ""))


def numerals(text: str) -> Iterator[Numeral]:
    """The numerals of a text, in their order."""
    for found in NUMBER.finditer(text):
        is_percent = text[found.end() : found.end() + 1] == "%"
        yield Numeral(found.start(), found.end(), value_of(found[0]), is_percent)


def words(text: str) -> set[Fraction]:
    """The numbers that are written as words."""
    found = _WORD.findall(text.lower())
    return {NUMBER_WORDS[word] for word in found if word in NUMBER_WORDS}


def decimals(literal: str) -> int:
    """How many decimal places a numeral shows."""
    return len(literal.partition(".")[2])


def writes(literal: str, exact: Fraction) -> bool:
    """Whether a numeral with a sign is the number, or the number rounded to its decimal places.

    A whole number is never taken for a rounded one: whether 3 buses are 2.5 is not arithmetic.
    """
    value, places = value_of(literal), decimals(literal)
    half = Fraction(1, 2 * 10**places) if places else Fraction(0)
    return abs(value - exact) <= half


def written(exact: Fraction, grouped: bool = False) -> str:
    """A numeral that `writes` the number: in full within four places, else rounded to two."""
    scaled = exact * 10**4
    if scaled.denominator == 1:
        number = f"{float(exact):.4f}".rstrip("0").rstrip(".")
    else:
        number = f"{float(exact):.{MOST_DECIMALS}f}"
    whole, point, rest = number.partition(".")
    return (f"{int(whole):,}" if grouped else whole) + point + rest


class Expression:
    """An arithmetical expression of numerals, + - * / and parentheses.

    Attributes:
        text: as it is written.
        operands: its numerals, in their order.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        found = list(NUMBER.finditer(text))
        self.operands = [each[0] for each in found]
        self._between = [
            text[begin:end]
            for begin, end in zip(
                [0, *(each.end() for each in found)],
                [*(each.start() for each in found), len(text)],
                strict=True,
            )
        ]
        named = self._joined([f"n{place}" for place in range(len(found))])
        try:
            self._tree = ast.parse(named.strip(), mode="eval").body
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no arithmetic") from error
        self._named = named.strip()
        self.value = self._evaluated(self._tree)

    def _joined(self, literals: Sequence[str]) -> str:
        parts = zip(self._between, [*literals, ""], strict=True)
        return "".join(between + literal for between, literal in parts)

    def with_operands(self, literals: Sequence[str]) -> str:
        """The same expression of other numerals, as many."""
        return self._joined(literals)

    def _evaluated(self, node: ast.expr) -> Fraction:
        match node:
            case ast.Name(name) if name[1:].isdecimal():
                return value_of(self.operands[int(name[1:])])
            case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
                value = self._evaluated(operand)
                return -value if isinstance(sign, ast.USub) else value
            case ast.BinOp(left, operation, right) if type(operation) in OPERATIONS:
                one, other = self._evaluated(left), self._evaluated(right)
                if isinstance(operation, ast.Div) and not other:
                    raise ValueError(f"{self.text!r} divides by zero")
                return OPERATIONS[type(operation)](one, other)
        raise ValueError(f"{self.text!r} has more than numbers, + - * / and parentheses")

    def first_part(self) -> str | None:
        """The part that is computed first, where there is more than one operation."""
        node = self._tree
        if not isinstance(node, ast.BinOp):
            return None
        while True:
            inner = [each for each in (node.left, node.right) if isinstance(each, ast.BinOp)]
            if not inner:
                break
            node = inner[0]
        segment = ast.get_source_segment(self._named, node)
        if node is self._tree or segment is None:
            return None
        return re.sub(r"n(\d+)", lambda found: self.operands[int(found[1])], segment)


_OPERAND = rf"\$?(?:{NUMBER.pattern})%?"
_OPERATION = r"(?:[-+*/×]|\bx\b|(?<=\d)x(?=[\s\d]))"
_PLAIN = re.compile(
    rf"(?<![\w.,%)/*+×-])(?P<left>\(?\s*{_OPERAND}(?:\s*\)?\s*{_OPERATION}\s*\(?\s*{_OPERAND})+\s*\)?)"
    rf"\s*=\s*\$?(?P<right>-?\$?(?:{NUMBER.pattern})%?)(?!\s*[-+*/×(]|\s*x\b|[\d,]*\d|\.\d| \d)"
)
_BEGAN_BEFORE = re.compile(r"(?:[\w%)][-–=/*+×]|[=/*+×–]|\d|\d\s*x|\bof)\s*\$?$")


def plain_equations(text: str) -> Iterator[tuple[Fraction, str]]:
    """The equations that a text writes out, `9 * 2 = $18`: what the left side is, and the result.

    Only what stands in numerals from end to end: `3 eggs * 2 = 6` is none, nor is the end of a
    longer one, nor what has mixed numbers (`1 1/2`). A result in percent is given as what the left
    side comes closest to: `60/100 = 60%` and `100-40 = 60%` both hold.
    """
    for found in _PLAIN.finditer(text):
        left = found["left"].strip()
        before = text[: found.start()].rstrip()
        if _BEGAN_BEFORE.search(before) or left.count("(") != left.count(")"):
            continue
        plain = re.sub(r"×|\bx\b|(?<=\d)x(?=[\s\d])", "*", left.replace("$", ""))
        plain = re.sub(rf"({NUMBER.pattern})%", r"(\1/100)", plain)
        right = found["right"].replace("$", "")
        try:
            value = Expression(plain).value
        except ValueError:
            continue
        if right.endswith("%"):
            right = right[:-1]
            value = 100 * value if writes(right, 100 * value) else value
        yield value, right
