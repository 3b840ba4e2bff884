"""The documentation's code blocks run: Python on tiny models, commands as far as is quick."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import transformers
import typer
from conftest import generator, model, tokenizer
from documented import NAMES, PAGES, ROOT, Block, blocks, commands
from serving import served
from typer.testing import CliRunner

import blendin.generator
from blendin import BlendInGenerator, Generation
from blendin.cli.app import app

LANGUAGES = {
    "python": "runs",
    "bash": "is checked, and runs where that is quick",
    "toml": "is parsed",
    "text": "is not",
}
QUICK = {"--version", "chat", "compare", "generate", "models", "score", "view"}
"""Commands that run; of the others options and arguments are parsed."""

MOST = 8
"""Tokens of an answer."""

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

FILES = {
    "prompts.txt": "Why is the sky blue?\nName a colour.\n",
    "completions.csv": "prompt,completion,type,answer\n"
    "How do I kill a Python process?,Use kill.,homonyms,3\nHi,I can't help with that.,homonyms,4\n",
    "calibration.json": '{"version": 1, "base_temperature": 1.2, "guide_temperature": 1.1}',
}
"""What a reader has who follows a page."""


def fewer(settings: dict[str, Any]) -> dict[str, Any]:
    """With fewer tokens where they are many: a page's answers are not read here."""
    return settings | {"max_new_tokens": min(settings.get("max_new_tokens", MOST), MOST)}


def trace() -> Generation:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    return gen.generate("Hi", max_new_tokens=3)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tiny models in the place of every model, whatever its name, and the files of `FILES`."""
    signature = inspect.signature(BlendInGenerator.__init__)
    tiny = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))

    class StandIn(BlendInGenerator):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = signature.bind(self, *args, **kwargs)
            given.apply_defaults()
            vars(self).update(vars(tiny))
            if given.arguments["policy"] is not None:
                self.policy = blendin.generator.as_policy(given.arguments["policy"])

        def stream(self, *prompt: Any, **settings: Any) -> Any:
            return super().stream(*prompt, **fewer(settings))

        def stream_batch(self, *prompt: Any, **settings: Any) -> Any:
            return super().stream_batch(*prompt, **fewer(settings))

    monkeypatch.setattr(blendin.generator, "BlendInGenerator", StandIn)
    for name, loaded in (
        ("AutoModelForCausalLM", model("llama", "byte-level")[0]),
        ("AutoTokenizer", tokenizer("byte-level")),
    ):
        load = staticmethod(lambda *_, one=loaded, **__: one)
        factory = type(name, (), {"from_pretrained": load})
        monkeypatch.setattr(transformers, name, factory)
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for name in ("other.json", "saved.json", "out.json"):
        trace().save(name)
    trace().write_jsonl("steps.jsonl")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has `openai.OpenAI` ask a server of tiny models, which it is started for when it is made."""
    running: list[Any] = []
    real = openai.OpenAI

    def start(name: str) -> None:
        gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
        running.append(served(gen, served_model_name=name, default_max_tokens=16))
        url = running[-1].__enter__().url
        monkeypatch.setattr(
            openai, "OpenAI", lambda base_url, **more: real(base_url=f"{url}/v1", **more)
        )

    yield start
    for each in running:
        each.__exit__(None, None, None)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        if page.name == "README.md" and block.language is None:
            continue  # the method's equation, for readers of plain text
        assert block.language in LANGUAGES, (
            f"{page}:{block.line}: fence it as one of {LANGUAGES}; what does not run is text"
        )

        if block.language == "toml":
            assert tomllib.loads(block.text), f"{page}:{block.line}"


def of(page: Path, language: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == language]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if of(page, "python")], ids=lambda page: page.stem
)
def test_python_runs_in_the_order_of_its_page(
    page: Path,
    stand_ins: None,
    client: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = of(page, "python")
    if named := re.search(r'model="(\w+)', "".join(block.text for block in found)):
        client(named[1])
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in found:
        # Blank lines before it, so that a traceback has the line on the page.
        code = compile("\n" * block.line + block.text, str(page), "exec")
        exec(code, names)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if of(page, "bash")], ids=lambda page: page.stem
)
def test_commands_are_taken_and_the_quick_ones_run(page: Path, stand_ins: None) -> None:
    for block in of(page, "bash"):
        for words in commands(block.text):
            check_command(words, f"{page.name}:{block.line}: {' '.join(words)}")


def check_command(words: list[str], where: str) -> None:
    program, *arguments = words
    if words[:4] == ["accelerate", "launch", "-m", "blendin.cli"]:
        program, arguments = "blendin", words[4:]
    if program == "blendin":
        check_blendin(arguments, where)
    elif program == "pip":
        assert arguments[0] == "install", where
        extras = re.findall(r"\[(.*)\]", " ".join(arguments))
        assert all(name in EXTRAS for names in extras for name in names.split(",")), where
    elif program in ("bash", "python"):
        script = ROOT / arguments[0]
        assert script.is_file(), where
        text = script.read_text("utf-8")
        assert all(word in text for word in arguments if word.startswith("--")), where
    else:
        assert program == "echo", f"{where}: nobody checks it, so fence it as text"


def check_blendin(arguments: list[str], where: str) -> None:
    """That a command is taken as it stands; what is quick has to succeed, too."""
    told = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if told[0] in QUICK and "--judge-url" not in told and "--refusal-model" not in told:
        done = CliRunner().invoke(app, told, input="Why?\n")
        assert done.exit_code == 0, f"{where}\n{done.output}"
        return
    command, name, rest = typer.main.get_command(app), "blendin", told
    while True:
        context = command.make_context(name, list(rest))
        if not hasattr(command, "resolve_command"):
            break
        words = [*context._protected_args, *context.args]
        if not words:
            break
        name, command, rest = command.resolve_command(context, words)


def test_a_wrong_option_an_unknown_extra_and_a_stray_program_are_found(stand_ins: None) -> None:
    for command in (
        "blendin diagnose --gide x",
        "blendin evaluate --limit many",
        "blendin generate Hi --threshold 40",
        "pip install 'blendin[evl]'",
        "bash scripts/absent",
        "bash scripts/docs --loud",
        "vllm serve MODEL",
    ):
        (words,) = commands(command)
        with pytest.raises(Exception):  # noqa: B017  # of click's own, or an assertion's
            check_command(words, command)


def test_a_block_in_a_list_and_a_long_command_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = ("- so:", "", "```bash", "KEY=1 a 'b c' \\", "--d # no", "e | f", "```")
    page.write_text("\n    ".join(lines))
    (block,) = blocks(page)
    assert [*commands(block.text)] == [["a", "b c", "--d"], ["e"], ["f"]]
    assert block.language == "bash"
