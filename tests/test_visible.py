"""Control characters are shown wherever a text goes: one table of them, and the places."""

from __future__ import annotations

import json
import logging
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
from hostile import CONTROLS, HOSTILE, dangerous
from hypothesis import given
from hypothesis import strategies as st

from blendin import Generation, Step
from blendin.visible import to_json, visible

KEPT = [
    *("a\tb\nc", "é日本語 ½ τ", "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}", "नमस्ते"),
    *("می\N{ZERO WIDTH NON-JOINER}خواهم", "\N{SOFT HYPHEN}", "\N{NO-BREAK SPACE}", ""),
]


def test_the_table_is_that_of_unicode() -> None:
    every = map(chr, range(sys.maxunicode + 1))
    assert {each for each in every if dangerous(each)} == set(CONTROLS)


@pytest.mark.parametrize("character", [*CONTROLS[:-2048], "\ud800", "\udfff"], ids=ascii)
def test_each_is_written_as_python_writes_it(character: str) -> None:
    shown = visible(f"a{character}b")
    assert shown == f"a{ascii(character)[1:-1]}b" and shown.isprintable()


@pytest.mark.parametrize("text", KEPT)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_lines_stay_unless_the_text_is_a_name() -> None:
    assert visible("a\r\nb\tc") == "a\nb\tc"
    assert visible("a\r\nb\tc", one_line=True) == "a\\nb\\tc"
    assert visible(Path("a\x1b")) == "a\\x1b"


@given(st.text(st.characters()))
def test_nothing_dangerous_is_left_and_all_of_it_can_be_encoded(text: str) -> None:
    assert not any(map(dangerous, visible(text)))
    assert visible(visible(text)) == visible(text)
    visible(text).encode()


@given(st.text(st.characters()), st.sampled_from(["utf-8", "ascii", "cp1252", "latin-1"]))
def test_json_is_of_the_same_value_in_every_encoding(text: str, encoding: str) -> None:
    for indent in (None, 1):
        written = to_json({text: [text]}, encoding=encoding, indent=indent)
        assert json.loads(written.encode(encoding).decode(encoding)) == {text: [text]}
        assert not any(map(dangerous, written))


def test_json_keeps_letters_where_it_can() -> None:
    assert to_json("é日") == '"é日"'
    assert to_json("é日", encoding="cp1252") == '"\\u00e9\\u65e5"'


def test_files_of_a_generation_are_safe_to_show_and_read_back(tmp_path: Path) -> None:
    step = Step(HOSTILE, HOSTILE.encode("utf-8", "surrogatepass"), "base", False)
    out = Generation(HOSTILE, [step], "end", settings={"base": HOSTILE})
    out.save(tmp_path / "whole.json")
    out.write_jsonl(tmp_path / "steps.jsonl")
    for path in tmp_path.iterdir():
        assert not any(map(dangerous, path.read_bytes().decode()))
    assert Generation.load(tmp_path / "whole.json") == out
    assert json.loads((tmp_path / "steps.jsonl").read_text("utf-8"))["text"] == HOSTILE


def test_a_notebook_sees_them() -> None:
    out = Generation(HOSTILE, [Step(HOSTILE, b"", "base", False)], error=HOSTILE)
    assert not any(map(dangerous, out._repr_html_()))
    assert not any(map(dangerous, repr(out)))


@pytest.mark.parametrize("name", ["blendin", "lm_eval.blendin"])
def test_messages_of_the_library_show_them(name: str, caplog: pytest.LogCaptureFixture) -> None:
    import blendin.lm_eval.harness  # noqa: F401  # has a logger of its own

    with caplog.at_level(logging.INFO, name):
        logging.getLogger(name).warning("%s is strange: %d, %s", HOSTILE, 3, ValueError("\x1b[2J"))
        logging.getLogger(name).warning("%d tokens", 3)
    mine = threading.get_ident()  # other tests' threads may say something too
    first, second = (each for each in caplog.records if (each.name, each.thread) == (name, mine))
    assert not any(map(dangerous, first.getMessage())) and "\\x1b[2J" in first.getMessage()
    assert second.msg == "%d tokens" and second.args == (3,)


def test_the_tables_categories() -> None:
    kinds = {unicodedata.category(each) for each in CONTROLS}
    assert kinds == {"Cc", "Cf", "Cs", "Zl", "Zp"}
