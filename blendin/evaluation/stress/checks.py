"""Whether a chain is what it says it is: recomputed from its text, not from how it was made.

Every equation is computed anew from the step's text, in exact fractions; what a step rests on has
to stand before it; labels are told from the numbers themselves, against the right solution's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .arithmetic import Expression, plain_equations, value_of, writes
from .chains import ANNOTATION, ANY_ANNOTATION, Chain, Step
from .gsm8k_solutions import RESULT
from .transformations import MARKERS, REPETITION


@dataclass(frozen=True)
class Check:
    """The outcome.

    Attributes:
        recomputed: how many equations were computed anew: annotations and those of plain text.
        failures: what is not as it should be, in words; empty for a chain that passes.
    """

    recomputed: int
    failures: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.failures


def check(chain: Chain, source: Chain, right: Chain) -> Check:
    """Checks a chain against what it was made of.

    Args:
        chain: transformed, or the source itself.
        source: the chain before it was transformed, right or wrong.
        right: the right chain of the same item; the source itself where that is right. Where the
            item has another text for its wrong chain (PRMBench), the source itself, too.
    """
    if failures := [*_steps(chain, source)]:
        return Check(0, tuple(failures))  # what follows goes by the steps
    failures += _places(chain)
    recomputed = 0
    if chain.dependencies:
        recomputed, wrong = _equations(chain)
        failures += [*wrong, *_labels(chain, right), *_answer(chain)]
    return Check(recomputed, tuple(failures))


def _steps(chain: Chain, source: Chain) -> Iterator[str]:
    """The source's steps are all there, once, with their texts and labels; others repeat them."""
    own = [step for step in chain.steps if step.role == "own"]
    sources = {step.origin: step for step in source.steps}
    if sorted(step.origin for step in own) != sorted(sources):
        yield "its steps are not the source's"
        return
    if chain.first_wrong != source.first_wrong or chain.answer != source.answer:
        yield "it has another label than its source"
    for step in own:
        before = sources[step.origin]
        if _without_marker(step) != _folded(before.text):
            yield f"step {step.origin} has another text than in its source"
        if step.correct != before.correct:
            yield f"step {step.origin} has another label than in its source"
    for step in chain.steps:
        if step.role == "restatement":
            before = sources[step.origin]
            same = step.text == REPETITION.format(before.text)
            if not (same or (before.equation and step.equation == before.equation)):
                yield f"a restatement of step {step.origin} says something else"
            if step.correct != before.correct:
                yield f"a restatement of step {step.origin} has another label"


def _without_marker(step: Step) -> str:
    if step.marker and step.marker not in MARKERS:
        return step.text
    return _folded(step.text.removeprefix(step.marker))


def _folded(text: str) -> str:
    return text[:1].lower() + text[1:]


def _places(chain: Chain) -> Iterator[str]:
    """What a step rests on stands before it; parts before their step, restatements after it."""
    done: set[int] = set()
    for step in chain.steps:
        if chain.dependencies and not step.rests_on <= done:
            yield f"step {step.origin} stands before what it rests on"
        if (step.role == "restatement") != (step.origin in done):
            yield f"a {step.role} of step {step.origin} is out of place"
        if step.role == "own":
            done.add(step.origin)


def _equations(chain: Chain) -> tuple[int, list[str]]:
    """How many were recomputed; those that fail where they should hold, or hold where they fail."""
    count, failures = 0, []
    for step in chain.steps:
        is_slip = step.origin == chain.first_wrong and step.role != "part"
        annotation = ANNOTATION.search(step.text)
        if annotation is not None:
            count += 1
            result = annotation["result"]
            exact = Expression(annotation["expression"]).value
            if writes(result, exact) == is_slip:
                failures.append(f"step {step.origin}: {annotation[0]} is not what its label says")
            shown = RESULT.match(step.text, annotation.end())
            if shown is None or value_of(shown[0]) != value_of(result):
                failures.append(f"step {step.origin}: the text gives another result")
        elif is_slip:
            failures.append(f"step {step.origin} is wrong without an equation")
        for exact, literal in plain_equations(ANY_ANNOTATION.sub("", step.text)):
            count += 1
            if not is_slip and not writes(literal, exact):
                failures.append(f"step {step.origin}: an equation of its text does not hold")
    return count, failures


def _labels(chain: Chain, right: Chain) -> Iterator[str]:
    """Each step's numbers against the right solution's, and what it uses against who says it."""
    truth = {step.origin: step.equation for step in right.steps if step.role == "own"}
    stated = {step.origin: step.equation for step in chain.steps if step.role == "own"}
    for step in chain.steps:
        equation, expected = step.equation, truth[step.origin]
        if equation is None:
            if step.correct is not True:
                yield f"step {step.origin} has no equation and is not right"
            continue
        operands = [value_of(each) for each in Expression(equation.expression).operands]
        for used in step.uses:
            source = stated[used]
            if step.role != "part" and (source is None or value_of(source.result) not in operands):
                yield f"step {step.origin} does not use what step {used} says"
        assert expected is not None
        if step.role == "part":
            own = [value_of(each) for each in Expression(expected.expression).operands]
            is_right = all(operand in own for operand in operands)
        else:
            is_right = value_of(equation.result) == value_of(expected.result)
        if is_right != step.correct:
            yield f"step {step.origin} ({step.role}) is labelled {step.correct} and is {is_right}"


def _answer(chain: Chain) -> Iterator[str]:
    """The last own step gives the answer, or another one in a wrong chain."""
    last = max((step for step in chain.steps if step.role == "own"), key=lambda step: step.origin)
    assert last.equation is not None and chain.answer is not None
    gives = value_of(last.equation.result) == value_of(chain.answer)
    if gives != chain.is_right:
        yield "its answer is not what its label says"
    if chain.order[-1] != last.origin:
        yield "the step that gives the answer is not the last"
