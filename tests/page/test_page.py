"""The page as a file: what is in it, what may not be, and which traces it takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile import CONTROLS, HOSTILE, SCRIPT
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import SAMPLE, step, trace
from typer.testing import CliRunner

from blendin import Generation
from blendin.cli.app import app
from blendin.page import page, read_traces
from blendin.visible import to_json


class Scripts(HTMLParser):
    """The scripts of a page, and how many elements it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.elements = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.elements += 1
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def data_of(html: str) -> list[dict]:
    data, _ = Scripts(html).scripts
    return json.loads(data)["traces"]


def test_the_page_stands_alone_and_is_small() -> None:
    text = page()
    assert len(text.encode()) < 150_000
    addresses = set(re.findall(r"\w+://[^'\"\s]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                "srcdoc", "DOMParser", "url(", "@import", "<link", "<img", " src="):  # fmt: skip
        assert way not in text, way


@pytest.mark.parametrize("element", ["script", "style"])
def test_the_policy_lets_the_pages_own_script_and_style_run_and_no_other(element: str) -> None:
    """Who changes them writes the new hash, which this test shows, into the page's policy."""
    text = page()
    (own,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    expected = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert re.findall(f"{element}-src ([^;]*);", text) == [f"'sha256-{expected}'"]
    assert "default-src 'none'" in text and "unsafe" not in text


HOSTILE_TEXTS = [
    "</script><script>document.title='owned'</script>", "<!--<script>", "]]>", "&lt;", SCRIPT,
    "".join(CONTROLS), HOSTILE, "\ud800", "a\udc00b\ud83d",
]  # fmt: skip


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE_TEXTS))
def test_whatever_is_written_comes_back_and_is_never_markup(text: str) -> None:
    written = replace(SAMPLE, error=text, settings={"base_prompt": text})
    written = replace(written, steps=[replace(SAMPLE.steps[0], text=text)])
    html = page({text: written})
    assert Scripts(html).elements == Scripts(page()).elements
    (told,) = data_of(html)
    assert told == json.loads(to_json({"name": text, **written.to_dict()}))
    html.encode()  # no half of a pair is left


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        page({"x": trace(step("a", base_top_prob=float("nan")))})


def write(form: str, path: Path) -> None:
    """A file with the sample, in each of the forms that there are."""
    told = SAMPLE.to_dict()
    if form == "saved":
        SAMPLE.save(path)
    elif form == "trace":
        SAMPLE.write_jsonl(path)
    elif form == "json":
        path.write_text(to_json(told))
    elif form == "json lines":
        path.write_text(f"{to_json(told)}\n\n{to_json(told)}\n")
    elif form == "old":  # of before there were candidates
        for each in told["steps"]:
            del each["candidates"]
        path.write_text(to_json(told), "utf-16")


@pytest.mark.parametrize("form", ["saved", "trace", "json", "json lines", "old"])
def test_a_file_gives_the_traces_that_were_written(form: str, tmp_path: Path) -> None:
    write(form, path := tmp_path / "file")
    found = read_traces(path)
    assert len(found) == (2 if form == "json lines" else 1)
    for each in found:
        expected = SAMPLE.steps
        if form == "old":
            expected = [replace(one, candidates=None) for one in expected]
        assert (each.text, each.steps) == (SAMPLE.text, expected)
        assert each.settings == ({} if form == "trace" else SAMPLE.settings)


STEP = SAMPLE.steps[0].to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no steps"),
        ("[]", "has no steps"),
        ("hello", "line 1 is no JSON"),
        (json.dumps(STEP) + "\n{", "line 2 is no JSON"),
        (json.dumps(STEP) + '\n{"text": "x"}', "line 2 is no step"),
        (json.dumps([STEP, 3]), "item 2 is no step"),
        (json.dumps({"steps": [STEP, None]}), "step 2 is no step"),
        (json.dumps(STEP | {"token_bytes": "x"}), "is no step"),
        (json.dumps(STEP | {"source": "nobody"}), "source is wrong"),
        (json.dumps(STEP | {"alpha": "1"}), "where a probability should be"),
        (json.dumps(STEP | {"alpha": float("nan")}), "NaN"),
        (json.dumps({"steps": [], "settings": 3}), "settings are no object"),
        (json.dumps({"steps": [], "format": "blendin.Generation", "version": 9}), "version 9"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_another_file_is_refused_and_its_place_named(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_traces(path)
    assert "file.json" in str(caught.value)


# -- commands --------------------------------------------------------------------------------------


def test_view_writes_a_page_of_all_files(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        SAMPLE.save(folder / "one.json")
    write("json lines", tmp_path / "many.jsonl")
    files = [str(folder / "one.json") for folder in folders] + [str(tmp_path / "many.jsonl")]
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["view", *files, "-o", str(out)])
    assert result.exit_code == 0, result.output
    names = [each["name"] for each in data_of(out.read_text("utf-8"))]
    assert names == ["one.json", "one.json (2)", "many.jsonl 1", "many.jsonl 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.json", "-o", "one.json"], "--out one.json is one of the traces"),
        (["one.json", "none.json"], "none.json"),
        (["one.json", "-o", "no/page.html"], "its folder does not exist"),
        (["one.json", "note.txt"], "note.txt, line 1 is no JSON"),
    ],
)
def test_view_refuses_before_it_writes(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    SAMPLE.save("one.json")
    Path("note.txt").write_text("a note")
    before = Path("one.json").read_bytes()
    result = CliRunner().invoke(app, ["view", *arguments])
    assert result.exit_code == 2 and message in result.stderr
    assert Path("one.json").read_bytes() == before and not Path("trace.html").exists()


def test_generate_and_compare_write_pages_with_alternatives(
    pair_folders: list[str], tmp_path: Path
) -> None:
    html, saved = tmp_path / "page.html", tmp_path / "steps.jsonl"
    ask = ["generate", "Why <b>?", *pair_folders, "--max-new-tokens", "6", "--threshold", "0.9"]
    result = CliRunner().invoke(app, [*ask, "--html", str(html), "--trace", str(saved)])
    assert result.exit_code == 0, result.output
    (told,) = data_of(html.read_text("utf-8"))
    (kept,) = read_traces(saved)
    assert told["name"] == "Why <b>?"
    assert told["steps"] == json.loads(to_json([each.to_dict() for each in kept.steps]))
    assert all(len(each.candidates.base) == 5 for each in kept.steps if each.candidates)
    assert all(each.candidates for each in kept.steps)

    ask = ["compare", "Why?", *pair_folders, "--max-new-tokens", "4", "--html", str(html)]
    result = CliRunner().invoke(app, ask)
    assert result.exit_code == 0, result.output
    told = data_of(html.read_text("utf-8"))
    assert [each["name"] for each in told] == ["base alone", "NUDGING", "BlendIn"]
    assert all(step["candidates"] for each in told for step in each["steps"])


def test_no_page_where_none_can_be_written(pair_folders: list[str], tmp_path: Path) -> None:
    for command in ("generate", "compare"):
        where = str(tmp_path / "no" / "page.html")
        result = CliRunner().invoke(app, [command, "Why?", *pair_folders, "--html", where])
        assert result.exit_code == 2 and f"--html {where}" in " ".join(result.stderr.split())


def test_a_trace_that_is_not_finished_is_shown_too() -> None:
    (told,) = data_of(page({"x": Generation()}))
    assert told["steps"] == [] and told["stop_reason"] is None
