"""Given answers are read as they are scored, once, and by whoever goes on with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import DATA, needs_data
from conftest import generator
from typer.testing import CliRunner

from blendin import Blend, Calibration, Defer, Nudge
from blendin.cli import app
from blendin.evaluation.calibrate import collect as module
from blendin.evaluation.calibrate.answers import Answer, read, split
from blendin.evaluation.calibrate.arms import outcome
from blendin.evaluation.calibrate.collect import collect, collected

ONE = ("llama", "byte-level", 2), ("qwen2", "byte-level", 3)
TWO = ("llama", "byte-level", 2), ("qwen2", "sentencepiece", 3)
TEXTS = (" There are 12 apples in the basket.", " def add(a, b):\n    return a", " 你好 and café")
ANSWERS = [Answer(f"How many {place}?", text) for place, text in enumerate(TEXTS)]
FITTED = Calibration(1.5, 0.8, a=0.2, b=0.7, c=1.0)
MEDIAN = 0.31
"""Of p_b, about, over these answers."""

everywhere = [
    Blend(2.0),
    Blend(2.0, alpha=0.3),
    Blend(2.0, calibration=FITTED),
    Nudge(2.0, unit="token"),
]
gated = [
    Blend(MEDIAN),
    Blend(MEDIAN, calibration=FITTED),
    Nudge(MEDIAN, unit="token"),
    Defer(0.03, "token"),
    Defer(0.3, "budget"),
    Defer(0.01, "bet"),
]


def read_by(models: Any, folder: Path) -> Any:
    gen = generator(*models)
    list(collect(gen, ANSWERS, folder))
    return gen, collected(folder, ANSWERS)


@pytest.mark.parametrize(
    ("models", "policies"), [(ONE, everywhere + gated), (TWO, everywhere)], ids=["one", "two"]
)
def test_the_tables_give_what_scoring_gives(models: Any, policies: Any, tmp_path: Path) -> None:
    """Of two vocabularies where all tokens are interventions, as contexts grew while reading."""
    gen, found = read_by(models, tmp_path / "read")
    assert not any(found.left_out.values()) and not found.cut
    for policy in policies:
        told = outcome(policy, found.positions)
        for place, answer in enumerate(ANSWERS):
            score = gen.score(answer.prompt, answer.text, policy=policy)
            own = told.log_prob[found.positions.item == place]
            theirs = np.maximum(score.token_log_likelihoods, -20)
            assert own == pytest.approx(theirs, abs=3e-4), policy
    rates = [outcome(policy, found.positions).intervenes.mean() for policy in policies]
    assert rates[0] == 1 and (models is TWO or all(0 < rate < 1 for rate in rates[4:7]))


def test_what_was_read_is_not_read_again_and_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gen = generator(*ONE)
    folder = tmp_path / "read"
    for place in collect(gen, ANSWERS, folder):
        if place == 1:
            break
    reads: list[str] = []
    really = module._read
    monkeypatch.setattr(
        module, "_read", lambda pair, answer: reads.append(answer.text) or really(pair, answer)
    )
    assert list(collect(gen, ANSWERS, folder)) == [0, 1, 2]
    assert reads == [TEXTS[2]]
    with pytest.raises(ValueError, match="other answers"):
        next(collect(gen, ANSWERS[:2], folder))
    with pytest.raises(ValueError, match="other models"):
        next(collect(generator(*TWO), ANSWERS, folder))


def test_a_text_that_does_not_fit_is_cut_and_counted(tmp_path: Path) -> None:
    gen = generator(*ONE)
    longest = gen.base.max_length
    assert longest is not None
    long = [Answer("How many?", " apples and pears" * longest)]
    list(collect(gen, long, tmp_path / "read"))
    found = collected(tmp_path / "read", long)
    assert found.cut == 1 and 0 < len(found.positions) < longest


def test_parts_share_no_prompt_and_depend_on_the_seed_alone() -> None:
    answers = [Answer(f"prompt {n % 40}", f" {n}") for n in range(100)]
    parts = split(answers, 1)
    assert sorted([*parts.fit, *parts.select, *parts.test]) == list(range(100))
    prompts = [{answers[place].prompt for place in part} for part in parts]
    assert [len(each) for each in prompts] == [16, 8, 16]
    assert len(set.union(*prompts)) == 40
    assert split(answers, 1) == parts != split(answers, 2)


def test_a_file_is_read_and_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [{"prompt": f"p{n}", "answer": "yes", "kind": "harmless"} for n in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read(str(path))
    assert found[0] == Answer("p0", " yes", kind="harmless") and len(found) == 20
    rows[3]["answer"] = " "
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="row 4: the answer is empty"):
        read(str(path))
    path.write_text("\n".join(map(json.dumps, rows[:3])))
    with pytest.raises(ValueError, match="has 3 prompts"):
        read(str(path))
    with pytest.raises(ValueError, match="neither a file nor one of gsm8k, truthfulqa"):
        read("gsm9k")


@needs_data("gsm8k_test.jsonl", "truthfulqa_mc.json")
def test_benchmarks_answers_are_their_solutions_as_one_writes_them() -> None:
    solutions = read("gsm8k", DATA, 50)
    assert len(solutions) == 50
    assert not any("<<" in each.text or "####" in each.text for each in solutions)
    assert all(each.text.startswith(" ") and each.text.strip() for each in solutions)
    assert len(read("truthfulqa", DATA, 20)) == 20


def test_the_command_writes_calibration_page_and_figures(
    pair_folders: list[str], tmp_path: Path
) -> None:
    data, out = tmp_path / "own.jsonl", tmp_path / "c.json"
    kinds = ("harmless", "other")
    rows = [
        {"prompt": f"How many {n}?", "answer": TEXTS[n % 3], "kind": kinds[n % 2]}
        for n in range(20)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    command = ["calibrate", *pair_folders, "--data", str(data), "--limit", "0", "--out", str(out)]
    wanted = ["--touched", "0.4", "--kind", "harmless"]
    result = CliRunner().invoke(app, [*command, *wanted])
    assert result.exit_code == 0, result.output
    calibration = Calibration.load(out)
    assert calibration == Blend(calibration=out).calibration
    figures = json.loads((tmp_path / "c-figures.json").read_text())
    assert figures["prompts"] == {"fit": 8, "select": 4, "test": 8}
    assert figures["bound"]["level"] == 0.4
    assert figures["fitted"]["calibration"]["threshold"] == calibration.threshold
    page = (tmp_path / "c.html").read_text()
    assert page.count("<svg") >= 4 and figures["verdict"][0][:20] in page
    again = CliRunner().invoke(app, [*command, *wanted])
    assert again.exit_code == 0, again.output
    for extra, told in (
        (["--rate", "0.1", "--touched", "0.1"], "give one of them"),
        (["--rate", "10"], "--rate"),
        (["--kind", "odd", "--touched", "0.1"], "no prompt is of the kind 'odd'"),
        (["--kind", "harmless"], "--touched"),
        (["--threshold", "40"], "did you mean 0.4"),
    ):
        refused = CliRunner().invoke(app, [*command, *extra])
        assert refused.exit_code == 2 and told in " ".join(refused.output.split()), refused.output
