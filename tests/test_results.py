"""What comes back: how a generation shows itself, and how it is kept in a file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import browser
import pytest
from conftest import generator
from hostile import SCRIPT
from hypothesis import given, settings
from hypothesis import strategies as st

import blendin
from blendin import BaseOnly, Blend, Generation, GuideOnly, InterventionCap, Nudge, Step
from blendin.visible import visible


def step(text: str, **given: Any) -> Step:
    return Step(**{"text": text, "token_bytes": text.encode(), "source": "base"} | given)


def of(*steps: Step, **given: Any) -> Generation:
    return Generation("".join(each.text for each in steps), list(steps), "length", **given)


HOSTILE = '<script>alert("x")</script>&amp;\'\n\t</span>'


# -- repr ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (Generation(), "Generation('', 0 tokens, not finished, intervention rate 0.00)"),
        (
            of(step("a\n", intervened=False), step("b", intervened=True)),
            "Generation('a\\nb', 2 tokens, stopped by length, intervention rate 0.50)",
        ),
        (
            Generation("x", [step("x", intervened=False)], "end"),
            "Generation('x', 1 token, stopped by end, intervention rate 0.00)",
        ),
        (
            Generation(error="the prompt\nis empty"),
            "Generation('', 0 tokens, failed: the prompt is empty, intervention rate 0.00)",
        ),
    ],
)
def test_a_repr_is_one_line(out: Generation, expected: str) -> None:
    assert repr(out) == expected


def test_a_repr_is_short_whatever_is_in_it() -> None:
    out = of(step("word " * 5000, intervened=False), settings={"prompt": "x" * 5000})
    assert len(repr(out)) < 160 and "…" in repr(out) and "\n" not in repr(out)
    assert len(repr(replace(out, error="no\n" * 5000))) < 220


# -- HTML ------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.titles, self.styles = list[str](), list[str](), list[str]()
        self.text, self._open = "", list[str]()
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        given = dict(attributes)
        assert set(given) <= {"class", "style", "title"}
        self.titles += [given["title"]] if "title" in given else []
        self.styles += [given["style"]] if "style" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@settings(max_examples=50)
@given(st.text())
def test_whatever_is_written_stays_text(text: str) -> None:
    written = of(step(text, intervened=False), step(HOSTILE, intervened=True))
    page = Page(replace(written, error=HOSTILE)._repr_html_())
    assert set(page.tags) <= {"div", "span", "b"}
    assert page.text.startswith(visible(text) + HOSTILE)


@pytest.mark.slow
@browser.needs_browser
def test_no_script_of_an_answer_runs_in_a_notebook(tmp_path: Path) -> None:
    written = replace(of(step(SCRIPT, intervened=True)), error=SCRIPT)
    page = f"<title>mine</title>{written._repr_html_()}"
    assert "<title>mine</title>" in browser.run(page, tmp_path)


def test_colours_and_numbers_are_those_of_the_steps() -> None:
    page = Page(
        of(
            step("a", intervened=False, base_top_prob=0.9),
            step("b", intervened=True, source="both", base_top_prob=0.2, guide_top_prob=0.5,
                 alpha=0.25),
            step("c", intervened=True, source="guide", base_top_prob=0.1, alpha=1.0),
            step("", intervened=True, is_end=True),
        )._repr_html_()
    )  # fmt: skip
    assert page.titles == [
        "base alone · p_b 0.900",
        "blended from both · p_b 0.200 · p_g 0.500 · α 0.250",
        "the guide's alone · p_b 0.100 · α 1.000",
    ]
    assert "background:rgb(181,218,255);color:rgb(20,20,20)" in page.styles
    assert "background:rgb(255,140,26);color:rgb(20,20,20)" in page.styles
    assert "4 tokens, stopped by length, intervention rate 0.75" in page.text


def test_what_a_stop_text_cut_off_is_not_shown() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    stop = gen.generate("Why?", max_new_tokens=12).text[6:9]
    out = gen.generate("Why?", max_new_tokens=12, stop=stop)
    assert out.stop_reason == "stop" and stop not in out.text
    assert Page(out._repr_html_()).text.startswith(f"{out.text}{len(out.steps)} tokens")


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"policy": Blend(threshold=0.9)},
        {"policy": Nudge(), "stop": ["e", "\n"]},
        {"policy": BaseOnly(), "stop": ()},
        {"policy": GuideOnly(), "do_sample": True, "temperature": 0.7, "seed": 1},
        {"policy": InterventionCap(Blend(top_k=None)), "system": "Sei kurz. 日本 👍"},
    ],
    ids=str,
)
def test_a_file_gives_back_all_of_it(tmp_path: Path, given: dict[str, Any]) -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    path = tmp_path / "out.json"
    for out in [gen.generate("Wie viele?", **given), *gen.generate(["", "x"], **given)]:
        out.save(path)
        back = Generation.load(str(path))
        assert back == out
        assert [each.draft for each in back.steps] == [each.draft for each in out.steps]
        assert back.to_dict() == out.to_dict() and repr(back) == repr(out)
        assert {each.name for each in fields(out)} <= set(json.loads(path.read_text("utf-8")))


floats = st.none() | st.floats(allow_nan=False)
steps = st.builds(
    Step,
    text=st.text(st.characters()),
    token_bytes=st.binary(max_size=4),
    source=st.sampled_from(("base", "guide", "both")),
    intervened=st.booleans(),
    base_top_prob=floats,
    guide_top_prob=floats,
    alpha=floats,
    agreement=floats,
    agreement_rank=st.none() | st.integers(1),
    token_ids=st.lists(st.integers(0)).map(tuple),
    is_end=st.booleans(),
    draft=st.sampled_from((None, "accepted", "rejected")),
)


@settings(max_examples=50)
@given(
    st.builds(
        Generation,
        text=st.text(st.characters()),
        steps=st.lists(steps, max_size=3),
        stop_reason=st.sampled_from((None, "end", "length", "stop")),
        error=st.none() | st.text(),
        seconds=st.floats(0, allow_infinity=False),
        base_forwards=st.integers(0),
        guide_forwards=st.integers(0),
        settings=st.dictionaries(st.text(), st.none() | st.text() | st.booleans() | st.integers()),
    )
)
def test_any_generation_survives_its_file(tmp_path_factory: Any, out: Generation) -> None:
    path = tmp_path_factory.mktemp("kept") / "out.json"
    out.settings = {k: v for k, v in out.settings.items() if k != "stop"}
    out.save(path)
    back = Generation.load(path)
    assert back == out and [s.draft for s in back.steps] == [s.draft for s in out.steps]


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    out = of(step("a", intervened=False))
    good = tmp_path / "good.json"
    out.save(good)
    whole = json.loads(good.read_text("utf-8"))
    out.write_jsonl(tmp_path / "trace.jsonl")
    contents: dict[str, str | bytes] = {
        "empty.json": "",
        "text.txt": "hello",
        "bytes.bin": b"\xff\xfe\x00",
        "list.json": "[]",
        "null.json": "null",
        "dict.json": "{}",
        "cut.json": good.read_text("utf-8")[:100],
        "deep.json": "[" * 100_000,
        "trace.jsonl": (tmp_path / "trace.jsonl").read_text("utf-8"),
        "newer.json": json.dumps(whole | {"version": 2}),
        "without.json": json.dumps({k: v for k, v in whole.items() if k != "steps"}),
        "steps.json": json.dumps(whole | {"steps": [{}]}),
        "step.json": json.dumps(whole | {"steps": ["a"]}),
        "hex.json": json.dumps(whole | {"steps": [whole["steps"][0] | {"token_bytes": "xy"}]}),
        "number.json": json.dumps(whole | {"text": 5}),
        "settings.json": json.dumps(whole | {"settings": 5}),
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=rf"{name} (is|has)"):
            Generation.load(path)
    with pytest.raises(OSError, match=r"absent\.json"):
        Generation.load(tmp_path / "absent.json")


# -- the package -----------------------------------------------------------------------------------


def test_the_packages_names_are_listed() -> None:
    assert set(blendin.__all__) <= set(dir(blendin))
    for name in blendin.__all__:
        assert getattr(blendin, name).__name__ == name


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_package_runs_as_a_module(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "blendin", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "--version" in arguments:
        assert done.stdout == f"blendin {metadata.version('blendin')}\n"
    else:
        assert "generate" in done.stdout and "Inference-time alignment" in done.stdout


def test_listing_the_names_imports_nothing() -> None:
    code = "import blendin, sys; dir(blendin); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
