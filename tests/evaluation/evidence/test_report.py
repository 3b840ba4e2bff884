"""The page of several pairs: what opens it, what folds away, what does not compare."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from blendin.evaluation.diagnosis.paradox import PairResult
from blendin.evaluation.evidence.html import html
from blendin.evaluation.evidence.markdown import page
from blendin.evaluation.evidence.overview import unequal_budgets
from blendin.evaluation.evidence.rate_figure import points
from blendin.evaluation.evidence.report import Report
from blendin.evaluation.pictures import LIGHT, alone
from blendin.evaluation.records import Record
from blendin.evaluation.runs.arms import arms, sweep
from blendin.evaluation.runs.folder import RunFolder
from blendin.evaluation.runs.results import Results
from blendin.evaluation.tasks import registry
from blendin.evaluation.tasks.task import Item, Task, origin
from blendin.policy import described

ITEMS = 40
Answers = Callable[[str, int], str]


def gsm8k() -> Task:
    items = [Item(str(place), f"{place}?", str(place), ()) for place in range(ITEMS)]
    return registry.of_kept("gsm8k", items)


def run_of(
    folder: Path,
    answers: Answers,
    policies: Mapping[str, Any] | None = None,
    guide: str = "small",
    **config: Any,
) -> Results:
    """A run's results, made without models: each arm answers as it is told, asking at every third
    of ten tokens.
    """
    task = gsm8k()
    settings = {
        "task": task.name, "scorer": task.scorer, "items": ITEMS, "system": None,
        "max_new_tokens": 64, "stop": [], "do_sample": False, "base": "/models/large",
        "guide": guide, "dtype": ["float32", "float32"], "models": {"guide": guide},
        **origin(task, None, 2606),
    } | config  # fmt: skip
    run = RunFolder(folder, settings)
    for name, policy in (policies or arms(("base", "guide", "nudge", "blend"))).items():
        run.add_arm(name, described(policy))
    run.take_items(task.items)
    run.begin()
    for name in run.manifest["arms"]:
        with run.writer(name) as write:
            for place, item in enumerate(task.items):
                text = answers(name, place)
                scores = task.score_answer(item, text, "end")
                write(Record(item.id, scores, 10, 3, 1.5, 1.5, text, "end"))
    return Results(task, run)


def right(share: Mapping[str, float]) -> Answers:
    """Answers of which the first so many are right, by arm."""
    return lambda arm, place: f"#### {place if place < share[arm] * ITEMS else 999}"


SHARES = {"base": 0.1, "guide": 0.8, "nudge": 0.75, "blend": 0.65}
"""6 of 40 items between the guide and BlendIn: p is 0.03, and no longer so once corrected."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("runs")
    one = run_of(folder / "one", right(SHARES), guide="small")
    two = run_of(folder / "two", right(dict.fromkeys(SHARES, 0.5)), guide="tiny")
    grid = run_of(folder / "grid", lambda arm, place: f"#### {place if 'a1' in arm else 999}",
                  sweep([0.2, 0.4], [None, 1.0]))  # fmt: skip
    return Report([one, two, grid], [PairResult("Theirs", "GSM8K", 0.1, 0.5)], {"gone": "no file"})


def test_the_table_has_every_pair_and_arm_with_the_letters_of_its_tests(report: Report) -> None:
    header, rows = report.table()
    assert header == ["GSM8K: accuracy ↑", "guide asked", "time"]
    told = {(line.pair, line.arm): cells for line, cells in rows}
    assert {arm: told["large → small", arm][0] for arm in SHARES} == {
        "base": ("0.10 b", False),
        "guide": ("0.80 a", True),
        "nudge": ("0.75 a", True),
        "blend": ("0.65 a", True),
    }
    assert {told["large → tiny", arm][0] for arm in SHARES} == {("0.50 a", False)}
    assert told["large → small", "base"][1:] == [("–", False), ("1 min 0 s", False)]
    assert told["large → small", "blend"][1][0] == "30 %"
    assert len(rows) == 8, "a sweep's arms stand in its grid"


def test_letters_and_sentences_say_the_same(report: Report) -> None:
    run = report.results[0]
    (measure,) = run.task.compared
    letters = run.letters(measure)
    for sentence in run.conclusions:
        higher = re.match(r"accuracy: (\S+) \(.*\) scores higher than (\S+) ", sentence)
        same = re.search(r"do not tell (\S+) \(.*\) and (\S+) \(.*\) apart", sentence)
        found = higher or same
        assert found, sentence
        assert bool(set(letters[found[1]]) & set(letters[found[2]])) == (higher is None)
    assert "6 comparisons, their p corrected together" in run.caution()


def test_a_page_opens_with_a_figure_and_a_table_and_folds_every_sentence(report: Report) -> None:
    text = page(report, {each.name: f"{each.name}.svg" for each in report.pictures})
    opening, _, rest = text.partition("<details>")
    assert opening.index("![scores](scores.svg)") < opening.index("| pair | arm |")
    assert opening.index("| pair | arm |") < opening.index("![rates](rates.svg)")
    assert "![grid-1](grid-1.svg)" in opening and "gone was left out: no file" in opening
    told = [sentence for run in report.results for sentence in run.conclusions]
    assert len(told) == 8 and any("do not tell" in each for each in told)
    assert not any(sentence in opening for sentence in told)
    assert all(sentence in rest for sentence in told)
    assert text.count("<details>") == text.count("</details>") == 3


def test_the_html_page_does_so_too_and_asks_for_nothing(report: Report) -> None:
    text = html(report)
    opening, _, rest = text.partition("<details")
    assert opening.index("<svg") < opening.index("<table") < opening.index("<h2")
    assert "<b>0.80 a</b>" in opening and "do not tell" not in opening and "do not tell" in rest
    assert opening.count("<svg") == 3 and text.count("<details>") == 3
    addresses = set(re.findall(r"https?://[^\"' <]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_pictures_stand_alone_in_the_light_pages_colours(report: Report) -> None:
    style = Path(__file__).parents[3] / "blendin/evaluation/diagnosis/templates/style.css"
    of_the_page = dict(re.findall(r"(--[\w-]+):(#\w+)", style.read_text().partition("@media")[0]))
    assert all(of_the_page[name] == colour for name, colour in LIGHT.items())
    for each in report.pictures:
        svg = alone(each.svg)
        assert "var(" not in svg
        width = float(ElementTree.fromstring(svg).get("width", 0))
        assert abs(width - 96 * each.width) < 1, "as wide as it was drawn, at 96 pixels an inch"


def test_points_are_of_arms_that_ask_now_and_then(report: Report) -> None:
    (of_task,) = points(report.pairs).values()
    assert [(p.pair, p.arm) for p in of_task] == [
        (pair, arm) for pair in ("large → small", "large → tiny") for arm in ("nudge", "blend")
    ]
    assert all(p.rate.low < 0.3 < p.rate.high and p.rate.estimate == 0.3 for p in of_task)
    rates = report.rates
    assert rates is not None and "20 % line" in rates.svg and "of --paper" in rates.svg
    alone_ = Report(report.results).rates
    assert alone_ is not None and "of --paper" not in alone_.svg


def test_a_grid_has_every_cell_with_its_interval_and_stars_what_is_told_apart(
    report: Report,
) -> None:
    (grid,) = report.grids
    run = report.results[2]
    (measure,) = run.task.compared
    assert run.told(measure) == {
        frozenset((arm, "t0.4-adaptive")) for arm in ("t0.2-a1", "t0.4-a1")
    }
    assert grid.svg.count("1.00∗") == 2 and grid.svg.count("0.00∗") == 0
    for arm in run.arms:
        figure = arm.figures["accuracy"]
        assert f"{figure.low:.2f}–{figure.high:.2f}" in grid.svg
    assert "3 comparisons" in run.caution() and run.letters(measure) == {}


def test_runs_are_put_together_by_their_models_whatever_these_are_called(tmp_path: Path) -> None:
    known = {"base": {"weights": "1"}, "guide": {"weights": "2"}}
    runs = [
        run_of(tmp_path / name, right(SHARES), guide=guide, models=known | more)
        for name, guide, more in (
            ("one", "~/small", {}),
            ("two", "/home/me/small", {}),
            ("three", "/home/me/small", {"guide": {"weights": "3"}}),
        )
    ]
    found = {pair.name: len(pair.runs) for pair in Report(runs).pairs}
    assert found == {"large → small": 2, "large → small (2)": 1}


def test_budgets_that_differ_are_said_on_the_first_screen(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", right(SHARES), guide="small")
    two = run_of(tmp_path / "two", right(SHARES), guide="tiny", max_new_tokens=128)
    report = Report([one, two])
    (sentence,) = report.warnings
    assert "max_new_tokens is 64 there and 128 here" in sentence
    assert "no equal budget" in page(report).partition("<details>")[0]
    assert unequal_budgets(Report([one]).pairs) == []


def test_an_arm_that_is_not_finished_is_said_on_the_first_screen(tmp_path: Path) -> None:
    results = run_of(tmp_path / "one", right(SHARES))
    path = tmp_path / "one" / "blend.000.jsonl"
    path.write_text("".join(list(path.open())[:20]))
    (sentence,) = Report(
        [Results(results.task, RunFolder(tmp_path / "one", results.manifest["config"]))]
    ).warnings
    assert sentence.startswith("Not all items are done yet (GSM8K)")
