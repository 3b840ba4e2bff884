"""GSM8K: the final number of a text, exactly."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from benchmark_data import DATA, needs_data
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin.evaluation.tasks.gsm8k import Problem, final_number, is_correct, prompt, read


@needs_data("gsm8k_test.jsonl")
def test_every_reference_is_read_and_correct_against_itself() -> None:
    problems = read(DATA)
    lines = (DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(problems) == len(lines) == 1319
    for problem, line in zip(problems, lines, strict=True):
        reference = json.loads(line)["answer"]
        final = reference.rpartition("####")[2].strip()
        assert problem.answer == int(final.replace(",", ""))
        assert is_correct(reference, problem.answer)
        assert is_correct(f"So she has {final} of them.", problem.answer)
        assert is_correct(f"The answer is ${final}.00.", problem.answer)
        assert not is_correct(reference, problem.answer + 1)
    assert prompt(problems[0]) == json.loads(lines[0])["question"]


def test_an_answer_without_a_number_after_the_hashes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gsm8k_test.jsonl"
    file.write_text('{"question": " Why? ", "answer": "So\\n#### 1,000"}\n', encoding="utf-8")
    assert read(tmp_path) == [Problem("Why?", Fraction(1000))]
    for answer in ("18", "#### none", "5 ####"):
        file.write_text(json.dumps({"question": "Why?", "answer": answer}), encoding="utf-8")
        with pytest.raises(ValueError, match=r'row 1 of GSM8K has no number after "####"'):
            read(tmp_path)
    file.write_text(json.dumps({"question": "Why?", "answer": "#### 3 or 4"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r'row 1 of GSM8K has several numbers after "####"'):
        read(tmp_path)
    file.write_text(json.dumps({"question": " ", "answer": "#### 3"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"row 1: the column 'question' is empty"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("18.00", "18"),
        ("18.", "18"),
        ("0.1", "1/10"),
        (".5", "1/2"),
        ("$.50", "1/2"),
        ("007", "7"),
        # Thousands, lists
        ("1,319", "1319"),
        ("1,450,000 people", "1450000"),
        ("$1,234.50", "2469/2"),
        ("1{,}000", "1000"),
        (r"1\,000", "1000"),
        ("1\u202f000", "1000"),
        # Currency, percent, units
        ("$18", "18"),
        ("$ 18", "18"),
        (r"\$18", "18"),
        ("18$", "18"),
        ("18 €", "18"),
        ("£18", "18"),
        ("US$18", "18"),
        ("USD18", "18"),
        ("Rs.500", "500"),
        ("18 dollars", "18"),
        ("18kg", "18"),
        ("18%", "18"),
        (r"18\%", "18"),
        ("20 m^2", "20"),
        ("20 m^{2}", "20"),
        ("20 m²", "20"),
        ("18 tons of CO2", "18"),
        ("the 5th", "5"),
        # Minus and hyphen
        ("-3", "-3"),
        ("−3", "-3"),
        ("a loss: -$5", "-5"),
        (r"-\$5", "-5"),
        ("-$ 5", "-5"),
        ("$-5", "-5"),
        ("It is $-5$ degrees", "-5"),
        ("(-5)", "-5"),
        ("**-5**", "-5"),
        ('"-5"', "-5"),
        ("=-5", "-5"),
        ("7-10=-3", "-3"),
        ("10-12", "12"),
        ("10–12", "12"),
        ("$10-$12", "12"),
        ("10%-12%", "12"),
        ("a 3-year-old", "3"),
        ("pre-1990", "1990"),
        ("- 5 apples", "5"),
        ("so --5", "5"),
        # Fractions, clocks
        ("1/2", "1/2"),
        ("-1/2", "-1/2"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("1,000 1/2 miles", "2001/2"),
        ("10/2", "5"),
        ("36/4.5", "8"),
        (r"\frac{1}{2}", "1/2"),
        (r"$1\frac{1}{2}$", "3/2"),
        (r"-\dfrac{3}{4}", "-3/4"),
        ("½ a cup", "1/2"),
        ("-1½ cups", "-3/2"),
        ("5:00 PM", "5"),
        ("3:30", "7/2"),
        ("at 12:45.", "51/4"),
        ("a ratio of 3:2", "2"),
        # Markup
        ("**18**", "18"),
        ("`18`", "18"),
        ("__18__", "18"),
        ("$18$", "18"),
        (r"\(18\)", "18"),
        ("x_1 = x_{2} = 7, by x_1", "7"),
        ("答案是18", "18"),
    ],
)
def test_numbers_are_read_exactly(text: str, number: str) -> None:
    assert final_number(text) == Fraction(number)
    assert final_number(f"There were 4 of 77.\n#### {text}") == Fraction(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # "####" before all else, the last one with a number
        ("#### 18", 18),
        ("####18", 18),
        ("####\n18", 18),
        ("#### $18\nQuestion: Tom has 5 apples.", 18),
        ("#### 18 dollars for 9 eggs", 18),
        ("The answer is 7.\n#### 18\n", 18),
        ("#### 5\nNo.\n#### 18", 18),
        ("#### 18\n#### none", 18),
        (r"\#\#\#\# 18", 18),
        # as a Markdown heading it is no mark
        ("#### Step 1: eggs\n16 - 7 = 9\n#### Step 2: money\nShe makes $18", 18),
        ("#### 1. Count\n16 - 7 = 9\n#### 2. Sell\nShe makes $18", 18),
        ("#### Final Answer: 18\nThat took 2 steps.", 18),
        # "answer is", "answer:", \boxed{}: the last one with a number
        ("The answer is 18. It took 2 steps.", 18),
        ("The answer is **18** eggs of 16", 18),
        ("The final ANSWER is: $18 for 9 eggs", 18),
        ("The answer is that she makes 18 dollars from 9 eggs.", 18),
        ("Answer: 18 (for 9 eggs)", 18),
        ("**Answer:** 18, of 20", 18),
        ("**Answer**: 18, of 20", 18),
        ("Answer:\n\n18\n\nIn 2 steps", 18),
        ("Answer = 18 in 2 steps", 18),
        ("The answer is 5. No, 2 more. The answer is 18 after 3 tries.", 18),
        ("The answer is 18 by step 2. The answer is clear.", 18),
        (r"So \boxed{18} after 2 steps", 18),
        (r"\boxed{\$18 \text{ for } 9} of 20", 18),
        (r"\boxed{\text{Total: } 18} of 20", 18),
        (r"The answer is \(\boxed{18}\) after 2 steps", 18),
        (r"\boxed{5}, so the answer is 18 after 2 steps", 18),
        (r"\boxed{} and 18", 18),
        (r"\boxed{A}, for 5 of 18", 18),
        # equations come to their right side
        ("The answer is 9 * 2 = 18 dollars for 9 eggs", 18),
        (r"The answer is $9 \times 2 = 18$ for 9 eggs", 18),
        ("The answer is (16 - 3 - 4) * $2 = $18. Good for 1.", 18),
        ("Answer: 2 * 9 = 3 * 6 = 18, for 9 eggs", 18),
        ("The answer is 18 = 9 * 2", 18),
        ("The answer is 17-18 eggs of 20", 18),
        ("#### 18, not 20", 18),
        ("The answer is 18 (= 9 * 2)", 18),
        ("The answer is 18. 2 * 3 = 6", 18),
        ("The answer is 1 - 6 = -5 of 7", -5),
        (r"\boxed{9 + 9 = 18} = 4", 18),
        # a marker whose number is not its own
        ("Answer: Janet sells 9 eggs. She makes 9 * 2 = 18", 18),
        ("The answer is below.\nIn 2 steps: 18", 18),
        ("I answered 5 questions: 18", 18),
        # else the last number
        ("16 - 7 = 9 eggs, so 9 * 2 = $18 every day.", 18),
        ("1. Count\n2. Multiply\nTotal: 18.", 18),
        ("16, 17, and 18,", 18),
        ("12,18", 18),
        ("17 - 18", 18),
        ("<<9*2=18>>18", 18),
    ],
)
def test_the_final_number_is_where_the_text_says(text: str, number: int) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "eighteen", "####", "The answer is", "CO2", r"\boxed{}", "m^2", "1/0", "9" * 5000]
)
def test_a_text_without_a_number_has_none_and_is_wrong(text: str) -> None:
    assert final_number(text) is None
    assert not is_correct(text, Fraction(0))


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 99), st.sampled_from(["", ",", "_"]))
def test_a_number_is_itself_however_it_is_written(whole: int, cents: int, style: str) -> None:
    digits = f"{abs(whole):,}" if style == "," else str(abs(whole))
    sign = "-" if whole < 0 else ""
    value = Fraction(f"{whole}.{cents:02}") if whole else Fraction(cents, 100)
    written = f"{digits}.{cents:02}"
    for text in (
        f"{sign}{written}",
        f"{sign}${written}.",
        f"**{sign}{written}**",
        f"{sign}{written}%",
    ):
        assert final_number(f"After 3 days she has {text}") == value
        assert final_number(f"#### {text}\n\n7") == value
        assert final_number(rf"\boxed{{{text}}} in 7 days") == value
        assert final_number(f"The answer is {text} in 7 days") == value


@settings(deadline=None)
@given(st.fractions(max_denominator=1000))
def test_fractions_are_exact(value: Fraction) -> None:
    assert final_number(f"3 of them: {value}") == value
    sign, size = ("-" if value < 0 else ""), abs(value)
    whole, rest = divmod(size.numerator, size.denominator)
    if whole and rest:
        assert final_number(f"so {sign}{whole} {rest}/{size.denominator} cups") == value
    latex = rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}"
    assert final_number(f"so ${latex}$") == value


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("0123456789 ,./:-−$%#=*^_{}\\()\nanswer isboxedfrac"), max_size=60))
def test_any_text_is_read_without_failing(text: str) -> None:
    assert isinstance(final_number(text), Fraction | None)
    assert (final_number(text) is None) or any(character in "0123456789" for character in text)
