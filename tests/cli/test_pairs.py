"""Pairs of blendin.toml: found, checked, and the same as if their options had been typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from blendin.cli import options
from blendin.cli.app import app
from blendin.configuration import SETTINGS, named_pair
from blendin.models import default_pair


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, with another place for the user's own file."""
    monkeypatch.delenv("BLENDIN_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def home(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "blendin" / "blendin.toml"
    path.parent.mkdir(parents=True)
    return path


class Loaded(Exception):
    """What was asked for, in the place of loading it."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options of the pairs that commands load, which end there."""
    seen: list[Any] = []

    def load(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(self)
        raise Loaded

    monkeypatch.setattr(options.ModelOptions, "load", load)
    return seen


PAIR = """
[pairs.mine]
base = "org/base"
guide = "org/guide"
dtype = "float32"
"""


COMMANDS = set("generate chat compare evaluate diagnose serve calibrate stress".split())


def test_every_command_that_takes_a_base_and_a_guide_takes_a_pair() -> None:
    taken = {
        name: {parameter.name for parameter in command.params}
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    assert {name for name, own in taken.items() if {"base", "guide"} <= own} == COMMANDS
    assert {name for name, own in taken.items() if "pair" in own} == COMMANDS


@pytest.mark.parametrize(
    "command",
    [["generate", "x"], ["chat"], ["compare", "x"], ["diagnose", "--data", "prompts.txt"]],
)
def test_what_is_typed_goes_before_the_pairs_own(
    command: list[str], here: Path, asked: list[Any]
) -> None:
    (here / "blendin.toml").write_text(
        PAIR + "compile_layers = true\n" * (command[0] != "diagnose")
    )
    (here / "prompts.txt").write_text("Why?\n")
    # dtype's default, but typed
    result = run(*command, "--pair", "mine", "--guide", "other", "--dtype", "auto")
    assert isinstance(result.exception, Loaded), result.output
    assert (asked[0].base, asked[0].guide, asked[0].dtype) == ("org/base", "other", "auto")
    run(*command, "--pair", "mine")
    assert (asked[1].base, asked[1].guide, asked[1].dtype) == ("org/base", "org/guide", "float32")
    assert asked[1].compile_layers == (command[0] != "diagnose")


def test_a_pair_writes_what_its_options_would(pair_folders: list[str], here: Path) -> None:
    _, base, _, guide = pair_folders
    (here / "base").symlink_to(base)
    (here / "blendin.toml").write_text(
        f'[pairs.tiny]\nbase = "./base"\nguide = {guide!r}\ndtype = "float64"\n'
    )
    told = ["generate", "Why?", "--max-new-tokens", "8"]
    typed = run(*told, *pair_folders, "--dtype", "float64")
    assert run(*told, "--pair", "tiny").stdout == typed.stdout != ""


def test_the_working_directorys_pairs_go_before_the_users(here: Path, tmp_path: Path) -> None:
    home(tmp_path).write_text(PAIR + '[pairs.other]\nbase = "c"\n')
    assert named_pair("mine")["base"] == "org/base"
    (here / "blendin.toml").write_text('[pairs.mine]\nbase = "here"\n')
    assert named_pair("mine") == {"base": "here"} and named_pair("other") == {"base": "c"}


def test_a_file_that_is_named_stands_alone(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "blendin.toml").write_text(PAIR)
    own = tmp_path / "own.toml"
    monkeypatch.setenv("BLENDIN_CONFIG", str(own))
    with pytest.raises(ValueError, match=r"BLENDIN_CONFIG is .* not there"):
        named_pair("mine")
    own.write_text('[pairs.it]\nbase = "../models/b"\nguide = "org/g"\n')
    assert named_pair("it") == {"base": str(tmp_path / "../models/b"), "guide": "org/g"}
    with pytest.raises(ValueError, match=r"no pair is called 'mine' in .*own.toml: there are it"):
        named_pair("mine")


WRONG = {
    "x = [": "is no TOML",
    "[pair.mine]": "has 'pair', of which nothing is known.*did you mean 'pairs'",
    "pairs = 3": "pairs is 3",
    "[pairs]\nmine = 3": r"\[pairs.mine\] is 3",
    "[pairs.mine]\nbas = 'x'": "has 'bas'.*did you mean 'base'",
    "[pairs.mine]\nbase = 3": "base is 3; use a text",
    "[pairs.mine]\nbase = ''": "use a text",
    "[pairs.mine]\ntop_logprobs = true": "top_logprobs is True; use a whole number",
    "[pairs.mine]\ncompile_layers = 1": "compile_layers is 1; use true or false",
    "[pairs.mine]\nbase_header = 'X=Y'": "use a list of NAME=VARIABLE",
    "[pairs.mine]\ntrust_remote_code = true": "by hand.*--trust-remote-code",
    "[pairs.mime]\nbase = 'x'": "no pair is called 'mine'.*did you mean 'mime'",
    "": r"there are none; a pair is a table \[pairs.mine\]",
}


@pytest.mark.parametrize("content", WRONG)
def test_what_is_wrong_in_a_file_is_one_line_before_anything_loads(
    content: str, here: Path, asked: list[Any]
) -> None:
    (here / "blendin.toml").write_text(content)
    result = run("generate", "x", "--pair", "mine")
    assert result.exit_code == 2 and not asked
    assert re.search(WRONG[content], result.stderr.replace("\n", " ")), result.stderr


def test_what_a_command_has_no_option_for_is_refused_by_name(here: Path) -> None:
    (here / "blendin.toml").write_text('[pairs.mine]\nbase_tokenizer = "x"\n')
    result = run("diagnose", "--pair", "mine")
    assert result.exit_code == 2 and "this command no --base-tokenizer" in result.stderr


def test_a_pair_may_have_every_option_of_a_pair_but_code_that_runs() -> None:
    from dataclasses import fields

    known = {each.name for each in fields(options.ModelOptions)} - {"trust_remote_code"}
    assert set(SETTINGS) == known


def test_models_lists_the_pairs(here: Path) -> None:
    (here / "blendin.toml").write_text('[pairs.mine]\nbase = "org/base"\n')
    shown = " ".join(run("models").stdout.split())
    assert f"--pair mine org/base and {default_pair.DEFAULT_GUIDE} blendin.toml" in shown


def test_the_folder_for_the_hub_is_written(here: Path) -> None:
    assert run("custom-generate", "repo").exit_code == 0
    assert (here / "repo" / "custom_generate" / "generate.py").is_file()
    again = run("custom-generate", "repo")
    assert again.exit_code == 2 and "is there already" in again.stderr
