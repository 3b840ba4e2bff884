"""GSM8K's own solutions as chains: their annotations say what each step computes from what.

A line of a solution is a step: `She makes 9 * 2 = $<<9*2=18>>18 every day`. An operand is the
result of an earlier step beyond doubt where just one earlier step has that result and neither the
question nor everyday knowledge (7 days, 100 %) has that number; then the step *uses* that one.
Whatever else a step may rest on, it is kept behind:

- an earlier step whose result its text has anywhere, as it is, negated, or as a percentage;
- the step before it, where it begins with a word that points back (`So`, `Then`, `This`);
- a step without an equation keeps all before it before, and all after it after it;
- the last step, which gives the answer, comes last.

So an order that these allow leaves every step with all it rests on before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from .arithmetic import Expression, numerals, plain_equations, value_of, words, writes
from .chains import ANNOTATION, ANY_ANNOTATION, Chain, LeftOut, Step

EVERYDAY = frozenset(map(Fraction, (0, 1, 2, 4, 7, 12, 24, 30, 31, 52, 60, 100, 360, 365, 1000)))
"""Numbers that a step may have from nowhere: days, months, minutes, halves, percent."""

POINTS_BACK = re.compile(
    r"(?:so|then|therefore|thus|hence|this|that|these|those|it|now|next|after|afterwards|finally|"
    r"however|but|and|or|also|since|because|which|if|they|their|its|instead|"
    r"again|altogether|similarly|likewise|still|first|second|third|lastly|both|each)\b",
    re.IGNORECASE,
)
RESULT = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+")

NO_ANNOTATION = "no step has an annotation"
SEVERAL = "a line has several annotations"
NO_ARITHMETIC = "an annotation is no arithmetic"
NOT_RECOMPUTED = "an annotation's result is not what it computes"
NOT_WRITTEN = "the text gives another number than its annotation"
NOT_EQUAL = "an equation in the text does not hold"
NEGATIVE = "a result is negative"
OPEN_END = "the last step has no annotation"
NOT_THE_ANSWER = "the last step does not give the answer"
TOO_SHORT = "there is only one step"


def read(id: str, question: str, answer: str) -> Chain | LeftOut:
    """The chain of one item, or why it is none.

    Args:
        id: what to call it.
        question: the problem.
        answer: the solution with its annotations, and the answer after "####".
    """
    solution, _, final = answer.rpartition("####")
    lines = [line.strip() for line in solution.splitlines() if line.strip()]
    final = final.strip().removeprefix("$")
    if not ANY_ANNOTATION.search(solution):
        return LeftOut(id, NO_ANNOTATION)
    if len(lines) < 2:
        return LeftOut(id, TOO_SHORT)
    for line in lines:
        if fault := _fault(line):
            return LeftOut(id, fault)
    last = Step(lines[-1], 0).equation
    if last is None:
        return LeftOut(id, OPEN_END)
    if not RESULT.fullmatch(final) or value_of(final) != value_of(last.result):
        return LeftOut(id, NOT_THE_ANSWER)
    return Chain(id, question.strip(), tuple(_connected(question, lines)), final)


def _fault(line: str) -> str | None:
    """What is wrong with a line of a solution; None for nothing."""
    if not ANY_ANNOTATION.search(line):
        return NOT_EQUAL if _breaks(line) else None
    if len(ANY_ANNOTATION.findall(line)) > 1:
        return SEVERAL
    found = ANNOTATION.search(line)
    if found is None:
        return NO_ARITHMETIC
    result = found["result"].strip()
    if result.startswith("-"):
        return NEGATIVE
    try:
        exact = Expression(found["expression"]).value
    except ValueError:
        return NO_ARITHMETIC
    if not RESULT.fullmatch(result):
        return NO_ARITHMETIC
    if not writes(result, exact):
        return NOT_RECOMPUTED
    shown = RESULT.match(line, found.end())
    if shown is None or value_of(shown[0]) != value_of(result):
        return NOT_WRITTEN
    return NOT_EQUAL if _breaks(line) else None


def _breaks(line: str) -> bool:
    """Whether the text itself has an equation that does not hold."""
    visible = ANY_ANNOTATION.sub("", line)
    return any(not writes(right, exact) for exact, right in plain_equations(visible))


def _connected(question: str, lines: Sequence[str]) -> list[Step]:
    """The steps with what each rests on."""
    bare = [Step(line, place) for place, line in enumerate(lines)]
    results = [None if e is None else value_of(e.result) for e in (s.equation for s in bare)]
    given = numbers_of(question) | EVERYDAY
    steps = []
    for place, step in enumerate(bare):
        operands = set()
        if step.equation is not None:
            operands = {value_of(each) for each in Expression(step.equation.expression).operands}
        mentioned = numbers_of(step.visible) | operands
        uses, after = set(), set()
        for earlier in range(place):
            result = results[earlier]
            if result is None:
                after.add(earlier)
                continue
            is_known = result not in given and results.count(result) == 1
            if is_known and result in operands:
                uses.add(earlier)
            elif mentioned & {result, result / 100, 100 * result}:
                after.add(earlier)
        if place and POINTS_BACK.match(step.visible):
            after.add(place - 1)
        if step.equation is None or place == len(bare) - 1:
            after |= set(range(place))
        steps.append(
            Step(step.text, place, uses=tuple(sorted(uses)), after=tuple(sorted(after - uses)))
        )
    return steps


def numbers_of(text: str) -> set[Fraction]:
    """The numbers that a text has, in figures or words."""
    return {each.value for each in numerals(text)} | words(text)
