"""Wrong chains: one result of a right chain is changed, and what follows from it is computed anew.

Only results whose every use is known are changed: the number stands nowhere in the question, in no
other step's result and among no everyday numbers, in figures or words; so wherever it stands in a
later step it is this result. The first wrong step then computes wrongly, every later step that
rests on it computes rightly from a wrong number, all others are as they were.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from .arithmetic import NUMBER, Expression, decimals, numerals, value_of, words, written
from .chains import ANNOTATION, Chain, LeftOut, Step
from .gsm8k_solutions import EVERYDAY, numbers_of

NO_PLACE = "no result can be changed whose every use is known"
CANCELS = "no change of a result reaches the answer with numbers that can stand there"


def with_wrong_step(chain: Chain, seed: int) -> Chain | LeftOut:
    """A chain that is wrong from one step on, its answer too; or why there is none.

    Args:
        chain: a right one with known dependencies.
        seed: of which result is changed, and how.
    """
    draw = random.Random(f"{seed} {chain.id} wrong")
    reaching = _reaching(chain)
    places = [origin for origin in reaching if _is_known_everywhere(chain, origin)]
    for origin in sorted(places, key=lambda _: draw.random()):
        for changed in sorted(_slips(chain.steps[origin]), key=lambda _: draw.random()):
            if (found := _carried(chain, origin, changed)) is not None:
                return found
    return LeftOut(chain.id, CANCELS if places else NO_PLACE)


def _reaching(chain: Chain) -> list[int]:
    """The steps whose result the answer is made of, itself included."""
    found, open_steps = set(), [len(chain.steps) - 1]
    while open_steps:
        origin = open_steps.pop()
        if origin not in found:
            found.add(origin)
            open_steps += chain.steps[origin].uses
    return sorted(found)


def _result(step: Step) -> Fraction:
    assert step.equation is not None
    return value_of(step.equation.result)


def _is_known_everywhere(chain: Chain, origin: int) -> bool:
    """Whether the step's result is a number of nothing else in the whole chain."""
    step = chain.steps[origin]
    if step.equation is None:
        return False
    value = _result(step)
    if value in numbers_of(chain.question) | EVERYDAY:
        return False
    for other in chain.steps:
        others = {each.value for each in numerals(other.visible)}
        expression = other.equation and Expression(other.equation.expression)
        operands = {value_of(each) for each in expression.operands} if expression else set()
        if other.origin != origin and other.equation and _result(other) == value:
            return False
        if other.origin <= origin and value in operands:
            return False
        if other.origin < origin and value in others:
            return False
        if value in words(other.visible):
            return False
        if other.origin > origin and {value / 100, 100 * value} & (others | operands):
            return False  # perhaps the same as a percentage
        if other.origin > origin and other.equation is None and value in others:
            return False  # what it says of the number is not computed
    return True


def _slips(step: Step) -> Iterator[str]:
    """Results that a slip would give: off by a little, a digit, a factor of ten."""
    assert step.equation is not None
    literal = step.equation.result
    value, places = value_of(literal), decimals(literal)
    unit = Fraction(1, 10**places)
    for other in (1, -1, 2, -2, 10, -10):
        if (slipped := value + other * unit) > 0:
            yield written(slipped, "," in literal)
    if value.denominator == 1:
        yield written(10 * value, "," in literal)


def _carried(chain: Chain, origin: int, changed: str) -> Chain | None:
    """The chain with this result there; None where a number that follows cannot stand."""
    taken = numbers_of(chain.question) | EVERYDAY
    taken |= {number for step in chain.steps for number in numbers_of(step.text)}
    if value_of(changed) in taken:
        return None
    new: dict[int, str] = {}
    steps = []
    for step in chain.steps:
        if step.origin == origin:
            new[origin] = changed
        elif new.keys() & set(step.uses):
            if not _is_known_everywhere(chain, step.origin) and _stands_elsewhere(chain, step):
                return None
            if (found := _recomputed(chain, step, new)) is None or value_of(found) in taken:
                return None
            new[step.origin] = found
        steps.append(step)
    last = len(chain.steps) - 1
    if last not in new or value_of(new[last]) == _result(chain.steps[last]):
        return None
    made = [_rewritten(chain, step, new) for step in steps]
    return replace(chain, steps=tuple(made), first_wrong=origin)


def _stands_elsewhere(chain: Chain, step: Step) -> bool:
    """Whether the step's result is a number of its own text before it, or of any later step."""
    value = _result(step)
    for other in chain.steps[step.origin :]:
        found = [each.value for each in numerals(other.visible)]
        if other.equation is not None:
            found += map(value_of, Expression(other.equation.expression).operands)
        allowed = 1 if other is step else 0
        close = {value, value / 100, 100 * value}
        if sum(each in close for each in found) > allowed or value in words(other.visible):
            return True
    return False


def _operands(chain: Chain, step: Step, new: dict[int, str]) -> str:
    """The step's expression with the results that are new."""
    assert step.equation is not None
    replaced = {_result(chain.steps[used]): new[used] for used in step.uses if used in new}
    expression = Expression(step.equation.expression)
    return expression.with_operands(
        [replaced.get(value_of(each), each).replace(",", "") for each in expression.operands]
    )


def _recomputed(chain: Chain, step: Step, new: dict[int, str]) -> str | None:
    """The step's new result; None where it is below zero or cannot be computed."""
    assert step.equation is not None
    try:
        exact = Expression(_operands(chain, step, new)).value
    except ValueError:
        return None
    if exact <= 0:
        return None
    literal = written(exact, "," in step.equation.result)
    return literal if value_of(literal) > 0 else None


def _rewritten(chain: Chain, step: Step, new: dict[int, str]) -> Step:
    """The step with every number that changed, in its text and its annotation."""
    changed = {_result(chain.steps[each]): new[each] for each in (*step.uses, step.origin)
               if each in new}  # fmt: skip
    if not changed:
        return step
    found = ANNOTATION.search(step.text)
    assert found is not None
    expression = _operands(chain, step, new)
    result = new.get(step.origin, found["result"]).replace(",", "")

    def swapped(part: str) -> str:
        def literal(number: re.Match[str]) -> str:
            other = changed.get(value_of(number[0]))
            if other is None:
                return number[0]
            return written(value_of(other), "," in number[0]) if "," in number[0] else other

        return NUMBER.sub(literal, part)

    before, after = swapped(step.text[: found.start()]), swapped(step.text[found.end() :])
    text = f"{before}<<{expression}={result}>>{after}"
    return replace(step, text=text, correct=step.correct and step.origin not in new)
