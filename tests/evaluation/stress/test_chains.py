"""Chains, wrong steps and transformations: no label ever changes, by construction and by check."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations

import pytest
from benchmark_data import DATA, needs_data
from drawn_solutions import solutions
from hypothesis import assume, given
from hypothesis import strategies as st

from blendin.evaluation.stress import gsm8k_solutions
from blendin.evaluation.stress.arithmetic import Expression, plain_equations, value_of, writes
from blendin.evaluation.stress.chains import Chain, LeftOut, Step, counted
from blendin.evaluation.stress.checks import check
from blendin.evaluation.stress.readers import read
from blendin.evaluation.stress.suite import build
from blendin.evaluation.stress.transformations import (
    MARKERS,
    TRANSFORMATIONS,
    other_orders,
    random_order,
    stripped,
)
from blendin.evaluation.stress.wrong_steps import with_wrong_step

QUESTION = "Kim has 16 eggs, eats 3 and bakes 4; 8 hens lay 25 more. She sells them for $6 each."
ANSWER = """Kim keeps 16 - 3 - 4 = <<16-3-4=9>>9 eggs.
The hens lay 8 * 25 = <<8*25=200>>200 eggs.
She sells 9 + 200 = <<9+200=209>>209 eggs.
So she makes 209 * 6 = $<<209*6=1254>>1,254.
#### 1254"""


def chain(answer: str = ANSWER, question: str = QUESTION) -> Chain:
    found = gsm8k_solutions.read("1", question, answer)
    assert isinstance(found, Chain), found
    return found


def broken(**changes: object) -> Chain:
    """A chain with one thing wrong at its third step (in its order)."""
    found = chain()
    steps = list(found.steps)
    steps[2] = replace(steps[2], **changes)
    return replace(found, steps=tuple(steps))


def all_variants(right: Chain, seed: int) -> list[tuple[Chain, Chain]]:
    """Everything that is made of a right chain and its wrong one, each with what it was made of."""
    wrong = with_wrong_step(right, seed)
    sources = [right] if isinstance(wrong, LeftOut) else [right, wrong]
    found = []
    for source in sources:
        found.append((source, source))
        for transform in TRANSFORMATIONS.values():
            for strength in (0.5, 1.0):
                made = transform(source, strength, seed)
                if isinstance(made, Chain):
                    found.append((made, source))
    return found


def test_dependencies_are_those_of_the_annotations() -> None:
    found = chain()
    assert [step.uses for step in found.steps] == [(), (), (0, 1), (2,)]
    assert found.steps[3].after == (0, 1)  # the answer comes last
    assert found.steps[0].visible == "Kim keeps 16 - 3 - 4 = 9 eggs."


def test_a_number_of_the_question_or_of_two_steps_is_kept_behind_and_not_used() -> None:
    answer = ANSWER.replace("8 * 25 = <<8*25=200>>200", "3 * 3 = <<3*3=9>>9")
    answer = answer.replace("9 + 200 = <<9+200=209>>209", "9 + 9 = <<9+9=18>>18")
    answer = answer.replace("209 * 6 = $<<209*6=1254>>1,254", "18 * 6 = $<<18*6=108>>108")
    found = chain(answer.replace("#### 1254", "#### 108"))
    assert found.steps[2].uses == () and found.steps[2].after == (0, 1)
    assert found.steps[3].uses == (2,)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Kim has 2 + 2 = <<2+2=5>>5.", gsm8k_solutions.NOT_RECOMPUTED),
        ("Kim has 7 / 2 = <<7/2=3>>3.", gsm8k_solutions.NOT_RECOMPUTED),  # no rounding to whole
        ("Kim has 2 + 2 = <<2+2=4>>5.", gsm8k_solutions.NOT_WRITTEN),
        ("Kim has 2 + 2 = <<2+2=4>>4, for 3 + 3 = 7.", gsm8k_solutions.NOT_EQUAL),
        ("Kim has <<1/0=1>>1.", gsm8k_solutions.NO_ARITHMETIC),
        ("Kim has <<__import__('os')=1>>1.", gsm8k_solutions.NO_ARITHMETIC),
        ("Kim has <<2**9=512>>512.", gsm8k_solutions.NO_ARITHMETIC),
        ("Kim has 1 - 2 = <<1-2=-1>>-1.", gsm8k_solutions.NEGATIVE),
        ("Kim has <<1+1=2>>2 and <<1+2=3>>3.", gsm8k_solutions.SEVERAL),
    ],
)
def test_a_solution_that_does_not_hold_is_left_out_with_its_reason(line: str, reason: str) -> None:
    answer = ANSWER.replace("The hens", f"{line}\nThe hens")
    assert gsm8k_solutions.read("1", QUESTION, answer) == LeftOut("1", reason)


@given(solutions(), st.integers(0, 99))
def test_no_transformation_changes_a_label_of_a_drawn_solution(
    solution: tuple[str, str], seed: int
) -> None:
    right = gsm8k_solutions.read("1", *solution)
    assume(isinstance(right, Chain))
    assert isinstance(right, Chain)
    for made, source in all_variants(right, seed):
        outcome = check(made, source, right)
        assert outcome.passes, (outcome.failures, made.texts)
        assert made.is_right == source.is_right and made.answer == source.answer
        labels = {step.origin: step.correct for step in source.steps}
        own = [step for step in made.steps if step.role == "own"]
        assert {step.origin: step.correct for step in own} == labels
        assert len(own) == len(source.steps)


@given(solutions(), st.integers(0, 99))
def test_a_wrong_chain_errs_once_and_computes_the_rest(
    solution: tuple[str, str], seed: int
) -> None:
    right = gsm8k_solutions.read("1", *solution)
    assume(isinstance(right, Chain))
    assert isinstance(right, Chain)
    wrong = with_wrong_step(right, seed)
    assume(isinstance(wrong, Chain))
    assert isinstance(wrong, Chain)
    for before, after in zip(right.steps, wrong.steps, strict=True):
        assert after.equation is not None and before.equation is not None
        holds = writes(after.equation.result, Expression(after.equation.expression).value)
        assert holds == (after.origin != wrong.first_wrong)
        assert after.correct == (after.equation.result == before.equation.result)
    assert wrong.steps[-1].equation is not None
    assert value_of(wrong.steps[-1].equation.result) != value_of(str(right.answer))


def test_a_slip_is_carried_through_text_and_annotations() -> None:
    found = chain()
    wrong = [with_wrong_step(found, seed) for seed in range(20)]
    early = next(each for each in wrong if isinstance(each, Chain) and each.first_wrong == 0)
    slip = early.steps[0].equation
    assert slip is not None and slip.result != "9"
    assert f"She sells {slip.result} + 200 = " in early.texts[2]
    total = str(int(slip.result) + 200)
    assert early.texts[2].endswith(f"= {total} eggs.")
    assert early.texts[3] == f"So she makes {total} * 6 = ${6 * int(total):,}."
    assert [step.correct for step in early.steps] == [False, True, False, False]
    assert early.steps[1] == found.steps[1]


@pytest.mark.parametrize(
    "bad",
    [
        broken(text="She sells 9 + 200 = <<9+200=210>>210 eggs."),
        broken(text="She sells 9 + 200 = <<9+200=209>>209 eggs, for 2 + 2 = 5."),
        broken(text="She sells 10 + 199 = <<10+199=209>>209 eggs."),
        broken(text="She sells all <<9+200+1=209>>209 eggs."),
        broken(correct=False),
        replace(chain(), first_wrong=1),
        replace(chain(), answer="1255"),
        chain().in_order([0, 1, 3, 2]),
    ],
)
def test_a_source_that_is_not_what_it_says_does_not_pass_either(bad: Chain) -> None:
    assert not check(bad, bad, chain()).passes


def test_every_order_that_is_drawn_is_topological_and_all_of_them_are() -> None:
    found = chain()
    draw = random.Random(0)
    drawn = {tuple(random_order(found, draw)) for _ in range(50)}
    rests = {step.origin: step.rests_on for step in found.steps}
    valid = {
        order
        for order in permutations(range(4))
        if all(rests[o] <= set(order[:n]) for n, o in enumerate(order))
    }
    assert drawn == valid == {(0, 1, 2, 3), (1, 0, 2, 3)}
    assert other_orders(found, 5, 0) == [[1, 0, 2, 3]]


@pytest.mark.parametrize("marker", MARKERS)
def test_stripping_undoes_a_marker_and_nothing_else(marker: str) -> None:
    found = chain()
    made = TRANSFORMATIONS["markers"](found, 1.0, 3)
    assert isinstance(made, Chain)
    assert [stripped(text) for text in made.texts] == found.texts
    assert stripped(f"{marker}so it is 3 + 4 = 7") == "So it is 3 + 4 = 7"
    assert stripped("Clear water costs $3") == "Clear water costs $3"


@pytest.mark.parametrize(
    "bad",
    [
        broken(text="She sells 9 + 200 = <<9+200=210>>210 eggs."),
        broken(text="She sells 9 + 200 = <<9+200=209>>208 eggs."),
        broken(text="She sells 9 + 201 = <<9+200=209>>209 eggs."),
        broken(text="She sells 19 + 190 = <<19+190=209>>209 eggs."),
        broken(correct=False),
        broken(text="Surely, she sells 9 + 200 = <<9+200=209>>209 eggs.", marker="Surely, "),
        broken(origin=1),
        broken(role="restatement"),
        chain().in_order([0, 2, 1, 3]),
        chain().in_order([0, 1, 3, 2]),
        replace(chain(), first_wrong=1),
        replace(chain(), answer="1255"),
        replace(chain(), steps=chain().steps[1:]),
        replace(
            chain(),
            steps=(*chain().steps, Step("Again, 9+200 = <<9+200=210>>210.", 2, "restatement")),
        ),
        replace(
            chain(),
            steps=(*chain().steps, Step("Again, 9+2 = <<9+2=11>>11.", 2, "restatement")),
        ),
    ],
)
def test_the_check_sees_what_is_broken(bad: Chain) -> None:
    assert check(chain(), chain(), chain()).passes
    assert not check(bad, chain(), chain()).passes


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("16 - 3 - 4 = 9 and $5 x 3 = $15.", ["9", "15"]),
        ("200*50% = 100; 12/20 x 100% = 60%", ["100", "60"]),
        ("3x 2 = 6; 100 - 40 = 60%", ["6", "60"]),
        ("3 eggs * 2 = 7", []),
        ("1 1/2 = 9", []),
        ("a = 3 + 4 = 5 + 2", []),
        ("5 - 1/2 = 4 1/2", []),
        ("x2 + 2 = 9", []),
    ],
)
def test_equations_of_plain_text_are_read_where_they_are_whole(
    text: str, results: list[str]
) -> None:
    found = list(plain_equations(text))
    assert [right for _, right in found] == results
    assert all(writes(right, exact) for exact, right in found)


@needs_data("gsm8k_test.jsonl")
def test_of_gsm8ks_own_solutions_all_but_few_are_chains_and_every_variant_passes() -> None:
    sources = read("gsm8k", DATA)
    assert sources.items == 1319
    assert sum(counted(sources.left_out["reading"]).values()) == 138
    some = sources._replace(chains=sources.chains[:120])
    suite = build(some, strengths=(0.4, 1.0), seed=1)
    assert not suite.left_out["check"]
    assert {name for name, _ in suite.variants} == set(TRANSFORMATIONS)
    assert all(variant.check.passes for variant in suite.all)
