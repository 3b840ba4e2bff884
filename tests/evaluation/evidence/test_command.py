"""`blendin evidence`, from the list to the page, on tiny models and tiny data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import model
from typer.testing import CliRunner, Result

from blendin import BlendInGenerator
from blendin.cli.app import app
from blendin.cli.options import ModelOptions
from blendin.evaluation.runs import benchmark

QUESTIONS = ["How many apples?", "How many clips in May?", "And 24 + 24?"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for name, kind, seed in (("base", "byte-level", 0), ("one", "sentencepiece", 1),
                             ("two", "sentencepiece", 2)):  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        for part in model("llama", kind, seed):
            part.save_pretrained(folder)
        found[name] = str(folder)
    return found


class Place:
    """A list, its data and its results."""

    def __init__(self, folder: Path, models: dict[str, str]) -> None:
        self.data, self.out, self.list = folder / "data", folder / "out", folder / "pairs.json"
        self.data.mkdir()
        problems = [{"question": text, "answer": f"#### {n}"} for n, text in enumerate(QUESTIONS)]
        (self.data / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, problems)))
        self.pairs: list[dict[str, Any]] = [
            {"name": name, "base": models["base"], "guide": models[name]} for name in ("one", "two")
        ]
        self.more: dict[str, Any] = {"arms": ["base", "blend"], "max_new_tokens": 4}

    def go(self, *further: str) -> Result:
        self.list.write_text(json.dumps({"pair": self.pairs, "tasks": ["gsm8k"]} | self.more))
        arguments = ["evidence", str(self.list), "--data", str(self.data), "--out", str(self.out)]
        return CliRunner().invoke(app, [*arguments, *further])

    @property
    def records(self) -> dict[str, list[str]]:
        files = sorted(self.out.glob("runs/*/*/*.jsonl"))
        return {str(path.relative_to(self.out / "runs")): path.open().readlines() for path in files}

    @property
    def page(self) -> str:
        return (self.out / "RESULTS.md").read_text()


@pytest.fixture
def place(tmp_path: Path, models: dict[str, str]) -> Place:
    return Place(tmp_path, models)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each load: whether the base was there already."""
    found: list[bool] = []
    load: Callable[..., BlendInGenerator] = ModelOptions.load

    def noted(self: ModelOptions, loaded_base: Any = None, *more: Any) -> BlendInGenerator:
        found.append(loaded_base is not None)
        return load(self, loaded_base, *more)

    monkeypatch.setattr(ModelOptions, "load", noted)
    return found


def test_one_command_makes_every_run_and_one_page_and_goes_on(
    place: Place, loads: list[bool]
) -> None:
    place.more["sweep"] = {"thresholds": [0.2, 0.4, 0.9], "pairs": ["two"], "limit": 2}
    pairs, place.pairs = place.pairs, place.pairs[:1]
    first = place.go()
    assert first.exit_code == 2 and "sweep: pairs has 'two'" in first.stderr
    assert not place.out.exists()
    place.pairs = pairs
    done = place.go()
    assert done.exit_code == 0, done.output
    assert loads == [False, True], "one base is loaded once"
    made = place.records
    assert {name: len(lines) for name, lines in made.items()} == {
        "one/gsm8k/base.000.jsonl": 3,
        "one/gsm8k/blend.000.jsonl": 3,
        "two/gsm8k/base.000.jsonl": 3,
        "two/gsm8k/blend.000.jsonl": 3,
        **{f"two/gsm8k-sweep/t{t}-adaptive.000.jsonl": 2 for t in (0.2, 0.4, 0.9)},
    }
    assert sorted(path.name for path in place.out.iterdir()) == [
        *("RESULTS-grid-1.svg", "RESULTS-rates.svg", "RESULTS-scores.svg", "RESULTS.md"),
        *("report.html", "runs"),
    ]
    assert "no equal budget" not in place.page
    assert done.stdout.count("| blend |") == 2 and "do not tell" not in done.stdout
    path = place.out / "runs" / "one" / "gsm8k" / "blend.000.jsonl"
    path.write_text("".join(made["one/gsm8k/blend.000.jsonl"][:1]))  # as a killed run leaves it
    before = place.records
    assert place.go().exit_code == 0
    after = place.records
    assert all(after[name][: len(lines)] == lines for name, lines in before.items())
    assert {name: len(lines) for name, lines in after.items()} == {
        name: len(lines) for name, lines in made.items()
    }


def test_a_pair_that_cannot_be_loaded_costs_itself_alone(place: Place, tmp_path: Path) -> None:
    place.pairs[0]["guide"] = str(tmp_path / "nowhere")
    done = place.go()
    assert done.exit_code == 1 and "one is left out" in done.stderr
    assert [*place.records] == ["two/gsm8k/base.000.jsonl", "two/gsm8k/blend.000.jsonl"]
    opening = place.page.partition("<details>")[0]
    assert "one was left out" in opening and "nowhere" in opening


def test_ctrl_c_ends_the_list_and_the_same_command_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", interrupted)
    done = place.go()
    assert done.exit_code == 130 and "the same command continues" in done.stderr
    assert "left out" not in done.stderr and "pair two" not in done.stderr


def test_what_is_wrong_is_said_before_any_model_is_loaded(place: Place, loads: list[bool]) -> None:
    assert place.go().exit_code == 0
    loads.clear()
    place.more["max_new_tokens"] = 5
    other = place.go()
    assert other.exit_code == 2 and "max_new_tokens is 4 there and 5 here" in other.stderr
    place.more["max_new_tokens"] = 4
    assert place.go("--paper", str(place.list.with_name("none.csv"))).exit_code == 2
    place.pairs[1]["base_header"] = ["X-Key=NONE"]
    stray = place.go()
    assert stray.exit_code == 2 and "base is no server's" in stray.stderr
    assert not loads


def test_report_makes_the_same_page_of_the_folders(place: Place, tmp_path: Path) -> None:
    assert place.go().exit_code == 0
    page, html = tmp_path / "again.md", tmp_path / "again.html"
    folders = [str(place.out / "runs" / name / "gsm8k") for name in ("one", "two")]
    done = CliRunner().invoke(app, ["report", *folders, "--out", str(page), "--html", str(html)])
    assert done.exit_code == 0, done.output
    assert page.read_text().replace("again-", "RESULTS-") == place.page
    assert html.read_text() == (place.out / "report.html").read_text()
