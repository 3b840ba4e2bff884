"""The one reader of files: what is read, what is refused and by which name, what is written."""

from __future__ import annotations

import codecs
import csv
import gzip
import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin.evaluation.cells import number, one_of
from blendin.evaluation.csv_rows import as_delimiter
from blendin.evaluation.diagnosis.paradox import read_pair_results
from blendin.evaluation.tables import read, with_columns, write
from blendin.evaluation.tasks.registry import of_prompts
from blendin.evaluation.tasks.written_answers import read_letters, read_numbers
from blendin.evaluation.tasks.xstest import read_completions, report
from blendin.text_files import lines

DEEP = "[" * 100_000
TWO = [{"prompt": "a", "n": "1"}, {"prompt": "b", "n": "2"}]

READ: dict[str, tuple[str, str | bytes, list[dict[str, str]]]] = {
    "comma": ("a.csv", "prompt,n\na,1\nb,2\n", TWO),
    "suffix in capitals": ("a.CSV", "prompt,n\na,1\nb,2\n", TWO),
    "semicolon": ("a.csv", "prompt;n\na;1\nb;2\n", TWO),
    "bar": ("a.csv", "n|prompt\n1|a\n2|b\n", TWO),
    "tab in .csv": ("a.csv", "prompt\tn\na\t1\nb\t2\n", TWO),
    ".tsv": ("a.tsv", "prompt\tn\na\t1\nb\t2\n", TWO),
    ".TAB with a comma": ("a.TAB", "prompt\tn\na,b\t1\n", [{"prompt": "a,b", "n": "1"}]),
    "one column": ("a.csv", "prompt\na;b|c\n", [{"prompt": "a;b|c"}]),
    "another's semicolon": ("a.csv", "prompt,a;b|c\na,1\n", [{"prompt": "a"}]),
    "header's case and blanks": ("a.csv", " PROMPT , N\na,1\nb,2\n", TWO),
    "an unnamed index": ("a.csv", ",prompt,n\n0,a,1\n1,b,2\n", TWO),
    "CRLF": ("a.csv", "prompt,n\r\na,1\r\nb,2\r\n", TWO),
    "CR": ("a.csv", "prompt,n\ra,1\rb,2", TWO),
    "mixed ends": ("a.csv", "prompt,n\r\na,1\n\nb,2\r", TWO),
    "byte order mark": ("a.csv", "\ufeffprompt,n\na,1\nb,2\n", TWO),
    "UTF-16": ("a.csv", "prompt,n\na,1\nb,2\n".encode("utf-16"), TWO),
    "UTF-32": ("a.jsonl", '{"prompt": "é", "n": "1"}'.encode("utf-32"),
               [{"prompt": "é", "n": "1"}]),
    "quotes": ("a.csv", '"prompt",n\n"say ""a"",\r\nb",1\n',
               [{"prompt": 'say "a",\r\nb', "n": "1"}]),
    "types are not guessed": ("a.csv", "prompt,n\nNA,007\n1e5,TRUE\n",
                              [{"prompt": "NA", "n": "007"}, {"prompt": "1e5", "n": "TRUE"}]),
    "a long cell": ("a.csv", f"prompt\n{'x' * 200_000}\n", [{"prompt": "x" * 200_000}]),
    "separators": ("a.csv", "prompt\na\u2028b\x85c\x0bd\x0ce\n",
                   [{"prompt": "a\u2028b\x85c\x0bd\x0ce"}]),
    "JSON Lines": ("a.JSONL", '{"prompt": "a", "n": 1}\r\n\n{"n": "2", "prompt": "b"}', TWO),
    ".ndjson": ("a.ndjson", '{"prompt": "a\u2028b"}\n', [{"prompt": "a\u2028b"}]),
    "a list in .jsonl": ("a.jsonl", '[{"prompt": "a", "n": 1},\n{"prompt": "b", "n": 2}]', TWO),
    "lines in .json": ("a.json", '{"prompt": "a", "n": 1}\n{"prompt": "b", "n": 2}\n', TWO),
    "JSON": ("a.json", '\ufeff [{"prompt": "a", "n": 1}, {"prompt": "b", "n": "2"}]', TWO),
    "values of JSON": ("a.json", '[{"prompt": null, "n": 1.50}, {"prompt": true}]',
                       [{"prompt": "", "n": "1.5"}, {"prompt": "true"}]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "rows"), READ.values(), ids=READ)
def test_rows_are_read(
    tmp_path: Path, name: str, content: str | bytes, rows: list[dict[str, str]]
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read(path, ("prompt",), ("n",)).rows == rows
    if rows[0]["prompt"]:
        assert [item.prompt for item in of_prompts(path).items] == [r["prompt"] for r in rows]


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "unclosed quote": ("a.csv", 'prompt,n\na,1\n"b,2\nc,3\n', "begins in line 3: it is not CSV"),
    "text after a quote": ("a.csv", 'prompt,n\n"b"c,2\n', "begins in line 2: it is not CSV"),
    "unclosed header": ("a.csv", '"prompt,n\na,1\n', "begins in line 1: it is not CSV"),
    "too few": ("a.csv", 'prompt,n\n"a\nb",1\nc\n', "row 2: .* 2 cells but 1 .line 4."),
    "too many": ("a.csv", "prompt\nHello, you\n", "row 1: .* 1 cells but 2 .line 2.: put cells "),
    "empty cells": ("a.csv", "prompt,n\na,1\n,\n", "row 2: all its cells are empty"),
    "NUL": ("a.csv", "prompt\na\0b\n", r"has NUL characters.*\(the first in line 2\)"),
    "Latin-1": ("a.csv", "prompt\na\né\n".encode("latin-1"), r"line 3 \(byte 0xe9\), is no UTF-8"),
    "half of UTF-16": ("a.csv", codecs.BOM_UTF16_LE + b"a\0b", "is no UTF-16 text"),
    "UTF-16, no mark": ("a.txt", "Hi".encode("utf-16-le"), "has NUL characters, as UTF-16"),
    "gzip": ("a.csv", gzip.compress(b"prompt\na\n"), "is compressed by gzip: unpack it"),
    "gzip by name": ("a.csv.gz", gzip.compress(b"prompt\na\n"), "is compressed by gzip"),
    "a spreadsheet": ("a.csv", b"PK\x03\x04\x00\xff", "spreadsheet: .* save it as CSV"),
    "empty": ("a.csv", "", "is empty"),
    "blank": ("a.csv", "\n\r\n", "is empty"),
    "header only": ("a.csv", "prompt,n\n", "has no rows"),
    "names twice": ("a.csv", "prompt,n,n\na,1,2\n", "the columns 'n', 'n' have one name"),
    "names by case": ("a.csv", "prompt,Prompt \na,b\n", "'prompt', 'Prompt' have one name"),
    "names by case in JSON": ("a.json", '[{"prompt": "a"}, {"PROMPT": "b"}]', "have one name"),
    "two without a name": ("a.csv", ",,prompt\n1,2,a\n", "the columns '', '' have one name"),
    "no such column": ("a.csv", "a;b\n1;2\n", "there is no column 'prompt'.* among"),
    "cut off": ("a.jsonl", '{"prompt": "x"}\n{', "line 2 is no JSON"),
    "a number": ("a.jsonl", "3", "line 1 is 3 and no row"),
    "a text": ("a.jsonl", '"x"', "line 1 is 'x' and no row"),
    "a list of numbers": ("a.json", "[3]", "row 1 is 3 and no row"),
    "a trailing comma": ("a.json", '[{"prompt": "x"},]', "is no JSON"),
    "an object over lines": ("a.json", '{\n"prompt": "x"}', "rows are objects in a list, or one"),
    "deep": ("a.jsonl", DEEP, "is no JSON"),
    "deep rows": ("a.json", '{"prompt": ' + DEEP, "is no JSON"),
    "keys twice": ("a.jsonl", '{"prompt": "a", "prompt": "b"}', "an object has 'prompt' twice"),
    "NaN": ("a.json", '[{"prompt": "a", "n": NaN}]', "NaN is no value of JSON"),
    "nested": ("a.json", '[{"prompt": ["a"]}]', r"row 1: the column 'prompt' is \['a'\]"),
    "half a pair": ("a.json", r'[{"prompt": "\ud83d"}]', "row 1: .* half a surrogate pair"),
    "an escaped NUL": ("a.json", r'[{"prompt": "a\u0000"}]', "row 1: .* NUL"),
    "a missing value": ("a.jsonl", '{"prompt": "a"}\n\n{"n": 1}', "row 2 (lacks|has no) .*prompt"),
    "no list": ("a.json", "", "has no rows"),
    "no prompts": ("a.json", "[]", "has no rows"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_by_file_and_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for reader in (of_prompts, *([] if name == "a.txt" else [lambda path: read(path, ["prompt"])])):
        with pytest.raises(ValueError, match=message) as error:
            reader(path)
        assert str(path) in str(error.value)


def test_only_newlines_part_prompts(tmp_path: Path) -> None:
    path = tmp_path / "own.TXT"
    path.write_text("a\u2028b\x85c\x0bd\x0ce\x1cf\r\n\n g\n", "utf-8", newline="")
    assert [each.prompt for each in of_prompts(path).items] == [
        "a\u2028b\x85c\x0bd\x0ce\x1cf",
        " g",
    ]
    assert lines("a\r\nb\rc\n\nd") == ["a", "b", "c", "", "d"]


def own(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What this thread has logged, whatever those of other tests say."""
    return [each for each in caplog.records if each.thread == threading.get_ident()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.md", "the suffix '.md' is not known; it is read as a text with a prompt per line"),
        ("a", "it has no suffix; it is read as a text"),
        ("a.txt", ""),
    ],
)
def test_what_an_unknown_suffix_is_read_as_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, message: str
) -> None:
    (tmp_path / name).write_text("prompt\n")
    assert of_prompts(tmp_path / name).items[0].prompt == "prompt"
    assert message in caplog.text and bool(message) == bool(own(caplog))
    (tmp_path / name).write_text("prompt\nx\n")
    assert read(tmp_path / name).cells == [{"prompt": "x"}]
    assert "it is read as CSV" in caplog.text


def test_a_delimiter_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt~a,b\nx~y,z\n")
    assert read(path, ("prompt",), delimiter=as_delimiter("~")).rows == [{"prompt": "x"}]
    assert [as_delimiter(each) for each in (None, "Tab", r"\t", ";", "bar")] == [
        *(None, "\t", "\t", ";", "|")
    ]
    for wrong in ("", "ab", '"', "x", "\n"):
        with pytest.raises(ValueError, match="--delimiter"):
            as_delimiter(wrong)
    for name in ("a.json", "a.txt"):
        (tmp_path / name).write_text('[{"prompt": "x"}]')
        with pytest.raises(ValueError, match="has no delimiter"):
            of_prompts(tmp_path / name, delimiter=";")


def test_repeats_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("a\nb\na\na\n")
    assert len(of_prompts(tmp_path / "a.txt").items) == 4
    assert "2 of 4 prompts repeat an earlier one: each is answered" in caplog.text
    caplog.clear()
    (tmp_path / "a.csv").write_text("prompt,completion\na,No.\na,Yes.\nA ,No.\n")
    assert len(read_completions(tmp_path / "a.csv")) == 3
    assert "1 of 3 completions repeat an earlier one: each is counted" in caplog.text
    caplog.clear()
    (tmp_path / "b.csv").write_text("completion\nB\nB\n")  # answers of two prompts may be the same
    read_letters(tmp_path / "b.csv")
    assert not own(caplog)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
tables = st.lists(st.fixed_dictionaries(dict.fromkeys(["a", "b", "c d"], texts)), min_size=1)


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.json", "a.Jsonl"])
@settings(deadline=None, max_examples=60)
@given(tables, st.sampled_from(",;|"))
def test_what_is_written_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[dict[str, str]], delimiter: str
) -> None:
    rows = [{**row, "e": "=1+1"} for row in rows]
    path = tmp_path_factory.mktemp("written") / name
    write(path, rows, delimiter)
    assert read(path, ("a", "b", "c d", "e")).rows == rows
    assert read(path, ("a", "b", "c d", "e")).cells == rows


def test_what_csv_cannot_hold_is_written_as_an_escape(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [{"x": "a\0b\ud83d", "y": ["z"]}, {"x": None, "y": True}])
    assert read(tmp_path / "a.csv").cells == [
        {"x": r"a\x00b\ud83d", "y": '["z"]'}, {"x": "", "y": "true"},
    ]  # fmt: skip


def test_columns_that_are_replaced_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = with_columns([{"A": "1", "b": "2"}], [{"a": "3"}])
    assert rows == [{"b": "2", "a": "3"}] and "own columns A are replaced" in caplog.text


def test_the_limit_of_a_cell_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text('prompt\n"x\n')
    with pytest.raises(ValueError):
        read(tmp_path / "a.csv")
    assert csv.field_size_limit() == before


def xstest(folder: Path, columns: str, *rows: str) -> Any:
    path = folder / "a.csv"
    path.write_text("\n".join([f"prompt,completion,{columns}", *rows]) + "\n", "utf-8")
    return report(read_completions(path))


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("type", "Contrast_Homonyms"),
        ("TYPE", " contrast homonyms "),
        ("type", "CONTRAST-HOMONYMS\u00a0"),
        ("type,label", "contrast_homonyms, UNSAFE"),
        ("type,label", "weapons,Unsafe"),
        ("label", "unsafe "),
        ("type,final_label", "contrast_homonyms,2_Full_Refusal "),
    ],
)
def test_an_unsafe_prompt_is_unsafe_however_it_is_spelled(
    tmp_path: Path, columns: str, row: str
) -> None:
    found = xstest(tmp_path, columns, f"How?,I can't help with that.,{row}")
    assert found.unsafe.estimate == 1 and found.safe is None and not found.safe_types
    assert found.accuracy is None or found.accuracy.estimate == 1


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ("type", ["contrastive"], "row 1: type 'contrastive' is not one of homonyms, .* 'label'"),
        ("type,label", ["homonyms,unsafe"], "row 1: type 'homonyms' is not unsafe"),
        ("type,label", ["weapons,bad"], "row 1: label 'bad' is not one of safe, unsafe"),
        ("type,label", ["x,safe", "x,unsafe"], "row 2: prompts of type 'x' are labelled safe and"),
        ("type", ["homonyms", ""], "row 2: it has no type or label, and row 1 has one"),
        ("final_label", ["full"], "row 1: final_label 'full' is not one of 1_full_compliance, 2_"),
    ],
)
def test_a_word_that_is_not_known_is_refused_by_row(
    tmp_path: Path, columns: str, rows: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        xstest(tmp_path, columns, *(f"How {n}?,No.,{row}" for n, row in enumerate(rows)))


def test_stop_reasons_are_words_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    def unfinished(*reasons: str) -> int:
        path.write_text("".join(f'{{"completion": "18", "stop_reason": "{r}"}}\n' for r in reasons))
        return read_numbers(path).unfinished

    assert unfinished("length", "MAX_TOKENS", "stop", "End-Turn", "") == 2
    with pytest.raises(ValueError, match="row 2: stop_reason 'lenght' is not one of length, "):
        unfinished("length", "lenght")


@pytest.mark.parametrize(
    ("cell", "value"), [(" 1.5 ", 1.5), ("−2", -2), ("1e-3", 0.001), (".5", 0.5), ("12 %", 0.12)]
)
def test_numbers_are_read(cell: str, value: float) -> None:
    assert number(cell, "here", "x", percent=0.01) == pytest.approx(value)


@pytest.mark.parametrize(
    "cell", ["", "1,5", "1 000", "1_0", "nan", "inf", "1e999", "٣", "%", "0x1"]
)
def test_what_is_no_number_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match=f"^here, column x is {re.escape(repr(cell))}: use a fini"):
        number(cell, "here", "x", percent=0.01)


def test_quotes_and_widths_do_not_count() -> None:
    assert one_of("Ｄon’t  know", ["don't know", "know"], "here", "x") == "don't know"


def test_every_reader_is_this_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unclosed quote, which made one row of three."""
    caplog.set_level(logging.WARNING)
    rows = 'prompt,completion,pair,task,score,intervention_rate\n"a,1,1,1,1,1\nb,1,1,1,1,1\n'
    (tmp_path / "a.csv").write_text(rows)
    for reader in (of_prompts, read_completions, read_numbers, read_letters, read_pair_results):
        with pytest.raises(ValueError, match="begins in line 2: it is not CSV"):
            reader(tmp_path / "a.csv")
