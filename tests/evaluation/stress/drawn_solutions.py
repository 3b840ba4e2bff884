"""Solutions in GSM8K's form for the tests: drawn by hypothesis, with exact annotations."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from blendin.evaluation.stress.arithmetic import Expression, value_of, written


@st.composite
def solutions(draw: st.DrawFn) -> tuple[str, str]:
    """A question and its solution: every step computes from given numbers and earlier results."""
    given = draw(st.lists(st.integers(3, 997), min_size=2, max_size=4, unique=True))
    results: list[Fraction] = []
    lines: list[str] = []
    for _ in range(draw(st.integers(2, 6))):
        choices = [Fraction(number) for number in given] + results
        one, other = draw(st.sampled_from(choices)), draw(st.sampled_from(choices))
        operation = draw(st.sampled_from("+-*/" if one > other else "+*/"))
        expression = f"{written(one)}{operation}{written(other)}"
        if draw(st.booleans()):
            expression += f"+{written(draw(st.sampled_from(choices)))}"
        value = Expression(expression).value
        if value_of(written(value)) != value:  # one that goes on for ever: a sum does not
            expression = f"{written(one)}+{written(other)}"
            value = Expression(expression).value
        results.append(value)
        opening = draw(st.sampled_from(("There are", "So there are", "The box has", "Kim pays $")))
        result = written(value)
        lines.append(f"{opening} {expression} = <<{expression}={result}>>{result} of it")
    question = "Kim has " + " and ".join(map(str, given)) + " of it. How many are there?"
    return question, "\n".join([*lines, f"#### {written(results[-1])}"])
