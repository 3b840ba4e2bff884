"""Files of chains: three formats, told apart by their columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blendin.evaluation.stress.chains import Chain
from blendin.evaluation.stress.readers import read
from blendin.evaluation.stress.suite import build

STEPS = ["First, we have 3p + e = 1.24.", "Then 2p = 0.58.", "So p = 0.29."]
PROCESSBENCH = [
    {"id": "gsm8k-0", "problem": "What is p?", "steps": STEPS, "label": 1,
     "final_answer_correct": False, "generator": "one"},
    {"id": "gsm8k-1", "problem": "What is p?", "steps": STEPS, "label": -1,
     "final_answer_correct": True, "generator": "one"},
]  # fmt: skip
PRMBENCH = [
    {"idx": "a", "original_question": "What is p?", "modified_question": "What is p now?",
     "original_process": STEPS, "modified_process": [*STEPS[:2], "So p = 0.3.", "Done."],
     "error_steps": [3], "classification": "confidence", "reason": "rounded"},
]  # fmt: skip


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "chains.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_processbenchs_first_error_is_the_first_wrong_step(tmp_path: Path) -> None:
    sources = read(written(tmp_path, PROCESSBENCH), seed=1)
    assert sources.format == "processbench"
    wrong, right = sorted((each.chain for each in sources.chains), key=lambda c: c.id)
    assert wrong.first_wrong == 1 and [s.correct for s in wrong.steps] == [True, False, None]
    assert right.first_wrong is None and all(step.correct for step in right.steps)


def test_prmbench_has_a_right_and_a_wrong_chain_counted_from_one(tmp_path: Path) -> None:
    sources = read(written(tmp_path, PRMBENCH))
    right, wrong = (each.chain for each in sources.chains)
    assert (right.question, wrong.question) == ("What is p?", "What is p now?")
    assert right.is_right and wrong.first_wrong == 2
    assert [step.correct for step in wrong.steps] == [True, True, False, True]


def test_without_dependencies_there_is_no_other_order_and_the_rest_passes(tmp_path: Path) -> None:
    suite = build(read(written(tmp_path, PRMBENCH)), seed=1)
    assert not suite.variants["order", 1.0]
    assert {each.reason for each in suite.left_out["order"]} == {"its dependencies are not known"}
    inflated = suite.variants["inflation", 1.0]
    assert len(inflated) == 2 and len(inflated[0].chain.steps) == 6
    assert inflated[0].chain.steps[1].text == f"To repeat: {STEPS[0]}"
    assert len(suite.variants["markers", 1.0]) == 2 and not suite.left_out["check"]


def test_a_smaller_limit_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    rows = [{**PROCESSBENCH[1], "id": str(n)} for n in range(9)]
    path = written(tmp_path, rows)
    all_ids = [each.chain.id for each in read(path, limit=9, seed=3).chains]
    assert [each.chain.id for each in read(path, limit=4, seed=3).chains] == all_ids[:4]
    assert sorted(all_ids) == sorted(str(n) for n in range(9))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}], "no format"),
        ([{**PROCESSBENCH[0], "label": 3}], "label is 3"),
        ([{**PROCESSBENCH[0], "label": "x"}], "whole numbers"),
        ([{**PROCESSBENCH[0], "steps": "one"}], "no list of texts"),
        ([{**PRMBENCH[0], "error_steps": [5]}], "count from 1"),
        ([{**PROCESSBENCH[0], "steps": [], "label": -1}], "no chain"),
        ([{"question": "Q", "answer": "no numbers"}], "no chain"),
    ],
)
def test_what_is_no_chain_is_refused_by_row(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, rows))


def test_a_file_like_gsm8ks_gets_wrong_chains(tmp_path: Path) -> None:
    answer = "She has 16 + 25 = <<16+25=41>>41.\nThen 41 * 3 = <<41*3=123>>123.\n#### 123"
    question = "She has 16 and 25, three times."
    sources = read(written(tmp_path, [{"question": question, "answer": answer}]), seed=1)
    right, wrong = (each.chain for each in sources.chains)
    assert isinstance(right, Chain) and right.is_right and not wrong.is_right
