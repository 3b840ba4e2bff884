"""What is read from worked answers: equations, marks, headings, statements, run-on text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from benchmark_data import DATA, needs_data

from blendin.evaluation.tasks.gsm8k import final_number, read


def bare(answer: str) -> str:
    return re.sub(r"<<.*?>>", "", answer.rpartition("####")[0].strip())


def last_line(text: str) -> str:
    return text.split("\n")[-1]


def last_equation(text: str) -> str | None:
    found = re.findall(r"[$(]*\d[^A-Za-z\n]*=[^A-Za-z\n=]*?\d[\d,.]*", last_line(text))
    return found[-1].rstrip(".,") if found else None


def behind(mark: str, part: Callable[[str], str | None]) -> Callable[[str], str | None]:
    def made(working: str) -> str | None:
        text = part(working)
        return None if text is None else mark + text

    return made


def x_for_times(text: str) -> str:
    return re.sub(r"\s*\*\s*", " x ", text)


def x_in_equation(working: str) -> str | None:
    equation = last_equation(working)
    return None if equation is None else f"The answer is {x_for_times(equation)}."


WAYS: dict[str, Callable[[str], str | None]] = {
    "as it is": str,
    "Answer: ": "Answer: {}".format,
    "Answer, newline": "Answer:\n{}".format,
    "heading": "### Final Answer\n\n{}".format,
    "x for *": x_for_times,
    "x between digits": lambda text: text.replace("*", "x"),
    "LaTeX": lambda text: text.replace("*", r" \times "),
    "last line": behind("The answer is ", last_line),
    "last line, x": lambda text: "The answer is " + x_for_times(last_line(text)),
    "last equation": behind("The answer is ", last_equation),
    "last equation, x": x_in_equation,
}


@needs_data("gsm8k_test.jsonl")
@pytest.mark.parametrize("way", WAYS)
def test_the_references_working_is_read_in_every_way(way: str) -> None:
    lines = (DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [problem.answer for problem in read(DATA)]
    written = [WAYS[way](bare(json.loads(line)["answer"])) for line in lines]
    right = [
        final_number(text) == answer
        for text, answer in zip(written, answers, strict=True)
        if text is not None
    ]
    assert len(right) > 1000
    assert sum(right) / len(right) >= 0.98


@pytest.mark.parametrize(
    "equation",
    [
        "9 x 2 = 18",
        "9x2=18",
        "9 X 2 = 18",
        "9 × 2 = 18",
        "9 · 2 = 18",
        "9 ⋅ 2 = 18",
        r"9 \times 2 = 18",
        r"$9 \cdot 2 = 18$",
        "9 ✕ $2 = $18",
        "9 eggs * $2 = $18",
        "9 eggs x $2 = $18",
        "9 eggs x $2/egg = $18 per day",
        "9 eggs times $2 is $18",
        "9 eggs times 2 dollars equals 18 dollars",
        "9 times 2, which is 18",
        "9 multiplied by 2 gives 18",
        "9 plus 9 makes 18",
        "36 divided by 2 equals 18",
        "20 minus 2, which leaves 18",
        "9 * 2 ≈ 18",
        "9 * 2 → 18",
        "9 * 2 => 18",
        "9 * 2 -> 18",
        r"9 \times 2 \approx 18",
        r"9 \times 2 \rightarrow 18",
        "9 * 2 is equal to 18",
        "9 eggs times $2 per egg, which equals $18",
        "9 * 2, i.e. 18",
        "9 * 2 or 18",
        "15 + 3 (apples) = 18",
        "25 percent of 72, or 18",
        "20% of 90 = 18",
        "20% of $90 is $18",
        "1/2 of 36 = 18",
        "6 + 6 + 6 = 18",
        "(16 - 3 - 4) * $2 = $18",
        "(16 - 3 - 4) x $2 = $18",
        r"\frac{36}{2} = 18",
        r"\frac{40-4}{2} = 18",
        "36 ÷ 2 = 18",
        "9 * 2 = 3 * 6 = 18",
        "9 eggs * $2 = 18 dollars a day for 16 eggs",
        "18 = 9 * 2",
        "18",
        "18 dollars",
        "= 18",
        "x = 18",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "The answer is {}",
        "The answer is {}.",
        "The answer is {}. It took 2 steps.",
        "Answer: {}",
        "**Answer:** {}",
        "So there are 16 eggs.\nThe final answer is: {}\n",
        "### Final Answer\n{}",
        "#### {}",
        r"So \boxed{{{}}}",
    ],
)
def test_an_equation_behind_a_mark_comes_to_its_result(form: str, equation: str) -> None:
    if (form.startswith("####") and re.search("[A-Za-z]", equation[:1])) or (
        "boxed" in form and "$9" in equation
    ):
        return
    assert final_number(form.format(equation)) == 18


def test_money_behind_a_mark() -> None:
    assert final_number("The answer is 150% of $80,000 = $120,000") == 120_000


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # "Answer:" over the whole working
        ("Answer: 16 - 3 - 4 = 9 eggs left. 9 * 2 = $18 a day.", 18),
        ("Answer:\n1. 16 - 3 - 4 = 9 eggs are left.\n2. 9 * 2 = $18 a day.", 18),
        ("Answer:\n1. She has 9 eggs.\n2. She makes $18.", 18),
        ("**Answer:**\n1) 16 - 7 = 9\n2) 9 x 2 = 18", 18),
        ("Answer: 9 eggs are left because 16 - 7 = 9. 9 times 2 is 18.", 18),
        ("Answer: Janet sells 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = $18 in 1 day.", 18),
        ("Answer: Step 1: 16 - 7 = 9. Step 2: 9 * 2 = 18.", 18),
        ("Answer:\n- 16 - 7 = 9 eggs\n- 9 * 2 = 18 dollars", 18),
        # other marks
        ("The answer to the problem is 18. It took 2 steps.", 18),
        ("The answer to this question is $18. That is for 9 eggs.", 18),
        ("The answer would be 18. It took 2 steps.", 18),
        ("The correct answer should be 18. There are 3 ducks.", 18),
        ("The answer must be 18, not 20.", 18),
        ("The answer will be 18. I used 2 steps.", 18),
        ("The answer was 18. I used 2 steps.", 18),
        ("The answer comes to 18. I used 2 steps.", 18),
        ("The answer, then, is 18. There were 16 eggs.", 18),
        ("The answer is therefore 18. There were 16 eggs.", 18),
        ("The answer is approximately 18. There were 16 eggs.", 18),
        ("The answer is\n\n18\n\nIn 2 steps.", 18),
        ("My final answer: 18\nI had 16 eggs", 18),
        ("### Final Answer\n\n18\n\nThis took 2 steps.", 18),
        ("### Final Answer:\n\n**18**\n\nThis took 2 steps.", 18),
        ("**Final Answer**\n$18\nfor 9 eggs", 18),
        ("## Answer\n18 dollars\n\nThere were 16 eggs.", 18),
        ("Final answer 18\nThere were 16 eggs", 18),
        ("<answer>18</answer> of 20", 18),
        ("<answer>9 * 2 = 18</answer>\nof 20", 18),
        ("Ans: 18\nThere were 16 eggs", 18),
        ('{"answer": 18, "steps": 2}', 18),
        ("*Answer*: 18\nThere were 16 eggs", 18),
        ("ANSWER: 18\nThere were 16 eggs", 18),
        ("The answer's 18, from 2 numbers", 18),
        ("The answer (in dollars) is 18. 7 days.", 18),
        ("The answer turns out to be 18. 3 ducks.", 18),
        ("The answer ought to be 18. 3 ducks.", 18),
        ("Answer: 18\n\nExplanation: 16 - 7 = 9 and 9 * 2 = 18. That is 3 steps.", 18),
        ("Answer: 18. Check: 18 / 9 = 2.", 18),
        # marks that are none
        ("To answer the question, there are 3 facts. 9 * 2 = 18", 18),
        ("The answer to the first part is 9. So 9 * 2 = 18", 18),
        # statements
        ("She will have 9 + 9 = $18 after 3 days.", 18),
        ("Thus, she pays $6.50 + $11.50 = $18 for 5 apples and 5 oranges.", 18),
        ("16 - 7 = 9 eggs are left, so she makes $18 every day.", 18),
        ("There are 16 - 7 = 9 left, which means 9 * 2 = 18.", 18),
        ("She needed 18 spoons to make 16 muffins.", 18),
        ("She makes $18 in 3 days.", 18),
        ("She makes $18 this week ($8 + $10).", 18),
        ("18 minutes (10 + 5 + 3)", 18),
        ("She has to drive 18 miles", 18),
        ("He can buy 18 because 20 - 2 = 18 and 18 + 2 = 20.", 18),
        ("He can skip 18 classes because 24 - 6 = 18", 18),
        ("9 * 2 = 18.\nIt took 2 steps.", 18),
        ("The total is 18.\n\nConfidence: 95%", 18),
        ("The total is\n= 9 * 2\n= 18", 18),
        ("<<9*2=18>>18 dollars", 18),
        ("She makes 9 * 2 = $<<9*2=18>>18 in 1 day", 18),
    ],
)
def test_marks_workings_and_statements(text: str, number: int) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # magnitudes
        ("$1.5 million", 1_500_000),
        ("$1.5M", 1_500_000),
        ("$1.5m", 1_500_000),
        ("1.5 Million dollars", 1_500_000),
        ("$1.5-million", 1_500_000),
        ("$70k", 70_000),
        ("70K", 70_000),
        ("70 thousand", 70_000),
        ("3 hundred thousand", 300_000),
        ("5 hundred", 500),
        ("2 billion", 2 * 10**9),
        ("$2bn", 2 * 10**9),
        ("$2B", 2 * 10**9),
        ("1/2 million", 500_000),
        ("3 lakh", 300_000),
        ("2 crore", 20_000_000),
        ("1.2 × 10^6", 1_200_000),
        ("1.2 x 10^6", 1_200_000),
        ("1.2 * 10^{6}", 1_200_000),
        (r"1.2 \times 10^6", 1_200_000),
        ("1.2 · 10⁶", 1_200_000),
        ("1.2e6", 1_200_000),
        ("1.2E+06", 1_200_000),
        ("5e-1", "1/2"),
        ("10^6", 10**6),
        ("2³", 8),
        # not magnitudes
        ("5m", 5),
        ("5 m", 5),
        ("5 km", 5),
        ("5kg", 5),
        ("5mm", 5),
        ("7 dozen", 7),
        ("18 bananas", 18),
        ("18 k", 18),
        # thousands
        ("70 000", 70_000),
        ("1 000 000 people", 10**6),
        ("1\u00a0000\u00a0000", 10**6),
        ("1'000'000", 10**6),
        ("1’000", 1000),
        ("1_000", 1000),
        ("1,00,000", 100_000),
        ("12,34,567", 1_234_567),
        ("1.000.000", 10**6),
        ("1.234,50", "2469/2"),
        ("18,50 €", "37/2"),
        ("€18,50", "37/2"),
        ("1.000", 1),
        # signs
        ("negative 3", -3),
        ("Negative $3", -3),
        ("minus 3", -3),
        ("–3", -3),
        ("‑3", -3),
        ("－3", -3),
        ("-3", -3),
        # scripts
        ("１８", 18),
        ("１，８００", 1800),
        ("＄１８", 18),
        ("１８．５", "37/2"),
        ("١٨", 18),
        ("१८", 18),
        ("১৮", 18),
        ("₹ 500", 500),
        ("₦500", 500),
        ("500 ₩", 500),
        # fractions
        (r"\frac12", "1/2"),
        (r"\frac 1 2", "1/2"),
        (r"\frac{1}2", "1/2"),
        (r"\frac1{2}", "1/2"),
        (r"\tfrac{1}{2}", "1/2"),
        (r"\frac{1,000}{3}", "1000/3"),
        (r"\frac{-7}{2}", "-7/2"),
        (r"\$1.5\text{ million}", 1_500_000),
        (r"1\frac12", "3/2"),
        ("1⁄2", "1/2"),
        # LaTeX around a number
        (r"\text{18}", 18),
        (r"\mathbf{18}", 18),
        (r"18\text{ dollars}", 18),
        (r"18~\text{kg}", 18),
        (r"1\ 000", 1000),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "The answer is {}",
        "Answer: {}",
        "There are 4 of 77.\n#### {}",
        "She earned {}.",
        r"So \boxed{{{}}}, of 7",
    ],
)
def test_magnitudes_thousands_signs_and_scripts(form: str, text: str, number: int | str) -> None:
    assert final_number(form.format(text)) == Fraction(number)


@pytest.mark.parametrize(
    "further",
    [
        "\n\nQ: Tom has 5 apples.",
        "\nQ: Tom has 5 apples. A: 5",
        "\n\nQuestion: Tom has 5 apples.\nAnswer: 5",
        "\n\nQuestion 2: Tom has 5 apples.\nThe answer is 5.",
        "\n\n**Question:** Tom has 5 apples.\n#### 5",
        "\n\nProblem 2: Tom has 5 apples.",
        "\n\n### Problem 2\nTom has 5 apples. The answer is 5.",
        "\n\nProblem: Tom has 5 apples.",
        "\n\nNext question: Tom has 5 apples.",
        "\n\nHere is another problem: Tom has 5 apples.",
        "\n\n2. Question: Tom has 5 apples.",
        "\n\nQ2. Tom has 5 apples.",
        "\n\n[Question]\nTom has 5 apples.",
        "\n\nExample 3: Tom has 5 apples.",
        "\n\nExercise 2:\nTom has 5 apples.",
        "\n\nHuman: Tom has 5 apples.",
        "\nUser: And 5?",
        "\n\n### Instruction:\nTom has 5 apples.",
        "<|im_end|>\n<|im_start|>user\nTom has 5 apples.",
        "</s> [INST] And 5? [/INST]",
        "<|endoftext|>Tom has 5 apples",
    ],
)
@pytest.mark.parametrize("own", ["So she makes $18.", "The answer is 18", "#### 18", "18"])
def test_another_question_ends_the_answer(own: str, further: str) -> None:
    assert final_number(own + further) == 18


@pytest.mark.parametrize(
    "text",
    [
        "Question: Janet has 16 eggs.\nAnswer: 9 * 2 = 18",
        "Q: How much?\nA: She makes 18",
        "Let us see.\n\nProblem: 16 eggs and 7 are eaten.\n\nSolution: 9 * 2 = 18",
        "Question 1: How many are left? 16 - 7 = 9\nQuestion 2: How much is it? 9 * 2 = 18",
    ],
)
def test_the_question_that_was_asked_does_not_end_the_answer(text: str) -> None:
    assert final_number(text) == 18


@pytest.mark.parametrize(
    "text", [r"So 9 * 2 is \boxed{1", r"\boxed{", r"The answer is $\boxed{\frac{1", "<think>18"]
)
def test_half_an_answer_has_no_number(text: str) -> None:
    assert final_number(text) is None


def test_of_an_answer_that_was_cut_off_only_a_mark_counts() -> None:
    assert final_number("First, 16 - 7 = 9. Then", finished=False) is None
    assert final_number("The answer is 18. To check, 9", finished=False) == 18
    assert final_number("#### 18\n\nAnd", finished=False) == 18


@pytest.mark.parametrize("size", [20_000])
@pytest.mark.parametrize(
    "piece",
    ["9 ", "= ", "9 = ", "9 x ", "answer ", "(", "a ", "1,", "the answer is 9 times 9 ", "\n"],
)
def test_reading_takes_time_in_proportion(piece: str, size: int) -> None:
    final_number(piece * (size // len(piece)))
