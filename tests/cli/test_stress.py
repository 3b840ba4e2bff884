"""`blendin stress` and `blendin stress chains`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blendin.calibration import Calibration
from blendin.cli.app import app
from blendin.evaluation.stress.scorers import PairScorer


def row(one: int, other: int) -> dict[str, str]:
    """A problem of three steps, the first two of which may change places."""
    both, boxes = one + other, 6 * one
    lines = [
        f"There are {one} + {other} = <<{one}+{other}={both}>>{both} things.",
        f"The box has {one} * 6 = <<{one}*6={boxes}>>{boxes}.",
        f"Kim makes {both} * 6 = $<<{both}*6={6 * both}>>{6 * both}.",
        f"#### {6 * both}",
    ]
    question = f"Kim has {one} eggs and {other} nuts; she sells all for $6 each."
    return {"question": question, "answer": "\n".join(lines)}


ROWS = [row(16 + n, 25 + n) for n in (0, 3, 9)]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["stress", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_a_stress_test_tells_scores_and_alpha_and_goes_on(
    pair_folders: list[str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration, figures = tmp_path / "calibration.json", tmp_path / "figures.json"
    Calibration(1.5, 1.0).save(calibration)
    asked = ["--scorer", "policy", "--scorer", "base", "--scorer", "guide", "--threshold", "0.5"]
    arguments = [
        *pair_folders,
        *asked,
        "--orders",
        "2",
        "--data",
        data,
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += ["--calibration", str(calibration), "--json", str(figures)]
    code, output = run(*arguments)
    assert code == 0, output
    assert "3 right and 3 wrong chains" in output and "every chain passes its check" in output
    assert "calibrated: Behind words such as “Clearly,”" in output
    told = json.loads(figures.read_text())
    assert set(told["decomposition"]["chains"]) == {"policy", "calibrated", "base", "guide"}
    assert set(told["trust"]) == {"policy", "calibrated"}
    assert set(told["decomposition"]["steps"]["base"]) == {"inflation", "order", "markers"}
    assert {each["mitigation"] for each in told["mitigations"]["policy"]["markers"]} == {
        "none", "stripped", "minimum", "orders"
    }  # fmt: skip
    assert told["trust"]["policy"]["markers"]["same"]["p_b"]["tokens"] > 100
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2 and "://" not in page.replace("http://www.w3.org", "")

    def forbidden(*_: object) -> None:
        raise AssertionError("everything is scored already")

    monkeypatch.setattr(PairScorer, "__call__", forbidden)
    code, output = run(*arguments, "--limit", "2")
    assert code == 0, output
    assert "2 right and 2 wrong chains" in output


def test_chains_are_written_with_order_dependencies_and_check(data: str, tmp_path: Path) -> None:
    out = tmp_path / "chains.jsonl"
    code, output = run("chains", "--data", data, "--strength", "0.5", "--out", str(out))
    assert code == 0, output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["check"]["passes"] for row in rows)
    moved = [row for row in rows if row["transformation"] == "order"]
    assert moved and all(row["order"] == [1, 0, 2] for row in moved)
    assert [step["uses"] for step in moved[0]["steps"]] == [[], [], [0]]
    wrong = [row for row in rows if not row["right"] and row["transformation"] == "original"]
    for row in wrong:
        labels = [step["correct"] for step in row["steps"]]
        assert labels[row["first_wrong_place"]] is False and labels[-1] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--transformation", "shuffle"],
            "--transformation shuffle: use inflation, order, markers",
        ),
        (["--strength", "2"], "strength"),
        (["--limit", "-1"], "limit"),
        (["--orders", "0"], "orders"),
        (["--scorer", "a", "--scorer", "b"], "one at a time"),
        (["--scorer", "/nowhere/at/all"], "cannot be loaded"),
        (["--prm-style", "token"], "--prm-style has no effect"),
        (["--json", "/nowhere/at/all.json"], "--json"),
        (["--limit", "2", "chains"], "--limit stands before chains"),
    ],
)
def test_what_cannot_be_is_refused_before_models_are_loaded(
    arguments: list[str], message: str, data: str, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")] if "chains" not in arguments else []
    given = ["--data", data] if "chains" not in arguments else []
    code, output = run(*given, *out, *arguments)
    assert code == 2 and message in output, output


def test_no_data_is_one_line(tmp_path: Path) -> None:
    code, output = run("--data", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out"))
    assert code == 2 and "a file of chains that is there" in output
