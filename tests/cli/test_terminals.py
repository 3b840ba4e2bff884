"""What a command prints is shown and not obeyed, in every encoding; what it reads is text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile import HOSTILE, MARKUP, SEQUENCES, dangerous
from rich.console import ColorSystem, Console

from blendin import Generation, Step
from blendin.cli import evaluate, main, options, score, streams
from blendin.cli.app import app
from blendin.evaluation.diagnosis.paradox import PairResult
from blendin.visible import visible

TEXTS = [*SEQUENCES.values(), *MARKUP]
LETTERS = "é 日本 τ λ α … → · ½ 👩"
ENCODINGS = ["utf-8", "ascii", "cp1252", "latin-1"]


class Terminal(io.TextIOWrapper):
    """A stream to a terminal, or to a pipe, in an encoding."""

    def __init__(self, encoding: str = "utf-8", is_terminal: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def text(self) -> str:
        """What stands there, without the colours and the cursor's ways of rich itself."""
        written = self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]
        return re.sub(r"\x1b\[(\d*(;\d+)*m|\?25[hl]|2K|1A)|\r(?=\x1b\[)", "", written)


class FakeGenerator:
    """Answers with what it is told to, in steps of a character or whole."""

    def __init__(self, answer: str, whole: bool = True, name: str = "base") -> None:
        pieces = [answer] if whole else list(answer)
        self.steps = [
            Step(piece, piece.encode("utf-8", "replace"), "both", True, alpha=0.5)
            for piece in pieces
        ]
        self.output = Generation(answer, self.steps, "end", settings={"base": name})
        self.pair = SimpleNamespace(check_temperatures=lambda policy: None)

    def generate(self, *args: Any, **settings: Any) -> Generation:
        return self.output

    def stream(self, *args: Any, **settings: Any) -> Any:
        stream = iter(self.steps)
        return type("Stream", (), {"__iter__": lambda _: stream, "output": self.output})()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def answer(text: str, **options_: Any) -> None:
        fake = FakeGenerator(text, **options_)
        monkeypatch.setattr(options.ModelOptions, "load", lambda self: fake)

    return answer


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str, stdin: Any = b"", **terminal: Any) -> tuple[int, str, str]:
        out, err = Terminal(**terminal), Terminal(**terminal)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8") if isinstance(stdin, bytes) else stdin
        monkeypatch.setattr(sys, "stdin", given)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "argv", ["blendin", *arguments])
        for console in (streams.console, streams.messages):
            monkeypatch.setattr(console, "quiet", False)
            color = ColorSystem.TRUECOLOR if terminal.get("is_terminal", True) else None
            monkeypatch.setattr(console, "_color_system", color)
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return int(code or 0), out.text, err.text

    return call


def no_harm(*texts: str) -> None:
    for text in texts:
        assert not [ascii(each) for each in text if dangerous(each)], ascii(text)
        assert "Traceback" not in text


# -- What is printed -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_an_answer_is_shown(
    answering: Any, called: Any, text: str, whole: bool, is_terminal: bool
) -> None:
    answering(text, whole=whole)
    code, out, err = called("generate", "x", is_terminal=is_terminal)
    no_harm(out, err)
    assert code == 0
    assert out == visible(text) + "\n"


def test_tabs_and_lines_of_an_answer_stay_in_a_file(answering: Any, called: Any) -> None:
    answering("all:\n\tcc -o a a.c\n" + "x" * 300)
    _, out, _ = called("generate", "x", is_terminal=False)
    assert out == "all:\n\tcc -o a a.c\n" + "x" * 300 + "\n"


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("command", ["chat", "compare"])
def test_chats_and_comparisons_show_them(
    answering: Any, called: Any, command: str, text: str, is_terminal: bool
) -> None:
    answering(text)
    prompt = [f"Q {text}".replace("\0", "")] if command == "compare" else []
    code, out, err = called(command, *prompt, stdin=b"Hi\n\n", is_terminal=is_terminal)
    no_harm(out, err)
    assert code == 0
    for part in (text, *prompt):
        assert visible(part.splitlines()[0], one_line=True) in out


@pytest.mark.parametrize("is_terminal", [True, False])
def test_json_has_the_exact_answer(answering: Any, called: Any, is_terminal: bool) -> None:
    answering(HOSTILE, name="m\x1b[2J\udcff")
    code, out, err = called("generate", "x", "--json", is_terminal=is_terminal)
    no_harm(out, err)
    told = json.loads(out)
    assert (code, told["text"], told["settings"]["base"]) == (0, HOSTILE, "m\x1b[2J\udcff")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_errors_and_warnings_show_them(
    called: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def load(self: Any) -> None:
        import logging

        logging.getLogger("blendin").addHandler(options.warnings_shown)
        logging.getLogger("blendin").warning("%s is odd", text)
        with streams.messages.status(f"loading {text}"):
            raise ValueError(f"{text} cannot be loaded")

    monkeypatch.setattr(options.ModelOptions, "load", load)
    code, out, err = called("generate", "x")
    no_harm(out, err)
    assert code == 2 and f"{visible(text)} is odd" in err
    assert f"error: {visible(text)} cannot be loaded" in err


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("place", ["option", "command", "value", "prompt", "file"])
def test_what_was_given_wrong_is_shown(called: Any, place: str, text: str) -> None:
    arguments = {
        "option": ["generate", f"--{text}"],
        "command": [text],
        "value": ["generate", "x", "--max-new-tokens", text],
        "prompt": ["generate", "x", text],
        "file": ["paradox", f"/absent/{text}.csv"],
    }[place]
    code, out, err = called(*arguments)
    no_harm(out, err)
    assert code == 2


def table_rows(path: Path, text: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("pair", "task", "score", "intervention_rate"))
        writer.writerows((f"{text}{n}", text, n % 3, n / 10) for n in range(6))


def completion_rows(path: Path, text: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "type", "label", "completion", "final_label"))
        writer.writerows((f"{text}?", text, "safe", text, "1_full_compliance") for _ in range(3))


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize(
    ("command", "write"),
    [(["paradox"], table_rows), (["score", "xstest"], completion_rows)],
    ids=["paradox", "score"],
)
def test_tables_of_data_show_them(
    called: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    write: Any,
    text: str,
    is_terminal: bool,
) -> None:
    name = text.replace("/", "").replace("\0", "")
    path = tmp_path / f"{name}.csv"
    write(path, text)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = called(*command, str(path), is_terminal=is_terminal)
    no_harm(out, err)
    if "\0" in text:  # no file of rows may have it
        assert code == 2 and "has NUL characters" in err
        return
    assert code == 0, err
    assert visible(text.strip(), one_line=True) in out


@pytest.mark.parametrize("text", MARKUP)
def test_a_table_has_no_markup_in_any_console(text: str) -> None:
    points = [PairResult(text, text, n / 10, n % 3) for n in range(6)]
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(score.correlation_table(points))
    assert text in console.export_text()


def test_the_results_of_a_run_show_them(called: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    header, rows = ["arm", HOSTILE], [[HOSTILE, "1"]]
    results: Any = SimpleNamespace(
        task=SimpleNamespace(title=HOSTILE, items=[1]),
        table=lambda: (header, rows),
        conclusions=[HOSTILE],
        caution=lambda: HOSTILE,
    )
    for is_terminal in (True, False):
        out = Terminal(is_terminal=is_terminal)
        monkeypatch.setattr(sys, "stdout", out)
        evaluate.show(results)
        no_harm(out.text)
        assert "[cot]" in out.text and ":warning:" in out.text


# -- Encodings -------------------------------------------------------------------------------------


def commands_and_groups() -> list[list[str]]:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    return [[], *([name] for name in names if name != "lm-eval"), ["score"], ["score", "xstest"]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", commands_and_groups(), ids=" ".join)
def test_help_is_shown_in_every_encoding(called: Any, command: list[str], encoding: str) -> None:
    code, out, err = called(*command, "--help", encoding=encoding, is_terminal=False)
    assert (code, err) == (0, "") and "Usage" in out
    out.encode(encoding)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", ["generate", "chat", "compare", "models"])
def test_answers_and_legends_are_shown_in_every_encoding(
    answering: Any, called: Any, command: str, encoding: str, is_terminal: bool
) -> None:
    answering(LETTERS)
    arguments = ["x"] if command in ("generate", "compare") else []
    code, out, err = called(
        command, *arguments, stdin=b"Hi\n\n", encoding=encoding, is_terminal=is_terminal
    )
    assert code == 0, err
    no_harm(out, err)
    if command != "models":
        assert (LETTERS if encoding == "utf-8" else "tau lambda alpha ") in out


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_loses_nothing_in_any_encoding(answering: Any, called: Any, encoding: str) -> None:
    answering(LETTERS)
    code, out, _ = called("generate", "x", "--json", encoding=encoding, is_terminal=False)
    assert code == 0 and json.loads(out)["text"] == LETTERS


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_are_shown_in_every_encoding(called: Any, encoding: str) -> None:
    code, _, err = called("generate", "x", "--alpha", "2", encoding=encoding)
    assert code == 2 and "use a number from 0 to 1" in err


# -- What is read ----------------------------------------------------------------------------------

QUESTION = "Wie viele Äpfel?\n日本\tτ"
MARKED = {
    "utf-8": (b"", "utf-8"),
    "a byte order mark": (codecs.BOM_UTF8, "utf-8"),
    "UTF-16-LE": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "UTF-16-BE": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "UTF-32-LE": (codecs.BOM_UTF32_LE, "utf-32-le"),
    "UTF-32-BE": (codecs.BOM_UTF32_BE, "utf-32-be"),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The prompts that arrive at a generator."""
    found: list[Any] = []

    class Asked(FakeGenerator):
        def stream(self, prompt: Any, **settings: Any) -> Any:
            found.append(prompt if isinstance(prompt, str) else prompt[-1]["content"])
            return super().stream()

    monkeypatch.setattr(options.ModelOptions, "load", lambda self: Asked("yes"))
    return found


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("mark", "encoding"), MARKED.values(), ids=[*MARKED])
def test_a_prompt_is_read_in_the_encoding_that_it_says(
    called: Any, asked: list[Any], mark: bytes, encoding: str, newline: str
) -> None:
    data = mark + (QUESTION + "\n").replace("\n", newline).encode(encoding)
    code, _, err = called("generate", stdin=data)
    assert code == 0, err
    assert asked == [QUESTION]
    asked.clear()
    code, _, err = called("chat", stdin=data)
    assert code == 0, err
    assert asked == QUESTION.split("\n")


def test_other_bytes_are_read_as_the_terminal_says(called: Any, asked: list[Any]) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("Äpfel\n".encode("cp1252")), "cp1252")
    assert called("generate", stdin=stdin)[0] == 0
    assert asked == ["Äpfel"]


WRONG = {
    "latin-1": ("Äpfel".encode("latin-1"), "is no UTF-8 text: send it as UTF-8"),
    "half a UTF-16": (codecs.BOM_UTF16_LE + b"a\0b", "is no UTF-16 text: send it as UTF-8"),
    "UTF-16 without a mark": ("Hi".encode("utf-16-le"), "has NUL characters, as UTF-16 has"),
    "nothing": (b"", "the prompt is empty"),
    "a mark alone": (codecs.BOM_UTF8, "the prompt is empty"),
    "closed": (None, "standard input is closed: give the prompt as an argument"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=[*WRONG])
def test_what_is_no_text_is_a_sentence(
    called: Any, asked: list[Any], data: Any, message: str
) -> None:
    code, out, err = called("generate", stdin=data)
    assert (code, out, asked) == (2, "", []) and message in err.replace("\n", " ")
    if data:
        code, _, err = called("chat", stdin=data)
        assert code == (0 if "empty" in message else 2) and "Traceback" not in err


def test_lines_are_answered_as_they_come(called: Any, asked: list[Any]) -> None:
    """A program that talks to `chat` waits for an answer before its next line."""

    class Typed(io.RawIOBase):
        def __init__(self) -> None:
            self.left = [b"one\n", b"two\n", b"\n", b"never\n"]

        def readable(self) -> bool:
            return True

        def readinto(self, place: Any) -> int:
            assert len(asked) == 2 - min(2, len(self.left) - 2)
            line = self.left.pop(0)
            place[: len(line)] = line
            return len(line)

    stdin = io.TextIOWrapper(io.BufferedReader(Typed()), "utf-8")
    assert called("chat", stdin=stdin)[0] == 0
    assert asked == ["one", "two"]


# -- Files and readers -----------------------------------------------------------------------------

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@needs_full
@pytest.mark.parametrize("as_json", [True, False])
def test_a_trace_that_cannot_be_written_leaves_the_answer(
    answering: Any, called: Any, as_json: bool
) -> None:
    answering("the answer")
    flags = ["--json"] if as_json else []
    code, out, err = called("generate", "x", "--trace", "/dev/full", *flags, is_terminal=False)
    assert code == 2 and "the answer" in out
    assert "error: /dev/full: no space left on device; free some space" in err.replace("\n", " ")


@needs_full
@pytest.mark.parametrize(
    ("command", "write", "option"),
    [
        (["paradox"], table_rows, "--json"),
        (["score", "xstest"], completion_rows, "--json"),
        (["score", "xstest"], completion_rows, "--out"),
    ],
)
def test_figures_are_printed_before_a_disk_is_found_full(
    called: Any, tmp_path: Path, command: list[str], write: Any, option: str
) -> None:
    write(tmp_path / "a.csv", "kind")
    code, out, err = called(*command, str(tmp_path / "a.csv"), option, "/dev/full")
    assert code == 2 and "kind" in out and "/dev/full: no space left" in err


def test_a_model_that_fails_on_the_way_leaves_what_there_is(
    called: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Failing(FakeGenerator):
        def stream(self, *args: Any, **settings: Any) -> Any:
            def steps(stream: Any) -> Iterator[Step]:
                yield from self.steps
                raise ValueError("the guide is gone")

            return type("Stream", (), {"__iter__": steps, "output": self.output})()

    monkeypatch.setattr(options.ModelOptions, "load", lambda self: Failing("so far"))
    trace = tmp_path / "trace.jsonl"
    code, out, err = called("generate", "x", "--json", "--trace", str(trace))
    assert code == 2 and "the guide is gone" in err
    assert json.loads(out)["text"] == "so far" and trace.read_text().count("\n") == 1


OUTPUTS = [
    ["generate", "x", "--trace"],
    ["score", "xstest", "{csv}", "--out"],
    ["score", "xstest", "{csv}", "--json"],
    ["paradox", "{csv}", "--json"],
    ["paradox", "{csv}", "--plot"],
    ["report", "{folder}", "--out"],
]
FOLDERS = [["evaluate", "gsm8k", "--out"], ["diagnose", "--out"]]
WRONG_FILES = [
    "",
    ".",
    "..",
    "{folder}",
    "{csv}/a",
    "{folder}/none/a",
    "{folder}/" + "x" * 300,
    "\0",
]


@pytest.mark.parametrize("name", WRONG_FILES, ids=ascii)
@pytest.mark.parametrize("command", OUTPUTS, ids=" ".join)
def test_files_that_cannot_be_are_refused_before_the_work(
    called: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str
) -> None:
    refuse_to_load(monkeypatch)
    place = {"folder": str(tmp_path), "csv": str(tmp_path / "a.csv")}
    (table_rows if "paradox" in command else completion_rows)(tmp_path / "a.csv", "t")
    code, out, err = called(*(part.format(**place) for part in [*command, name]))
    assert (code, out) == (2, "")
    assert "Errno" not in err and "Traceback" not in err
    assert err.startswith("error: ")
    named = visible(name.format(**place))[:50]
    assert command[-1] in err or named in err.replace("\n", "")


@pytest.mark.parametrize("name", ["{csv}", "{csv}/a", "{folder}/" + "x" * 300, "\0"], ids=ascii)
@pytest.mark.parametrize("command", FOLDERS, ids=" ".join)
def test_folders_that_cannot_be_are_refused_before_the_work(
    called: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str
) -> None:
    refuse_to_load(monkeypatch)
    place = {"folder": str(tmp_path), "csv": str(tmp_path / "a.csv")}
    (tmp_path / "a.csv").touch()
    code, out, err = called(*(part.format(**place) for part in [*command, name]))
    assert (code, out) == (2, "")
    assert "--out" in err or "x" * 50 in err or "NUL" in err
    assert "Errno" not in err and "Traceback" not in err


def refuse_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any, *args: Any) -> None:
        raise AssertionError("a model was loaded before the files were checked")

    monkeypatch.setattr(options.ModelOptions, "load", load)


def test_runs_of_several_guides_have_folders_of_their_own() -> None:
    from blendin.cli.diagnose import LONGEST_NAME, run_folders

    names = ["a/b", "a_b", "a b", "..", "///", "x" * 400, "日本" * 200, "\x1b[2J", "\udcff", "a\0"]
    found = run_folders(names)
    assert len(set(found.values())) == len(names) and found["a/b"] == "a_b"
    for folder in found.values():
        assert re.fullmatch(r"[\w-][\w.-]*", folder) and len(folder.encode()) < LONGEST_NAME + 20


# -- Processes -------------------------------------------------------------------------------------


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which `blendin` is this one; without models it takes half a second."""
    line = f'blendin() {{ "{sys.executable}" -m blendin "$@"; }}; {line}'
    environment = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment, timeout=600)


GONE = "exec 3> >(true); wait $!"
"""Nobody reads descriptor 3 any more, however late a shell's process begins."""

LINES = {
    "a reader that is gone": (f"{GONE}; blendin generate --help >&3", 141, b""),
    "head": ("blendin --help | head -n 1 >/dev/null; exit ${PIPESTATUS[0]}", (0, 141), b""),
    "a list and no reader": (f"{GONE}; blendin models >&3", 141, b""),
    "a full disk": ("blendin --help >/dev/full", 2, b"standard output: No space left"),
    "a list, a full disk": ("blendin models >/dev/full", 2, b"standard output: no space left"),
    "closed input": ("blendin generate <&-", 2, b"standard input is closed"),
    "closed input, chat": ("blendin chat --base /absent/x.gguf <&-", 2, b"error: "),
    "closed output": ("blendin --version >&-", 0, b""),
    "all closed": ("blendin generate <&- >&- 2>&-", 2, b""),
    "ascii": ("PYTHONIOENCODING=ascii blendin generate --help", 0, b""),
    "the C locale": ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 blendin chat --help", 0, b""),
    "no home": ("unset HOME; blendin models", 0, b""),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a shell and its devices")
@pytest.mark.parametrize(("line", "code", "message"), LINES.values(), ids=[*LINES])
def test_in_a_shell(line: str, code: Any, message: bytes) -> None:
    done = shell(line)
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), done.stderr
    assert message in done.stderr and b"Traceback" not in done.stderr
    assert message or not done.stderr


def test_a_reader_that_is_gone_ends_it_in_silence(
    answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    answering("the answer")
    err = Terminal()
    for arguments in (["generate", "x"], ["generate", "x", "--json"], ["models"]):
        monkeypatch.setattr(sys, "argv", ["blendin", *arguments])
        monkeypatch.setattr(sys, "stdout", Gone())
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setattr(streams.console, "quiet", False)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 141
    assert "error" not in err.text and "Traceback" not in err.text


def test_a_home_folder_that_is_not_known_is_a_sentence(called: Any) -> None:
    code, _, err = called("generate", "x", "--base", "~nobody-9/model")
    assert code == 2 and "base='~nobody-9/model' cannot be loaded" in err.replace("\n", " ")


def test_without_a_home_folder_it_is_said(called: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "BLENDIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    code, _, err = called("models")
    assert code == 2 and "home folder" in err and "set HOME, or BLENDIN_CACHE" in err
