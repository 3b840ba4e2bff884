"""Intervention rate against score: the paper's own table, and other people's CSV files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmark_data import DATA
from hostile import MARKUP, SEQUENCES, dangerous

from blendin.evaluation.diagnosis.paradox import (
    CAUTION,
    PairResult,
    _panel,
    _spread,
    by_task,
    correlations,
    draw,
    read_pair_results,
    write,
)
from blendin.visible import visible


@pytest.fixture
def paper() -> Path:
    path = DATA / "paper_pairs.csv"
    if not path.is_file():
        pytest.skip(f"{path} is absent: BLENDIN_DATA names the folder that has it")
    return path


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def falling(task: str, n: int = 5) -> list[PairResult]:
    """Rates 0.1, 0.2, ...; the score falls by about 1 each."""
    return [PairResult(f"pair {i}", task, 0.1 * (i + 1), 10 - i - 0.5 * (i == 1)) for i in range(n)]


def test_the_papers_table_gives_the_papers_correlations(paper: Path) -> None:
    results = read_pair_results(paper)
    found = correlations(results)
    rounded = {task: round(found[task].estimate, 2) for task in ("gsm8k", "truthfulqa", "xstest")}
    assert rounded == {"gsm8k": -0.65, "truthfulqa": -0.56, "xstest": -0.76}
    assert {task: len(rows) for task, rows in by_task(results).items()} == dict.fromkeys(found, 15)
    assert all(interval.low < interval.estimate < interval.high for interval in found.values())


def test_every_row_of_the_papers_table_is_read_as_it_stands(paper: Path) -> None:
    with paper.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r.pair, r.task, r.score) for r in read_pair_results(paper)] == [
        (row["pair"], row["task"], float(row["score"])) for row in rows
    ]
    assert [100 * r.intervention_rate for r in read_pair_results(paper)] == pytest.approx(
        [float(row["intervention_rate_pct"]) for row in rows]
    )


def test_rates_are_read_as_fractions_or_percent_and_other_columns_ignored(tmp_path: Path) -> None:
    fraction = written(tmp_path / "a.csv", "task,pair,score,intervention_rate", "t,p,-1,0.25")
    percent = written(
        tmp_path / "b.csv", "\ufeffpair,task,note,intervention_rate_pct,score", '"p ",t,"x,y",25,-1'
    )
    assert (
        read_pair_results(fraction)
        == read_pair_results(percent)
        == [PairResult("p", "t", 0.25, -1.0)]
    )
    other = written(tmp_path / "c.TSV", "Task\tPAIR\tscore\tIntervention_Rate", "t\tp\t−1\t25 %")
    assert read_pair_results(other) == read_pair_results(fraction)


def test_a_task_is_one_however_it_is_spelled(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", HEAD, "p,GSM8K,1,2", "q, gsm8k ,3,4")
    assert {each.task for each in read_pair_results(path)} == {"GSM8K"}


HEAD = "pair,task,intervention_rate_pct,score"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        (["pair,task,score", "p,t,1"], r"lacks the column intervention_rate \(0..1\) or interve"),
        ([f"{HEAD},intervention_rate", "p,t,1,1,1"], "has both columns"),
        (["pair,task,intervention_rate", "p,t,1"], "there is no column 'score'"),
        ([HEAD], "has no rows"),
        ([HEAD, "p,t,1,1", "p,t,1,high"], "row 2, column score is 'high'"),
        ([HEAD, "p,t,1,"], "row 1, column score is ''"),
        ([HEAD, "p,t,1"], "row 1: it has not the header's 4 cells"),
        ([HEAD, "p,t,nan,1"], "row 1, column intervention_rate_pct is 'nan'"),
        ([HEAD, "p,t,16,1 %"], "row 1, column score is '1 %'"),
        ([HEAD, 'p,t,"1,5",1'], "row 1, column intervention_rate_pct is '1,5': .* a point for"),
        ([HEAD, "p,t,1_5,1"], "row 1, column intervention_rate_pct is '1_5'"),
        ([HEAD, "p,t,1,1", "P , T,2,2"], "row 2: the pair 'P' on 't' is in a row above"),
        ([HEAD, "p,t,101,1"], "row 1, column intervention_rate_pct is 101: .* 0..100"),
        (["pair,task,intervention_rate,score", "p,t,16,1"], "intervention_rate is 16: .* 0..1$"),
        ([HEAD, " ,t,1,1"], "row 1, column pair is empty"),
        ([HEAD, "p,,1,1"], "row 1, column task is empty"),
    ],
)
def test_a_bad_file_is_refused_with_file_row_and_column(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "results.csv", *lines)
    with pytest.raises(ValueError, match=message) as error:
        read_pair_results(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (falling("mine", 3), "task mine: .* 3 points"),
        ([row._replace(score=1.0) for row in falling("mine")], "task mine: .* 1 at every point"),
    ],
)
def test_a_task_that_cannot_be_correlated_is_named(rows: list[PairResult], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correlations(falling("other") + rows)


def test_a_run_leaves_a_picture_and_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = [f"{r.pair},{r.task},{r.intervention_rate},{r.score}" for r in falling("mine")]
    path = written(tmp_path / "r.csv", "pair,task,intervention_rate,score", *lines)
    write(path, tmp_path / "r.png", tmp_path / "r.json")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / "r.json").read_text("utf-8"))
    r = correlations(falling("mine"))["mine"]
    expected = {"r": r.estimate, "low": r.low, "high": r.high, "n": 5}
    assert told["tasks"]["mine"] == pytest.approx(expected)
    assert told["caution"] == CAUTION


def test_the_picture_names_every_pair_and_task_with_its_r(tmp_path: Path) -> None:
    """Read back from SVG, whose texts are left as texts."""
    matplotlib = pytest.importorskip("matplotlib")
    results = [row for task in ("math-1", "b", "c", "d") for row in falling(task)]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(results, tmp_path / "r.svg")
    picture = (tmp_path / "r.svg").read_text("utf-8")
    for task, r in correlations(results).items():
        assert f"{task}: r = {r:.2f}".replace(" -", " −").replace("[-", "[−") in picture
    for i in range(5):
        assert picture.count(f">pair {i}<") == 4
    assert picture.count("score</text>") == 4
    assert picture.count("20 % line") == 4


@pytest.mark.slow
def test_labels_of_the_papers_pairs_hardly_overlap(paper: Path) -> None:
    """In each task of 15 pairs the labels share less than 2 % of their area."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    for rows in by_task(read_pair_results(paper)).values():
        figure = Figure(figsize=(6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes: Any = figure.subplots()
        labels = _panel(axes, rows)
        figure.draw_without_rendering()
        _spread(axes, labels)
        boxes = [label.get_window_extent() for label in labels]
        shared = [Bbox.intersection(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        overlap = sum(box.width * box.height for box in shared if box)
        assert overlap < 0.02 * sum(box.width * box.height for box in boxes)


@pytest.mark.parametrize("text", [*MARKUP, *SEQUENCES.values(), "$\\x$", "a$b$", "_x"], ids=ascii)
def test_names_are_drawn_as_they_are(text: str, tmp_path: Path) -> None:
    points = [PairResult(f"{text}{n}", text, n / 10, n % 3) for n in range(5)]
    draw(points, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    ElementTree.fromstring(drawn)
    assert not any(map(dangerous, drawn))
    notes = re.findall("<!-- (.*?) -->", drawn)
    assert any(
        visible(text, one_line=True).replace("-", "") in note.replace("-", "") for note in notes
    )
