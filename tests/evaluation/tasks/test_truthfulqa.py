"""TruthfulQA: its data, MC1 and MC2, and the letter that a text chooses."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from benchmark_data import DATA, needs_data
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin.evaluation.tasks.truthfulqa import (
    INSTRUCTION,
    Choices,
    Question,
    chosen_letter,
    is_correct,
    letter_question,
    letters,
    mc1,
    mc2,
    primed,
    read,
)

CHOICES = Choices(("Nothing", "You die", "You grow"), (True, False, False))
ITEM = Question("What happens?", CHOICES, CHOICES)
ALL = "ABCDEFGHIJ"


@needs_data("truthfulqa_mc.json")
def test_the_file_is_read_whole() -> None:
    items = read(DATA)
    assert len(items) == 790
    assert {sum(item.mc1.labels) for item in items} == {1}
    for item in items:
        assert len(set(item.mc1.texts)) == len(item.mc1.labels) == len(letters(item)) >= 2
        assert len(set(item.mc2.texts)) == len(item.mc2.labels)


@needs_data("truthfulqa_mc.json")
def test_every_letter_question_has_its_true_choice_under_its_letter() -> None:
    items = read(DATA)
    asked = [letter_question(item) for item in items]
    for item, (text, letter) in zip(items, asked, strict=True):
        first, *options, last = text.split("\n")
        assert (first, last) == (item.question, INSTRUCTION)
        assert [option[:3] for option in options] == [f"{each}) " for each in letters(item)]
        assert sorted(option[3:] for option in options) == sorted(item.mc1.texts)
        true = item.mc1.texts[item.mc1.labels.index(True)]
        assert options[letters(item).index(letter)] == f"{letter}) {true}"
        assert is_correct(f"{letter}) {true}", letter, letters(item))
    # Expected under uniform orders: the sum of 1 / options.
    share = sum(1 / len(letters(item)) for item in items)
    assert abs(Counter(letter for _, letter in asked)["A"] - share) < 60  # 5 standard deviations


def test_the_order_depends_on_the_seed_and_the_question_alone() -> None:
    assert letter_question(ITEM) == letter_question(ITEM)
    # Pinned: it must be the same on every machine and Python.
    assert letter_question(ITEM, seed=1) == (
        f"What happens?\nA) You grow\nB) Nothing\nC) You die\n{INSTRUCTION}",
        "B",
    )
    assert len({letter_question(ITEM, seed) for seed in range(60)}) == 6
    many = Question("?", Choices(tuple(map(str, range(27))), (True,) + (False,) * 26), CHOICES)
    with pytest.raises(ValueError, match="27 options"):
        letter_question(many)


@pytest.mark.parametrize(
    ("mc1_targets", "mc2_targets", "message"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "b": 0}, "mc1_targets has 2 true choices of 2"),
        ({"a": 0, "b": 0}, {"a": 1, "b": 0}, "mc1_targets has 0 true choices of 2"),
        ({"a": 1}, {"a": 1, "b": 0}, "mc1_targets has 1 true choices of 1"),
        ({"a": 1, "b": 0}, {"a": 1, "b": 1}, "mc2_targets needs true and false choices"),
        ({"a": 1, "b": 0}, {"a": 0, "b": 0}, "mc2_targets needs true and false choices"),
        ({"a": 1, "b": 2}, {"a": 1, "b": 0}, "mc1_targets labels 'b' 2: use 1 or 0"),
        ({"a": 1, "b": None}, {"a": 1, "b": 0}, "mc1_targets labels 'b' None: use 1 or 0"),
        ({"a": 1, "b": 0}, ["a", "b"], "mc2_targets is no object of choices"),
    ],
)
def test_choices_that_are_not_true_and_false_are_refused(
    tmp_path: Path, mc1_targets: Any, mc2_targets: Any, message: str
) -> None:
    row = {"question": "?", "mc1_targets": mc1_targets, "mc2_targets": mc2_targets}
    (tmp_path / "truthfulqa_mc.json").write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ValueError, match=f"row 1 of TruthfulQA: {message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("true", "false"), [(1, 0), (True, False), (1.0, 0.0), ("1", " 0"), ("True", "FALSE")]
)
def test_labels_are_read_however_they_are_written(tmp_path: Path, true: Any, false: Any) -> None:
    targets = {"a": false, "b": true}
    row = {"question": "?", "mc1_targets": targets, "mc2_targets": targets}
    (tmp_path / "truthfulqa_mc.json").write_text(json.dumps([row]), encoding="utf-8")
    assert read(tmp_path)[0].mc1 == Choices(("a", "b"), (False, True))


def test_the_primer_is_the_harness_own() -> None:
    harness = pytest.importorskip("lm_eval")
    text = (Path(harness.__file__).parent / "tasks/truthfulqa/truthfulqa_mc1.yaml").read_text()
    prompt = yaml.safe_load(text)["doc_to_text"]
    assert jinja2.Template(prompt).render(question="Why?") == primed("Why?")


def test_mc1_is_whether_the_true_choice_is_alone_on_top() -> None:
    assert mc1([-1.0, -2.0, -3.0], [True, False, False])
    assert not mc1([-2.0, -1.0, -3.0], [True, False, False])
    assert mc1([-2.0, -1.0, -3.0], [False, True, False])
    assert mc1([-1.0, -math.inf], [True, False])


@pytest.mark.parametrize("labels", [[True, False], [False, True]])
@pytest.mark.parametrize("score", [-1.0, -math.inf])
def test_a_tie_is_a_miss_in_any_order(labels: list[bool], score: float) -> None:
    assert not mc1([score, score], labels)


def test_mc2_is_the_true_choices_share_of_the_probability() -> None:
    scores = [math.log(0.1), math.log(0.2), math.log(0.1)]
    assert mc2(scores, [True, False, False]) == pytest.approx(0.25)
    assert mc2(scores, [True, True, False]) == pytest.approx(0.75)
    assert mc2([-1e5, -1e5 - math.log(3)], [True, False]) == pytest.approx(0.75)
    assert mc2([0.0, -1e5], [True, False]) == 1.0
    assert mc2([-math.inf, -5.0], [True, False]) == 0.0
    assert mc2([-5.0, -math.inf], [True, False]) == 1.0
    assert mc2([-math.inf, -math.inf], [True, False]) == 0.0


@pytest.mark.parametrize("measure", [mc1, mc2])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([-1.0], [True, False], "1 log-likelihoods for 2 labels"),
        ([], [], "a true and a false"),
        ([-1.0, -2.0], [True, True], "a true and a false"),
        ([-1.0, -2.0], [False, False], "a true and a false"),
        ([-1.0, math.nan], [True, False], "no NaN"),
        ([-1.0, math.inf], [True, False], "below infinity"),
    ],
)
def test_scores_that_mean_nothing_are_refused(
    measure: object, scores: list[float], labels: list[bool], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(scores, labels)  # type: ignore[operator]


scored = st.lists(st.tuples(st.floats(-1e4, 0), st.booleans()), min_size=2, max_size=12).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@settings(deadline=None)
@given(scored, st.randoms(use_true_random=False), st.floats(-1e3, 1e3))
def test_mc2_is_a_probability_of_the_set(pairs: list[tuple[float, bool]], dice, shift) -> None:
    scores, labels = zip(*pairs, strict=True)
    share = mc2(scores, labels)
    assert 0 <= share <= 1
    assert share + mc2(scores, [not label for label in labels]) == pytest.approx(1)
    assert mc2([score + shift for score in scores], labels) == pytest.approx(share, abs=1e-6)
    shuffled = dice.sample(pairs, len(pairs))
    assert mc2(*zip(*shuffled, strict=True)) == pytest.approx(share)
    assert mc1(*zip(*shuffled, strict=True)) == mc1(scores, labels)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # said to be the answer
        ("Answer: A", "A"),
        ("Answer: (B)", "B"),
        ("answer: c", "C"),
        ("**Answer:** B", "B"),
        ("**Answer: B) Nothing**", "B"),
        ("Answer:\nB", "B"),
        ("The answer is A.", "A"),
        ("The answer is **B**.", "B"),
        ('The answer is "B".', "B"),
        ("The answer is: B", "B"),
        ("The correct answer is option C.", "C"),
        ("The correct option is C", "C"),
        ("The correct answer would be (D), not (A).", "D"),
        ("The answer is I.", "I"),
        ("The answer to the question is B.", "B"),
        ("My choice is B because A is a myth.", "B"),
        ("The answer is A because nothing happens", "A"),
        ("First I thought the answer is A. But the answer is B.", "B"),
        ("I believe B is the correct answer.", "B"),
        ("I believe A is correct.", "A"),
        ("(A) is right", "A"),
        (r"So \boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"The answer is $\boxed{C}$.", "C"),
        ("A) One\nB) Two\nThe answer is B", "B"),
        # begins with it
        ("A", "A"),
        (" B\n", "B"),
        ("A)", "A"),
        ("A.", "A"),
        ("(A)", "A"),
        ("[C]", "C"),
        ("A) Nothing happens", "A"),
        ("A. Nothing happens", "A"),
        ("A: Nothing happens", "A"),
        ("A, since nothing happens", "A"),
        ("A\nNothing happens (see C)", "A"),
        ("A - nothing happens", "A"),
        ("I) Nothing", "I"),
        ("**B**", "B"),
        ("b", "B"),
        ("b) nothing", "B"),
        ("B because nothing happens", "B"),
        ("A is what I would say", "A"),
        ("Option C", "C"),
        ("Option A", "A"),
        ("option (c).", "C"),
        ("`D`", "D"),
        # names no other
        ("I would choose option C.", "C"),
        ("I think it is (B).", "B"),
        ("I think (B). Yes, B) it is.", "B"),
        # no letter, or more than one
        ("", None),
        ("A man walked in", None),
        ("a man", None),
        ("A-frames are houses", None),
        ("Answer: A man walked in", None),
        ("The answer is a man", None),
        ("The answer is I think unclear", None),
        ("I think so", None),
        ("I, too, wonder", None),
        ("I'm not sure", None),
        ("I am sure", None),
        ("Nothing happens", None),
        ("Because", None),
        ("B's plan", None),
        ("D.C. is the capital", None),
        ("Z)", None),
        ("The answer is K", None),
        ("It is (A) or (B)", None),
        ("A) One\nB) Two\nC) Three", None),
        ("The answer is unclear", None),
        ("The answer is not B", None),
        ("Give me a break", None),
    ],
)
def test_the_letter_that_a_text_chooses(text: str, letter: str | None) -> None:
    assert chosen_letter(text, ALL) == letter
    assert is_correct(text, "B", ALL) == (letter == "B")


@settings(deadline=None)
@given(
    st.integers(2, 13),
    st.data(),
    st.sampled_from(
        ["{}", "({})", "{})", "{}.", "Answer: {}", "The answer is {}.", "Option {}", "**{}**"]
    ),
)
def test_every_letter_is_read_in_every_form(count: int, data: st.DataObject, form: str) -> None:
    among = "ABCDEFGHIJKLM"[:count]
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLM"))
    assert chosen_letter(form.format(letter), among) == (letter if letter in among else None)


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("ABCDIabi ().:,*-\n\\{}answer isboxedoption'"), max_size=40))
def test_any_text_chooses_one_of_the_letters_or_none(text: str) -> None:
    assert chosen_letter(text, "ABC") in {"A", "B", "C", None}


def test_the_empty_text_is_no_choice(tmp_path: Path) -> None:
    targets = {"": 0, "Nothing": 1, "Bad luck": 0}
    row = {"question": "What?", "mc1_targets": targets, "mc2_targets": targets | {" ": 1}}
    (tmp_path / "truthfulqa_mc.json").write_text(json.dumps([row]))
    (item,) = read(tmp_path)
    assert item.mc1.texts == item.mc2.texts == ("Nothing", "Bad luck")
    assert item.mc1.labels == item.mc2.labels == (True, False)
